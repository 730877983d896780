//! Who gets an SVID from this cluster's CA, and for how long.
//!
//! Roles of our own processes live below `/isthmus/`; a workload can never be given one of those.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use trust_bundle::{
    Authority, BuiltinCa, Bundle, InvalidSvid, IssueError, SpiffeId, SvidKey, TrustDomain, X509Svid,
};

use crate::clock;
use crate::control::SigningRefused;
use crate::model::Timestamp;

/// What our own processes are (design.md, section 5, "Roles").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Gateway,
    Federation,
    Join,
}

/// Paths below this are roles.
const ROLES: &str = "/isthmus";

impl Role {
    pub fn id(self, trust_domain: &TrustDomain) -> SpiffeId {
        let path = match self {
            Self::Gateway => "/isthmus/gateway",
            Self::Federation => "/isthmus/federation",
            Self::Join => "/isthmus/join",
        };
        SpiffeId::new(trust_domain, path).expect("the paths of roles are valid")
    }
}

/// The CA with the lifetimes that the operator chose.
#[derive(Debug, Clone)]
pub struct Issuer {
    ca: Arc<BuiltinCa>,
    svid_ttl: Duration,
    workload_svid_ttl: Duration,
}

/// An SVID for a workload, with what it needs to check others.
#[derive(Debug, Clone)]
pub struct Issued {
    pub id: SpiffeId,
    pub chain: Vec<CertificateDer<'static>>,
    pub bundle: Bundle,
    pub expires: Timestamp,
}

/// Why an SVID was not issued.
#[derive(Debug, thiserror::Error)]
pub enum NotIssued {
    #[error("{0:?} is no path of a SPIFFE ID: it begins with / and has segments of letters, digits and .-_")]
    Path(String),
    #[error("paths below {ROLES} are roles of isthmus itself")]
    Reserved,
    #[error(transparent)]
    Ca(#[from] IssueError),
    #[error("the CA issued what is no SVID: {0}")]
    Unusable(#[from] InvalidSvid),
}

impl Issuer {
    pub fn new(ca: Arc<BuiltinCa>, svid_ttl: Duration, workload_svid_ttl: Duration) -> Self {
        Self { ca, svid_ttl, workload_svid_ttl }
    }

    pub fn bundle(&self) -> Bundle {
        self.ca.bundle()
    }

    /// A new key and SVID for a role of this process. The join listener's chain holds the root, so
    /// that a joiner finds the authority that its token pins (notes/trust 4.2, step 1).
    pub fn issue_role(&self, role: Role) -> Result<X509Svid, NotIssued> {
        let key = SvidKey::generate();
        let id = role.id(self.ca.trust_domain());
        let chain = self.ca.issue(&key.csr(), &id, self.svid_ttl, clock::unix_now())?;
        let chain = if role == Role::Join { self.ca.chain_with_root(chain) } else { chain };
        Ok(X509Svid::from_parts(chain, key)?)
    }

    /// Answers a gateway's request; a gateway gets the gateway role and nothing else.
    pub fn sign(&self, id: &SpiffeId, csr: &[u8]) -> Result<Vec<CertificateDer<'static>>, SigningRefused> {
        let refused = |reason: String| SigningRefused { reason };
        if *id != Role::Gateway.id(self.ca.trust_domain()) {
            return Err(refused(format!("{id} is not the gateway role")));
        }
        self.ca.issue(csr, id, self.svid_ttl, clock::unix_now()).map_err(|error| refused(error.to_string()))
    }

    /// An SVID for a workload that an operator vouches for.
    pub fn issue_workload(&self, path: &str, csr: &[u8]) -> Result<Issued, NotIssued> {
        let id = workload_id(self.ca.trust_domain(), path)?;
        let now = clock::unix_now();
        let chain = self.ca.issue(csr, &id, self.workload_svid_ttl, now)?;
        let bundle = self.ca.bundle();
        let wanted = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + self.workload_svid_ttl);
        // An SVID never outlives its root (V34).
        let root = bundle.authorities().iter().map(Authority::not_after).max();
        let expires = clock::timestamp(root.map_or(wanted, |root| wanted.min(root)));
        Ok(Issued { id, chain, bundle, expires })
    }
}

fn workload_id(trust_domain: &TrustDomain, path: &str) -> Result<SpiffeId, NotIssued> {
    let id = SpiffeId::new(trust_domain, path)
        .map_err(|_invalid| NotIssued::Path(path.chars().take(200).collect()))?;
    let reserved =
        id.path() == ROLES || id.path().strip_prefix(ROLES).is_some_and(|rest| rest.starts_with('/'));
    match id.path() {
        "" => Err(NotIssued::Path(String::new())),
        _ if reserved => Err(NotIssued::Reserved),
        _ => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_never_get_a_role_of_ours() {
        let domain = TrustDomain::try_from("a.example").unwrap();
        for path in ["/isthmus", "/isthmus/gateway", "/isthmus/x/y"] {
            assert!(matches!(workload_id(&domain, path), Err(NotIssued::Reserved)), "{path}");
        }
        for path in ["", "x", "/a//b", "/a/../isthmus/gateway", "/a b"] {
            assert!(matches!(workload_id(&domain, path), Err(NotIssued::Path(_))), "{path}");
        }
        assert_eq!(
            workload_id(&domain, "/isthmus-like/x").unwrap().as_str(),
            "spiffe://a.example/isthmus-like/x"
        );
    }
}

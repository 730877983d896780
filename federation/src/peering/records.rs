//! What peering keeps in the store; pure.

use std::fmt;

use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use trust_bundle::{Bundle, Hex, InvalidBundle, TokenRecord, TrustDomain, from_hex};

use super::addresses::Near;
use super::imports::Position;
use crate::model::{ClusterName, Import, Peer, Timestamp};
use crate::store::Stored;

/// Names one relationship; a peer that is removed and joins again has another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelationshipId([u8; 16]);

impl RelationshipId {
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for RelationshipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for RelationshipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a relationship is named by 32 hexadecimal digits")]
pub struct InvalidRelationshipId;

impl TryFrom<String> for RelationshipId {
    type Error = InvalidRelationshipId;

    fn try_from(text: String) -> Result<Self, InvalidRelationshipId> {
        from_hex(&text).map(Self).ok_or(InvalidRelationshipId)
    }
}

impl From<RelationshipId> for String {
    fn from(id: RelationshipId) -> Self {
        id.to_string()
    }
}

/// A relationship, at `peer/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    pub peer: Peer,
    pub relationship: RelationshipId,
    /// What joining over a near address made acceptable.
    #[serde(default)]
    pub near: Near,
}

impl Stored for PeerRecord {
    const KIND: &'static str = "peer";
}

/// The bundle of a peer, at `trust/td/<td>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRecord {
    pub sequence: Option<u64>,
    /// A SPIFFE bundle document, as we write it.
    pub document: String,
    pub from: ClusterName,
}

impl BundleRecord {
    pub fn of(bundle: &Bundle, from: ClusterName) -> Self {
        let document = String::from_utf8_lossy(&bundle.to_json()).into_owned();
        Self { sequence: bundle.sequence(), document, from }
    }

    pub fn read(&self, trust_domain: TrustDomain, now: UnixTime) -> Result<Bundle, InvalidBundle> {
        Bundle::parse(trust_domain, self.document.as_bytes(), now).map(|parsed| parsed.bundle)
    }
}

impl Stored for BundleRecord {
    const KIND: &'static str = "bundle";
}

/// How far a peer's stream is held, at `import/<peer>/sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRecord {
    pub position: Position,
}

impl Stored for SyncRecord {
    const KIND: &'static str = "import-sync";
}

/// A peer's service, at `import/<peer>/svc/<ns>/<name>`.
impl Stored for Import {
    const KIND: &'static str = "import";
}

/// A join token without its secret, at `join/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRecord {
    pub token: TokenRecord,
    pub joiner: ClusterName,
    pub created: Timestamp,
    pub created_by: String,
    pub state: TokenState,
}

impl Stored for JoinRecord {
    const KIND: &'static str = "join";
}

/// What has become of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenState {
    Unused,
    Used(Redemption),
    Revoked { at: Timestamp },
}

/// By whom a token was used; the same joiner may ask again, nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redemption {
    pub at: Timestamp,
    pub relationship: RelationshipId,
    pub trust_domain: TrustDomain,
    /// Hexadecimal.
    pub bundle_sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        AppProtocol, Freshness, ImportedEndpoint, ImportedGroup, Label, Locality, ServiceKind, ServiceName,
        ServicePort, Transport,
    };
    use crate::peering::exports::{ENDPOINTS_PER_SERVICE_MAX, GROUPS_PER_SERVICE_MAX, PORTS_MAX};
    use crate::store::{VALUE_BYTES_MAX, codec};

    #[test]
    fn the_largest_import_fits_into_one_value() {
        let long = "x".repeat(63);
        let label = || Label::try_from(long.as_str()).unwrap();
        let place = || Locality { region: long.clone(), zone: long.clone(), sub_zone: long.clone() };
        let port = ServicePort {
            name: long.clone(),
            port: u16::MAX,
            transport: Transport::Udp,
            protocol: AppProtocol::Http2,
        };
        let endpoint = ImportedEndpoint {
            address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
            hostname: Some(label()),
        };
        let group = || ImportedGroup { locality: place(), ready: u32::MAX, weight: u64::MAX };
        let import = Import {
            service: ServiceName::new(label(), label()),
            peer: ClusterName::try_from(long.as_str()).unwrap(),
            kind: ServiceKind::Headless,
            ports: vec![port; PORTS_MAX],
            created: Timestamp::from_unix(i64::MIN),
            groups: (0..GROUPS_PER_SERVICE_MAX).map(|_| group()).collect(),
            endpoints: vec![endpoint; ENDPOINTS_PER_SERVICE_MAX],
            freshness: Freshness::Expired,
        };
        let bytes = codec::encode(&import).unwrap().len();
        assert!(bytes <= VALUE_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn relationships_read_back_as_written() {
        let id = RelationshipId::new([0x0f; 16]);
        assert_eq!(RelationshipId::try_from(id.to_string()), Ok(id));
        for bad in ["", "0f", "zz", &"0".repeat(33), &"+".repeat(32)] {
            assert_eq!(RelationshipId::try_from(bad.to_owned()), Err(InvalidRelationshipId));
        }
    }

    #[test]
    fn records_of_an_older_program_stay_readable() {
        let written = br#"{"v":1,"kind":"peer","data":{
            "peer":{"name":"cloud","trust_domain":"cloud.example",
                "gateway_id":"spiffe://cloud.example/isthmus/gateway",
                "federation_id":"spiffe://cloud.example/isthmus/federation",
                "gateways":["192.0.2.1:15443"],"joined":1700000000,"state":"active"},
            "relationship":"000102030405060708090a0b0c0d0e0f"}}"#;
        let record: PeerRecord = codec::decode(written).unwrap();
        assert_eq!(record.near, Near::default());
        assert_eq!(codec::decode::<PeerRecord>(&codec::encode(&record).unwrap()), Ok(record));
    }
}

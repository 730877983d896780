//! The TLS of a join, where neither side knows the other yet.
//!
//! The joiner believes exactly one thing: a chain whose root is pinned in the token and whose leaf is
//! the join identity; there is no other way in and no fallback. The acceptor believes nothing yet: any
//! chain passes TLS, which only proves that the joiner has the leaf's key, and is judged against the
//! bundle in the request afterwards (`verify_offered`).

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, ConnectionCommon, ServerConfig};

use super::JoinToken;
use crate::bundle::{Authority, AuthorityId};
use crate::random::random;
use crate::source::SvidHandle;
use crate::spiffe_id::SpiffeId;
use crate::verify::{
    ClientAuth, Judge, PeerSide, PeerVerifier, Rejection, anonymous_client_with, check_chain_bounds,
    client_with, server_with, verify_under,
};

const ALPN: &[&[u8]] = &[b"h2"];

const EXPORTER_LABEL: &[u8] = b"EXPORTER-isthmus-join";

/// The join listener; `svid` has the join identity, and its chain ends with the root.
pub fn join_server_config(svid: &SvidHandle) -> Arc<ServerConfig> {
    server_with(PeerVerifier::of_clients(JudgedLater, ClientAuth::Required), svid, ALPN)
}

/// The joiner's side; `svid` is its own, which the acceptor will check against the offered bundle.
pub fn join_client_config(token: &JoinToken, svid: &SvidHandle) -> Arc<ClientConfig> {
    let judge = Pinned { pins: token.pins().to_vec(), join_id: token.join_id().clone() };
    client_with(PeerVerifier::of_servers(judge), svid, ALPN)
}

/// Names this TLS connection to both of its ends, and to nobody else.
///
/// A connection that has failed or is not set up has no such name. It gets random bytes, which no proof
/// fits: what a stranger does to his connection must neither panic here nor get him anywhere.
pub fn exporter<T>(connection: &ConnectionCommon<T>) -> [u8; 32] {
    connection.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap_or_else(|_no_keys| random())
}

/// The listener for new nodes, who have no SVID yet; shows what [`join_server_config`] shows.
pub fn node_server_config(svid: &SvidHandle) -> Arc<ServerConfig> {
    server_with(PeerVerifier::of_clients(JudgedLater, ClientAuth::Optional), svid, ALPN)
}

/// A new node's side: it believes the pinned root, and has nothing to show but the token.
pub fn node_client_config(token: &JoinToken) -> Arc<ClientConfig> {
    let judge = Pinned { pins: token.pins().to_vec(), join_id: token.join_id().clone() };
    anonymous_client_with(PeerVerifier::of_servers(judge), ALPN)
}

/// Lets any chain pass that is small enough to look at later.
#[derive(Debug)]
struct JudgedLater;

impl Judge for JudgedLater {
    fn judge(&self, chain: &[CertificateDer<'_>], _now: UnixTime) -> Result<(), Rejection> {
        Ok(check_chain_bounds(chain)?)
    }
}

/// Believes the join identity under a pinned root, which the chain itself brings.
#[derive(Debug)]
struct Pinned {
    pins: Vec<AuthorityId>,
    join_id: SpiffeId,
}

impl Judge for Pinned {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Rejection> {
        check_chain_bounds(chain)?;
        let pinned: Vec<_> = chain.iter().skip(1).filter_map(|c| self.authority(c)).collect();
        if pinned.is_empty() {
            return Err(Rejection::NotPinned);
        }
        let peer = verify_under(&pinned, chain, PeerSide::Server, now)?;
        if peer.id != self.join_id {
            return Err(Rejection::Unexpected(peer.id));
        }
        Ok(())
    }
}

impl Pinned {
    fn authority(&self, certificate: &CertificateDer<'_>) -> Option<Authority> {
        let authority = Authority::admit(certificate.clone().into_owned()).ok()?;
        self.pins.contains(&authority.id()).then_some(authority)
    }
}

//! What the processes of one cluster say to each other, or somebody in their place.

use trust_bundle::{CHAIN_CERTIFICATES_MAX, CSR_BYTES_MAX};

use super::cluster;
use crate::control::handover::header::{HEADER_BYTES_MAX, length, read, write};
use crate::control::message::{FederationSays, GatewaySays, read_from_federation, read_from_gateway};

/// More than any field that a person reads, once it is cut.
const WORDS_MAX: usize = 512;
const ADDRESSES_MAX: usize = 32;

/// The real source of a connection that a gateway hands over.
pub(super) fn proxy_header(bytes: &[u8]) {
    let Ok(header) = read(bytes, &cluster("cloud")) else { return };
    assert!(bytes.len() <= HEADER_BYTES_MAX && length(bytes) == Ok(bytes.len()));
    let written = write(header.source, header.service, &cluster("cloud"));
    assert_eq!(read(&written, &cluster("cloud")), Ok(header));
}

/// The same bytes from either side.
pub(super) fn messages(bytes: &[u8]) {
    match read_from_gateway(bytes) {
        Ok(GatewaySays::Hello(hello)) => assert!(hello.addresses.len() <= ADDRESSES_MAX),
        Ok(GatewaySays::Sign { csr, .. }) => assert!(csr.len() <= CSR_BYTES_MAX),
        Ok(GatewaySays::Resync { reason }) => assert!(reason.len() <= WORDS_MAX, "{reason}"),
        Ok(_) => {}
        Err(violation) => assert!(violation.to_string().len() <= WORDS_MAX, "{violation}"),
    }
    match read_from_federation(bytes) {
        Ok(FederationSays::NotLeader { leaders }) => assert!(leaders.len() <= ADDRESSES_MAX),
        Ok(FederationSays::Signed { answer: Ok(chain), .. }) => {
            assert!(chain.len() <= CHAIN_CERTIFICATES_MAX)
        }
        Ok(FederationSays::Signed { answer: Err(refused), .. }) => assert!(refused.len() <= WORDS_MAX),
        Ok(_) => {}
        Err(violation) => assert!(violation.to_string().len() <= WORDS_MAX, "{violation}"),
    }
}

//! Who may speak: SPIFFE identities, bundles, the CA, the TLS verifiers, join tokens.

#![warn(missing_docs)]

mod spiffe_id;

pub use spiffe_id::{InvalidSpiffeId, SPIFFE_ID_LENGTH_MAX, SpiffeId, TRUST_DOMAIN_LENGTH_MAX, TrustDomain};

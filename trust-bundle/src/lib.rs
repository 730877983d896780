//! Who may speak: SPIFFE identities, bundles, the CA, the TLS verifiers, join tokens.

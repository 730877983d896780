//! A P-256 key pair: made, read, signed with, wiped.
//!
//! The keys of SVIDs and of the built-in CA are the same thing with different owners, so the
//! handling of the secret is written once. The PKCS#8 bytes are wiped on drop; ring's own copy of
//! the scalar is out of our hands.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::pem;

/// Why bytes are not a key that we can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It is not PKCS#8, or not of the curve P-256.
    #[error("not a P-256 private key in PKCS#8: {reason}")]
    NotP256 {
        /// What ring says about it; never holds key material.
        reason: String,
    },
    /// It is not PEM with a private key.
    #[error("no \"PRIVATE KEY\" block in the PEM text")]
    NotPem,
}

pub(crate) struct KeyPair {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl KeyPair {
    pub(crate) fn generate() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .expect("the operating system has randomness");
        Self::from_pkcs8(document.as_ref()).expect("ring reads the key that it just made")
    }

    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidKey> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &random)
            .map_err(|e| InvalidKey::NotP256 { reason: e.to_string() })?;
        Ok(Self { pkcs8: Zeroizing::new(der.to_vec()), pair, random })
    }

    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, InvalidKey> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_malformed| InvalidKey::NotPem)?;
        Self::from_pkcs8(der.secret_pkcs8_der())
    }

    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", &self.pkcs8))
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(crate) fn private_key_der(&self) -> PrivateKeyDer<'_> {
        PrivateKeyDer::Pkcs8(self.pkcs8().into())
    }

    /// The public key as an uncompressed point.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// An ASN.1 ECDSA signature over SHA-256 of the message.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        self.pair.sign(&self.random, message).map(|signature| signature.as_ref().to_vec())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(redacted)")
    }
}

// For the requests and certificates that rcgen encodes.
impl rcgen::PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign(message).map_err(|_unspecified| rcgen::Error::RingUnspecified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip_through_pem() {
        let key = KeyPair::generate();
        let again = KeyPair::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(key.public_key(), again.public_key());
        assert!(key.to_pem().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    }

    #[test]
    fn refuses_what_is_not_a_p256_key() {
        assert!(matches!(KeyPair::from_pkcs8(b"nothing"), Err(InvalidKey::NotP256 { .. })));
        assert!(matches!(KeyPair::from_pem(b"nothing"), Err(InvalidKey::NotPem)));
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert!(matches!(KeyPair::from_pkcs8(&other.serialize_der()), Err(InvalidKey::NotP256 { .. })));
    }

    #[test]
    fn debug_output_holds_no_key() {
        assert_eq!(format!("{:?}", KeyPair::generate()), "KeyPair(redacted)");
    }
}

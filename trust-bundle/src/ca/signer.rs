//! The one operation that a CA key is for, so that the key may live elsewhere: PKCS#11, a KMS.

use std::fmt;

use crate::key::KeyPair;

/// Signs with a P-256 key that need not be in this process.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The public key as an uncompressed point.
    fn public_key(&self) -> &[u8];

    /// An ASN.1 ECDSA signature over SHA-256 of the message.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerFailed>;
}

/// The signer gave no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the CA key gave no signature: {reason}")]
pub struct SignerFailed {
    /// What the signer says.
    pub reason: String,
}

impl Signer for KeyPair {
    fn public_key(&self) -> &[u8] {
        Self::public_key(self)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerFailed> {
        Self::sign(self, message).map_err(|e| SignerFailed { reason: e.to_string() })
    }
}

/// A signer as the encoder of certificates wants it.
pub(super) struct EncoderKey<'a>(pub(super) &'a dyn Signer);

impl rcgen::PublicKeyData for EncoderKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for EncoderKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        // The encoder's errors hold no text; the log has it.
        self.0.sign(message).map_err(|failed| {
            tracing::error!(%failed, "no signature from the CA key");
            rcgen::Error::RemoteKeyError
        })
    }
}

//! The proof that a joiner has the token, and the record against which it is checked.

use std::sync::OnceLock;
use std::time::Duration;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::UnixTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{TokenId, TokenParts};
use crate::digest::{Hex, from_hex, sha256};
use crate::random::random;

/// Keeps a signature of ours from meaning anything elsewhere.
const CONTEXT: &[u8] = b"isthmus-join-v1";

/// What the acceptor keeps of a token: enough to recognise it, not enough to use it (J3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    id: TokenId,
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    public_key: [u8; 32],
    /// Seconds since 1970.
    expires: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joiner: Option<String>,
}

impl TokenRecord {
    pub(super) fn new(id: TokenId, seed: &[u8; 32], parts: &TokenParts) -> Self {
        let public_key = public_key(&key_pair(seed));
        Self { id, public_key, expires: parts.expires.as_secs(), joiner: parts.joiner.clone() }
    }

    /// A record that no proof fits, to be checked where there is no record: the time that an answer
    /// takes then does not tell whether a token exists (J5).
    pub fn dummy() -> Self {
        static DUMMY: OnceLock<TokenRecord> = OnceLock::new();
        let dummy = DUMMY.get_or_init(|| {
            // The seed is gone at the end of this line.
            let public_key = public_key(&key_pair(&Zeroizing::new(random())));
            Self { id: TokenId::from([0; 16]), public_key, expires: 0, joiner: None }
        });
        dummy.clone()
    }

    /// Whether the sender of this request on this connection has the token.
    pub fn verify(&self, exporter: &[u8; 32], request: &[u8], proof: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.public_key);
        key.verify(&statement(exporter, request), proof).is_ok()
    }

    /// Names the token.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Until when the token may be used.
    pub fn expires(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.expires))
    }

    /// The only cluster that may use the token, if it was made for one.
    pub fn joiner(&self) -> Option<&str> {
        self.joiner.as_deref()
    }
}

pub(super) fn prove(seed: &[u8; 32], exporter: &[u8; 32], request: &[u8]) -> [u8; 64] {
    let signature = key_pair(seed).sign(&statement(exporter, request));
    signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
}

/// What is signed: this request, on this connection, for this purpose.
fn statement(exporter: &[u8; 32], request: &[u8]) -> Vec<u8> {
    [CONTEXT, exporter, &sha256(request)].concat()
}

fn key_pair(seed: &[u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 bytes are an Ed25519 seed")
}

fn public_key(pair: &Ed25519KeyPair) -> [u8; 32] {
    pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
}

fn write_key<S: Serializer>(key: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Hex(key))
}

fn read_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    from_hex(&text).ok_or_else(|| serde::de::Error::custom("a public key has 64 hexadecimal digits"))
}

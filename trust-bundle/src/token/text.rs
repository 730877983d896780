//! The token as text: `isthmus1.` and the base64url of a small JSON object.
//!
//! An operator may have lost a character or pasted something else, so each error says what to look at.
//! None of them repeats anything of the text: it may be a secret (J4).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{JoinToken, TOKEN_ENDPOINTS_MAX, TOKEN_LENGTH_MAX, TOKEN_PINS_MAX, TokenId, TokenParts};
use crate::bundle::AuthorityId;
use crate::spiffe_id::{SpiffeId, TrustDomain};

const NAME: &str = "isthmus";
const VERSION: u32 = 1;

/// A DNS name, or an address in brackets, with a port.
const ENDPOINT_LENGTH_MAX: usize = 253 + 2 + 6;

const CLUSTER_LENGTH_MAX: usize = 63;

/// Why a text is not a token that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is something else.
    #[error("not a join token: one begins with \"isthmus1.\"; hint: `isthmus peer invite` prints one")]
    NotAToken,
    /// A newer version made it.
    #[error("the token is of version {0}, this program reads version {VERSION}; hint: upgrade this cluster")]
    Version(u32),
    /// It is longer than any token.
    #[error("the token has {0} characters, at most {TOKEN_LENGTH_MAX} are possible; was it pasted twice?")]
    TooLong(usize),
    /// A character is missing or wrong.
    #[error("the token is damaged; hint: was it cut off or wrapped when it was copied?")]
    Damaged,
    /// It is whole, and a part of it makes no sense.
    #[error("the token is not usable: \"{field}\" {reason}")]
    Field {
        /// The part.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: u32,
    tid: String,
    key: String,
    acc: Acceptor,
    ep: Vec<String>,
    pin: Vec<String>,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joiner: Option<Joiner>,
}

#[derive(Serialize, Deserialize)]
struct Acceptor {
    td: String,
    cluster: String,
    join_id: String,
}

#[derive(Serialize, Deserialize)]
struct Joiner {
    cluster: String,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

pub(super) fn write(token: &JoinToken) -> Zeroizing<String> {
    let wire = Wire::from(token);
    // Room for all of it at once: growing would leave copies of the secret behind.
    let mut json = Zeroizing::new(Vec::with_capacity(TOKEN_LENGTH_MAX));
    serde_json::to_writer(&mut *json, &wire).expect("strings and numbers always serialise");
    let mut text = Zeroizing::new(String::with_capacity(2 * TOKEN_LENGTH_MAX));
    text.push_str(NAME);
    text.push_str(&VERSION.to_string());
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(&*json, &mut text);
    text
}

pub(super) fn read(text: &str) -> Result<JoinToken, InvalidToken> {
    let text = text.trim();
    if text.len() > TOKEN_LENGTH_MAX {
        return Err(InvalidToken::TooLong(text.len()));
    }
    let payload = payload(text)?;
    let mut json = Zeroizing::new(Vec::with_capacity(payload.len()));
    URL_SAFE_NO_PAD.decode_vec(payload, &mut json).map_err(|_bad_base64| InvalidToken::Damaged)?;
    // What serde says could repeat a part of the token.
    let wire: Wire = serde_json::from_slice(&json).map_err(|_bad_json| InvalidToken::Damaged)?;
    wire.token()
}

/// The part after the dot, if the part before it names a token of our version.
fn payload(text: &str) -> Result<&str, InvalidToken> {
    let versioned = text.strip_prefix(NAME).ok_or(InvalidToken::NotAToken)?;
    let (version, payload) = versioned.split_once('.').ok_or(InvalidToken::NotAToken)?;
    match version.parse() {
        Ok(VERSION) => Ok(payload),
        Ok(version) => Err(InvalidToken::Version(version)),
        Err(_) => Err(InvalidToken::NotAToken),
    }
}

impl From<&JoinToken> for Wire {
    fn from(token: &JoinToken) -> Self {
        let parts = &token.parts;
        Self {
            v: VERSION,
            tid: URL_SAFE_NO_PAD.encode(token.id.as_bytes()),
            key: URL_SAFE_NO_PAD.encode(*token.seed),
            acc: Acceptor {
                td: parts.trust_domain.to_string(),
                cluster: parts.acceptor_cluster.clone(),
                join_id: parts.join_id.to_string(),
            },
            ep: parts.endpoints.clone(),
            pin: parts.pins.iter().map(|pin| URL_SAFE_NO_PAD.encode(pin.as_bytes())).collect(),
            exp: parts.expires.as_secs(),
            joiner: parts.joiner.clone().map(|cluster| Joiner { cluster }),
        }
    }
}

impl Wire {
    fn token(&self) -> Result<JoinToken, InvalidToken> {
        if self.v != VERSION {
            return Err(InvalidToken::Version(self.v));
        }
        Ok(JoinToken {
            id: TokenId::from(bytes::<16>("tid", &self.tid)?),
            seed: Zeroizing::new(bytes("key", &self.key)?),
            parts: TokenParts {
                acceptor_cluster: cluster("acc.cluster", &self.acc.cluster)?,
                trust_domain: self.trust_domain()?,
                join_id: self.join_id()?,
                endpoints: self.endpoints()?,
                pins: self.pins()?,
                expires: UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.exp)),
                joiner: self.joiner.as_ref().map(|j| cluster("joiner.cluster", &j.cluster)).transpose()?,
            },
        })
    }

    fn trust_domain(&self) -> Result<TrustDomain, InvalidToken> {
        TrustDomain::try_from(self.acc.td.as_str()).map_err(|_invalid| bad("acc.td", "is not a trust domain"))
    }

    fn join_id(&self) -> Result<SpiffeId, InvalidToken> {
        let id = SpiffeId::try_from(self.acc.join_id.as_str())
            .map_err(|_invalid| bad("acc.join_id", "is not a SPIFFE ID"))?;
        if id.path().is_empty() || id.trust_domain().as_str() != self.acc.td {
            return Err(bad("acc.join_id", "is not an identity of the acceptor's trust domain"));
        }
        Ok(id)
    }

    fn endpoints(&self) -> Result<Vec<String>, InvalidToken> {
        if self.ep.is_empty() || self.ep.len() > TOKEN_ENDPOINTS_MAX {
            return Err(bad("ep", "does not have between one and eight endpoints"));
        }
        if !self.ep.iter().all(|endpoint| is_endpoint(endpoint)) {
            return Err(bad("ep", "has an endpoint that is not host:port"));
        }
        Ok(self.ep.clone())
    }

    fn pins(&self) -> Result<Vec<AuthorityId>, InvalidToken> {
        if self.pin.is_empty() || self.pin.len() > TOKEN_PINS_MAX {
            return Err(bad("pin", "does not have between one and four pins"));
        }
        self.pin.iter().map(|pin| bytes("pin", pin).map(AuthorityId::from)).collect()
    }
}

fn bad(field: &'static str, reason: &'static str) -> InvalidToken {
    InvalidToken::Field { field, reason }
}

fn bytes<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], InvalidToken> {
    let mut bytes = [0; N];
    match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
        Ok(length) if length == N => Ok(bytes),
        _ => Err(bad(field, "has the wrong length or encoding")),
    }
}

fn cluster(field: &'static str, name: &str) -> Result<String, InvalidToken> {
    let allowed = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if name.is_empty() || name.len() > CLUSTER_LENGTH_MAX || !name.bytes().all(allowed) {
        return Err(bad(field, "is not a cluster name"));
    }
    Ok(name.to_owned())
}

// What it resolves to, and whether it may be dialled, is for the joiner to judge.
fn is_endpoint(endpoint: &str) -> bool {
    let Some((host, port)) = endpoint.rsplit_once(':') else { return false };
    let host_ok = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    endpoint.len() <= ENDPOINT_LENGTH_MAX
        && !host.is_empty()
        && host.bytes().all(host_ok)
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

//! The headers that gateways speak with each other, and what nobody else may say (T9).
//!
//! Everything that a receiver could take for a statement of identity is removed from every request and
//! set anew from what we know. Only what a link says is read first, and of that the caller is believed
//! only within the trust domain of the peer whose gateway proved itself.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use trust_bundle::{SpiffeId, TrustDomain};

pub use crate::filter::Sender;
use crate::filter::is_reserved;

/// `<svc>.<ns>:<port>`: what a stream on a link is for; `:authority` stays the caller's own Host.
pub const TO: HeaderName = HeaderName::from_static("isthmus-to");
/// The caller's own SPIFFE ID, as its gateway verified it.
pub const CALLER: HeaderName = HeaderName::from_static("isthmus-caller");
/// The caller's address, as its gateway saw it.
pub const CLIENT: HeaderName = HeaderName::from_static("isthmus-client");
/// Milliseconds that the caller will still wait; a duration, since clocks of two clusters differ.
pub const DEADLINE: HeaderName = HeaderName::from_static("isthmus-deadline");
/// On an answer: a gateway gave it, for this reason.
pub const FAULT: HeaderName = HeaderName::from_static("isthmus-fault");

pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Nobody waits for a day; a larger number is a mistake or an attempt to overflow.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the head of a request or of a CONNECT stream on a link says beside HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkHeaders {
    pub to: Option<String>,
    pub caller: Option<SpiffeId>,
    pub client: Option<IpAddr>,
    pub deadline: Option<Duration>,
}

impl LinkHeaders {
    /// Reads what a peer's gateway says; what is malformed, doubled or beyond its right counts as unsaid.
    pub fn read(headers: &http::HeaderMap, peer: &TrustDomain) -> Self {
        let caller = single(headers, &CALLER).and_then(|text| SpiffeId::try_from(text).ok());
        let deadline =
            single(headers, &DEADLINE).and_then(|text| text.parse().ok()).map(Duration::from_millis);
        Self {
            to: single(headers, &TO).map(str::to_owned),
            caller: caller.filter(|id| id.trust_domain() == *peer),
            client: single(headers, &CLIENT).and_then(|text| text.parse().ok()),
            deadline: deadline.map(|left| left.min(DEADLINE_MAX)),
        }
    }

    /// Writes the same for a peer's gateway, in place of whatever was there.
    pub fn pairs(&self) -> Vec<(HeaderName, HeaderValue)> {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        [
            (TO, self.to.as_deref().and_then(value)),
            (CALLER, self.caller.as_ref().and_then(|id| value(id.as_str()))),
            (CLIENT, self.client.and_then(|ip| value(&ip.to_string()))),
            (
                DEADLINE,
                self.deadline
                    .map(|left| HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))),
            ),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

fn single<'a>(headers: &'a http::HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let only = values.next()?;
    values.next().is_none().then(|| only.to_str().ok())?
}

/// Removes what the sender has no right to say; read [`LinkHeaders`] first.
pub fn strip(request: &mut RequestHeader, sender: Sender) {
    for name in reserved(&request.headers, sender) {
        request.remove_header(&name);
    }
}

/// The same for what follows a body: gateways say nothing there, so nobody may.
pub fn strip_trailers(trailers: &mut http::HeaderMap, sender: Sender) {
    for name in reserved(trailers, sender) {
        trailers.remove(&name);
    }
}

fn reserved(headers: &http::HeaderMap, sender: Sender) -> Vec<HeaderName> {
    headers.keys().filter(|name| is_reserved(name.as_str(), sender)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header((*name).to_owned(), *value).unwrap();
        }
        request
    }

    fn domain(text: &str) -> TrustDomain {
        text.try_into().unwrap()
    }

    #[test]
    fn statements_of_identity_are_removed_from_everybody() {
        // T9: all headers, mixed case, doubled, underscores.
        for (name, from_client, from_link) in [
            ("isthmus-caller", false, false),
            ("Isthmus-Caller", false, false),
            ("isthmus_caller", false, false),
            ("isthmus-anything-new", false, false),
            ("X-Forwarded-Client-Cert", false, false),
            ("x_forwarded_for", false, false),
            ("X-Forwarded-Host", false, false),
            ("Forwarded", false, false),
            ("l5d-client-id", false, false),
            ("l5d_client_id", false, false),
            ("baggage", true, false),
            ("isthmus", true, true),
            ("x-forwarded", true, true),
            ("forwarded-by-me", true, true),
            ("x-request-id", true, true),
            ("authorization", true, true),
        ] {
            for (sender, stays) in [(Sender::Client, from_client), (Sender::Link, from_link)] {
                let mut request = request(&[("host", "a"), (name, "1"), (name, "2")]);
                strip(&mut request, sender);
                assert_eq!(request.headers.get_all(name).iter().count(), if stays { 2 } else { 0 }, "{name}");
                assert!(request.headers.contains_key("host"));
            }
        }
    }

    #[test]
    fn trailers_make_no_statements_either() {
        let mut trailers = http::HeaderMap::new();
        for name in ["grpc-status", "isthmus-fault", "x_forwarded_for", "baggage", "isthmus-caller"] {
            trailers.append(name, "1".parse().unwrap());
            trailers.append(name, "2".parse().unwrap());
        }
        strip_trailers(&mut trailers, Sender::Link);
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
        assert_eq!(trailers.len(), 2);
    }

    #[test]
    fn a_peer_speaks_only_for_callers_of_its_own_domain() {
        for (caller, believed) in [
            ("spiffe://cloud.example/ns/shop/sa/cart", true),
            ("spiffe://onprem.example/ns/shop/sa/cart", false),
            ("spiffe://cloud.example.evil/x", false),
            ("not an id", false),
            ("", false),
        ] {
            let request = request(&[("isthmus-caller", caller), ("isthmus-to", "cart.shop:80")]);
            let said = LinkHeaders::read(&request.headers, &domain("cloud.example"));
            assert_eq!(said.caller.is_some(), believed, "{caller}");
            assert_eq!(said.to.as_deref(), Some("cart.shop:80"));
        }
    }

    #[test]
    fn what_is_doubled_or_malformed_counts_as_unsaid() {
        let twice =
            request(&[("isthmus-to", "a.b:1"), ("isthmus-to", "c.d:1"), ("isthmus-client", "nobody")]);
        assert_eq!(LinkHeaders::read(&twice.headers, &domain("cloud.example")), LinkHeaders::default());
        for (text, expected) in [
            ("1500", Some(Duration::from_millis(1500))),
            ("-1", None),
            ("1.5", None),
            ("18446744073709551615", Some(DEADLINE_MAX)),
        ] {
            let request = request(&[("isthmus-deadline", text)]);
            assert_eq!(
                LinkHeaders::read(&request.headers, &domain("cloud.example")).deadline,
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let said = LinkHeaders {
            to: Some("cart.shop:80".into()),
            caller: Some("spiffe://cloud.example/ns/shop/sa/web".try_into().unwrap()),
            client: Some("2001:db8::7".parse().unwrap()),
            deadline: Some(Duration::from_millis(250)),
        };
        let headers = said.pairs().into_iter().collect();
        assert_eq!(LinkHeaders::read(&headers, &domain("cloud.example")), said);
    }
}

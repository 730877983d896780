//! Answers that the gateway gives itself: small, and they say whose fault it is.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::balancer::NoEndpoint;
use crate::fault::Fault;
use crate::headers;
use crate::overload::Resource;
use crate::router::NoRoute;
use crate::telemetry::Flag;

/// Overload comes and goes in seconds.
const RETRY_AFTER_SECONDS: usize = 1;

/// Why a request or a tunnel gets no answer from an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// None where the caller itself is to blame.
    pub fault: Option<Fault>,
    /// One word for metrics and the access log.
    pub reason: &'static str,
    /// Lower case, no full stop, says what to do next where we know.
    pub message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, fault: None, reason, message: message.into() }
    }

    pub fn fault(fault: Fault, message: impl Into<String>) -> Self {
        Self { status: fault.status(), fault: Some(fault), reason: fault.as_str(), message: message.into() }
    }

    /// An answer that did not come in time; it may still be under way.
    pub fn timeout(message: impl Into<String>) -> Self {
        let status = StatusCode::GATEWAY_TIMEOUT;
        Self { status, fault: Some(Fault::Reset), reason: "timeout", message: message.into() }
    }

    /// This process is short of something; another one, or this one a little later, may do better.
    pub fn overload(short: Resource) -> Self {
        let message = format!("the gateway is short of {}; hint: try again later", short.as_str());
        Self { reason: short.reason(), ..Self::fault(Fault::Overloaded, message) }
    }

    /// What went wrong, in Envoy's letters.
    pub fn flag(&self) -> Option<Flag> {
        match self.fault {
            None => (self.status == StatusCode::BAD_REQUEST).then_some(Flag::DownstreamProtocolError),
            Some(Fault::NotFound) => Some(Flag::NoRouteFound),
            Some(Fault::NoEndpoint) => Some(Flag::NoHealthyUpstream),
            // Ours names what is short; else a peer's gateway, or all streams to it, are.
            Some(Fault::Overloaded) if self.reason == Fault::Overloaded.as_str() => {
                Some(Flag::UpstreamOverflow)
            }
            Some(Fault::Overloaded) => Some(Flag::Overload),
            Some(Fault::Connect | Fault::Draining) => Some(Flag::UpstreamConnectionFailure),
            Some(Fault::Reset) if self.status == StatusCode::GATEWAY_TIMEOUT => {
                Some(Flag::UpstreamRequestTimeout)
            }
            Some(Fault::Reset) => Some(Flag::UpstreamConnectionTermination),
            Some(Fault::Policy) => Some(Flag::Unauthorized),
        }
    }

    /// The one answer to a peer for what does not exist and for what is not exported to it (T8).
    pub fn not_found() -> Self {
        Self::fault(Fault::NotFound, "not found")
    }

    fn body(&self) -> Bytes {
        format!("isthmus: {}\n", self.message).into()
    }

    /// Writes it as the answer to a request; the connection may go on.
    pub async fn write(&self, session: &mut Session) -> Result<()> {
        let body = self.body();
        let mut head = ResponseHeader::build(self.status, Some(4))?;
        head.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
        if let Some(fault) = self.fault {
            head.insert_header(headers::FAULT, fault.as_str())?;
        }
        if self.fault == Some(Fault::Overloaded) {
            head.insert_header(header::RETRY_AFTER, RETRY_AFTER_SECONDS)?;
        }
        let bodiless = session.req_header().method == http::Method::HEAD;
        session.write_response_header(Box::new(head), bodiless).await?;
        if !bodiless {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }

    /// The last answer on an HTTP/1.1 stream that nobody parses for us.
    pub fn to_http1(&self) -> Vec<u8> {
        let body = self.body();
        let reason = self.status.canonical_reason().unwrap_or_default();
        let fault = self.fault.map(|fault| format!("{}: {fault}\r\n", headers::FAULT)).unwrap_or_default();
        let mut answer = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n{fault}\r\n",
            self.status.as_u16(),
            body.len(),
        )
        .into_bytes();
        answer.extend(body);
        answer
    }

    /// The answer to a CONNECT stream of a link.
    pub fn to_stream(&self) -> http::Response<()> {
        let mut response = http::Response::new(());
        *response.status_mut() = self.status;
        if let Some(fault) = self.fault {
            response.headers_mut().insert(headers::FAULT, HeaderValue::from_static(fault.as_str()));
        }
        response
    }
}

impl From<NoRoute> for Refusal {
    fn from(no_route: NoRoute) -> Self {
        let status = StatusCode::from_u16(no_route.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let fault = match status {
            StatusCode::NOT_FOUND => Some(Fault::NotFound),
            StatusCode::BAD_REQUEST => None,
            _ => Some(Fault::Policy),
        };
        Self { status, fault, reason: no_route.reason(), message: no_route.to_string() }
    }
}

impl From<&NoEndpoint> for Refusal {
    fn from(nobody: &NoEndpoint) -> Self {
        Self::fault(Fault::NoEndpoint, nobody.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whose_fault_it_is() {
        let answer = String::from_utf8(Refusal::not_found().to_http1()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
        assert!(answer.contains("isthmus-fault: not-found\r\n"), "{answer}");
        assert!(answer.ends_with("Content-Length: 19\r\nConnection: close\r\nisthmus-fault: not-found\r\n\r\nisthmus: not found\n"), "{answer}");

        for (refusal, flag) in [
            (Refusal::overload(Resource::Memory), Flag::Overload),
            (Refusal::fault(Fault::Overloaded, "no stream is free"), Flag::UpstreamOverflow),
        ] {
            assert_eq!((refusal.status.as_u16(), refusal.flag()), (503, Some(flag)));
        }

        let own = Refusal::new(StatusCode::BAD_REQUEST, "bad-request", "bad request");
        assert!(!own.to_stream().headers().contains_key("isthmus-fault"));
        assert_eq!(Refusal::from(NoRoute::UnknownHost).fault, Some(Fault::NotFound));
        assert_eq!(Refusal::from(NoRoute::InvalidHost).fault, None);
        assert_eq!(Refusal::from(NoRoute::NoBackend).status, 500);
    }
}

//! Who may ask: the Host check for everything, the cookie for changes.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};

use super::api::Failure;
use super::cookie;
use super::server::Context;
use crate::clock;
use crate::telemetry::{Decision, Outcome};

/// Refuses what did not come for us, and changes without the cookie.
pub(super) async fn guard(
    State(context): State<Context>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| is_ours(host, context.address)) {
        return refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "this Host is not the admin listener",
            "use its address",
        );
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let offered = request.headers().get(cookie::HEADER).map(http::HeaderValue::as_bytes);
    let action = format!("{} {}", request.method(), request.uri().path());
    if !offered.is_some_and(|offered| context.cookie.matches(offered)) {
        context.audit.write(clock::wall(), Some(from), &changed("nobody", &action, Outcome::Refused));
        let hint =
            format!("send the content of {} as header {}", context.cookie.path().display(), cookie::HEADER);
        return refuse(StatusCode::FORBIDDEN, "changes need the cookie of this process", &hint);
    }
    let response = next.run(request).await;
    let outcome = if response.status().is_success() { Outcome::Done } else { Outcome::Failed };
    context.audit.write(clock::wall(), Some(from), &changed("cookie", &action, outcome));
    response
}

fn changed<'a>(who: &'a str, action: &'a str, outcome: Outcome) -> Decision<'a> {
    Decision::Changed { who, action, outcome }
}

/// An address, or the names that always mean this machine.
fn is_ours(host: &str, listening: SocketAddr) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port.parse().ok()),
        _ => (host, Some(80)),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let ours = match name.parse::<IpAddr>() {
        Ok(ip) => ip == listening.ip() || listening.ip().is_unspecified(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    };
    ours && port == Some(listening.port())
}

fn refuse(status: StatusCode, error: &str, hint: &str) -> Response<Body> {
    let failure = Failure { error: error.to_owned(), hint: Some(hint.to_owned()) };
    (status, axum::Json(failure)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_listener_are_ours() {
        let loopback = "127.0.0.1:15000".parse().unwrap();
        for (host, expected) in [
            ("127.0.0.1:15000", true),
            ("localhost:15000", true),
            ("LOCALHOST:15000", true),
            ("127.0.0.1", false),
            ("127.0.0.1:15001", false),
            ("evil.example:15000", false),
            ("127.0.0.2:15000", false),
            ("", false),
            (":15000", false),
        ] {
            assert_eq!(is_ours(host, loopback), expected, "{host}");
        }
        assert!(is_ours("[::1]:15000", "[::1]:15000".parse().unwrap()));
        assert!(is_ours("192.0.2.7:15000", "0.0.0.0:15000".parse().unwrap()));
        assert!(!is_ours("evil.example:15000", "0.0.0.0:15000".parse().unwrap()));
    }
}

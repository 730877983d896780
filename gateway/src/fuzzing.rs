//! What libFuzzer calls in this crate (`tests/fuzz/run`); in no ordinary build.
//!
//! Each target is given bytes of a stranger, as they come from a socket. It must not panic, and what it
//! says of them must hold: it does not matter how the bytes were cut, nothing is consumed that was only
//! looked at, and another parser of the same bytes agrees.

use std::io;
use std::pin::Pin;
use std::str;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trust_bundle::TrustDomain;

use crate::forward_proxy;
use crate::headers::{self, LinkHeaders, Sender};
use crate::link::fuzzing as link;
use crate::listener::client_hello;
use crate::listener::opening::{Opening, head_end};
use crate::peekable::Peekable;
use crate::router::Authority;
use crate::telemetry::TraceParent;
use crate::windows::Windows;

/// A name, as of its folder in the corpus, and what takes its inputs.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("client_hello", client_hello),
    ("opening", opening),
    ("connect_head", connect_head),
    ("authority", authority),
    ("link_message", link::messages),
    ("link_headers", link_headers),
    ("tunnel", tunnel),
];

/// The first byte says how the rest is cut.
fn client_hello(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let read = |step| {
        let mut stream = Peekable::new(Stranger { says: bytes, step });
        let name = client_hello::peek(&mut stream).now_or_never().expect("a slice never waits");
        assert!(bytes.starts_with(stream.head()), "nothing is consumed");
        name
    };
    let (whole, cut) = (read(bytes.len().max(1)), read(usize::from(cut).max(1)));
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => assert_eq!(whole, cut),
        (Err(whole), Err(cut)) => assert_eq!(whole.reason(), cut.reason()),
        _ => panic!("{whole:?}, and in pieces {cut:?}"),
    }
    if let Ok(name) = whole {
        assert_eq!(sni(bytes), Some(name), "whoever terminates the connection sees the same name");
    }
}

/// The server name as rustls reads it when it terminates the connection.
fn sni(mut bytes: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    loop {
        if acceptor.read_tls(&mut bytes).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            return accepted.client_hello().server_name().map(str::to_ascii_lowercase);
        }
    }
}

fn opening(bytes: &[u8]) {
    let opening = Opening::of(bytes);
    let fewest = (0..=bytes.len()).find_map(|n| Opening::of(&bytes[..n]));
    assert_eq!(opening, fewest, "what was decided stays decided");
    let end = head_end(bytes, 0);
    // As the connection does, which looks again whenever more has come.
    let found = (0..bytes.len()).filter(|seen| head_end(&bytes[..*seen], 0).is_none());
    for seen in found {
        assert_eq!(head_end(bytes, seen), end, "after {seen} bytes");
    }
    assert!(end.is_none_or(|end| end <= bytes.len()));
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    // Whoever parses the head later never waits for more of it, and never takes more for it.
    if let Ok(httparse::Status::Complete(parsed)) = request.parse(bytes) {
        assert_eq!(end, Some(parsed));
    }
}

fn connect_head(bytes: &[u8]) {
    let Some(end) = head_end(bytes, 0) else { return };
    let Some(to) = forward_proxy::authority(&bytes[..end]) else { return };
    assert!(!to.is_empty() && !to.contains(|c: char| c.is_ascii_whitespace()), "{to:?}");
    if str::from_utf8(bytes).is_ok() {
        authority(to.as_bytes());
    }
}

fn authority(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Some(read) = Authority::parse(text) else { return };
    let (host, port) = (read.host(), read.port());
    assert!(!host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let shown = port.map_or(shown.clone(), |port| format!("{shown}:{port}"));
    let again = Authority::parse(&shown).unwrap_or_else(|| panic!("{text:?} became {shown:?}"));
    assert_eq!((again.host(), again.port()), (host, port), "{text:?} became {shown:?}");
    // Where the crate that parses requests reads it too, it reads the same host and port.
    if let Ok(second) = text.parse::<http::uri::Authority>() {
        let theirs = second.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        assert_eq!(theirs.strip_suffix('.').unwrap_or(&theirs), host, "{text:?}");
        assert_eq!(second.port_u16(), port, "{text:?}");
    }
}

/// Lines of `name: value`, as a peer's gateway or a client says them.
fn link_headers(bytes: &[u8]) {
    let mut map = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n') {
        let at = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (name, value) = (&line[..at], line.get(at + 1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    let domain = TrustDomain::try_from("cloud.example").expect("a trust domain");
    let said = LinkHeaders::read(&map, &domain);
    assert!(said.caller.as_ref().is_none_or(|caller| caller.trust_domain() == domain));
    assert_eq!(LinkHeaders::read(&said.pairs().into_iter().collect(), &domain), said);
    for value in map.values().filter_map(|value| value.to_str().ok()) {
        if let Some(trace) = TraceParent::parse(value) {
            assert!(
                trace.trace_id.len() == 32 && trace.span_id.len() == 16 && value.contains(trace.trace_id)
            );
        }
    }
    for sender in [Sender::Client, Sender::Link] {
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        let mut trailers = map.clone();
        for (name, value) in &map {
            request.append_header(name.clone(), value.clone()).expect("a header");
        }
        headers::strip(&mut request, sender);
        headers::strip_trailers(&mut trailers, sender);
        assert!(request.headers.keys().chain(trailers.keys()).all(|name| {
            let name = name.as_str().replace('_', "-");
            !name.starts_with("isthmus-") && !name.starts_with("x-forwarded-") && name != "forwarded"
        }));
        assert_eq!(LinkHeaders::read(&request.headers, &domain), LinkHeaders::default());
    }
}

/// The bytes of a peer that opened a link for tunnels.
fn tunnel(bytes: &[u8]) {
    let served = async {
        let stranger = Stranger { says: bytes, step: bytes.len().max(1) };
        let Ok(mut link) = Windows::LINK.tunnel_server().handshake::<_, Bytes>(stranger).await else {
            return;
        };
        let mut streams = Vec::new();
        while let Some(Ok((request, respond))) = link.accept().await {
            let domain = TrustDomain::try_from("cloud.example").expect("a trust domain");
            LinkHeaders::read(request.headers(), &domain);
            if let Some(to) = request.uri().authority() {
                Authority::parse(to.as_str());
            }
            streams.push((request, respond));
            assert!(streams.len() <= Windows::LINK.streams() as usize, "more streams than are allowed");
        }
    };
    served.now_or_never();
}

/// Says what it has to say in pieces, hears nothing, and closes.
#[derive(Debug)]
struct Stranger<'a> {
    says: &'a [u8],
    step: usize,
}

impl AsyncRead for Stranger<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.says.split_at(self.step.min(self.says.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.says = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stranger<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "../../tests/fuzz/replay.rs"]
mod replay;

#[test]
fn what_was_found_once_stays_mended() {
    replay::corpus(TARGETS);
}

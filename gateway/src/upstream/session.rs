//! A stream on a link as pingora's custom session.
//!
//! pingora's own HTTP/2 session does the work. What its custom path leaves to us is done when the head is
//! written: hop-by-hop fields go, and Host becomes `:authority` (notes/pingora 2.4).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, Uri, Version};
use pingora_core::protocols::http::custom::client::Session;
use pingora_core::protocols::http::custom::{BodyWrite, CustomMessageWrite};
use pingora_core::protocols::http::v2::write_body;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::{Digest, UniqueIDType};
use pingora_error::ErrorType::{InvalidHTTPHeader, ReadError, WriteError};
use pingora_error::{Error, OkOrErr, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio_util::sync::CancellationToken;

use crate::link::HttpStream;

/// An HTTP request on a link.
#[derive(Debug)]
pub struct LinkSession {
    stream: HttpStream,
    /// May be sent a second time, elsewhere.
    repeatable: bool,
    /// Cancelled when the request turns out to be one that cannot be sent.
    refused: CancellationToken,
}

impl LinkSession {
    pub(super) fn new(stream: HttpStream) -> Self {
        Self { stream, repeatable: false, refused: CancellationToken::new() }
    }
}

/// Waits for an answer, unless its request is refused meanwhile.
async fn unless_refused<T>(refused: &CancellationToken, read: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = refused.cancelled() => Err(has_trailers()),
        read = read => read,
    }
}

fn has_trailers() -> Box<Error> {
    Error::explain(InvalidHTTPHeader, "a request with trailers").into_down()
}

/// Is it proven that the other end has not looked at the request, so that even a POST may be sent again.
///
/// A gateway that drains closes streams that came too late without processing them, and says so (RFC
/// 9113, sections 6.8 and 8.7). Idempotence has nothing to do with it.
pub fn was_unprocessed(error: &Error) -> bool {
    let Some(cause) = error.root_cause().downcast_ref::<h2::Error>() else { return false };
    let goodbye = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
    let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    cause.is_remote() && (goodbye || refused)
}

#[async_trait]
impl Session for LinkSession {
    async fn write_request_header(&mut self, mut request: Box<RequestHeader>, end: bool) -> Result<()> {
        make_http2(&mut request)?;
        self.repeatable = request.method.is_idempotent();
        self.stream.session.write_request_header(request, end)
    }

    async fn write_request_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.stream.session.write_request_body(data, end).await
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        self.stream.session.finish_request_body()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.session.read_timeout = timeout;
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.session.write_timeout = timeout;
    }

    /// On a link that fell silent, what can be repeated is: elsewhere, or refused at once as all that
    /// comes later. The rest waits for as long as the link lives; the path may come back.
    async fn read_response_header(&mut self) -> Result<()> {
        let HttpStream { session, loan } = &mut self.stream;
        if !self.repeatable {
            return unless_refused(&self.refused, session.read_response_header()).await;
        }
        tokio::select! {
            biased;
            read = unless_refused(&self.refused, session.read_response_header()) => read,
            () = loan.fell_silent() => {
                Err(Error::explain(ReadError, "the link does not answer probes").into_up())
            }
        }
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        unless_refused(&self.refused, self.stream.session.read_response_body()).await
    }

    fn response_finished(&self) -> bool {
        self.stream.session.response_finished()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.stream.session.shutdown();
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.stream.session.response_header()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        self.stream.session.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.stream.session.digest_mut()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.stream.session.server_addr()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.stream.session.client_addr()
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        unless_refused(&self.refused, self.stream.session.read_trailers()).await
    }

    fn fd(&self) -> UniqueIDType {
        self.stream.session.fd()
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        self.stream.session.check_response_end_or_error()
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        let write_timeout = self.stream.session.write_timeout;
        let send = self.stream.session.take_request_body_writer()?;
        Some(Box::new(Body { send, ended: false, refused: self.refused.clone(), write_timeout }))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    /// None would fail the request; HTTP has no messages beside its body.
    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}

/// The request body, written while the response is read.
struct Body {
    send: h2::SendStream<Bytes>,
    ended: bool,
    refused: CancellationToken,
    write_timeout: Option<Duration>,
}

#[async_trait]
impl BodyWrite for Body {
    async fn write_all_buf(&mut self, data: &mut Bytes) -> Result<()> {
        if self.ended {
            return Error::e_explain(WriteError, "the request body has ended");
        }
        write_body(&mut self.send, std::mem::take(data), false, self.write_timeout).await
    }

    /// Told twice, the request has trailers: pingora would go on telling us for ever, keep a core busy
    /// with it, and of an error here only stop reading. So the answer is broken off too.
    async fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            self.refused.cancel();
            return Err(has_trailers());
        }
        write_body(&mut self.send, Bytes::new(), true, self.write_timeout).await
    }

    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}

/// Makes a request that came in any version one of HTTP/2.
fn make_http2(request: &mut RequestHeader) -> Result<()> {
    strip_hop_by_hop(request)?;
    let host = request.remove_header(&header::HOST);
    let authority = match (&host, request.uri.authority()) {
        (Some(host), _) => host.as_bytes().to_vec(),
        (None, Some(authority)) => authority.as_str().as_bytes().to_vec(),
        (None, None) => return Error::e_explain(InvalidHTTPHeader, "a request without an authority"),
    };
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let uri = Uri::builder().scheme("https").authority(&authority[..]).path_and_query(path).build();
    request.set_uri(uri.or_err(InvalidHTTPHeader, "not an authority or a path")?);
    request.set_version(Version::HTTP_2);
    Ok(())
}

/// Removes what concerns one connection only (RFC 9110, section 7.6.1), and `te` but for `trailers`.
fn strip_hop_by_hop(request: &mut RequestHeader) -> Result<()> {
    let keep_te = te_is_trailers(&request.headers);
    for name in nominated(&request.headers)? {
        request.remove_header(&name);
    }
    for name in HOP_BY_HOP {
        request.remove_header(*name);
    }
    request.remove_header(&header::TE);
    if keep_te {
        request.insert_header(header::TE, "trailers")?;
    }
    Ok(())
}

/// The fields that `Connection` names, as far as a client has a say in them.
fn nominated(headers: &HeaderMap) -> Result<Vec<HeaderName>> {
    let values = headers.get_all(header::CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    let names: Option<Vec<_>> = tokens
        .filter(|token| !token.is_empty())
        .take(NOMINATIONS_MAX + 1)
        .map(|token| HeaderName::from_bytes(token).ok())
        .collect();
    let names = names.or_err(InvalidHTTPHeader, "Connection names what is no header")?;
    if names.len() > NOMINATIONS_MAX {
        return Error::e_explain(InvalidHTTPHeader, "Connection names too many headers");
    }
    Ok(names.into_iter().filter(|name| !is_ours(name.as_str())).collect())
}

/// What gateways say is written before a client's `Connection` is looked at, and must survive it.
fn is_ours(name: &str) -> bool {
    name == "host" || name.starts_with("isthmus-") || name.starts_with("x-forwarded-")
}

fn te_is_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    tokens.any(|token| token.eq_ignore_ascii_case(b"trailers"))
}

const HOP_BY_HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];
/// As many as pingora takes on its own paths.
const NOMINATIONS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header((*name).to_owned(), *value).unwrap();
        }
        request
    }

    #[test]
    fn host_becomes_the_authority() {
        for (target, host, expected) in [
            ("/a?b=c", Some("cart.shop:8080"), "https://cart.shop:8080/a?b=c"),
            ("http://cart.shop/a", Some("cart.shop"), "https://cart.shop/a"),
            ("http://cart.shop/a", None, "https://cart.shop/a"),
        ] {
            let mut made = request("/", &host.map(|host| ("host", host)).into_iter().collect::<Vec<_>>());
            made.set_uri(target.parse().unwrap());
            make_http2(&mut made).unwrap();
            assert_eq!(made.uri.to_string(), expected);
            assert!(!made.headers.contains_key("host"));
            assert_eq!(made.version, Version::HTTP_2);
        }
        assert!(make_http2(&mut request("/a", &[])).is_err());
        assert!(make_http2(&mut request("/a", &[("host", "a b")])).is_err());
    }

    #[test]
    fn hop_by_hop_fields_stay_on_their_hop() {
        let mut made = request(
            "/",
            &[
                ("host", "a"),
                ("connection", "keep-alive, x-mine"),
                ("keep-alive", "5"),
                ("x-mine", "1"),
                ("proxy-connection", "close"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("http2-settings", "x"),
                ("te", "gzip, trailers"),
                ("x-other", "1"),
            ],
        );
        make_http2(&mut made).unwrap();
        let mut left: Vec<_> = made.headers.iter().map(|(name, value)| (name.as_str(), value)).collect();
        left.sort_by_key(|(name, _)| *name);
        assert_eq!(left.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["te", "x-other"]);
        assert_eq!(left[0].1, "trailers");
    }

    #[test]
    fn a_client_cannot_strip_what_gateways_say() {
        let mut made = request(
            "/",
            &[
                ("host", "a"),
                ("connection", "isthmus-caller, Isthmus-To, host, x-forwarded-for"),
                ("isthmus-caller", "spiffe://a/b"),
                ("isthmus-to", "cart.shop:80"),
                ("x-forwarded-for", "192.0.2.1"),
            ],
        );
        make_http2(&mut made).unwrap();
        assert_eq!(made.headers.len(), 3, "{:?}", made.headers);
    }

    #[test]
    fn a_connection_field_that_is_wrong_or_endless_is_refused() {
        for connection in ["a b", "\"x\"", ":authority", "a,b,c,d,e,f,g,h,i,j,k"] {
            let mut made = request("/", &[("host", "a"), ("connection", connection)]);
            assert!(make_http2(&mut made).is_err(), "{connection}");
        }
    }
}

//! What is sent to the one port between clusters, before anybody has proven anything, and by a peer.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{self, Shown};
use crate::frames;
use crate::http::Input;
use crate::stranger::Act::{Flood, Resets, Say, Slowly};
use crate::stranger::Until::{Answered, Ended, Sent};

pub(crate) const GATEWAY: &str = "gateway.onprem.isthmus.internal";
const HOST: &str = "web.shop.svc.clusterset.local";

/// Of strangers: nobody gets as far as a certificate.
pub(crate) fn inputs() -> Vec<Input> {
    let hello = client_hello(GATEWAY);
    let half = hello[..hello.len() / 2].to_vec();
    // One handshake message that claims 60 000 bytes, in records of 1 KiB.
    let mut record = vec![0x16, 3, 1, 4, 0];
    record.extend([0; 1024]);
    let mut first = record.clone();
    first[5..9].copy_from_slice(&[1, 0, 0xea, 0x60]);
    vec![
        Input::new("random bytes", vec![Say((0..=255).rev().collect())], Ended)
            .sees(&["nothing, closed"])
            .counts("client_hello_malformed"),
        Input::new("HTTP", vec![Say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec())], Ended)
            .sees(&["nothing, closed"])
            .counts("client_hello_malformed"),
        Input::new("HTTP/2 preface", vec![Say(frames::hello())], Ended)
            .sees(&["nothing, closed"])
            .counts("client_hello_malformed"),
        Input::new("half a ClientHello", vec![Say(half)], Ended)
            .sees(&["nothing, closed"])
            .counts("client_hello_slow")
            .takes_time(),
        Input::new(
            "a ClientHello byte by byte",
            vec![Slowly(hello.clone(), std::time::Duration::from_millis(100))],
            Ended,
        )
        .sees(&["nothing, closed"])
        .counts("client_hello_slow")
        .takes_time(),
        Input::new("a ClientHello in a record for each byte", vec![Say(shredded(&hello))], Answered)
            .sees(&["TLS", "nothing, closed"]),
        Input::new("an endless ClientHello", vec![Say(first), Flood(record, 64)], Ended)
            .sees(&["nothing, closed"])
            .counts("client_hello_large"),
        Input::new("another server name", vec![Say(client_hello("example.com"))], Ended)
            .sees(&["nothing, closed"])
            .counts("sni_unknown"),
        Input::new("no server name", vec![Say(client_hello("127.0.0.1"))], Ended)
            .sees(&["nothing, closed"])
            .counts("sni_absent"),
        Input::new("a ClientHello, then silence", vec![Say(hello)], Ended)
            .sees(&["TLS, closed"])
            .counts("handshake_slow")
            .takes_time(),
    ]
}

/// Of a peer with the right certificate.
pub(crate) fn inputs_of_peer() -> Vec<Input> {
    let mut garbage = frames::hello();
    garbage.extend(frames::frame(1, 0xff, 0, &[0xff; 100]));
    let (endless, continuation) = frames::endless_head(HOST);
    vec![
        Input::new("silence", vec![], Ended)
            .sees(&["HTTP/2, closed", "nothing, closed"])
            .counts("http2_preface_slow")
            .takes_time(),
        Input::new("garbage", vec![Say(garbage)], Ended)
            .sees(&["GOAWAY PROTOCOL_ERROR, closed", "GOAWAY FRAME_SIZE_ERROR, closed"])
            .counts("http2_protocol"),
        Input::new(
            "10 000 PINGs, none read",
            vec![Say(frames::hello()), Flood(frames::ping(), 10_000)],
            Sent,
        ),
        // Of a link many are forgiven: a gateway that goes on after a pause finds as many.
        Input::new("rapid reset", vec![Say(frames::hello()), Resets(taken_back, 5_000)], Sent),
        Input::new("1 000 requests that name no service", requests(1_000), Answered).sees(&[
            "HTTP/2",
            "HTTP/2 answers",
            "RST_STREAM",
        ]),
        Input::new(
            "CONTINUATION flood",
            vec![Say(frames::hello()), Say(endless), Flood(continuation, 1_000)],
            Ended,
        )
        .sees(&["GOAWAY ENHANCE_YOUR_CALM, closed", "nothing, closed", "HTTP/2, closed"])
        .counts("http2_flood"),
        Input::new("100 uploads that stall", stalled(100), Answered).sees(&["HTTP/2", "HTTP/2 answers"]),
        Input::new(
            "a length that is a lie",
            vec![
                Say(frames::hello()),
                Say(frames::post(1, HOST, "5")),
                Say(frames::data(1, &[b'x'; 5000], true)),
            ],
            Answered,
        )
        .sees(&["HTTP/2", "RST_STREAM", "HTTP/2 answers"]),
    ]
}

fn requests(count: u32) -> Vec<crate::stranger::Act> {
    let all: Vec<u8> = (0..count).flat_map(|n| frames::get(2 * n + 1, HOST)).collect();
    vec![Say(frames::hello()), Say(all)]
}

fn stalled(count: u32) -> Vec<crate::stranger::Act> {
    let all: Vec<u8> = (0..count).flat_map(|n| frames::post(2 * n + 1, HOST, "1000000")).collect();
    vec![Say(frames::hello()), Say(all)]
}

fn taken_back(stream: u32) -> Vec<u8> {
    [frames::get(stream, HOST), frames::reset(stream)].concat()
}

/// A handshake as far as the client goes; in TLS 1.3 it is done before it hears that it is refused.
pub(crate) async fn dial(
    address: SocketAddr,
    shown: Option<&Shown>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(GATEWAY).unwrap();
    TlsConnector::from(certificates::client(shown, alpn)).connect(name, stream).await
}

/// The first flight of a client.
pub(crate) fn client_hello(name: &str) -> Vec<u8> {
    let config = certificates::client(None, b"h2");
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same handshake message with a record for each of its bytes.
fn shredded(hello: &[u8]) -> Vec<u8> {
    hello[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect()
}

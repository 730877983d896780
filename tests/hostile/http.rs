//! What is sent to the doors that speak HTTP: mesh, ingress, and a service's own address.

use std::time::Duration;

use crate::frames;
use crate::stranger::Act;
use crate::stranger::Act::{Flood, Resets, Say, Slowly};
use crate::stranger::Until::{self, Answered, Ended, Sent};

/// One line of the table before it has happened.
pub(crate) struct Input {
    pub(crate) name: &'static str,
    pub(crate) acts: Vec<Act>,
    pub(crate) until: Until,
    /// At once, each on a connection of its own.
    pub(crate) connections: usize,
    /// What is seen, any of these.
    pub(crate) seen: &'static [&'static str],
    /// Why it is counted, if the connection is refused.
    pub(crate) reason: Option<&'static str>,
    /// Costs no time, so that it can be done again and again while memory is looked at.
    pub(crate) quick: bool,
}

impl Input {
    pub(crate) fn new(name: &'static str, acts: Vec<Act>, until: Until) -> Self {
        Self { name, acts, until, connections: 1, seen: &[], reason: None, quick: true }
    }

    pub(crate) fn times(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    pub(crate) fn sees(mut self, seen: &'static [&'static str]) -> Self {
        self.seen = seen;
        self
    }

    pub(crate) fn counts(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    pub(crate) fn takes_time(mut self) -> Self {
        self.quick = false;
        self
    }
}

const HOST: &str = "web.shop.svc.clusterset.local";

/// The same at each door, but for those that differ by what a door speaks.
pub(crate) fn inputs(speaks_tls: bool) -> Vec<Input> {
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n");
    let mut hello = crate::link::client_hello("mesh.local");
    hello.truncate(hello.len() / 2);
    let half_hello = Input::new("half a ClientHello", vec![Say(hello)], Ended);
    let half_hello = match speaks_tls {
        true => half_hello.sees(&["nothing, closed"]).counts("handshake_slow").takes_time(),
        false => half_hello.sees(&["400, closed"]).counts("protocol_unexpected"),
    };
    let mut garbage = frames::hello();
    garbage.extend(frames::frame(0xfe, 0xff, 0xffff_ffff, &[0xff; 100]));
    garbage.extend(frames::frame(1, 0xff, 0, &[0xff; 100]));
    let (endless, continuation) = frames::endless_head(HOST);
    vec![
        half_hello,
        Input::new("random bytes", vec![Say([noise(4096), b"\r\n\r\n".to_vec()].concat())], Ended)
            .sees(&["400, closed"])
            .counts("request_malformed"),
        Input::new("nothing, 200 times at once", vec![], Ended)
            .times(200)
            .sees(&["nothing, closed"])
            .counts("first_byte_slow")
            .takes_time(),
        Input::new("a head byte by byte", vec![Slowly(vec![b'x'; 1000], Duration::from_millis(100))], Ended)
            .sees(&["408, closed"])
            .counts("head_slow")
            .takes_time(),
        Input::new("a body that stops", vec![Say(slow_body())], Ended).sees(&["408, closed"]).takes_time(),
        Input::new("an endless header", vec![Say(head.clone().into()), Flood(vec![b'x'; 16384], 64)], Ended)
            .sees(&["431, closed", "nothing, closed"])
            .counts("head_large"),
        Input::new("300 headers", vec![Say(format!("{head}{}\r\n", "a: b\r\n".repeat(300)).into())], Ended)
            .sees(&["400, closed"])
            .counts("request_malformed"),
        Input::new(
            "a target of 70 KB",
            vec![Say(format!("GET /{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "x".repeat(70_000)).into())],
            Ended,
        )
        .sees(&["431, closed"])
        .counts("head_large"),
        Input::new("a head that is cut off", vec![Say(head.into())], Sent).counts("head_cut"),
        Input::new("HTTP/2 preface, then silence", vec![Say(frames::PREFACE.to_vec())], Ended)
            .sees(&["GOAWAY NO_ERROR, closed"])
            .counts("http2_silent")
            .takes_time(),
        Input::new("HTTP/2 preface, then garbage", vec![Say(garbage)], Ended)
            .sees(&["GOAWAY PROTOCOL_ERROR, closed", "GOAWAY FRAME_SIZE_ERROR, closed"])
            .counts("http2_protocol"),
        Input::new(
            "10 000 SETTINGS",
            vec![Say(frames::hello()), Flood(frames::settings(), 10_000), Say(frames::get(1, HOST))],
            Answered,
        )
        .sees(&["HTTP/2", "HTTP/2 answers"]),
        Input::new(
            "10 000 PINGs",
            vec![Say(frames::hello()), Flood(frames::ping(), 10_000), Say(frames::get(1, HOST))],
            Answered,
        )
        .sees(&["HTTP/2", "HTTP/2 answers"]),
        Input::new(
            "10 000 PINGs, none read",
            vec![Say(frames::hello()), Flood(frames::ping(), 10_000)],
            Sent,
        ),
        Input::new("rapid reset", vec![Say(frames::hello()), Resets(taken_back, 5_000)], Ended)
            .sees(&["GOAWAY ENHANCE_YOUR_CALM, closed"])
            .counts("http2_flood"),
        Input::new(
            "CONTINUATION flood",
            vec![Say(frames::hello()), Say(endless), Flood(continuation, 1_000)],
            Ended,
        )
        .sees(&["GOAWAY ENHANCE_YOUR_CALM, closed", "nothing, closed", "HTTP/2, closed"])
        .counts("http2_flood"),
        Input::new("HEADERS bomb", vec![Say(frames::hello()), Say(frames::bomb(HOST))], Ended)
            .sees(&["GOAWAY ENHANCE_YOUR_CALM, closed"])
            .counts("http2_flood"),
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
        Input::new(
            "50 MB, none read",
            vec![Say(format!("GET /bytes/50000000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into())],
            Sent,
        )
        .times(10),
    ]
}

fn slow_body() -> Vec<u8> {
    format!("POST /length HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100\r\n\r\nx").into()
}

fn taken_back(stream: u32) -> Vec<u8> {
    [frames::get(stream, HOST), frames::reset(stream)].concat()
}

/// The same bytes each time, none of which ends a line or begins TLS.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 | 0x80
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

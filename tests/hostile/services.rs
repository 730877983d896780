//! What is sent to the doors that speak no HTTP for workloads: DNS, the admin API, federation and joins.

use std::net::SocketAddr;
use std::time::Duration;

use tests::{Exported, Http1, HttpEcho, TestCluster, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::link::client_hello;
use crate::stranger::Act::{Flood, Say, Slowly};
use crate::stranger::{Until, visit};
use crate::table::Row;

/// Longer than any deadline of these doors.
const PATIENCE: Duration = Duration::from_secs(100);
const NAME: &str = "web.shop.svc.clusterset.local";

pub(crate) async fn rows() -> Vec<Row> {
    let http = HttpEcho::start().await;
    let mut cluster =
        TestCluster::new("harbor").with_service("web.shop", "80=http", &[http.address()], Exported::Yes);
    cluster.start().await;
    let mut rows = dns_over_udp(cluster.addresses().dns).await;
    rows.extend(dns_over_tcp(cluster.addresses().dns).await);
    rows.extend(admin(&cluster).await);
    rows.extend(handed_over(&cluster).await);
    cluster.until_answered(NAME).await;
    cluster.stop().await;
    rows
}

/// Each message, and the code of the answer; none is silence, and somebody who asks well is answered.
async fn dns_over_udp(server: SocketAddr) -> Vec<Row> {
    let mut rows = Vec::new();
    for (input, message, expected) in messages() {
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(&message, server).await.unwrap();
        // Answers come in the order of the questions.
        stranger.send_to(&query(NAME, 1, 0x4242), server).await.unwrap();
        let mut saw = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            let length = within("an answer for who asks well", stranger.recv(&mut bytes)).await.unwrap();
            if bytes[..2] == [0x42, 0x42] {
                assert_eq!(code(&bytes[..length]), "NOERROR");
                break;
            }
            saw.push(code(&bytes[..length]));
        }
        let saw = saw.first().copied().unwrap_or("nothing");
        assert_eq!(saw, expected, "{input}");
        rows.push(row("dns, udp", input, saw));
    }
    rows
}

async fn dns_over_tcp(server: SocketAddr) -> Vec<Row> {
    let framed = |message: &[u8]| [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat();
    let transfer = framed(&query(NAME, 252, 7));
    let mut rows = Vec::new();
    for (input, acts, until, expected) in [
        ("a message of 65 535 bytes", vec![Say(vec![0xff; 70_000])], Until::Ended, "closed"),
        ("half a message", vec![Say(transfer[..9].to_vec())], Until::Ended, "closed"),
        ("a length byte by byte", vec![Slowly(vec![0; 1], Duration::from_secs(1))], Until::Ended, "closed"),
        ("10 000 queries, no answer read", vec![Flood(transfer.clone(), 10_000)], Until::Sent, ""),
    ] {
        let seen = visit(server, &acts, until).await;
        let told = seen.told();
        assert!(told.ends_with(expected), "{input}: {told}");
        rows.push(row("dns, tcp", input, if expected.is_empty() { "(reads nothing)" } else { "closed" }));
    }
    let mut client = TcpStream::connect(server).await.unwrap();
    client.write_all(&transfer).await.unwrap();
    let length = within("an answer", client.read_u16()).await.unwrap();
    let mut answer = vec![0; length.into()];
    within("an answer", client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(code(&answer), "REFUSED");
    rows.push(row("dns, tcp", "a zone transfer", "REFUSED"));
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(server).await.unwrap());
    }
    let mut good = TcpStream::connect(server).await.unwrap();
    good.write_all(&framed(&query(NAME, 1, 1))).await.unwrap();
    assert!(within("an answer behind 200 silent clients", good.read_u16()).await.unwrap() > 12);
    rows.push(row("dns, tcp", "nothing, 200 times at once", "closed after 5 s; who asks is answered"));
    rows
}

fn messages() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut looped = query(NAME, 1, 7);
    looped.truncate(12);
    looped.extend([0xc0, 12, 0, 1, 0, 1]); // a name that points at itself
    let mut truncated = query(NAME, 1, 7);
    truncated.truncate(20);
    let mut response = query(NAME, 1, 7);
    response[2] |= 0x80;
    let mut many = query(NAME, 1, 7);
    many[4..6].copy_from_slice(&[0xff, 0xff]);
    vec![
        ("random bytes", (1..=200).map(|n: u8| n.wrapping_mul(37) & 0x7f).collect(), "FORMERR"),
        ("7 bytes", vec![1; 7], "nothing"),
        ("a compression loop", looped, "FORMERR"),
        ("a truncated name", truncated, "FORMERR"),
        ("a response", response, "nothing"),
        ("65 535 questions", many, "FORMERR"),
        ("a zone transfer", query(NAME, 252, 7), "REFUSED"),
        ("a name of others", query("example.com", 1, 7), "REFUSED"),
        ("4 096 zeros", vec![0; 4096], "FORMERR"),
    ]
}

/// A question for a type, by hand.
fn query(name: &str, kind: u16, id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn code(answer: &[u8]) -> &'static str {
    match answer[3] & 0x0f {
        0 => "NOERROR",
        1 => "FORMERR",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => "another code",
    }
}

async fn admin(cluster: &TestCluster) -> Vec<Row> {
    let address = cluster.addresses().admin;
    let mut rows = Vec::new();
    let head = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\n");
    for (input, acts, expected) in [
        (
            "random bytes",
            vec![Say((128..=255).cycle().take(4096).collect()), Say(b"\r\n\r\n".to_vec())],
            "400",
        ),
        ("a head that stops", vec![Say(head.clone().into())], ""),
        ("an endless header", vec![Say(head.into()), Flood(vec![b'x'; 16_384], 64)], ""),
        (
            "another Host",
            vec![Say(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_vec())],
            "421",
        ),
        (
            "a change without the cookie",
            vec![Say(format!(
                "POST /apply HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            .into())],
            "403",
        ),
    ] {
        let told = visit(address, &acts, Until::Ended).await.told();
        assert!(told.starts_with(expected) && told.ends_with("closed"), "{input}: {told}");
        assert!(cluster.admin_text("/livez").await.len() < 100, "the admin API lives");
        rows.push(row("admin", input, &told));
    }
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // More than there is room for: who comes now is closed, until the silent ones are.
    let answered = async {
        loop {
            let Ok(stream) = TcpStream::connect(address).await else { continue };
            match Http1::new(stream).get(&address.to_string(), "/livez").await {
                Ok(answer) if answer.status == 200 => return,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE, answered).await.expect("the admin API comes back");
    drop(silent);
    rows.push(row("admin", "nothing, 300 times at once", "closed after 10 s; then others are answered"));
    rows
}

/// What the gateway passes on unopened, and federation ends.
async fn handed_over(cluster: &TestCluster) -> Vec<Row> {
    let port = cluster.addresses().east_west;
    let mut rows = Vec::new();
    for (door, name) in
        [("federation", "federation.harbor.isthmus.internal"), ("join", "join.harbor.isthmus.internal")]
    {
        for (input, acts) in [
            ("a ClientHello, then silence", vec![Say(client_hello(name))]),
            ("a ClientHello, then garbage", vec![Say(client_hello(name)), Say(vec![0x17; 5000])]),
        ] {
            let told = visit(port, &acts, Until::Ended).await.told();
            assert!(told.ends_with("closed"), "{input} at {door}: {told}");
            rows.push(row(door, input, &told));
        }
    }
    rows
}

fn row(door: &'static str, input: &'static str, saw: &str) -> Row {
    Row { door, input, saw: saw.to_owned(), counter: None, memory: None, wrong: None }
}

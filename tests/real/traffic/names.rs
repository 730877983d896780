//! Addresses of a name from two name servers, asked as a stub resolver asks them: in order, the next
//! one where the first does not answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// As `options timeout:1 attempts:3` of resolv.conf.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 3;
const ANSWER_BYTES_MAX: usize = 4096;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;

pub(super) async fn addresses(servers: &[SocketAddr], name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let mut wrong = Vec::new();
    for server in servers.iter().cycle().take(ATTEMPTS * servers.len()) {
        match timeout(ANSWER_TIME_MAX, ask(*server, name)).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => return Ok(addresses),
            Ok(Ok(_)) => wrong.push(format!("{server} has no address for {name}")),
            Ok(Err(error)) => wrong.push(format!("{server}: {error}")),
            Err(_) => wrong.push(format!("{server} is silent")),
        }
    }
    bail!("{}", wrong.join("; "))
}

async fn ask(server: SocketAddr, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    // Connected, so that a closed port is heard of.
    socket.connect(server).await?;
    let id = socket.local_addr()?.port();
    socket.send(&question(id, name)).await?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    let length = socket.recv(&mut answer).await?;
    match read(&answer[..length]) {
        Some((answered, 0, addresses)) if answered == id => Ok(addresses),
        Some((_, code, _)) => bail!("answered code {code}"),
        None => bail!("answered nonsense"),
    }
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Vec::from(id.to_be_bytes());
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(TYPE_A.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// Id, response code, addresses.
fn read(message: &[u8]) -> Option<(u16, u8, Vec<IpAddr>)> {
    let number = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let (id, code, answers) = (number(0)?, message.get(3)? & 15, number(6)?);
    let mut at = past_name(message, 12)? + 4;
    let mut addresses = Vec::new();
    for _ in 0..answers {
        at = past_name(message, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        if let (TYPE_A, [a, b, c, d]) = (kind, message.get(at + 10..at + 10 + length)?) {
            addresses.push(Ipv4Addr::new(*a, *b, *c, *d).into());
        }
        at += 10 + length;
    }
    Some((id, code, addresses))
}

fn past_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends a name.
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

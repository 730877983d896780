//! Asks for the SOA of both zones, here and at the host's resolver, and the C library for a name.

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use super::{PATIENCE, within};
use crate::doctor::facts::{Answer, NameFact, ZoneFact};

const ZONES: [&str; 2] = ["clusterset.local", "isthmus.internal"];
/// A question without EDNS is never answered with more.
const ANSWER_BYTES_MAX: usize = 512;
const TYPE_SOA: u16 = 6;
const CLASS_IN: u16 = 1;
/// Servers of resolv.conf that the C library asks.
const SERVERS_MAX: usize = 3;

pub(super) fn zones(ours: SocketAddr) -> Vec<ZoneFact> {
    let servers = servers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let zone = |zone| {
        let answers = servers.iter().map(|server| (*server, ask(*server, zone)));
        // The next server is asked only where one is silent.
        let mut host = None;
        for (server, answer) in answers {
            let silent = matches!(answer, Answer::NoAnswer(_));
            host = Some((server, answer));
            if !silent {
                break;
            }
        }
        ZoneFact { zone, ours: ask(reachable(ours), zone), host }
    };
    ZONES.map(zone).into()
}

pub(super) fn name((name, expected): (String, IpAddr)) -> NameFact {
    let asked = name.clone();
    let found =
        within(move || (asked.as_str(), 0).to_socket_addrs().map(|found| found.map(|at| at.ip()).collect()));
    let found = match found {
        Some(Ok(found)) => Ok(found),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("no answer in time".to_owned()),
    };
    let order = fs::read_to_string("/etc/nsswitch.conf").ok().and_then(|text| order(&text));
    NameFact { name, expected, found, order }
}

/// A server that listens everywhere is asked where it surely is.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new([127, 0, 0, 1].into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

fn ask(server: SocketAddr, zone: &str) -> Answer {
    exchange(server, zone).unwrap_or_else(|error| Answer::NoAnswer(error.to_string()))
}

fn exchange(server: SocketAddr, zone: &str) -> std::io::Result<Answer> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let id: u16 = rand::random();
    socket.send(&question(id, zone))?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    let length = socket.recv(&mut answer)?;
    Ok(read(id, &answer[..length]))
}

fn question(id: u16, zone: &str) -> Vec<u8> {
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut message = Vec::new();
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    for label in zone.split('.') {
        // The labels of our zones are short.
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&TYPE_SOA.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    message
}

/// The header says enough: the code, and whether there is an answer at all.
fn read(id: u16, message: &[u8]) -> Answer {
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    match (word(0), word(2), word(6)) {
        (Some(answered), Some(flags), Some(answers)) if answered == id && flags & 0x8000 != 0 => {
            match (flags & 0x000f) as u8 {
                0 if answers > 0 => Answer::Served,
                code => Answer::Code(code),
            }
        }
        _ => Answer::NoAnswer("what came is no answer".to_owned()),
    }
}

fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.split('%').next()?.trim().parse::<IpAddr>().ok());
    addresses.take(SERVERS_MAX).map(|ip| SocketAddr::new(ip, 53)).collect()
}

fn order(nsswitch: &str) -> Option<String> {
    nsswitch.lines().find_map(|line| line.trim().strip_prefix("hosts:")).map(|rest| rest.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_host_are_read() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver bad\noptions edns0\n";
        let expected: Vec<SocketAddr> =
            ["127.0.0.53:53", "[fe80::1]:53"].map(|at| at.parse().unwrap()).into();
        assert_eq!(servers(text), expected);
        assert_eq!(order("passwd: files\nhosts:  files dns\n").as_deref(), Some("files dns"));
        assert_eq!((servers("").len(), order("")), (0, None));
    }

    #[test]
    fn an_answer_is_judged_by_its_header_and_strangers_never_panic() {
        let asked = question(7, "clusterset.local");
        assert_eq!(asked.len(), 12 + 18 + 4);
        let answer = |flags: u16, answers: u16| {
            let mut message = asked.clone();
            message[2..4].copy_from_slice(&flags.to_be_bytes());
            message[6..8].copy_from_slice(&answers.to_be_bytes());
            message
        };
        assert_eq!(read(7, &answer(0x8400, 1)), Answer::Served);
        assert_eq!(read(7, &answer(0x8400, 0)), Answer::Code(0));
        assert_eq!(read(7, &answer(0x8183, 0)), Answer::Code(3));
        for (id, message) in [(8, answer(0x8400, 1)), (7, asked.clone()), (7, vec![0, 7]), (7, vec![])] {
            assert!(matches!(read(id, &message), Answer::NoAnswer(_)), "{message:?}");
        }
    }

    #[test]
    fn a_server_is_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut message = [0; 512];
            let (length, client) = server.recv_from(&mut message).unwrap();
            message[2] |= 0x80;
            message[7] = 1;
            server.send_to(&message[..length], client).unwrap();
        });
        assert_eq!(ask(address, "isthmus.internal"), Answer::Served);
        answering.join().unwrap();
    }
}

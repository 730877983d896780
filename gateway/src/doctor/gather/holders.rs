//! Who holds a port: the socket's number in /proc/net, and the process that has it open.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// `name (pid)` of whoever is in the way of this address, as far as this user may see it.
pub(super) fn holder(address: SocketAddr, udp: bool) -> Option<String> {
    let (kind, suffix) = (if udp { "udp" } else { "tcp" }, ["", "6"]);
    let inode = suffix.iter().find_map(|suffix| {
        let table = fs::read_to_string(format!("/proc/net/{kind}{suffix}")).ok()?;
        table.lines().skip(1).filter_map(row).find(|row| row.is_in_the_way(address, udp)).map(|row| row.inode)
    })?;
    process_of(&format!("socket:[{inode}]"))
}

/// A line of /proc/net/tcp and its kin.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    local: SocketAddr,
    state: u8,
    inode: u64,
}

const LISTEN: u8 = 0x0a;

impl Row {
    fn is_in_the_way(&self, wanted: SocketAddr, udp: bool) -> bool {
        let (ip, other) = (wanted.ip(), self.local.ip());
        let overlaps = ip == other || ip.is_unspecified() || other.is_unspecified();
        self.local.port() == wanted.port() && overlaps && (udp || self.state == LISTEN)
    }
}

fn row(line: &str) -> Option<Row> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let state = u8::from_str_radix(state, 16).ok()?;
    Some(Row { local: SocketAddr::new(ip_of(ip)?, port), state, inode: inode.parse().ok()? })
}

/// Words of 32 bits, each in the machine's order.
fn ip_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn process_of(socket: &str) -> Option<String> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let process = entry.path();
        let pid = process.file_name()?.to_str()?.parse::<u32>().ok()?;
        has_open(&process, socket).then(|| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            format!("{} ({pid})", name.trim())
        })
    })
}

fn has_open(process: &Path, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == Path::new(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read_and_others_passed_over() {
        let line = "   1: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000   995        0 2171370 1 0";
        let read = row(line).unwrap();
        assert_eq!(read, Row { local: "127.0.0.1:15000".parse().unwrap(), state: LISTEN, inode: 2_171_370 });
        for (wanted, hit) in [
            ("127.0.0.1:15000", true),
            ("0.0.0.0:15000", true),
            ("127.0.0.2:15000", false),
            ("127.0.0.1:1", false),
        ] {
            assert_eq!(read.is_in_the_way(wanted.parse().unwrap(), false), hit, "{wanted}");
        }
        let v6 = "0: 00000000000000000000000001000000:0050 0:0 0A 0:0 0:0 0 0 0 7 1 0";
        assert_eq!(row(v6).unwrap().local, "[::1]:80".parse().unwrap());
        for bad in ["", "sl local", "1: 0100:1 x 0A a b c d e f", "1: 0100007F:zz x 0A a b c d e 1"] {
            assert_eq!(row(bad), None, "{bad}");
        }
    }

    #[test]
    fn our_own_socket_is_found_to_be_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = holder(listener.local_addr().unwrap(), false).unwrap();
        assert!(holder.ends_with(&format!("({})", std::process::id())), "{holder}");
    }
}

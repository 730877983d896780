//! A Host header or `:authority`, read without allocating: every request passes here.

use std::str;

/// Longest host name (RFC 1035), and its trailing dot.
const HOST_BYTES_MAX: usize = 254;

/// A host in lower case without trailing dot, brackets or port.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    bytes: [u8; HOST_BYTES_MAX],
    length: usize,
    port: Option<u16>,
}

impl Authority {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; none if it is neither.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = split_port(text)?;
        let port = match port {
            None | Some("") => None, // RFC 3986 allows an empty port
            Some(digits) => Some(parse_port(digits)?),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if host.len() > HOST_BYTES_MAX || !host.bytes().all(plain) || host.split('.').any(str::is_empty) {
            return None;
        }
        let mut bytes = [0; HOST_BYTES_MAX];
        bytes[..host.len()].copy_from_slice(host.as_bytes());
        bytes[..host.len()].make_ascii_lowercase();
        Some(Self { bytes, length: host.len(), port })
    }

    pub(crate) fn host(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).expect("parse admits only ASCII")
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }
}

fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((address, Some(port))),
            None => after.is_empty().then_some((address, None)),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => None, // an IPv6 address needs its brackets
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

/// Only digits: `parse` alone would take a sign.
pub(super) fn parse_port(digits: &str) -> Option<u16> {
    let valid = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|port| valid && *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_without_case_dot_and_port() {
        let long = format!("{}.example.com", "x".repeat(240));
        for (text, expected) in [
            ("a.b", Some(("a.b", None))),
            ("A.B.", Some(("a.b", None))),
            ("a.b:80", Some(("a.b", Some(80)))),
            ("a.b.:8080", Some(("a.b", Some(8080)))),
            ("a.b:", Some(("a.b", None))),
            ("[::1]", Some(("::1", None))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("127.0.0.1:80", Some(("127.0.0.1", Some(80)))),
            (long.as_str(), Some((long.as_str(), None))),
            ("", None),
            (".", None),
            // Read again without its last dot, it would be another host.
            ("a.b..", None),
            ("a..b", None),
            (".a", None),
            (":80", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]80", None),
            ("a.b:0", None),
            ("a.b:+80", None),
            ("a.b:65536", None),
            ("a b", None),
            ("ä.b", None),
            ("a/b", None),
            ("user@a.b", None),
            (&"x".repeat(255), None),
        ] {
            let read = Authority::parse(text);
            let read = read.as_ref().map(|authority| (authority.host(), authority.port()));
            assert_eq!(read, expected, "{text:?}");
        }
    }
}

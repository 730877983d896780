//! What the first bytes of a connection, or of its next request, say. Pure: bytes in, verdict out.

/// What is about to be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    Tls,
    /// HTTP/2 by prior knowledge, or by ALPN.
    Http2,
    Connect,
    Http1,
}

/// The first byte of every TLS record with a handshake message (RFC 8446, section 5.1).
const TLS_HANDSHAKE: &[u8] = &[0x16];
/// The client's connection preface (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const CONNECT: &[u8] = b"CONNECT ";

impl Opening {
    /// Decides on the fewest bytes; none while it could still be several things.
    pub fn of(head: &[u8]) -> Option<Self> {
        let starts = [(TLS_HANDSHAKE, Self::Tls), (HTTP2_PREFACE, Self::Http2), (CONNECT, Self::Connect)];
        for (start, opening) in starts {
            if head.starts_with(start) {
                return Some(opening);
            }
            if start.starts_with(head) {
                return None;
            }
        }
        Some(Self::Http1)
    }
}

/// Where a request head ends: the length with its empty line, or none while it is incomplete.
///
/// A bare line feed ends a line and empty lines before the request line are skipped, as pingora's
/// parser does; to wait for something that the parser does not need would hang the client.
/// `from` is how much an earlier call has seen already.
pub fn head_end(head: &[u8], from: usize) -> Option<usize> {
    let begin = head.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
    // The empty line may straddle the boundary of two reads.
    let mut at = from.saturating_sub(3).max(begin);
    while let Some(line_feed) = head[at..].iter().position(|b| *b == b'\n').map(|n| at + n) {
        match &head[line_feed + 1..] {
            [b'\n', ..] => return Some(line_feed + 2),
            [b'\r', b'\n', ..] => return Some(line_feed + 3),
            _ => at = line_feed + 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_bytes_decide() {
        for (head, expected) in [
            (&b""[..], None),
            (b"\x16", Some(Opening::Tls)),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (HTTP2_PREFACE, Some(Opening::Http2)),
            (b"PO", Some(Opening::Http1)),
            (b"C", None),
            (b"CONNECT", None),
            (b"CONNECT ", Some(Opening::Connect)),
            (b"CONNECTED", Some(Opening::Http1)),
            (b"COPY /", Some(Opening::Http1)),
            (b"GET / HTTP/1.1\r\n", Some(Opening::Http1)),
            (b"\x80\x01\xff", Some(Opening::Http1)),
        ] {
            assert_eq!(Opening::of(head), expected, "{:?}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        for (head, expected) in [
            (&b""[..], None),
            (b"\r\n\r\n", None),
            (b"GET / HTTP/1.1\r\n", None),
            (b"GET / HTTP/1.1\r\n\r", None),
            (b"GET / HTTP/1.1\r\n\r\nrest", Some(18)),
            (b"GET / HTTP/1.1\n\nrest", Some(16)),
            (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Some(26)),
            (b"\r\nGET / HTTP/1.1\r\n\r\n", Some(20)),
        ] {
            let text = String::from_utf8_lossy(head).into_owned();
            assert_eq!(head_end(head, 0), expected, "{text:?}");
            for from in 0..head.len() {
                // Whatever an earlier call saw without finding the end, the answer is the same.
                if head_end(&head[..from], 0).is_none() {
                    assert_eq!(head_end(head, from), expected, "{text:?} from {from}");
                }
            }
        }
    }
}

//! HTTP/2 by hand: what no library would send.

/// What whoever speaks HTTP/2 says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The preface and empty settings.
pub(crate) fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

pub(crate) fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

pub(crate) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"ponggong")
}

/// A GET of `/` that ends its stream, by the static table and one literal.
pub(crate) fn get(stream: u32, host: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(host))
}

/// A POST that goes on; `length` is what it says of its body.
pub(crate) fn post(stream: u32, host: &str, length: &str) -> Vec<u8> {
    let mut block = block(host);
    block[0] = 0x83;
    block.extend(literal(0x0f, &[0x0d], length)); // content-length is number 28 of the static table
    frame(HEADERS, END_HEADERS, stream, &block)
}

pub(crate) fn data(stream: u32, bytes: &[u8], last: bool) -> Vec<u8> {
    frame(DATA, u8::from(last), stream, bytes)
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A head that never ends: its first frame, and one of those that follow.
pub(crate) fn endless_head(host: &str) -> (Vec<u8>, Vec<u8>) {
    let first = frame(HEADERS, END_STREAM, 1, &block(host));
    let mut more = Vec::new();
    while more.len() < 16_000 {
        more.extend(field("a", "b"));
    }
    (first, frame(CONTINUATION, 0, 1, &more))
}

/// One field of 4 KiB in the dynamic table, and thousands of references to it: some megabytes.
pub(crate) fn bomb(host: &str) -> Vec<u8> {
    let mut block = block(host);
    block.push(0x40);
    block.extend([1, b'x']);
    block.extend(length(3900));
    block.extend(vec![b'x'; 3900]);
    block.extend(vec![0xbe; 10_000]); // the newest entry of the dynamic table
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

fn block(host: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84]; // GET, http, /
    block.extend(literal(0x01, &[], host)); // :authority
    block
}

fn literal(index: u8, more: &[u8], value: &str) -> Vec<u8> {
    let mut bytes = vec![index];
    bytes.extend(more);
    bytes.extend(length(value.len()));
    bytes.extend(value.as_bytes());
    bytes
}

fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    bytes.extend(length(value.len()));
    bytes.extend(value.as_bytes());
    bytes
}

/// The length of a string without Huffman coding (RFC 7541, section 5.1).
fn length(n: usize) -> Vec<u8> {
    if n < 127 {
        return vec![u8::try_from(n).unwrap()];
    }
    let (mut rest, mut bytes) = (n - 127, vec![127]);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

/// The code of a GOAWAY among the frames of a server, in the words of RFC 9113.
pub(crate) fn goodbye(mut bytes: &[u8]) -> Option<&'static str> {
    while let [a, b, c, kind, _flags, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind == GOAWAY
            && let Some(code) = rest.get(4..8)
        {
            return Some(match u32::from_be_bytes(code.try_into().unwrap()) {
                0 => "NO_ERROR",
                1 => "PROTOCOL_ERROR",
                6 => "FRAME_SIZE_ERROR",
                9 => "COMPRESSION_ERROR",
                11 => "ENHANCE_YOUR_CALM",
                _ => "another code",
            });
        }
        bytes = rest.get(length..)?;
    }
    None
}

/// How many frames of HEADERS and of RST_STREAM a server sent.
pub(crate) fn answers(mut bytes: &[u8]) -> (usize, usize) {
    let (mut heads, mut resets) = (0, 0);
    while let [a, b, c, kind, _flags, _, _, _, _, rest @ ..] = bytes {
        heads += usize::from(*kind == HEADERS);
        resets += usize::from(*kind == RST_STREAM);
        let Some(more) = rest.get(u32::from_be_bytes([0, *a, *b, *c]) as usize..) else { break };
        bytes = more;
    }
    (heads, resets)
}

//! The control stream of a link, as a peer's gateway may write it.

use super::message::{Decoder, InvalidMessage, LINE_BYTES_MAX, Message};

/// The first byte says how the rest is cut.
pub(crate) fn messages(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let (said, end) = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, usize::from(cut).max(1)), (said.clone(), end), "however it is cut");
    for message in said {
        let line = message.encode();
        if message != Message::Unknown {
            assert!(line.len() <= LINE_BYTES_MAX, "{} bytes", line.len());
            assert_eq!(decode(&line, line.len()), (vec![message], None));
        }
    }
}

/// All messages before the first that is none.
fn decode(bytes: &[u8], step: usize) -> (Vec<Message>, Option<InvalidMessage>) {
    let (mut decoder, mut said) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => said.push(message),
                Ok(None) => break,
                Err(invalid) => return (said, Some(invalid)),
            }
        }
    }
    (said, None)
}

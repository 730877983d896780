//! A change as bytes: one line for each part, so that a file of them can be read by people too.
//!
//! ```text
//!   +service/shop/cart {"name":"cart.shop",...}
//!   -service/shop/old
//! ```
//! JSON has no line breaks of its own, and keys have no spaces.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{InvalidKey, Key, PARTS_MAX, STATE_BYTES_MAX};

/// Parts that are new or different, and parts that are gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    pub put: Vec<(Key, Bytes)>,
    pub removed: Vec<Key>,
}

/// Why bytes are not a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDelta {
    #[error("{0} bytes, at most {STATE_BYTES_MAX} are read")]
    TooLarge(usize),
    #[error("more than {PARTS_MAX} parts")]
    TooManyParts,
    #[error("it ends in the middle of line {0}")]
    Truncated(usize),
    #[error("line {0} is neither a part nor the end of one")]
    Line(usize),
    #[error(transparent)]
    Key(#[from] InvalidKey),
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.removed.is_empty()
    }

    /// How long [`Self::to_bytes`] is.
    pub fn length(&self) -> usize {
        let put = self.put.iter().map(|(key, json)| key.as_str().len() + json.len() + 3);
        put.chain(self.removed.iter().map(|key| key.as_str().len() + 2)).sum()
    }

    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.length());
        self.pieces().for_each(|piece| bytes.extend_from_slice(&piece));
        bytes.freeze()
    }

    /// The same bytes, some at a time; what is shared stays shared until it is sent.
    pub fn chunks(&self) -> Chunks {
        Chunks { pieces: self.pieces().collect() }
    }

    fn pieces(&self) -> impl Iterator<Item = Bytes> {
        let put = self.put.iter().flat_map(|(key, json)| {
            [Bytes::from(format!("+{key} ")), json.clone(), Bytes::from_static(b"\n")]
        });
        put.chain(self.removed.iter().map(|key| Bytes::from(format!("-{key}\n"))))
    }

    /// Reads what [`Self::to_bytes`] wrote; the JSON of the parts is not looked at.
    pub fn parse(bytes: &Bytes) -> Result<Self, InvalidDelta> {
        if bytes.len() > STATE_BYTES_MAX {
            return Err(InvalidDelta::TooLarge(bytes.len()));
        }
        let mut delta = Self::default();
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if number >= PARTS_MAX {
                return Err(InvalidDelta::TooManyParts);
            }
            let number = number + 1;
            let line = line.strip_suffix(b"\n").ok_or(InvalidDelta::Truncated(number))?;
            match line.split_first() {
                Some((b'+', rest)) => {
                    let space = rest.iter().position(|byte| *byte == b' ');
                    let (key, json) = rest.split_at(space.ok_or(InvalidDelta::Line(number))?);
                    delta.put.push((key_of(key, number)?, bytes.slice_ref(&json[1..])));
                }
                Some((b'-', rest)) => delta.removed.push(key_of(rest, number)?),
                _ => return Err(InvalidDelta::Line(number)),
            }
        }
        Ok(delta)
    }
}

/// The rest of a change that is being sent.
#[derive(Debug, Clone, Default)]
pub struct Chunks {
    pieces: VecDeque<Bytes>,
}

impl Chunks {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The next bytes, at most so many; empty at the end.
    pub fn next(&mut self, length_max: usize) -> Bytes {
        let mut chunk = BytesMut::with_capacity(length_max);
        while let Some(piece) = self.pieces.front_mut() {
            let taken = piece.split_to(piece.len().min(length_max - chunk.len()));
            chunk.extend_from_slice(&taken);
            if !piece.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
        chunk.freeze()
    }
}

fn key_of(bytes: &[u8], line: usize) -> Result<Key, InvalidDelta> {
    let text = std::str::from_utf8(bytes).map_err(|_not_text| InvalidDelta::Line(line))?;
    Ok(Key::try_from(text)?)
}

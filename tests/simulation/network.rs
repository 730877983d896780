//! Streams between clusters: ordered within themselves, late, stuck, slow, and gone.
//!
//! A stream is two wires. A cut direction keeps words as TCP does, until it heals or the other end has
//! lost patience; a reader that is slow fills the wire, and then its writer has to wait.

use std::collections::{BTreeMap, VecDeque};

use federation::model::ServiceName;
use federation::peering::conversation::{Greeting, Speaker, Utterance};
use federation::peering::exports::Offer;

/// Words on a wire before its writer has to wait, as the shell's channel and the windows allow.
pub(crate) const IN_FLIGHT_MAX: usize = 64;

/// What goes over a wire.
#[derive(Debug, Clone)]
pub(crate) enum Word {
    Greeting(Greeting),
    Said(Utterance, Option<Mark>),
    /// Where the speaker's gateways are.
    Gateways(u16),
    Close,
}

/// At the end of what was said at once: the listener now has this view.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) view: std::sync::Arc<BTreeMap<ServiceName, Offer>>,
    /// When the view was taken.
    pub(crate) at: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) in_flight: VecDeque<(u64, Word)>,
    /// What the writer could not get rid of yet, and since when.
    pub(crate) waiting: VecDeque<Word>,
    pub(crate) stuck_since: Option<u64>,
    pub(crate) last_arrival: u64,
    /// A delivery is on the agenda.
    pub(crate) scheduled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for the other side's first words.
    Greets,
    Open,
    Gone,
}

/// One end of a stream.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) node: usize,
    pub(crate) phase: Phase,
    pub(crate) speaker: Option<Speaker>,
    pub(crate) their_epoch: u64,
    pub(crate) heard_at: u64,
    pub(crate) heartbeat_at: u64,
}

impl Side {
    pub(crate) fn new(node: usize, now: u64) -> Self {
        Self { node, phase: Phase::Greets, speaker: None, their_epoch: 0, heard_at: now, heartbeat_at: now }
    }
}

/// The dialler's end comes first.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) sides: [Side; 2],
    /// By their writer.
    pub(crate) wires: [Wire; 2],
}

impl Stream {
    pub(crate) fn is_gone(&self) -> bool {
        self.sides.iter().all(|side| side.phase == Phase::Gone)
    }
}

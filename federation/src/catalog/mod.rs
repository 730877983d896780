//! From what every source says to the one snapshot: pure, one writer.

mod event;

pub use event::{EndpointSlice, Event, Object, Source};

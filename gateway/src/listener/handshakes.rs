//! How many strangers of one network may be introducing themselves at a time (notes/trust T11, 4.4).
//!
//! Until a handshake is done nobody has proven anything, and still holds a place in the room for links.
//! One machine that opens connections and says nothing must not take all of them from the peers.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use federation::model::Network;
use parking_lot::Mutex;
use trust_bundle::Rejection;

/// As notes/trust 4.4 has it: a site with many gateways behind one address stays far below.
const PER_SOURCE_MAX: usize = 64;
/// Where there is little room, no network gets more than this part of it.
const ROOM_PARTS: usize = 4;

/// Handshakes that have not come to an end; networks without any are not remembered.
#[derive(Debug)]
pub(super) struct Handshakes {
    under_way: Mutex<HashMap<Network, usize>>,
    per_source_max: usize,
}

/// One handshake, until dropped.
#[derive(Debug)]
pub(super) struct Introduction {
    handshakes: Arc<Handshakes>,
    source: Network,
}

impl Handshakes {
    pub(super) fn within(room: usize) -> Arc<Self> {
        let per_source_max = PER_SOURCE_MAX.min(room / ROOM_PARTS).max(1);
        Arc::new(Self { under_way: Mutex::default(), per_source_max })
    }

    /// None if too many of this network are at it already.
    pub(super) fn begin(self: &Arc<Self>, from: IpAddr) -> Option<Introduction> {
        let source = Network::from(from);
        let mut under_way = self.under_way.lock();
        let count = under_way.entry(source).or_insert(0);
        if *count >= self.per_source_max {
            return None;
        }
        *count += 1;
        Some(Introduction { handshakes: self.clone(), source })
    }
}

/// Why a TLS handshake came to nothing, as a bounded word for metrics.
pub(super) fn why_no_handshake(error: &io::Error) -> &'static str {
    match Rejection::in_io(error) {
        Some(rejection) => {
            tracing::debug!(%rejection, "a certificate was refused");
            rejection.reason()
        }
        None if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => "handshake_broken",
        None => "handshake_closed",
    }
}

impl Drop for Introduction {
    fn drop(&mut self) {
        let mut under_way = self.handshakes.under_way.lock();
        if let Some(count) = under_way.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_leaves_room_for_the_others() {
        let handshakes = Handshakes::within(40);
        let begin = |from: &str| handshakes.begin(from.parse().unwrap());
        let mut held: Vec<_> = (1..=10).map(|n| begin(&format!("192.0.2.{n}")).unwrap()).collect();
        assert!(begin("192.0.2.200").is_none() && begin("::ffff:192.0.2.1").is_none());
        let others = [begin("192.0.3.1"), begin("2001:db8::1"), begin("2001:db8:0:100::1")];
        assert!(others.iter().all(Option::is_some));
        held.pop();
        assert!(begin("192.0.2.200").is_some());
        drop((held, others));
        assert!(handshakes.under_way.lock().is_empty(), "networks without any are forgotten");
    }

    #[test]
    fn the_limit_follows_the_room() {
        let limits = [0, 1, 42, 4_096].map(|room| Handshakes::within(room).per_source_max);
        assert_eq!(limits, [1, 1, 10, PER_SOURCE_MAX]);
    }
}

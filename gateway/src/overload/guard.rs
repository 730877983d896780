//! Asked by each request and tunnel, told by a task that looks at the process twice a second.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::pressure::{Level, Resource};
use super::usage::{Gauge, Usage};
use crate::telemetry::Metrics;

/// When a process sheds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Share of the memory limit at which shedding begins.
    pub memory: f64,
    /// Bytes; none is what the system says.
    pub memory_limit: Option<u64>,
    /// Requests and tunnels under way of clients, and as many again of peers; none follows the memory.
    pub requests: Option<usize>,
}

/// Whose requests are counted together: a peer that floods takes nothing from our own clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    Clients,
    Peers,
}

/// Says whether there is room for one more; a clone is another handle.
#[derive(Debug, Clone)]
pub struct Guard {
    shared: Arc<Shared>,
}

struct Shared {
    memory: f64,
    requests_max: usize,
    measure: Box<dyn Fn() -> Usage + Send + Sync>,
    /// Levels of what is measured, as [`Level`] in the order of [`MEASURED`].
    levels: [AtomicU8; MEASURED.len()],
    under_way: [AtomicUsize; 2],
}

/// One request or tunnel that was let in, until dropped.
#[derive(Debug)]
pub struct Admission {
    guard: Guard,
    bulk: Bulk,
}

const MEASURED: [Resource; 2] = [Resource::Memory, Resource::Descriptors];
const LEVELS: [Level; 3] = [Level::Calm, Level::Shedding, Level::Refusing];
/// Of the descriptors that the process may hold; connections are bounded before (`listener::Room`).
const DESCRIPTORS: f64 = 0.9;
/// Buffers of a request on both sides, and its share of TLS and HTTP/2 state.
const BYTES_PER_REQUEST: u64 = 256 * 1024;
const REQUESTS_MIN: usize = 1_000;
const REQUESTS_MAX: usize = 50_000;
/// Memory does not fill faster than this notices: 0.5 s of 10 Gbit/s is 600 MB, and windows bound it.
const LOOK: Duration = Duration::from_millis(500);

impl Default for Settings {
    fn default() -> Self {
        Self { memory: 0.9, memory_limit: None, requests: None }
    }
}

impl Guard {
    pub fn of_this_process(settings: Settings) -> Self {
        let gauge = Gauge::of_this_process(settings.memory_limit);
        let by_memory = gauge.memory_limit().map(|limit| limit / BYTES_PER_REQUEST);
        let by_memory = by_memory.and_then(|n| usize::try_from(n).ok()).unwrap_or(REQUESTS_MAX);
        let requests = settings.requests.unwrap_or(by_memory.clamp(REQUESTS_MIN, REQUESTS_MAX));
        Self::measured(Settings { requests: Some(requests), ..settings }, move || gauge.usage())
    }

    /// Judges by what `measure` says.
    pub fn measured(settings: Settings, measure: impl Fn() -> Usage + Send + Sync + 'static) -> Self {
        let shared = Shared {
            memory: settings.memory,
            requests_max: settings.requests.unwrap_or(REQUESTS_MAX),
            measure: Box::new(measure),
            levels: Default::default(),
            under_way: Default::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Lets one more request or tunnel in, or says what is short.
    pub fn admit(&self, bulk: Bulk) -> Result<Admission, Resource> {
        if let Some(short) = self.short(Level::Shedding) {
            return Err(short);
        }
        let under_way = &self.shared.under_way[bulk as usize];
        if under_way.fetch_add(1, Ordering::Relaxed) >= self.shared.requests_max {
            under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(Resource::Requests);
        }
        Ok(Admission { guard: self.clone(), bulk })
    }

    /// What is so short that clients cannot even connect.
    pub fn refuses_connections(&self) -> Option<Resource> {
        self.short(Level::Refusing)
    }

    /// Is anything short, so that idle connections are worth more closed.
    pub fn is_shedding(&self) -> bool {
        self.short(Level::Shedding).is_some()
    }

    pub fn under_way(&self, bulk: Bulk) -> usize {
        self.shared.under_way[bulk as usize].load(Ordering::Relaxed)
    }

    /// Looks at the process again and again; never returns.
    pub async fn watch(&self, metrics: &Metrics) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.look(metrics);
        }
    }

    /// Cheap enough for a task among others: three small files of the kernel.
    fn look(&self, metrics: &Metrics) {
        let usage = (self.shared.measure)();
        let own = metrics.own();
        let shares = [(usage.memory, self.shared.memory), (usage.descriptors, DESCRIPTORS)];
        for ((resource, level), (share, shed)) in MEASURED.iter().zip(&self.shared.levels).zip(shares) {
            let Some(share) = share else { continue };
            let before = LEVELS[usize::from(level.load(Ordering::Relaxed))];
            let now = before.after(share.ratio(), shed);
            level.store(now as u8, Ordering::Relaxed);
            own.saturation(resource.as_str(), share.ratio());
            if now != before {
                let (resource, used, limit) = (resource.as_str(), share.used, share.limit);
                tracing::warn!(resource, used, limit, ?before, ?now, "overload changed");
            }
        }
        for (name, bulk) in [("requests", Bulk::Clients), ("peer_requests", Bulk::Peers)] {
            own.saturation(name, self.under_way(bulk) as f64 / self.shared.requests_max.max(1) as f64);
        }
    }

    fn short(&self, level: Level) -> Option<Resource> {
        let mut levels = MEASURED.iter().zip(&self.shared.levels);
        levels.find(|(_, held)| held.load(Ordering::Relaxed) >= level as u8).map(|(resource, _)| *resource)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.guard.shared.under_way[self.bulk as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("levels", &self.levels).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::super::usage::Share;
    use super::*;

    #[test]
    fn requests_are_bounded_apart_for_clients_and_peers() {
        let settings = Settings { requests: Some(2), ..Settings::default() };
        let guard = Guard::measured(settings, Usage::default);
        let held: Vec<_> = (0..2).map(|_| guard.admit(Bulk::Peers).unwrap()).collect();
        assert_eq!(guard.admit(Bulk::Peers).unwrap_err(), Resource::Requests);
        let ours = guard.admit(Bulk::Clients).unwrap();
        assert_eq!((guard.under_way(Bulk::Peers), guard.under_way(Bulk::Clients)), (2, 1));
        drop((held, ours));
        assert_eq!((guard.under_way(Bulk::Peers), guard.under_way(Bulk::Clients)), (0, 0));
        assert!(guard.admit(Bulk::Peers).is_ok());
    }

    #[test]
    fn what_is_short_is_named_and_comes_back() {
        let used = Arc::new(Mutex::new(Usage::default()));
        let measured = used.clone();
        let guard = Guard::measured(Settings::default(), move || *measured.lock());
        let metrics = Metrics::new();
        let share = |used| Some(Share { used, limit: 100 });
        for (memory, descriptors, short, refuses) in [
            (None, None, None, false),
            (share(50), share(50), None, false),
            (share(91), share(50), Some(Resource::Memory), false),
            (share(96), share(50), Some(Resource::Memory), true),
            (share(50), share(92), Some(Resource::Descriptors), false),
            (share(50), share(86), Some(Resource::Descriptors), false),
            (share(50), share(10), None, false),
        ] {
            *used.lock() = Usage { memory, descriptors };
            guard.look(&metrics);
            assert_eq!(guard.admit(Bulk::Clients).err(), short, "{memory:?} {descriptors:?}");
            assert_eq!(guard.refuses_connections().is_some(), refuses);
        }
        let shown = String::from_utf8(metrics.encode()).unwrap();
        assert!(shown.contains(r#"isthmus_saturation_ratio{resource="memory"} 0.5"#), "{shown}");
    }
}

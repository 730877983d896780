//! The mass-loss breaker: how much may be gone at once before it is not believed (notes/trust E22-E24).
//!
//! An unmounted volume, a relist against an empty cache, an expired lease: each says that everything is
//! gone, and means that nobody knows. What an operator or a readiness flag takes away is believed, however
//! much it is. This only judges; whoever lost something holds it, says so, and lets go.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::ServiceName;

/// Fewer endpoints than this are never held: a small cluster may lose all it has.
pub const ENDPOINTS_MIN: usize = 50;
/// More than this part of one service.
const OF_A_SERVICE: (usize, usize) = (1, 2);
/// More than this part of all.
const OF_ALL: (usize, usize) = (3, 10);

/// Why something is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Somebody took it away, and said so.
    Operator,
    /// It says of itself that it does not serve.
    Readiness,
    /// It was not there when everything was read again.
    Relist,
    /// Nobody kept its lease alive.
    Lease,
    /// A peer's stream no longer has it.
    Stream,
}

impl Cause {
    /// Is the loss what somebody wanted, and not what somebody failed to see.
    pub fn is_explicit(self) -> bool {
        matches!(self, Self::Operator | Self::Readiness)
    }
}

/// Endpoints that were there, and those of them that are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    pub lost: usize,
    pub of: usize,
}

impl Loss {
    fn add(&mut self, endpoints: usize, lost: usize) {
        self.of += endpoints;
        self.lost += lost;
    }

    fn exceeds(self, (part, whole): (usize, usize)) -> bool {
        self.lost >= ENDPOINTS_MIN && self.lost * whole > self.of * part
    }
}

/// Everything that one source had, with what it has lost.
#[derive(Debug, Default)]
pub struct Losses {
    all: Loss,
    services: BTreeMap<ServiceName, Loss>,
}

impl Losses {
    /// Counts endpoints of a service that are still there.
    pub fn keep(&mut self, service: &ServiceName, endpoints: usize) {
        self.count(service, endpoints, 0);
    }

    /// Counts endpoints of a service that are gone.
    pub fn lose(&mut self, service: &ServiceName, endpoints: usize) {
        self.count(service, endpoints, endpoints);
    }

    fn count(&mut self, service: &ServiceName, endpoints: usize, lost: usize) {
        self.all.add(endpoints, lost);
        self.services.entry(service.clone()).or_default().add(endpoints, lost);
    }

    /// The loss, if it is too much to be believed.
    pub fn mass(&self, cause: Cause) -> Option<Loss> {
        let of_a_service = || self.services.values().any(|loss| loss.exceeds(OF_A_SERVICE));
        let mass = !cause.is_explicit() && (self.all.exceeds(OF_ALL) || of_a_service());
        mass.then_some(self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints that stay and that are gone, by service.
    fn mass(services: &[(usize, usize)], cause: Cause) -> bool {
        let mut losses = Losses::default();
        for (number, (kept, lost)) in services.iter().enumerate() {
            let name = format!("s{number}.shop").parse().unwrap();
            losses.keep(&name, *kept);
            losses.lose(&name, *lost);
        }
        losses.mass(cause).is_some()
    }

    #[test]
    fn e23_much_at_once_is_not_believed() {
        for (claim, services, held) in [
            ("everything is gone", &[(0, 400)][..], true),
            ("few endpoints are never held", &[(0, 49)], false),
            ("fifty are", &[(0, 50)], true),
            ("half of a service is no more than half", &[(60, 60), (1000, 0)], false),
            ("more than half of one service", &[(60, 61), (1000, 0)], true),
            ("30 % of all is no more than that", &[(70, 30), (70, 30)], false),
            ("more than 30 % of all", &[(60, 31), (60, 31), (20, 1)], true),
            ("a part of a large service goes", &[(1000, 200)], false),
        ] {
            assert_eq!(mass(services, Cause::Relist), held, "{claim}");
            assert_eq!(mass(services, Cause::Stream), held, "{claim}");
            assert_eq!(mass(services, Cause::Lease), held, "{claim}");
            assert!(!mass(services, Cause::Operator) && !mass(services, Cause::Readiness), "{claim}");
        }
    }
}

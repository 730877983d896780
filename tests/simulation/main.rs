//! Many clusters, virtual time, accidents, one seed.
//!
//! ```text
//!   seed ─► plan ─► World: agenda ─► step ─► cores of one cluster ─► commit, tell, publish ─► words on wires
//!                                     └─► invariants after every step ─► everything healed ─► oracle
//! ```
//! The clusters are the real pure cores (catalog, recollection, membership, exports, imports, seat,
//! pace, conversation), each with a store, a network and clocks that are models. A seed that fails
//! prints the one command that runs it again, with its log: `tests/simulation/run` runs many.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test; numbers are small")]

mod accidents;
mod cluster;
mod dice;
mod disk;
mod gateway;
mod invariants;
mod ledger;
mod log;
mod mutation;
mod network;
mod operations;
mod oracle;
mod streams;
mod world;

use std::collections::BTreeMap;

use ledger::Violation;
use mutation::Mutation;
use world::{Plan, Tally, World};

/// Seeds that once found something; they run first, for ever.
const ONCE_FAILED: &[u64] = &[1, 282, 342, 10_278];
/// Fresh seeds in a run of all tests.
const SEEDS: u64 = 60;
/// A deliberate breakage is found within so many seeds.
const SEEDS_TO_FIND: u64 = 60;

/// What became of a seed.
struct Outcome {
    digest: u64,
    lines: usize,
    tally: Tally,
    fallen: Option<(Violation, String)>,
}

fn simulate(seed: u64, plan: Plan, mutation: Option<Mutation>) -> Outcome {
    let mut world = World::new(seed, plan, mutation);
    let fallen = world.run().err().map(|violation| {
        let about = if asked("ISTHMUS_WHOLE_LOG").is_some() { "" } else { &violation.cluster };
        let log = world.log.tail(about);
        (violation, log)
    });
    Outcome { digest: world.log.digest(), lines: world.log.len(), tally: world.tally, fallen }
}

fn check(seed: u64) -> Tally {
    let Outcome { fallen, tally, .. } = simulate(seed, Plan::of(seed), None);
    if let Some((Violation { invariant, at, what, cluster }, log)) = fallen {
        panic!(
            "{log}\nseed {seed}: {invariant} fell at {cluster} after {at} ms: {what}\n\
             again: ISTHMUS_SEED={seed} cargo test -p tests --test simulation -- replay --nocapture\n"
        );
    }
    tally
}

#[expect(
    clippy::disallowed_methods,
    reason = "a seed, or how many, is said from outside; tests have no settings"
)]
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A seed that nobody has chosen.
fn fresh() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.finish() >> 16
}

#[test]
fn clusters_converge_whatever_happens() {
    for seed in ONCE_FAILED {
        check(*seed);
    }
    let first = asked("ISTHMUS_FIRST_SEED").unwrap_or_else(fresh);
    let seeds = asked("ISTHMUS_SEEDS").unwrap_or(SEEDS);
    let mut total = Tally::default();
    for seed in first..first + seeds {
        let tally = check(seed);
        total.events += tally.events;
        total.checks += tally.checks;
        for (sum, counts) in [(&mut total.faults, tally.faults), (&mut total.operations, tally.operations)] {
            add(sum, counts);
        }
    }
    eprintln!("{seeds} seeds from {first}: {total:#?}");
}

fn add(sum: &mut BTreeMap<&'static str, u64>, counts: BTreeMap<&'static str, u64>) {
    for (what, count) in counts {
        *sum.entry(what).or_default() += count;
    }
}

#[test]
fn replay() {
    if let Some(seed) = asked("ISTHMUS_SEED") {
        check(seed);
    }
}

#[test]
fn the_same_seed_writes_the_same_log() {
    for seed in [1, 2, 3, fresh()] {
        let [one, other] = [(); 2].map(|()| simulate(seed, Plan::of(seed), None));
        assert_eq!((one.digest, one.lines), (other.digest, other.lines), "seed {seed}");
        assert!(one.lines > 10, "seed {seed} is about nothing");
    }
}

#[test]
fn hundreds_of_clusters_converge() {
    let plan = Plan {
        clusters: 200,
        relationships: 300,
        busy_ms: 15_000,
        accident_every_ms: Some(500),
        crowds: false,
    };
    let fallen = simulate(7, plan, None).fallen;
    assert!(fallen.is_none(), "{:?}", fallen.map(|(violation, _)| violation));
}

#[test]
fn each_deliberate_breakage_is_found() {
    let mut wrong = Vec::new();
    for (mutation, invariants) in Mutation::ALL {
        let found = (1..=SEEDS_TO_FIND).find_map(|seed| {
            let fallen = simulate(seed, Plan::of(seed), Some(*mutation)).fallen;
            fallen.map(|(violation, _)| (seed, violation))
        });
        match found {
            None => wrong.push(format!("{mutation:?} was not found")),
            Some((seed, violation)) => {
                eprintln!("{mutation:?}: {} fell with seed {seed}", violation.invariant);
                if !invariants.contains(&violation.invariant) {
                    wrong.push(format!("{mutation:?}, seed {seed}: {violation:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

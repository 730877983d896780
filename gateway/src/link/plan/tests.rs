//! Links come and go in virtual time.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

/// A plan with a clock, a peer that behaves as told, and what became of the links.
struct World {
    plan: Plan,
    now: Instant,
    rng: StdRng,
    links: u64,
    retired: Vec<LinkId>,
    dialled: Vec<String>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made in any other way")]
    fn new(addresses: &[&str]) -> Self {
        let plan = Plan::new(addresses.iter().map(|text| text.parse().unwrap()).collect());
        let rng = StdRng::seed_from_u64(7);
        Self { plan, now: Instant::now(), rng, links: 0, retired: Vec::new(), dialled: Vec::new() }
    }

    fn steps(&mut self) -> Vec<(Attempt, String)> {
        let mut dials = Vec::new();
        while let Some(step) = self.plan.next_step(self.now) {
            match step {
                Step::Dial { attempt, address } => dials.push((attempt, address.to_string())),
                Step::Retire(link) => self.retired.push(link),
            }
        }
        self.dialled.extend(dials.iter().map(|(_, address)| address.clone()));
        dials
    }

    fn up(&mut self, attempt: Attempt, replica: &str) -> Option<LinkId> {
        self.links += 1;
        let replica = ReplicaId::try_from(replica.to_owned()).ok();
        let link = Established { link: self.links, replica, due: self.now + AGE };
        self.plan.established(attempt, link, self.now, &mut self.rng).then_some(self.links)
    }

    /// Dials until nothing is missing; each dial leads to the next replica in turn.
    fn settle(&mut self, replicas: &[&str]) {
        let mut next = replicas.iter().cycle();
        for _ in 0..50 {
            for (attempt, _) in self.steps() {
                self.up(attempt, next.next().unwrap());
            }
            self.now += DUPLICATE_PAUSE;
        }
    }

    fn serving(&self) -> Vec<(LinkId, String)> {
        let fresh = self.plan.links.iter().filter(|(_, link)| self.plan.is_fresh(link, self.now));
        fresh
            .map(|(id, link)| (*id, link.replica.as_ref().map_or(String::new(), |r| r.as_str().to_owned())))
            .collect()
    }
}

const AGE: Duration = Duration::from_secs(3600);
const A: &str = "192.0.2.1:15443";
const B: &str = "192.0.2.2:15443";
const C: &str = "192.0.2.3:15443";

/// What a peer does with each link in turn, when a tenth of a second has passed.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Refused,
    Closed,
    SaysGoodbye,
}

/// Links that are tried in ten minutes; `comes` says whether the peer also dials us each time.
fn dials_in_ten_minutes(fates: &[Fate], comes: bool) -> usize {
    let mut world = World::new(&[A]);
    let (mut fates, end) = (fates.iter().cycle(), world.now + Duration::from_secs(600));
    while world.now < end {
        for (attempt, _) in world.steps() {
            let fate = *fates.next().unwrap();
            let link = if matches!(fate, Fate::Refused) { None } else { world.up(attempt, "r") };
            world.now += Duration::from_millis(100);
            match (fate, link) {
                (Fate::Closed, Some(link)) => world.plan.closed(link, world.now, &mut world.rng),
                (Fate::SaysGoodbye, Some(link)) => {
                    world.plan.leaving(link, world.now, &mut world.rng);
                    world.plan.closed(link, world.now, &mut world.rng);
                }
                _ => world.plan.failed(attempt, world.now, &mut world.rng),
            }
            if comes {
                world.plan.stop_waiting(world.now);
            }
        }
        world.now += Duration::from_millis(10);
    }
    world.dialled.len()
}

#[test]
fn whatever_a_peer_does_with_its_links_it_is_dialled_ever_less_often() {
    use Fate::{Closed, Refused, SaysGoodbye};
    for fates in [
        &[Refused][..],
        &[Closed],
        &[SaysGoodbye],
        &[Refused, Closed, SaysGoodbye],
        &[Closed, Closed, Closed, Refused],
    ] {
        // With waits of 15 s on average after the first few; without any there would be 5 450.
        let dials = dials_in_ten_minutes(fates, false);
        assert!((20..100).contains(&dials), "{fates:?}: {dials}");
        // Two gateways that wake each other: once in two seconds at most.
        let dials = dials_in_ten_minutes(fates, true);
        assert!(dials <= 300 + 100, "{fates:?}, waking each other: {dials}");
    }
}

#[test]
fn a_peer_that_comes_to_us_is_dialled_at_once() {
    let mut world = World::new(&[A]);
    for _ in 0..20 {
        world.now += Duration::from_secs(60);
        for (attempt, _) in world.steps() {
            world.plan.failed(attempt, world.now, &mut world.rng);
        }
    }
    assert_eq!(world.steps(), [], "it waits");
    world.plan.stop_waiting(world.now);
    let (attempt, _) = world.steps().remove(0);
    world.plan.failed(attempt, world.now, &mut world.rng);
    assert_eq!(world.steps(), [], "one try; then it waits as before");
}

#[test]
fn a_peer_that_left_and_refuses_us_shuts_us_out_at_once() {
    let mut world = World::new(&[A, B]);
    let (attempt, _) = world.steps().remove(0);
    let link = world.up(attempt, "a").unwrap();
    world.plan.leaving(link, world.now, &mut world.rng);
    world.now += GOODBYE_PAUSE;
    let mut refused = BTreeSet::new();
    while refused.len() < 2 {
        for (attempt, address) in world.steps() {
            world.plan.failed(attempt, world.now, &mut world.rng);
            refused.insert(address);
        }
        assert!(!world.plan.is_shut_out(), "the old link may still take streams");
        world.now += Duration::from_secs(30);
    }
    world.plan.closed(link, world.now, &mut world.rng);
    assert!(world.plan.is_shut_out());

    let (attempt, _) = world.steps().remove(0);
    assert!(!world.plan.is_shut_out(), "the next attempt may succeed");
    let link = world.up(attempt, "b").unwrap();
    world.plan.closed(link, world.now, &mut world.rng);
    assert!(!world.plan.is_shut_out(), "nobody has refused us since");
}

#[test]
fn one_replica_gets_one_link() {
    let mut world = World::new(&[A]);
    let dials = world.steps();
    assert_eq!(dials.len(), 1);
    assert_eq!(world.steps(), [], "an attempt is under way");
    assert_eq!(world.up(dials[0].0, "a"), Some(1));
    assert_eq!(world.steps(), []);
    assert_eq!(world.plan.wakes(world.now), Some(world.now + AGE));
}

#[test]
fn replicas_behind_one_address_are_all_found() {
    let mut world = World::new(&[A]);
    world.plan.set_replicas(3);
    world.settle(&["a", "a", "b", "a", "b", "c"]);
    let mut replicas: Vec<_> = world.serving().into_iter().map(|(_, replica)| replica).collect();
    replicas.sort();
    assert_eq!(replicas, ["a", "b", "c"]);
}

#[test]
fn addresses_of_replicas_are_each_dialled_once() {
    let mut world = World::new(&[A, B, C]);
    world.plan.set_replicas(3);
    world.steps();
    world.dialled.sort();
    assert_eq!(world.dialled, [A, B, C]);
}

#[test]
fn at_most_four_replicas_are_linked() {
    let mut world = World::new(&[A]);
    world.plan.set_replicas(900);
    world.settle(&["a", "b", "c", "d", "e"]);
    assert_eq!(world.serving().len(), 4);
}

#[test]
fn a_replica_count_that_is_wrong_does_not_dial_for_ever() {
    let mut world = World::new(&[A]);
    world.plan.set_replicas(4);
    world.settle(&["a"]);
    assert_eq!(world.serving().len(), 4, "after enough tries a second link to the same replica is taken");
    let dialled = world.dialled.len();
    world.settle(&["a"]);
    assert_eq!(world.dialled.len(), dialled);
}

#[test]
fn an_old_link_is_retired_only_when_the_new_one_is_up() {
    let mut world = World::new(&[A]);
    world.settle(&["a"]);
    world.now += AGE;
    let dials = world.steps();
    assert_eq!((dials.len(), world.retired.len()), (1, 0), "the replacement comes first");
    world.plan.failed(dials[0].0, world.now, &mut world.rng);
    assert_eq!(world.steps(), [], "not before the wait is over");
    assert!(world.retired.is_empty());
    world.now = world.plan.wakes(world.now).expect("a wait is under way");
    let dials = world.steps();
    assert_eq!(world.up(dials[0].0, "a"), Some(2), "the same replica is welcome: it replaces its own link");
    world.steps();
    assert_eq!(world.retired, [1]);
}

#[test]
fn a_goodbye_of_the_peer_dials_elsewhere_first() {
    let mut world = World::new(&[A, B]);
    world.settle(&["a"]);
    world.plan.leaving(1, world.now, &mut world.rng);
    let dials = world.steps();
    assert_eq!(dials[0].1, B, "the other address goes first");
    assert!(world.retired.is_empty());
    world.up(dials[0].0, "b");
    world.steps();
    assert_eq!(world.retired, [1]);
}

#[test]
fn of_several_stale_links_each_new_one_replaces_one() {
    let mut world = World::new(&[A]);
    world.plan.set_replicas(3);
    world.settle(&["a", "b", "c"]);
    world.plan.leaving(2, world.now, &mut world.rng);
    world.now += AGE;
    let dials = world.steps();
    assert_eq!(dials.len(), 3);
    world.up(dials[0].0, "x");
    world.steps();
    assert_eq!(world.retired, [2], "the one that was asked to leave goes first");
    world.up(dials[1].0, "y");
    world.steps();
    assert_eq!(world.retired, [2, 1]);
}

#[test]
fn a_silent_link_is_replaced_or_comes_back() {
    let mut world = World::new(&[A]);
    world.settle(&["a"]);
    world.plan.silent(1);
    let dials = world.steps();
    assert_eq!(dials.len(), 1);
    world.plan.answered(1, world.now);
    world.plan.failed(dials[0].0, world.now, &mut world.rng);
    world.now += AGE / 2;
    assert_eq!(world.steps(), []);
    assert!(world.retired.is_empty());
}

#[test]
fn failures_of_one_address_do_not_delay_another() {
    let mut world = World::new(&[A, B]);
    for _ in 0..10 {
        while let Some((attempt, _)) = world.steps().pop() {
            world.plan.failed(attempt, world.now, &mut world.rng);
        }
        world.now += Duration::from_secs(31);
    }
    let (a, b) =
        (world.dialled.iter().filter(|x| *x == A).count(), world.dialled.iter().filter(|x| *x == B).count());
    assert!(a.abs_diff(b) <= 1, "{a} {b}");
    assert_eq!(a + b, 20, "in each round both were tried");
}

#[test]
fn who_says_goodbye_at_once_is_backed_off_from() {
    let mut world = World::new(&[A]);
    let mut dials = 0;
    for _ in 0..1000 {
        for (attempt, _) in world.steps() {
            dials += 1;
            let link = world.up(attempt, "a").unwrap();
            world.plan.leaving(link, world.now, &mut world.rng);
        }
        world.now += Duration::from_millis(10);
    }
    assert!((20..=40).contains(&dials), "{dials} dials in ten seconds");
    assert!(!world.retired.contains(&world.links), "the last one is kept while there is no better");
}

#[test]
fn who_accepts_and_closes_is_backed_off_from() {
    let mut world = World::new(&[A]);
    let mut dials = 0;
    for _ in 0..200 {
        for (attempt, _) in world.steps() {
            dials += 1;
            let link = world.up(attempt, "a").unwrap();
            world.plan.closed(link, world.now, &mut world.rng);
        }
        world.now += Duration::from_millis(50);
    }
    assert!((5..20).contains(&dials), "{dials} dials in ten seconds");
    let mut steady = World::new(&[A]);
    steady.settle(&["a"]);
    steady.now += AGE / 2;
    steady.plan.closed(1, steady.now, &mut steady.rng);
    assert_eq!(steady.steps().len(), 1, "a link that lived is replaced at once");
}

#[test]
fn load_asks_for_more_links_up_to_a_bound() {
    let mut world = World::new(&[A]);
    world.settle(&["a"]);
    world.plan.set_extra(2);
    world.settle(&["a"]);
    assert_eq!(world.serving().len(), 3);
    world.plan.set_extra(1000);
    world.settle(&["a"]);
    assert_eq!(world.serving().len(), 1 + EXTRA_MAX);
    world.plan.set_extra(0);
    world.settle(&["a"]);
    assert!(world.retired.is_empty(), "what is up stays until it is old");
    world.now += AGE;
    world.settle(&["a"]);
    assert_eq!((world.serving().len(), world.retired.len()), (1, 1 + EXTRA_MAX));
}

#[test]
fn addresses_that_are_gone_are_left_without_a_gap() {
    let mut world = World::new(&[A]);
    world.settle(&["a"]);
    world.plan.set_addresses(vec![B.parse().unwrap()]);
    let dials = world.steps();
    assert_eq!(dials[0].1, B);
    assert!(world.retired.is_empty());
    world.up(dials[0].0, "a");
    world.steps();
    assert_eq!(world.retired, [1]);
}

#[test]
fn stopping_retires_all_and_dials_nothing() {
    let mut world = World::new(&[A]);
    world.plan.set_replicas(2);
    world.settle(&["a", "b"]);
    world.plan.stop();
    assert_eq!(world.steps(), []);
    assert_eq!(world.retired, [1, 2]);
    world.plan.closed(1, world.now, &mut world.rng);
    world.plan.closed(2, world.now, &mut world.rng);
    assert!(world.steps().is_empty() && world.plan.is_stopped());
}

#[test]
fn a_peer_without_addresses_is_not_dialled() {
    let mut world = World::new(&[]);
    assert_eq!(world.steps(), []);
    assert_eq!(world.plan.wakes(world.now), None);
}

#[test]
fn a_quarter_of_the_streams_is_kept_free() {
    for (demand, replicas, extra) in [(0, 1, 0), (75, 1, 0), (76, 1, 1), (300, 4, 0), (1000, 1, 13)] {
        assert_eq!(extra_for(demand, replicas), extra, "{demand} {replicas}");
    }
}

#[test]
fn a_replica_that_comes_back_gets_its_link_though_another_has_two() {
    let mut world = World::new(&[A, B]);
    world.plan.set_replicas(2);
    let is_b = |dial: &(Attempt, String)| dial.1 == B;
    for _ in 0..200 {
        for dial in world.steps() {
            if is_b(&dial) {
                world.plan.failed(dial.0, world.now, &mut world.rng);
            } else {
                world.up(dial.0, "a");
            }
        }
        world.now += DUPLICATE_PAUSE;
    }
    assert_eq!(world.serving().len(), 2, "both lead to the one that is there");
    assert!(world.dialled.len() < 40, "it is not dialled in a loop: {}", world.dialled.len());
    assert!(!world.steps().iter().any(is_b), "it waits");
    world.plan.stop_waiting(world.now);
    let dials = world.steps();
    assert!(dials.len() == 1 && is_b(&dials[0]), "who dials us is dialled at once");
    world.up(dials[0].0, "b").unwrap();
    world.now += AGE / 2;
    assert_eq!(world.steps(), []);
    assert_eq!(world.serving().len(), 3, "what works is not closed for it");
}

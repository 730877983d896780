//! The balancer's decisions: scenarios as data, and a naive model that every pick must agree with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use federation::model::{ClusterName, Freshness};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::destination::Destination;
use crate::snapshot::View;
use crate::testing::{SnapshotBuilder, cluster, locality, snapshot};

const MERGED: &str = "cart.shop.svc.clusterset.local";
const PICKS: u32 = 1000;

/// One balancer going through a day.
struct Case {
    claim: &'static str,
    world: SnapshotBuilder,
    steps: Vec<Step>,
}

enum Step {
    /// Another snapshot comes.
    World(SnapshotBuilder),
    Link(&'static str, LinkState),
    /// A request to this target fails to connect, or connects.
    Fail(&'static str),
    Connect(&'static str),
    /// Seconds go by.
    Wait(u64),
    /// Requests are shared out as these percentages.
    Hit(&'static [(&'static str, u32)]),
    /// Requests by another host.
    HitAs(&'static str, &'static [(&'static str, u32)]),
    /// A retry after these were tried goes only to one of the others.
    Retry(&'static [&'static str], &'static [&'static str]),
    /// Nobody answers, for these reasons.
    Nobody(&'static [(&'static str, Why)]),
}
use Step::{Connect, Fail, Hit, HitAs, Link, Nobody, Retry, Wait, World};

#[derive(Default)]
struct Links(BTreeMap<ClusterName, LinkState>);

impl Reachability for Links {
    fn state(&self, peer: &ClusterName) -> LinkState {
        self.0.get(peer).copied().unwrap_or(LinkState::Up)
    }
}

struct Run {
    balancer: Balancer,
    view: Arc<View>,
    links: Links,
    now: Instant,
    rng: StdRng,
}

fn clock() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant can only come from a clock")]
    Instant::now()
}

impl Run {
    fn new(world: SnapshotBuilder) -> Self {
        let now = clock();
        Self {
            balancer: Balancer::new(now),
            view: world.view(),
            links: Links::default(),
            now,
            rng: StdRng::seed_from_u64(11),
        }
    }

    fn pick(&mut self, host: &str, tried: &[Target]) -> Result<Pick, NoEndpoint> {
        let destination = self.view.router.mesh(host).unwrap();
        self.balancer.pick(&self.view, &destination, &self.links, tried, self.now, &mut self.rng)
    }

    /// A pick of one target, however long chance takes.
    fn pick_of(&mut self, target: &str) -> Pick {
        let picks =
            (0..PICKS).find_map(|_| Some(self.pick(MERGED, &[]).ok()?).filter(|p| shown(p) == target));
        picks.unwrap_or_else(|| panic!("{target} is never picked"))
    }

    fn shares(&mut self, host: &str) -> BTreeMap<String, u32> {
        let mut hits = BTreeMap::new();
        for _ in 0..PICKS {
            *hits.entry(shown(&self.pick(host, &[]).unwrap())).or_default() += 1;
        }
        hits
    }

    fn targets(&mut self, names: &[&str]) -> Vec<Target> {
        names.iter().map(|name| self.pick_of(name).target).collect()
    }

    fn step(&mut self, claim: &str, step: Step) {
        match step {
            World(world) => {
                self.view = world.view();
                self.balancer.adopt(&self.view);
            }
            Link(peer, state) => _ = self.links.0.insert(cluster(peer), state),
            Fail(target) => self.pick_of(target).in_flight.connect_failed(self.now),
            Connect(target) => self.pick_of(target).in_flight.connected(),
            Wait(seconds) => self.now += Duration::from_secs(seconds),
            Hit(expected) => check_shares(claim, &self.shares(MERGED), expected),
            HitAs(host, expected) => check_shares(claim, &self.shares(host), expected),
            Retry(tried, expected) => {
                let tried = self.targets(tried);
                for _ in 0..50 {
                    let pick = shown(&self.pick(MERGED, &tried).unwrap());
                    assert!(expected.contains(&pick.as_str()), "{claim}: {pick}");
                }
            }
            Nobody(expected) => {
                let rejected = self.pick(MERGED, &[]).unwrap_err().rejected;
                let rejected: Vec<_> =
                    rejected.iter().map(|(target, why)| (target.to_string(), *why)).collect();
                let expected: Vec<_> =
                    expected.iter().map(|(target, why)| ((*target).to_owned(), *why)).collect();
                assert_eq!(rejected, expected, "{claim}");
            }
        }
    }
}

fn shown(pick: &Pick) -> String {
    pick.target.to_string()
}

fn check_shares(claim: &str, hits: &BTreeMap<String, u32>, expected: &[(&str, u32)]) {
    let named: Vec<_> = expected.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(hits.keys().cloned().collect::<Vec<_>>(), named, "{claim}: {hits:?}");
    for (name, percent) in expected {
        let share = f64::from(hits[*name]) * 100.0 / f64::from(PICKS);
        assert!((share - f64::from(*percent)).abs() < 5.0, "{claim}: {hits:?}");
    }
}

fn check(case: Case) {
    let mut run = Run::new(case.world);
    for step in case.steps {
        run.step(case.claim, step);
    }
}

fn own(endpoints: &[&str]) -> SnapshotBuilder {
    snapshot().service("cart.shop", "80=http", endpoints).export("cart.shop")
}

#[test]
fn nearest_own_endpoints_come_first_and_weights_share() {
    check(Case {
        claim: "zone before region before elsewhere before peers",
        world: own(&["10.0.0.1 eu/a", "10.0.0.2 eu/b", "10.0.0.3 us/a"]).import(
            "cloud",
            "cart.shop",
            "80=http",
            &["eu/a ready=9"],
        ),
        steps: vec![Hit(&[("10.0.0.1:8080", 100)])],
    });
    check(Case {
        claim: "weights share within a tier",
        world: own(&[
            "10.0.0.1 eu/a weight=3",
            "10.0.0.2 eu/a",
            "10.0.0.3 eu/b weight=9",
            "10.0.0.4 eu/a weight=0",
        ]),
        steps: vec![Hit(&[("10.0.0.1:8080", 75), ("10.0.0.2:8080", 25)])],
    });
    check(Case {
        claim: "own endpoints that are not exported do not count for the merged name",
        world: snapshot().service("cart.shop", "80=http", &["10.0.0.1 eu/a"]).import(
            "cloud",
            "cart.shop",
            "80=http",
            &["us/a ready=1"],
        ),
        steps: vec![
            Hit(&[("cloud", 100)]),
            HitAs("cart.shop.svc.cluster.local", &[("10.0.0.1:8080", 100)]),
            HitAs("cart.shop.onprem.isthmus.internal", &[("10.0.0.1:8080", 100)]),
        ],
    });
}

#[test]
fn failover_spills_to_the_next_tier_when_local_is_missing() {
    let remote = |world: SnapshotBuilder| {
        world
            .import("cloud", "cart.shop", "80=http", &["us/a ready=1"])
            .import("quay", "cart.shop", "80=http", &["eu/b ready=3", "us/a ready=5"])
            .import("reef", "cart.shop", "80=http", &["eu/c ready=1", "eu/d ready=1"])
    };
    check(Case {
        claim: "peers by their nearest ready endpoints, shared by all that are ready",
        world: remote(own(&["10.0.0.1 eu/a not-ready"])),
        steps: vec![
            Hit(&[("quay", 80), ("reef", 20)]),
            Link("quay", LinkState::Down),
            Hit(&[("reef", 100)]),
            Link("reef", LinkState::Draining),
            Hit(&[("cloud", 100)]),
            Link("cloud", LinkState::Down),
            Hit(&[("reef", 100)]),
            Link("reef", LinkState::Down),
            Nobody(&[
                ("10.0.0.1:8080", Why::NotReady),
                ("cloud", Why::LinkDown),
                ("quay", Why::LinkDown),
                ("reef", Why::LinkDown),
            ]),
            Link("cloud", LinkState::Up),
            World(remote(own(&["10.0.0.1 eu/a"]))),
            Hit(&[("10.0.0.1:8080", 100)]),
        ],
    });
    check(Case {
        claim: "a peer counts only with ready endpoints, the port, and a fresh import",
        world: snapshot()
            .import("cloud", "cart.shop", "80=http", &["eu/a ready=0"])
            .import("quay", "cart.shop", "81=http", &["eu/a ready=1"])
            .import("reef", "cart.shop", "80=http", &["us/a ready=1"]),
        steps: vec![
            HitAs("cart.shop.svc.clusterset.local:80", &[("reef", 100)]),
            HitAs("cart.shop.svc.clusterset.local:81", &[("quay", 100)]),
            World(
                snapshot()
                    .import("cloud", "cart.shop", "80=http", &["eu/a ready=0"])
                    .import("reef", "cart.shop", "80=http", &["us/a ready=1"])
                    .change_peer("reef", |view| view.freshness = Freshness::Expired),
            ),
            Nobody(&[("cloud", Why::NoReadyEndpoint), ("reef", Why::ImportExpired)]),
            World(
                snapshot()
                    .import("reef", "cart.shop", "80=http", &["us/a ready=1"])
                    .change_peer("reef", |view| view.freshness = Freshness::Suspect),
            ),
            Hit(&[("reef", 100)]),
        ],
    });
    check(Case {
        claim: "a pinned name never leaves its cluster",
        world: own(&["10.0.0.1 eu/a"]).import("cloud", "cart.shop", "80=http", &["us/a ready=1"]),
        steps: vec![HitAs("cart.shop.cloud.isthmus.internal", &[("cloud", 100)])],
    });
}

#[test]
fn dead_endpoints_are_tried_last() {
    check(Case {
        claim: "a failing endpoint rests, tries again, and comes back",
        world: own(&["10.0.0.1 eu/a", "10.0.0.2 eu/a"]).import(
            "cloud",
            "cart.shop",
            "80=http",
            &["us/a ready=1"],
        ),
        steps: vec![
            Fail("10.0.0.1:8080"),
            Hit(&[("10.0.0.2:8080", 100)]),
            Fail("10.0.0.2:8080"),
            Hit(&[("cloud", 100)]),
            Link("cloud", LinkState::Down),
            Hit(&[("10.0.0.1:8080", 50), ("10.0.0.2:8080", 50)]),
            Wait(2),
            Link("cloud", LinkState::Up),
            Connect("10.0.0.1:8080"),
            Fail("10.0.0.2:8080"),
            Wait(1),
            Hit(&[("10.0.0.1:8080", 100)]),
            Wait(1),
            Connect("10.0.0.2:8080"),
            Hit(&[("10.0.0.1:8080", 50), ("10.0.0.2:8080", 50)]),
        ],
    });
    check(Case {
        claim: "what was seen of an endpoint outlives its snapshot, and not the endpoint",
        world: own(&["10.0.0.1 eu/a", "10.0.0.2 eu/a"]),
        steps: vec![
            Fail("10.0.0.1:8080"),
            World(own(&["10.0.0.1 eu/a", "10.0.0.2 eu/a", "10.0.0.3 eu/a"])),
            Hit(&[("10.0.0.2:8080", 50), ("10.0.0.3:8080", 50)]),
            World(own(&["10.0.0.2 eu/a"])),
            Hit(&[("10.0.0.2:8080", 100)]),
            World(own(&["10.0.0.1 eu/a", "10.0.0.2 eu/a"])),
            Hit(&[("10.0.0.1:8080", 50), ("10.0.0.2:8080", 50)]),
        ],
    });
}

#[test]
fn draining_endpoints_are_a_last_resort() {
    check(Case {
        claim: "draining only where nothing else is left, not ready never",
        world: own(&["10.0.0.1 eu/a draining", "10.0.0.2 eu/a not-ready", "10.0.0.3 eu/b"]),
        steps: vec![
            Hit(&[("10.0.0.3:8080", 100)]),
            Fail("10.0.0.3:8080"),
            Hit(&[("10.0.0.3:8080", 100)]),
            Retry(&["10.0.0.3:8080"], &["10.0.0.1:8080"]),
            World(own(&["10.0.0.1 eu/a draining", "10.0.0.2 eu/a not-ready"])),
            Hit(&[("10.0.0.1:8080", 100)]),
            World(own(&["10.0.0.2 eu/a not-ready", "10.0.0.4 portless"])),
            Nobody(&[("10.0.0.2:8080", Why::NotReady), ("10.0.0.4:0", Why::NoPort)]),
            World(own(&[])),
            Nobody(&[]),
        ],
    });
}

#[test]
fn retries_go_elsewhere_while_there_is_an_elsewhere() {
    check(Case {
        claim: "tried targets are left out unless nothing else is left",
        world: own(&["10.0.0.1 eu/a", "10.0.0.2 eu/a"]),
        steps: vec![
            Retry(&["10.0.0.1:8080"], &["10.0.0.2:8080"]),
            Retry(&["10.0.0.1:8080", "10.0.0.2:8080"], &["10.0.0.1:8080", "10.0.0.2:8080"]),
        ],
    });
    check(Case {
        claim: "also a peer is elsewhere",
        world: own(&["10.0.0.1 eu/a"]).import("cloud", "cart.shop", "80=http", &["us/a ready=1"]),
        steps: vec![Retry(&["10.0.0.1:8080"], &["cloud"])],
    });
}

#[test]
fn the_busier_endpoint_gets_less() {
    let mut run = Run::new(own(&["10.0.0.1 eu/a", "10.0.0.2 eu/a"]));
    let held = run.pick_of("10.0.0.1:8080");
    check_shares("one in flight", &run.shares(MERGED), &[("10.0.0.2:8080", 100)]);
    // The count survives a snapshot: it belongs to the endpoint.
    run.view = own(&["10.0.0.1 eu/a", "10.0.0.2 eu/a"]).generation(2).view();
    run.balancer.adopt(&run.view);
    check_shares("still in flight", &run.shares(MERGED), &[("10.0.0.2:8080", 100)]);
    drop(held);
    check_shares("done", &run.shares(MERGED), &[("10.0.0.1:8080", 50), ("10.0.0.2:8080", 50)]);
}

#[test]
fn an_explanation_names_every_other_target() {
    let mut run = Run::new(
        own(&["10.0.0.1 eu/a", "10.0.0.2 eu/a", "10.0.0.3 eu/b", "10.0.0.4 eu/a not-ready"])
            .import("cloud", "cart.shop", "80=http", &["us/a ready=1"])
            .import("quay", "cart.shop", "80=http", &["us/a ready=1"]),
    );
    run.links.0.insert(cluster("quay"), LinkState::Down);
    let tried = run.targets(&["10.0.0.2:8080"]);
    let destination = run.view.router.mesh(MERGED).unwrap();
    let explained = run.balancer.explain(&run.view, &destination, &run.links, &tried, run.now, &mut run.rng);
    let pick = explained.unwrap();
    assert_eq!(shown(&pick), "10.0.0.1:8080");
    let rejected: Vec<_> = pick.rejected.iter().map(|(target, why)| (target.to_string(), *why)).collect();
    let expected = [
        ("10.0.0.2:8080", Why::Tried),
        ("10.0.0.3:8080", Why::FartherTier),
        ("10.0.0.4:8080", Why::NotReady),
        ("cloud", Why::FartherTier),
        ("quay", Why::LinkDown),
    ];
    assert_eq!(rejected, expected.map(|(target, why)| (target.to_owned(), why)));
}

#[test]
fn a_request_with_an_older_view_keeps_to_it() {
    let mut run = Run::new(own(&["10.0.0.1 eu/a"]).generation(1));
    let old = run.view.clone();
    run.view = own(&["10.0.0.2 eu/a"]).generation(2).view();
    run.balancer.adopt(&run.view);
    check_shares("new", &run.shares(MERGED), &[("10.0.0.2:8080", 100)]);
    let new = std::mem::replace(&mut run.view, old);
    check_shares("old", &run.shares(MERGED), &[("10.0.0.1:8080", 100)]);
    run.view = new;
    check_shares("new again", &run.shares(MERGED), &[("10.0.0.2:8080", 100)]);
}

/// One endpoint or peer as the model sees it: `(rank of standing, rank of tier)`, none if unusable.
#[derive(Debug, Clone)]
struct Modelled {
    text: String,
    shown: String,
    ready: u32,
    link: LinkState,
    rank: Option<(u8, u8)>,
}

fn endpoint() -> impl Strategy<Value = (usize, usize, u32)> {
    (0usize..3, 0usize..4, 0u32..3)
}

fn modelled_endpoint(at: usize, (readiness, place, weight): (usize, usize, u32)) -> Modelled {
    let place = ["eu/a", "eu/b", "us/a", ""][place];
    let near = [1, 2, 3, 3][["eu/a", "eu/b", "us/a", ""].iter().position(|p| *p == place).unwrap()];
    let word = ["", "draining", "not-ready"][readiness];
    let usable = readiness != 2 && weight > 0;
    let shown = format!("10.0.0.{}:8080", at + 1);
    Modelled {
        text: format!("10.0.0.{} {place} {word} weight={weight}", at + 1),
        shown,
        ready: 1,
        link: LinkState::Up,
        rank: usable.then_some((if readiness == 1 { 2 } else { 0 }, near)),
    }
}

fn modelled_peer(at: usize, (link, place, ready): (usize, usize, u32)) -> Modelled {
    let place = ["eu/a", "eu/b", "us/a", "us/b"][place];
    let near = 10 + here_to(place);
    let link = [LinkState::Up, LinkState::Draining, LinkState::Down][link];
    let usable = link != LinkState::Down && ready > 0;
    Modelled {
        text: place.to_owned(),
        shown: format!("peer-{at}"),
        ready,
        link,
        rank: usable.then_some((if link == LinkState::Draining { 2 } else { 0 }, near)),
    }
}

fn here_to(place: &str) -> u8 {
    locality("eu/a").proximity(&locality(place)) as u8
}

proptest! {
    #[test]
    fn every_pick_is_one_that_the_model_allows(
        endpoints in prop::collection::vec(endpoint(), 0..6),
        peers in prop::collection::vec(endpoint(), 0..4),
        marks in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        tried in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        seed in any::<u64>(),
    ) {
        let endpoints: Vec<_> = endpoints.into_iter().enumerate().map(|(at, e)| modelled_endpoint(at, e)).collect();
        let peers: Vec<_> = peers.into_iter().enumerate().map(|(at, p)| modelled_peer(at, p)).collect();
        let texts: Vec<_> = endpoints.iter().map(|endpoint| endpoint.text.as_str()).collect();
        let mut world = own(&texts);
        let mut links = Links::default();
        for peer in &peers {
            let group = format!("{} ready={}", peer.text, peer.ready);
            world = world.import(&peer.shown, "cart.shop", "80=http", &[&group]);
            links.0.insert(cluster(&peer.shown), peer.link);
        }
        let mut run = Run { links, rng: StdRng::seed_from_u64(seed), ..Run::new(world) };
        let mut model: Vec<_> = endpoints.into_iter().chain(peers).collect();

        // Marks and attempts only come from picks, so they fall on whatever is pickable now.
        for _ in &marks {
            if let Ok(pick) = run.pick(MERGED, &[]) {
                pick.in_flight.connect_failed(run.now);
                let target = shown(&pick);
                let marked = model.iter_mut().find(|modelled| modelled.shown == target).unwrap();
                marked.rank = marked.rank.map(|(standing, tier)| (standing.max(1), tier));
            }
        }
        let mut already = Vec::new();
        for _ in &tried {
            if let Ok(pick) = run.pick(MERGED, &already) {
                let target = shown(&pick);
                let again = model.iter_mut().find(|modelled| modelled.shown == target).unwrap();
                again.rank = again.rank.map(|(_, tier)| (3, tier));
                already.push(pick.target.clone());
            }
        }

        let best = model.iter().filter_map(|modelled| modelled.rank).min();
        for _ in 0..20 {
            let pick = run.pick(MERGED, &already);
            prop_assert_eq!(pick.is_ok(), best.is_some());
            if let Ok(pick) = pick {
                let target = shown(&pick);
                let rank = model.iter().find(|modelled| modelled.shown == target).unwrap().rank;
                prop_assert_eq!(rank, best, "{} of {:?}", target, model);
            }
        }
    }
}

#[test]
fn links_choose_only_own_endpoints() {
    let view = own(&["10.0.0.1 eu/a not-ready"])
        .import("quay", "cart.shop", "80=http", &["eu/a ready=9"])
        .export_to("cloud", "cart.shop")
        .view();
    let destination: Destination = view.router.link(&cluster("cloud"), "cart.shop:80").unwrap();
    let now = clock();
    let picked = Balancer::new(now).pick(
        &view,
        &destination,
        &Links::default(),
        &[],
        now,
        &mut StdRng::seed_from_u64(1),
    );
    assert_eq!(picked.unwrap_err().rejected.len(), 1, "T13: never on to another link");
}

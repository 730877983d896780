//! What operators do, by chance: services come, change and go, clusters join and part.

use std::collections::BTreeMap;

use federation::catalog::Event;
use federation::model::{Peer, RelationshipState, ServiceName};
use federation::peering::addresses::Near;
use federation::peering::conversation::{self, Utterance};
use federation::peering::imports::Imports;
use federation::peering::membership;
use federation::peering::records::{BundleRecord, PeerRecord, RelationshipId};
use federation::store::Transaction;
use trust_bundle::{SpiffeId, TrustDomain};

use crate::cluster::{PeerLife, Spec};
use crate::disk::NotDone;
use crate::network::Word;
use crate::streams::gateway;
use crate::world::World;

/// Few names, so that clusters contend for them.
const NAMES: &[&str] =
    &["cart.shop", "pay.shop", "desk.shop", "mail.office", "api.kube-system", "wiki.office"];
/// More changes than one transaction takes.
const CROWD: u32 = 130;

impl World {
    /// What a cluster has when it starts for the first time.
    pub(crate) fn furnish(&mut self, node: usize) {
        for _ in 0..self.dice.between(0, 4) {
            let (name, spec) = (self.some_name(), self.some_spec());
            self.ledger.documented(node, &name, self.now, Some(&spec));
            self.clusters[node].documents.insert(name, spec);
        }
    }

    fn some_name(&mut self) -> ServiceName {
        NAMES[self.dice.index(NAMES.len())].parse().expect("a service name")
    }

    fn some_spec(&mut self) -> Spec {
        Spec {
            port: 80 + self.dice.below(3) as u16,
            ready: self.dice.below(5) as u32,
            draining: self.dice.below(2) as u32,
            exported: self.dice.percent(75),
        }
    }

    pub(crate) fn operate(&mut self) {
        let node = self.dice.index(self.clusters.len());
        let what = match self.dice.below(100) {
            0..=39 => self.change_service(node),
            40..=54 => self.withdraw(node),
            55..=64 => self.drain(node),
            65..=72 => self.remove_documents(node),
            73..=82 => self.join_somebody(),
            83..=89 => self.part(node),
            90..=95 => self.move_gateways(node),
            _ if self.plan.crowds => self.crowd(node),
            _ => self.change_service(node),
        };
        *self.tally.operations.entry(what).or_default() += 1;
    }

    fn change_service(&mut self, node: usize) -> &'static str {
        let (name, spec) = (self.some_name(), self.some_spec());
        self.document(node, &name, Some(spec));
        "change a service"
    }

    fn withdraw(&mut self, node: usize) -> &'static str {
        let name = self.some_name();
        if let Some(spec) = self.clusters[node].documents.get(&name).cloned() {
            self.document(node, &name, Some(Spec { exported: false, ..spec }));
        }
        "withdraw an export"
    }

    fn drain(&mut self, node: usize) -> &'static str {
        let name = self.some_name();
        if let Some(spec) = self.clusters[node].documents.get(&name).cloned() {
            let draining = spec.ready + spec.draining;
            self.document(node, &name, Some(Spec { ready: 0, draining, ..spec }));
        }
        "drain a service"
    }

    fn remove_documents(&mut self, node: usize) -> &'static str {
        let name = self.some_name();
        self.document(node, &name, None);
        "remove documents"
    }

    /// Very many services appear, or go, at once.
    fn crowd(&mut self, node: usize) -> &'static str {
        let first: ServiceName = "m0.crowd".parse().expect("a service name");
        let comes = !self.clusters[node].documents.contains_key(&first);
        let ready = self.dice.below(3) as u32;
        for number in 0..CROWD {
            let name = format!("m{number}.crowd").parse().expect("a service name");
            let spec = Spec { port: 80, ready, draining: 0, exported: true };
            self.set_document(node, &name, comes.then_some(spec));
        }
        self.settle(node);
        "a crowd of services"
    }

    fn document(&mut self, node: usize, name: &ServiceName, spec: Option<Spec>) {
        self.set_document(node, name, spec);
        self.settle(node);
    }

    /// The file is written; a process that runs and has read its directory sees the change.
    fn set_document(&mut self, node: usize, name: &ServiceName, spec: Option<Spec>) {
        let now = self.now;
        let cluster = &mut self.clusters[node];
        let wall = cluster.wall(now);
        let before = match spec.clone() {
            Some(spec) => cluster.documents.insert(name.clone(), spec),
            None => cluster.documents.remove(name),
        };
        self.ledger.documented(node, name, now, spec.as_ref());
        if !name.namespace.as_str().starts_with("crowd") {
            self.log.say(now, format_args!("{}: {name} is {spec:?}", cluster.name));
        }
        if let Some(life) = cluster.life.as_mut().filter(|life| life.reads_at.is_none()) {
            life.tell_documents(name, before.as_ref(), spec.as_ref(), wall);
        }
    }

    /// Two clusters join with a token; the redeemer goes first, and the joiner may die in between.
    pub(crate) fn join_somebody(&mut self) -> &'static str {
        let (a, b) = (self.dice.index(self.clusters.len()), self.dice.index(self.clusters.len()));
        let usable =
            |node: usize| self.clusters[node].life.is_some() && !self.clusters[node].disk.unavailable;
        let already = self.is_related(a, b) && self.is_related(b, a);
        if a == b || already || !usable(a) || !usable(b) || self.is_cut(a, b) {
            return "a join that is not possible";
        }
        let id = RelationshipId::new(u128::from(self.dice.roll()).to_be_bytes());
        let sameness = self.dice.percent(15);
        self.log.say(self.now, format_args!("{} joins {}", self.clusters[b].name, self.clusters[a].name));
        if self.establish(a, b, id, sameness) {
            self.establish(b, a, id, sameness);
        }
        self.settle(a);
        self.settle(b);
        "join"
    }

    pub(crate) fn is_related(&self, node: usize, to: usize) -> bool {
        let life = self.clusters[node].life.as_ref();
        life.and_then(|life| life.peers.get(&self.clusters[to].name)).is_some_and(PeerLife::is_active)
    }

    fn establish(&mut self, node: usize, with: usize, id: RelationshipId, sameness: bool) -> bool {
        let now = self.now;
        let name = self.clusters[with].name.clone();
        let record = PeerRecord {
            peer: Peer {
                name: name.clone(),
                trust_domain: domain(name.as_str()),
                gateway_id: SpiffeId::new(&domain(name.as_str()), "/isthmus/gateway").expect("an ID"),
                federation_id: SpiffeId::new(&domain(name.as_str()), "/isthmus/federation").expect("an ID"),
                gateways: vec![gateway(self.ledger.gateways(with))],
                joined: self.clusters[node].wall(now),
                state: RelationshipState::Active,
                sameness: if sameness { vec!["office".try_into().expect("a label")] } else { Vec::new() },
            },
            relationship: id,
            near: Near::default(),
        };
        let bundle = BundleRecord { sequence: None, document: String::new(), from: name.clone() };
        let transaction = conversation::established(&record, &bundle, Transaction::new());
        let revision = match self.clusters[node].disk.commit(&transaction) {
            Ok(revision) => revision,
            Err(NotDone::Crashed) => {
                let pause = self.dice.between(100, 20_000);
                self.crash(node, Some(pause));
                return false;
            }
            Err(NotDone::Fault | NotDone::Conflict) => {
                if let Some(former) = self.peer(node, &name) {
                    former.doubted = true;
                }
                return false;
            }
        };
        self.ledger.related(node, with, now);
        let former = self.peer(node, &name).and_then(|peer| peer.seat);
        if let Some(seat) = former {
            self.end(seat.stream, node, "the relationship begins anew");
        }
        let epoch = self.dice.roll();
        let Some(life) = &mut self.clusters[node].life else { return false };
        let imports = Imports::new(name, None, BTreeMap::new());
        life.know(PeerLife::new(record, revision, imports, now, epoch), now);
        true
    }

    /// An operator ends a relationship; the other side is told if it can be.
    fn part(&mut self, node: usize) -> &'static str {
        let Some(life) = &self.clusters[node].life else { return "a removal that is not possible" };
        let names: Vec<_> = life.peers.keys().cloned().collect();
        if names.is_empty() {
            return "a removal that is not possible";
        }
        let name = names[self.dice.index(names.len())].clone();
        self.remove_peer(node, &name);
        "remove a peer"
    }

    pub(crate) fn remove_peer(&mut self, node: usize, name: &federation::model::ClusterName) {
        let now = self.now;
        let Some(peer) = self.peer(node, name) else { return };
        let (record, seat) = (peer.record.clone(), peer.seat);
        self.log.say(now, format_args!("{} removes {name}", self.clusters[node].name));
        if let Some(seat) = seat {
            let at = usize::from(self.streams.get(&seat.stream).is_some_and(|s| s.sides[0].node != node));
            let by = self.clusters[node].name.clone();
            let farewell = Utterance::Farewell { by, relationship: record.relationship };
            self.send(seat.stream, at, Word::Said(farewell, None));
        }
        match self.clusters[node].disk.commit(&conversation::deleted(&record)) {
            Ok(_) => {}
            Err(NotDone::Crashed) => {
                let pause = self.dice.between(100, 20_000);
                self.crash(node, Some(pause));
                return;
            }
            Err(NotDone::Fault | NotDone::Conflict) => {
                // The operator is told so, and will try again; the peer may have heard of it already.
                self.owed_removals.insert((node, name.clone()));
                if let Some(peer) = self.peer(node, name) {
                    peer.doubted = true;
                }
                return;
            }
        }
        if let Some(seat) = seat {
            self.end(seat.stream, node, "the relationship is over");
        }
        let Some(life) = &mut self.clusters[node].life else { return };
        life.peers.remove(name);
        life.sight(name, membership::Event::Forgotten, now);
        life.catalog.apply(Event::PeerRemoved(name.clone()));
        self.settle(node);
    }

    fn move_gateways(&mut self, node: usize) -> &'static str {
        let port = self.ledger.move_gateways(node);
        for id in self.streams_of(node) {
            let at = usize::from(self.streams[&id].sides[0].node != node);
            if self.streams[&id].sides[at].phase == crate::network::Phase::Open {
                self.send(id, at, Word::Gateways(port));
            }
        }
        "move gateways"
    }
}

fn domain(name: &str) -> TrustDomain {
    format!("{name}.example").as_str().try_into().expect("a trust domain")
}

//! What the shell of a peering stream does, in virtual time: dial, greet, take seats, say, hear, keep.

use federation::catalog::Event;
use federation::control::Path;
use federation::model::{ClusterName, GatewayAddress, RelationshipState};
use federation::peering::Settings;
use federation::peering::conversation::{self, Greeting, Heard, Message, Reread, Speaker, Utterance};
use federation::peering::exports::{Offer, View};
use federation::peering::imports::{Changed, Imports, Position};
use federation::peering::membership;
use federation::peering::records::PeerRecord;
use federation::peering::seat::{Claim, Dialled, wants_dial};
use federation::store::codec;
use federation::store::keys::Place;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{PeerLife, Seat, instant};
use crate::disk::NotDone;
use crate::mutation::Mutation;
use crate::network::{IN_FLIGHT_MAX, Mark, Phase, Side, Stream, Wire, Word};
use crate::world::{Step, World};

pub(crate) const SILENCE_MS: u64 = 15_000;
const HELLO_MS: u64 = 5_000;
const HEARTBEAT_MS: u64 = 5_000;
const BATCH_MAX: u64 = 64;

pub(crate) fn patience_ms(phase: Phase) -> u64 {
    if phase == Phase::Greets { HELLO_MS } else { SILENCE_MS }
}

/// Why a batch did not end as it should.
enum Fallen {
    Ended(&'static str),
    Crashed,
}

impl World {
    pub(crate) fn dial_who_is_due(&mut self, node: usize) {
        let now = self.now;
        let Some(life) = &self.clusters[node].life else { return };
        let due = |peer: &PeerLife| !peer.dialling && peer.dials_at.is_some_and(|at| at <= now);
        let due: Vec<_> =
            life.peers.iter().filter(|(_, peer)| due(peer)).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.dial(node, &name);
        }
    }

    fn dial(&mut self, node: usize, name: &ClusterName) {
        if !self.refresh(node, name) {
            return;
        }
        let (now, mutation) = (self.now, self.mutation);
        let Some(life) = &mut self.clusters[node].life else { return };
        let Some(peer) = life.peers.get_mut(name) else { return };
        peer.dials_at = None;
        let there = peer.seat.map(|seat| seat.claim.dialled);
        let wanted = wants_dial(&peer.record.peer, there) || mutation == Some(Mutation::DialsTheRemoved);
        if !wanted {
            return;
        }
        peer.dialling = true;
        let (to, life) = (self.names[name], self.clusters[node].lives);
        self.ledger.dialled(now, &self.clusters[node], name);
        let pause = self.dice.between(1, 400);
        self.after(pause, Step::Connect { from: node, life, to });
    }

    /// Before a stream begins: what a failed write may have changed is read again; false while it cannot be.
    fn refresh(&mut self, node: usize, name: &ClusterName) -> bool {
        let now = self.now;
        let cluster = &mut self.clusters[node];
        let Some(life) = &mut cluster.life else { return false };
        let Some(peer) = life.peers.get_mut(name).filter(|peer| peer.doubted) else { return true };
        if cluster.disk.unavailable {
            peer.dials_at = Some(now + 1_000);
            return false;
        }
        let found = cluster.disk.get(&Place::Peer(name.clone()).key());
        let found = found
            .map(|entry| (codec::decode::<PeerRecord>(&entry.value).expect("written by us"), entry.revision));
        peer.doubted = false;
        match conversation::reread((&peer.record, peer.revision), found) {
            Reread::Same => true,
            Reread::Gone => {
                life.peers.remove(name);
                life.catalog.apply(Event::PeerRemoved(name.clone()));
                life.sight(name, membership::Event::Forgotten, now);
                false
            }
            Reread::Anew(record, revision) => {
                self.ledger.related(node, self.names[name], now);
                let imports = Imports::new(name.clone(), None, BTreeMap::new());
                let epoch = self.dice.roll();
                life.know(PeerLife::new(record, revision, imports, now, epoch), now);
                false
            }
            Reread::Changed(record, revision) => {
                let ended = record.peer.state != RelationshipState::Active;
                (peer.record, peer.revision) = (record.clone(), revision);
                if ended {
                    peer.imports = Imports::new(name.clone(), None, BTreeMap::new());
                    life.sight(name, membership::Event::Forgotten, now);
                    let imports = BTreeMap::new();
                    life.catalog.apply(Event::ImportsReplaced { peer: name.clone(), imports });
                }
                life.catalog.apply(Event::PeerChanged(record.peer));
                !ended
            }
        }
    }

    pub(crate) fn connect(&mut self, from: usize, life: u64, to: usize) {
        if self.clusters[from].lives != life || self.clusters[from].life.is_none() {
            return;
        }
        let (ours, theirs) = (self.clusters[from].name.clone(), self.clusters[to].name.clone());
        let answers = !self.is_cut(from, to) && self.speaks(to, &ours);
        let now = self.now;
        let Some(peer) = self.peer(from, &theirs) else { return };
        peer.dialling = false;
        if !answers {
            self.failed_to_dial(from, &theirs);
        } else if self.peer(from, &theirs).is_some_and(|peer| peer.is_active()) {
            let id =
                self.streams.keys().next_back().map_or(1, |last| last + 1).max(self.ledger.next_stream());
            let claim = Claim { dialled: Dialled::ByUs, epoch: None };
            if self.take_seat(from, &theirs, Seat { stream: id, claim }) {
                let sides = [Side::new(from, now), Side::new(to, now)];
                self.streams.insert(id, Stream { sides, wires: [Wire::default(), Wire::default()] });
                self.log.say(now, format_args!("{ours} dials {theirs}: stream {id}"));
                self.greet(id, 0);
            }
        }
        self.settle(from);
    }

    fn speaks(&self, node: usize, to: &ClusterName) -> bool {
        let life = self.clusters[node].life.as_ref();
        life.and_then(|life| life.peers.get(to)).is_some_and(|peer| peer.is_active())
    }

    fn failed_to_dial(&mut self, node: usize, name: &ClusterName) {
        let (now, chance, redial) = (self.now, self.dice.unit(), self.redial);
        let Some(peer) = self.peer(node, name) else { return };
        peer.failures += 1;
        let pause = redial.after(peer.failures, chance).as_millis() as u64;
        peer.dials_at = Some(now + pause);
    }

    /// As `PeerState::take_seat`: the one that was there ends.
    fn take_seat(&mut self, node: usize, name: &ClusterName, seat: Seat) -> bool {
        let ours = self.clusters[node].name.clone();
        let Some(peer) = self.peer(node, name) else { return false };
        let there = peer.seat;
        if there.is_some_and(|there| !seat.claim.beats(there.claim, &ours, name)) {
            return false;
        }
        peer.seat = Some(seat);
        if let Some(former) = there {
            self.end(former.stream, node, "another stream takes its place");
        }
        true
    }

    fn greet(&mut self, id: u64, side: usize) {
        let node = self.streams[&id].sides[side].node;
        let name = self.clusters[self.streams[&id].sides[1 - side].node].name.clone();
        let cluster = self.clusters[node].name.clone();
        let Some(life) = &self.clusters[node].life else { return };
        let Some(peer) = life.peers.get(&name) else { return };
        let (epoch, held) = (peer.epoch, peer.imports.held());
        self.send(id, side, Word::Greeting(Greeting { cluster, epoch, held, bundle: None }));
    }

    pub(crate) fn send(&mut self, id: u64, side: usize, word: Word) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let wire = &mut stream.wires[side];
        if wire.in_flight.len() >= IN_FLIGHT_MAX || !wire.waiting.is_empty() {
            wire.stuck_since.get_or_insert(now);
            wire.waiting.push_back(word);
            return;
        }
        let (from, to) = (stream.sides[side].node, stream.sides[1 - side].node);
        let latency = self.latency_ms.get(&(from, to)).copied().unwrap_or(5);
        let jitter = self.dice.below(latency + 1);
        let wire = &mut self.streams.get_mut(&id).expect("there a moment ago").wires[side];
        let arrival = wire.last_arrival.max(now + latency + jitter);
        wire.last_arrival = arrival;
        wire.in_flight.push_back((arrival, word));
        if !std::mem::replace(&mut wire.scheduled, true) {
            self.at(arrival, Step::Deliver { stream: id, from: side });
        }
    }

    pub(crate) fn deliver(&mut self, id: u64, from: usize) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (sender, receiver) = (stream.sides[from].node, stream.sides[1 - from].node);
        stream.wires[from].scheduled = false;
        if stream.sides[1 - from].phase == Phase::Gone {
            // What nobody reads any more is answered by the end of the connection.
            self.drop_wire(id, from);
            return;
        }
        let slow = self.clusters[receiver].slow_until;
        let later = if self.cuts.contains(&(sender, receiver)) { Some(now + 500) } else { None };
        if let Some(later) = later.or_else(|| (slow > now).then_some(slow)) {
            self.streams.get_mut(&id).expect("there a moment ago").wires[from].scheduled = true;
            self.at(later, Step::Deliver { stream: id, from });
            return;
        }
        let batch_max = self.dice.between(1, BATCH_MAX) as usize;
        let wire = &mut self.streams.get_mut(&id).expect("there a moment ago").wires[from];
        let mut batch = Vec::new();
        while batch.len() < batch_max
            && let Some((_, word)) = wire.in_flight.pop_front_if(|(arrival, _)| *arrival <= now)
        {
            batch.push(word);
        }
        self.refill(id, from);
        self.take_batch(id, 1 - from, batch);
        self.settle(receiver);
    }

    /// The writer gets rid of what had to wait, as far as there is room.
    fn refill(&mut self, id: u64, from: usize) {
        let wire = &mut self.streams.get_mut(&id).expect("a stream that is delivered").wires[from];
        let room = IN_FLIGHT_MAX - wire.in_flight.len().min(IN_FLIGHT_MAX);
        let moved: Vec<_> = (0..room).map_while(|_| wire.waiting.pop_front()).collect();
        let rest = std::mem::take(&mut wire.waiting);
        wire.stuck_since = None;
        for word in moved {
            self.send(id, from, word);
        }
        let now = self.now;
        let wire = &mut self.streams.get_mut(&id).expect("a stream that is delivered").wires[from];
        wire.stuck_since = (!rest.is_empty()).then_some(now);
        wire.waiting = rest;
        if let Some((arrival, _)) = wire.in_flight.front()
            && !wire.scheduled
        {
            wire.scheduled = true;
            let arrival = *arrival;
            self.at(arrival, Step::Deliver { stream: id, from });
        }
    }

    fn drop_wire(&mut self, id: u64, from: usize) {
        let stream = self.streams.get_mut(&id).expect("a stream that is delivered");
        stream.wires[from] = Wire::default();
        if stream.sides[from].phase != Phase::Gone && stream.wires[1 - from].in_flight.is_empty() {
            self.send(id, 1 - from, Word::Close);
        }
        if self.streams.get(&id).is_some_and(Stream::is_gone) {
            self.streams.remove(&id);
        }
    }

    fn take_batch(&mut self, id: u64, side: usize, batch: Vec<Word>) {
        let now = self.now;
        let node = self.streams[&id].sides[side].node;
        self.streams.get_mut(&id).expect("delivered").sides[side].heard_at = now;
        let mut said = Vec::new();
        for word in batch {
            match word {
                Word::Greeting(greeting) => self.hear_greeting(id, side, greeting),
                Word::Close => {
                    self.hear_words(id, side, std::mem::take(&mut said));
                    self.end(id, node, "the peer has closed it");
                }
                word => said.push(word),
            }
        }
        self.hear_words(id, side, said);
    }

    fn hear_greeting(&mut self, id: u64, side: usize, mut greeting: Greeting) {
        let node = self.streams[&id].sides[side].node;
        let name = greeting.cluster.clone();
        let epoch = self.peer(node, &name).map_or(0, |peer| peer.epoch);
        if self.mutation == Some(Mutation::MixesEpochs) {
            greeting.held = greeting.held.map(|held| Position { epoch, ..held });
        }
        let known = self.refresh(node, &name) && self.speaks(node, &name);
        let theirs = conversation::introduction(epoch, &name, Some(greeting.into()));
        let Some(theirs) = theirs.ok().filter(|_| known) else {
            self.end(id, node, "no greeting of a peer");
            return;
        };
        if side == 1 {
            let claim = Claim { dialled: Dialled::ByPeer, epoch: Some(theirs.epoch) };
            if !self.take_seat(node, &name, Seat { stream: id, claim }) {
                self.end(id, node, "there is a stream already");
                return;
            }
            self.greet(id, side);
        } else if let Some(peer) = self.peer(node, &name) {
            let Some(seat) = peer.seat.as_mut().filter(|seat| seat.stream == id) else {
                self.end(id, node, "another stream has its place");
                return;
            };
            seat.claim.epoch = Some(theirs.epoch);
            peer.failures = 0;
        }
        self.open(id, side, &name, &theirs);
    }

    fn open(&mut self, id: u64, side: usize, name: &ClusterName, theirs: &conversation::Introduction) {
        let now = self.now;
        let (node, redial) = (self.streams[&id].sides[side].node, self.dice.between(20_000, 90_000));
        let mixes = self.mutation == Some(Mutation::MixesEpochs);
        let Some(life) = &mut self.clusters[node].life else { return };
        let Some(peer) = life.peers.get_mut(name) else { return };
        if mixes && let Some(held) = peer.imports.held() {
            let held = Some(Position { epoch: theirs.epoch, ..held });
            peer.imports = Imports::new(name.clone(), held, peer.imports.services().clone());
        }
        peer.imports.begin(theirs.epoch);
        if side == 0 {
            peer.dials_at = Some(now + redial);
        }
        let holds = peer.imports.held_of_this_life();
        life.sight(name, membership::Event::Resumes(holds), now);
        let speaker = Speaker::new(name.clone(), theirs.held, Settings::default().updates, instant(now));
        let opened = &mut self.streams.get_mut(&id).expect("greeted").sides[side];
        opened.speaker = Some(speaker);
        opened.phase = Phase::Open;
        opened.their_epoch = theirs.epoch;
        opened.heartbeat_at = now;
        let ours = self.clusters[node].name.clone();
        self.log.say(
            now,
            format_args!("{ours} has stream {id} with {name}, holds {holds}, is held {:?}", theirs.held),
        );
        self.send(id, side, Word::Gateways(self.ledger.gateways(node)));
    }

    /// Messages that came together: judged, made durable, told, in this order.
    fn hear_words(&mut self, id: u64, side: usize, words: Vec<Word>) {
        let open = self.streams.get(&id).is_some_and(|stream| stream.sides[side].phase == Phase::Open);
        if words.is_empty() || !open {
            return;
        }
        let node = self.streams[&id].sides[side].node;
        let name = self.clusters[self.streams[&id].sides[1 - side].node].name.clone();
        match self.judge(node, &name, words) {
            Ok(()) => {}
            Err(Fallen::Ended(why)) => self.end(id, node, why),
            Err(Fallen::Crashed) => {
                let pause = self.dice.between(100, 20_000);
                self.crash(node, Some(pause));
            }
        }
    }

    fn judge(&mut self, node: usize, name: &ClusterName, words: Vec<Word>) -> Result<(), Fallen> {
        let now = self.now;
        let wall = self.clusters[node].wall(now);
        let cluster = &mut self.clusters[node];
        let Some(life) = &mut cluster.life else { return Ok(()) };
        let Some(peer) = life.peers.get_mut(name) else { return Err(Fallen::Ended("no such peer")) };
        let (mut next, mut changed) = (peer.imports.draft(), Changed::default());
        let (mut mark, mut farewell, mut ended) = (None, false, None);
        for word in words {
            let Word::Said(utterance, marked) = word else {
                if let Word::Gateways(port) = word {
                    ended = cluster.take_gateways(name, port).err();
                }
                if ended.is_some() {
                    break;
                }
                continue;
            };
            let Some(body) = Message::from(utterance).body else { continue };
            let life = cluster.life.as_mut().expect("alive");
            match conversation::hear(body, &mut next, &mut changed) {
                Ok(Heard::Exports) => mark = None,
                Ok(Heard::Reached(revision)) => {
                    life.sight(name, membership::Event::Reached(revision), now);
                    self.ledger.reached(node, name, now, next.held(), revision);
                }
                Ok(Heard::Farewell(said)) => {
                    let peer = cluster.life.as_ref().and_then(|life| life.peers.get(name));
                    farewell = peer.is_some_and(|peer| conversation::ends(&said, &peer.record));
                    if !farewell {
                        ended = Some(NotDone::Conflict);
                    }
                    break;
                }
                Ok(Heard::Refused(..) | Heard::Other(_)) => {}
                Err(_violation) => {
                    ended = Some(NotDone::Conflict);
                    self.ledger.broke_protocol(now, name, &cluster.name, &_violation.to_string());
                    break;
                }
            }
            if marked.is_some() {
                mark = marked;
            }
        }
        if changed.position.is_some() {
            cluster
                .keep(name, next, changed, now)
                .inspect_err(|_| self.ledger.unsure(node, name))
                .map_err(fallen)?;
            self.ledger.moved(node, name, now);
        } else if let Some(peer) = cluster.life.as_mut().and_then(|life| life.peers.get_mut(name)) {
            peer.imports = next;
        }
        if farewell {
            cluster.ended_by_peer(name, wall, now).map_err(fallen)?;
            return Err(Fallen::Ended("the peer ended the relationship"));
        }
        if let Some(Mark { view, at }) = mark {
            self.ledger.compare(node, name, now, &self.clusters[node], &view, at);
        }
        ended.map_or(Ok(()), |why| Err(fallen(why)))
    }

    /// Both halves of a stream at one cluster, as far as they work by themselves.
    pub(crate) fn wake_streams(&mut self, node: usize) {
        for id in self.streams_of(node) {
            self.wake_stream(id, node);
        }
    }

    fn wake_stream(&mut self, id: u64, node: usize) {
        let now = self.now;
        let stream = &self.streams[&id];
        let at = usize::from(stream.sides[0].node != node);
        let (side, wire) = (&stream.sides[at], &stream.wires[at]);
        if now > side.heard_at + patience_ms(side.phase) {
            self.end(id, node, "nothing came for too long");
        } else if wire.stuck_since.is_some_and(|since| now > since + SILENCE_MS) {
            self.end(id, node, "the peer takes no messages");
        } else if wire.waiting.is_empty() && side.phase == Phase::Open {
            self.speak(id, at, node);
        }
    }

    fn speak(&mut self, id: u64, at: usize, node: usize) {
        let now = self.now;
        let name = self.clusters[self.streams[&id].sides[1 - at].node].name.clone();
        let leaks = self.mutation == Some(Mutation::ExportsMore);
        let Some(life) = &mut self.clusters[node].life else { return };
        let snapshot = life.snapshot.clone();
        let Some(peer) = life.peers.get_mut(&name) else { return };
        let side = &mut self.streams.get_mut(&id).expect("of this cluster").sides[at];
        let Some(speaker) = &mut side.speaker else { return };
        let mut said = Vec::new();
        if speaker.due_at(instant(now)).is_some_and(|due| due <= instant(now)) {
            said = speaker.flush(&snapshot, &mut peer.exports, instant(now)).said;
        }
        if said.is_empty() && side.heartbeat_at <= now {
            said.push(speaker.heartbeat());
        }
        if side.heartbeat_at <= now {
            side.heartbeat_at = now + HEARTBEAT_MS;
        }
        let last = said.len();
        let mut view = if last > 1 { View::of(&snapshot, &name) } else { View::default() };
        let loses = self.mutation == Some(Mutation::LosesAWord);
        for (number, mut utterance) in said.into_iter().enumerate() {
            if leaks && let Utterance::Offered(revision, offer) = &utterance {
                let ports = offer.ports.iter().cloned().map(|mut port| {
                    port.port += 1000;
                    port
                });
                let offer = Offer { ports: ports.collect(), ..Offer::clone(offer) };
                utterance = Utterance::Offered(*revision, Arc::new(offer));
            }
            if loses
                && matches!(utterance, Utterance::Withdrawn(..) | Utterance::Offered(..))
                && self.dice.percent(10)
            {
                continue;
            }
            // Only at the end of a flush has the peer been told everything.
            let flushed = number + 1 == last && last > 1 && !leaks;
            let mark = flushed.then(|| Mark { view: Arc::new(std::mem::take(&mut view.offers)), at: now });
            self.send(id, at, Word::Said(utterance, mark));
        }
    }

    /// A cluster lets go of a stream; the other side hears of it.
    pub(crate) fn end(&mut self, id: u64, node: usize, why: &str) {
        let Some(stream) = self.streams.get(&id) else { return };
        let Some(at) = stream.sides.iter().position(|side| side.node == node) else { return };
        if stream.sides[at].phase == Phase::Gone {
            return;
        }
        let greeted = stream.sides[at].phase == Phase::Open;
        let name = self.clusters[stream.sides[1 - at].node].name.clone();
        let ours = self.clusters[node].name.clone();
        self.log.say(self.now, format_args!("{ours} ends stream {id} with {name}: {why}"));
        self.abandon(id, at, true);
        let now = self.now;
        let Some(peer) = self.peer(node, &name) else { return };
        if peer.seat.is_some_and(|seat| seat.stream == id) {
            peer.seat = None;
        }
        if peer.seat.is_some() {
            return;
        }
        if at == 0 && !greeted {
            self.failed_to_dial(node, &name);
        } else {
            peer.dials_at = Some(now);
        }
    }

    /// One end is gone; whether its connection is closed, or just not there any more.
    pub(crate) fn abandon(&mut self, id: u64, at: usize, told: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.sides[at].phase = Phase::Gone;
        stream.sides[at].speaker = None;
        stream.wires[at].waiting.clear();
        stream.wires[at].stuck_since = None;
        if told {
            self.send(id, at, Word::Close);
        }
        if self.streams.get(&id).is_some_and(Stream::is_gone) {
            self.streams.remove(&id);
        }
    }

    /// Gateways look at the path to each peer, and report what they see.
    pub(crate) fn probe(&mut self, node: usize) {
        let now = self.now;
        let Some(life) = &self.clusters[node].life else { return };
        let peers: Vec<_> =
            life.peers.iter().filter(|(_, peer)| peer.is_active()).map(|(name, _)| name.clone()).collect();
        for name in peers {
            let up = !self.is_cut(node, self.names[&name]);
            let path = if up { Path::Up { round_trip: Duration::from_millis(10) } } else { Path::Down };
            let Some(life) = &mut self.clusters[node].life else { return };
            life.sight(&name, membership::Event::Path(path), now);
            self.ledger.path(node, &name, up);
        }
        self.settle(node);
    }

    pub(crate) fn peer(&mut self, node: usize, name: &ClusterName) -> Option<&mut PeerLife> {
        self.clusters[node].life.as_mut()?.peers.get_mut(name)
    }

    pub(crate) fn side_of(&mut self, id: u64, node: usize) -> Option<&mut Side> {
        self.streams.get_mut(&id)?.sides.iter_mut().find(|side| side.node == node)
    }
}

fn fallen(why: NotDone) -> Fallen {
    match why {
        NotDone::Crashed => Fallen::Crashed,
        NotDone::Fault => Fallen::Ended("the store failed"),
        NotDone::Conflict => Fallen::Ended("the store says that something else has changed"),
    }
}

impl crate::cluster::Cluster {
    /// Makes changes durable, then tells the catalog.
    fn keep(&mut self, name: &ClusterName, next: Imports, changed: Changed, now: u64) -> Result<(), NotDone> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let Some(peer) = life.peers.get_mut(name) else { return Ok(()) };
        for transaction in conversation::transactions(name, peer.revision, &changed) {
            if let Err(failed) = self.disk.commit(&transaction) {
                peer.imports.doubt(&changed);
                peer.doubted |= failed == NotDone::Conflict;
                return Err(failed);
            }
        }
        let position = changed.position;
        peer.imports = next;
        for event in conversation::news(name, &peer.imports, changed) {
            life.catalog.apply(event);
        }
        if let Some(Position { revision, .. }) = position {
            life.sight(name, membership::Event::Holds(revision), now);
        }
        Ok(())
    }

    fn take_gateways(&mut self, name: &ClusterName, port: u16) -> Result<(), NotDone> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let Some(peer) = life.peers.get_mut(name) else { return Ok(()) };
        let mut record = peer.record.clone();
        record.peer.gateways = vec![gateway(port)];
        if record == peer.record {
            return Ok(());
        }
        match self.disk.commit(&conversation::changed(&record, peer.revision)) {
            Ok(revision) => {
                (peer.record, peer.revision) = (record.clone(), revision);
                life.catalog.apply(Event::PeerChanged(record.peer));
                Ok(())
            }
            Err(failed) => {
                peer.doubted = true;
                Err(failed)
            }
        }
    }

    fn ended_by_peer(
        &mut self,
        name: &ClusterName,
        at: federation::model::Timestamp,
        now: u64,
    ) -> Result<(), NotDone> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let Some(peer) = life.peers.get_mut(name) else { return Ok(()) };
        let (record, transaction) = conversation::ended(peer.record.clone(), peer.revision, at);
        match self.disk.commit(&transaction) {
            Ok(revision) => (peer.record, peer.revision) = (record.clone(), revision),
            Err(failed) => {
                peer.doubted = true;
                return Err(failed);
            }
        }
        peer.imports = Imports::new(name.clone(), None, BTreeMap::new());
        if life.mutation == Some(Mutation::KeepsTheRemoved) {
            return Ok(());
        }
        life.sight(name, membership::Event::Forgotten, now);
        life.catalog.apply(Event::ImportsReplaced { peer: name.clone(), imports: BTreeMap::new() });
        life.catalog.apply(Event::PeerChanged(record.peer));
        Ok(())
    }
}

pub(crate) fn gateway(port: u16) -> GatewayAddress {
    format!("192.0.2.1:{port}").parse().expect("an address")
}

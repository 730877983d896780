//! What a peer offers us, received message by message; pure.
//!
//! ```text
//!   FullBegin ─► Service... ─► FullEnd      staged, then compared with what is held: never cleared first
//!   Service | ServiceRemoved                one revision each, in order
//! ```
//! A message is answered by what it changes, or by a refusal that leaves what was held as it is. What
//! an honest peer cannot say ends the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::exports::{Offer, PLACES_MAX, SERVICES_MAX};
use super::proto;
use super::wire::{self, InvalidService};
use crate::model::{ClusterName, Freshness, Import, ServiceName};
use crate::store::Revision;

/// How far a peer's exports are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    pub epoch: u64,
    pub revision: Revision,
}

/// One peer's exports as they are held here.
#[derive(Debug, Clone)]
pub struct Imports {
    peer: ClusterName,
    epoch: u64,
    held: Option<Position>,
    services: Services,
    staged: Option<Services>,
    /// Whose durable value is not known, since a write of them failed.
    doubted: BTreeSet<ServiceName>,
}

/// Services with the number of their places and addresses, which is bounded.
#[derive(Debug, Clone, Default)]
struct Services {
    /// Shared by copies until one of them changes.
    by_name: Arc<BTreeMap<ServiceName, Arc<Import>>>,
    places: usize,
}

/// What messages have changed; to be made durable before it is acknowledged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changed {
    pub put: BTreeMap<ServiceName, Arc<Import>>,
    pub removed: Vec<ServiceName>,
    /// Where the peer's exports are held to, once this is durable.
    pub position: Option<Position>,
}

/// A service that is not taken; what was held of it stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Service(#[from] InvalidService),
    #[error("more than {SERVICES_MAX} services")]
    TooManyServices,
    #[error("more than {PLACES_MAX} places and addresses in all services")]
    TooManyPlaces,
}

/// What ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a change came before everything was sent once")]
    NothingToChange,
    #[error("revision {said} came after revision {held}")]
    Backwards { held: Revision, said: Revision },
    #[error("the end of everything came without its begin")]
    EndWithoutBegin,
    #[error("everything began twice")]
    BeganTwice,
    #[error("a service that is no service was removed")]
    NotAService,
}

impl Imports {
    /// What was read back from the store.
    pub fn new(
        peer: ClusterName,
        held: Option<Position>,
        services: BTreeMap<ServiceName, Arc<Import>>,
    ) -> Self {
        let services = Services::of(services);
        Self { peer, epoch: 0, held, services, staged: None, doubted: BTreeSet::new() }
    }

    /// Where a new stream can go on.
    pub fn held(&self) -> Option<Position> {
        self.held
    }

    pub fn services(&self) -> &BTreeMap<ServiceName, Arc<Import>> {
        &self.services.by_name
    }

    /// A copy to work on. What is staged moves there: a stream that fails is followed by one that begins
    /// anew, and a copy for every few messages would be much work for little (T16).
    pub fn draft(&mut self) -> Self {
        let staged = self.staged.take();
        Self { staged, ..self.clone() }
    }

    /// A write of these changes failed, and may have happened all the same: what is said of them next is
    /// written, even if it is what was held before.
    pub fn doubt(&mut self, changed: &Changed) {
        self.doubted.extend(changed.put.keys().chain(&changed.removed).cloned());
    }

    /// A stream begins, with the epoch that its revisions belong to.
    pub fn begin(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.staged = None;
    }

    /// How far the peer's exports of its present life are held.
    pub fn held_of_this_life(&self) -> Revision {
        let held = self.held.filter(|held| held.epoch == self.epoch);
        held.map_or(Revision::default(), |held| held.revision)
    }

    pub fn full_begin(&mut self) -> Result<(), Violation> {
        match self.staged.replace(Services::default()) {
            None => Ok(()),
            Some(_) => Err(Violation::BeganTwice),
        }
    }

    /// Takes a service; inside of a full it only counts at the end.
    pub fn service(
        &mut self,
        said: proto::Service,
        changed: &mut Changed,
    ) -> Result<Result<(), Refusal>, Violation> {
        let revision = Revision(said.revision);
        if self.staged.is_none() {
            self.advance(revision, changed)?;
        }
        let name = wire::service_name(&said.namespace, &said.name);
        let room = self.staged.as_ref().unwrap_or(&self.services);
        let offer = Offer::try_from(said).map_err(Refusal::from).and_then(|offer| room.fits(offer));
        match offer {
            Ok(offer) => self.put(offer, changed),
            Err(refusal) => {
                // Refused within a full: what was held of it must not vanish for that.
                if let (Some(staged), Ok(name)) = (&mut self.staged, name)
                    && let Some(held) = self.services.by_name.get(&name)
                {
                    staged.put(held.clone());
                }
                return Ok(Err(refusal));
            }
        }
        Ok(Ok(()))
    }

    pub fn removed(&mut self, said: &proto::ServiceRemoved, changed: &mut Changed) -> Result<(), Violation> {
        let name =
            wire::service_name(&said.namespace, &said.name).map_err(|_invalid| Violation::NotAService)?;
        self.advance(Revision(said.revision), changed)?;
        if self.services.remove(&name) | self.doubted.remove(&name) {
            changed.put.remove(&name);
            changed.removed.push(name);
        }
        Ok(())
    }

    /// Everything was said: what is not in it is gone.
    pub fn full_end(&mut self, revision: Revision, changed: &mut Changed) -> Result<(), Violation> {
        let staged = self.staged.take().ok_or(Violation::EndWithoutBegin)?;
        let (before, after) = (&self.services.by_name, &staged.by_name);
        // The batch may have said something else before.
        changed.put.retain(|name, _| after.contains_key(name));
        changed.removed.retain(|name| !after.contains_key(name));
        let doubted = std::mem::take(&mut self.doubted);
        let held: BTreeSet<_> = before.keys().chain(&doubted).collect();
        changed.removed.extend(held.into_iter().filter(|name| !after.contains_key(*name)).cloned());
        let differing = after
            .iter()
            .filter(|(name, import)| doubted.contains(*name) || before.get(*name) != Some(*import));
        changed.put.extend(differing.map(|(name, import)| (name.clone(), import.clone())));
        self.services = staged;
        self.hold(revision, changed);
        Ok(())
    }

    fn advance(&mut self, revision: Revision, changed: &mut Changed) -> Result<(), Violation> {
        let held = self.held.filter(|held| held.epoch == self.epoch && self.staged.is_none());
        let held = held.ok_or(Violation::NothingToChange)?.revision;
        if revision <= held {
            return Err(Violation::Backwards { held, said: revision });
        }
        self.hold(revision, changed);
        Ok(())
    }

    fn hold(&mut self, revision: Revision, changed: &mut Changed) {
        self.held = Some(Position { epoch: self.epoch, revision });
        changed.position = self.held;
    }

    fn put(&mut self, offer: Offer, changed: &mut Changed) {
        let name = offer.service.clone();
        let import = Arc::new(self.import(offer));
        if let Some(staged) = &mut self.staged {
            staged.put(import);
        } else if self.doubted.remove(&name) | (self.services.by_name.get(&name) != Some(&import)) {
            self.services.put(import.clone());
            changed.removed.retain(|removed| *removed != name);
            changed.put.insert(name, import);
        }
    }

    fn import(&self, offer: Offer) -> Import {
        let Offer { service, kind, ports, created, groups, endpoints } = offer;
        // How fresh a peer is, is said of the peer; the catalog knows it.
        let freshness = Freshness::Suspect;
        Import { service, peer: self.peer.clone(), kind, ports, created, groups, endpoints, freshness }
    }
}

impl Services {
    fn of(by_name: BTreeMap<ServiceName, Arc<Import>>) -> Self {
        let places = by_name.values().map(|import| places(import)).sum();
        Self { by_name: Arc::new(by_name), places }
    }

    fn put(&mut self, import: Arc<Import>) {
        self.remove(&import.service);
        self.places += places(&import);
        Arc::make_mut(&mut self.by_name).insert(import.service.clone(), import);
    }

    fn remove(&mut self, name: &ServiceName) -> bool {
        let Some(held) = self.by_name.get(name) else { return false };
        self.places -= places(held);
        Arc::make_mut(&mut self.by_name).remove(name).is_some()
    }

    /// Judges an offer by the room that all others leave.
    fn fits(&self, offer: Offer) -> Result<Offer, Refusal> {
        let held = self.by_name.get(&offer.service);
        if held.is_none() && self.by_name.len() >= SERVICES_MAX {
            return Err(Refusal::TooManyServices);
        }
        let others = self.places - held.map_or(0, |import| places(import));
        if others + offer.places() > PLACES_MAX {
            return Err(Refusal::TooManyPlaces);
        }
        Ok(offer)
    }
}

fn places(import: &Import) -> usize {
    import.groups.len() + import.endpoints.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn imports() -> Imports {
        let mut imports = Imports::new(ClusterName::try_from("cloud").unwrap(), None, BTreeMap::new());
        imports.begin(1);
        imports
    }

    fn said(revision: u64, name: &str, created: i64, groups: usize) -> proto::Service {
        proto::Service {
            revision,
            namespace: "shop".into(),
            name: name.into(),
            kind: proto::ServiceKind::ClusterSetIp.into(),
            created,
            groups: vec![proto::Group { ready: 1, weight: 1, ..Default::default() }; groups],
            ..Default::default()
        }
    }

    fn gone(revision: u64, name: &str) -> proto::ServiceRemoved {
        proto::ServiceRemoved { revision, namespace: "shop".into(), name: name.into() }
    }

    fn full(imports: &mut Imports, revision: u64, services: &[(&str, i64)]) -> Changed {
        let mut changed = Changed::default();
        imports.full_begin().unwrap();
        for (name, created) in services {
            imports.service(said(revision, name, *created, 1), &mut changed).unwrap().unwrap();
        }
        assert_eq!(changed, Changed::default(), "nothing counts before the end");
        imports.full_end(Revision(revision), &mut changed).unwrap();
        changed
    }

    /// After a fault of the store a commit may or may not have happened.
    #[test]
    fn what_may_have_been_written_is_written_again() {
        for full_follows in [false, true] {
            let mut imports = imports();
            full(&mut imports, 4, &[("a", 1), ("b", 1)]);
            let (mut lost, mut failed) = (imports.draft(), Changed::default());
            lost.service(said(5, "a", 2, 1), &mut failed).unwrap().unwrap();
            lost.removed(&gone(6, "b"), &mut failed).unwrap();
            lost.service(said(7, "c", 1, 1), &mut failed).unwrap().unwrap();
            imports.doubt(&failed);
            let (mut next, mut changed) = (imports.draft(), Changed::default());
            if full_follows {
                changed = full(&mut next, 9, &[("a", 1), ("b", 1)]);
            } else {
                next.removed(&gone(8, "c"), &mut changed).unwrap();
                next.service(said(9, "a", 1, 1), &mut changed).unwrap().unwrap();
                next.service(said(10, "b", 1, 1), &mut changed).unwrap().unwrap();
            }
            assert_eq!(names(&changed), (vec!["a".into(), "b".into()], vec!["c".into()]));
        }
    }

    fn names(changed: &Changed) -> (Vec<String>, Vec<String>) {
        let text = |name: &ServiceName| name.name.to_string();
        (changed.put.keys().map(text).collect(), changed.removed.iter().map(text).collect())
    }

    fn position(epoch: u64, revision: u64) -> Option<Position> {
        Some(Position { epoch, revision: Revision(revision) })
    }

    #[test]
    fn a_full_is_compared_and_never_cleared_first() {
        let mut imports = imports();
        full(&mut imports, 4, &[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(imports.held(), position(1, 4));
        imports.begin(2);
        assert_eq!(imports.services().len(), 3, "a new stream takes nothing away");
        let changed = full(&mut imports, 2, &[("a", 1), ("b", 2), ("d", 1)]);
        assert_eq!(names(&changed), (vec!["b".into(), "d".into()], vec!["c".into()]));
        assert_eq!(changed.position, position(2, 2));
    }

    #[test]
    fn an_interrupted_full_changes_nothing() {
        let mut imports = imports();
        full(&mut imports, 4, &[("a", 1), ("b", 1)]);
        imports.full_begin().unwrap();
        imports.begin(1);
        assert_eq!(imports.held(), position(1, 4));
        assert_eq!(imports.services().len(), 2);
        let mut changed = Changed::default();
        imports.service(said(5, "c", 1, 1), &mut changed).unwrap().unwrap();
        assert_eq!(changed.position, position(1, 5));
    }

    #[test]
    fn changes_come_in_order_and_after_everything() {
        let mut imports = imports();
        let mut changed = Changed::default();
        assert_eq!(imports.service(said(1, "a", 1, 1), &mut changed), Err(Violation::NothingToChange));
        assert_eq!(imports.full_end(Revision(1), &mut changed), Err(Violation::EndWithoutBegin));
        full(&mut imports, 4, &[("a", 1)]);
        let backwards = Violation::Backwards { held: Revision(4), said: Revision(4) };
        assert_eq!(imports.service(said(4, "a", 2, 1), &mut changed), Err(backwards.clone()));
        assert_eq!(imports.removed(&gone(4, "a"), &mut changed), Err(backwards));
        imports.begin(9);
        assert_eq!(imports.removed(&gone(5, "a"), &mut changed), Err(Violation::NothingToChange));
        imports.full_begin().unwrap();
        assert_eq!(imports.full_begin(), Err(Violation::BeganTwice));
        assert_eq!(imports.removed(&gone(9, "../x"), &mut changed), Err(Violation::NotAService));
    }

    #[test]
    fn what_comes_and_goes_in_one_batch_is_told_once() {
        let mut imports = imports();
        full(&mut imports, 1, &[("a", 1)]);
        let mut changed = Changed::default();
        imports.service(said(2, "b", 1, 1), &mut changed).unwrap().unwrap();
        imports.removed(&gone(3, "b"), &mut changed).unwrap();
        imports.removed(&gone(4, "a"), &mut changed).unwrap();
        imports.service(said(5, "a", 9, 1), &mut changed).unwrap().unwrap();
        assert_eq!(names(&changed), (vec!["a".into()], vec!["b".into()]));
        assert_eq!(changed.position, position(1, 5));
    }

    #[test]
    fn a_full_takes_back_what_its_batch_has_said_before() {
        let mut imports = imports();
        full(&mut imports, 1, &[("a", 1)]);
        let mut changed = Changed::default();
        imports.service(said(2, "b", 1, 1), &mut changed).unwrap().unwrap();
        imports.removed(&gone(3, "a"), &mut changed).unwrap();
        imports.full_begin().unwrap();
        imports.service(said(4, "a", 1, 1), &mut changed).unwrap().unwrap();
        imports.full_end(Revision(4), &mut changed).unwrap();
        assert_eq!(names(&changed), (vec!["a".into()], vec!["b".into()]));
    }

    #[test]
    fn a_message_costs_no_copy_of_all_that_is_held() {
        let mut imports = imports();
        full(&mut imports, 1, &[("a", 1)]);
        imports.full_begin().unwrap();
        imports.service(said(2, "b", 1, 1), &mut Changed::default()).unwrap().unwrap();
        let staged = Arc::as_ptr(&imports.staged.as_ref().unwrap().by_name);
        let mut draft = imports.draft();
        assert!(Arc::ptr_eq(&draft.services.by_name, &imports.services.by_name));
        draft.service(said(2, "c", 1, 1), &mut Changed::default()).unwrap().unwrap();
        assert_eq!(Arc::as_ptr(&draft.staged.as_ref().unwrap().by_name), staged);
        draft.removed(&gone(3, "a"), &mut Changed::default()).unwrap_err();
        draft.full_end(Revision(2), &mut Changed::default()).unwrap();
        assert_eq!((imports.services().len(), draft.services().len()), (1, 2), "the original stays");
    }

    #[test]
    fn a_refused_service_leaves_what_was_held() {
        let mut imports = imports();
        full(&mut imports, 1, &[("a", 1), ("b", 1)]);
        let mut changed = Changed::default();
        let broken = proto::Service { kind: 0, ..said(2, "a", 2, 1) };
        let refusal = Refusal::Service(InvalidService::Kind);
        assert_eq!(imports.service(broken.clone(), &mut changed), Ok(Err(refusal.clone())));
        assert_eq!(changed.position, position(1, 2), "the stream goes on after it");
        imports.full_begin().unwrap();
        assert_eq!(imports.service(broken, &mut changed), Ok(Err(refusal)));
        let mut changed = Changed::default();
        imports.full_end(Revision(3), &mut changed).unwrap();
        assert_eq!(names(&changed), (vec![], vec!["b".into()]));
    }

    #[test]
    fn one_peer_has_bounded_room() {
        let mut imports = imports();
        let all: Vec<_> = (0..SERVICES_MAX).map(|n| format!("s{n}")).collect();
        let services: Vec<_> = all.iter().map(|name| (name.as_str(), 1)).collect();
        full(&mut imports, 1, &services);
        let mut changed = Changed::default();
        let refused = imports.service(said(2, "one-more", 1, 1), &mut changed);
        assert_eq!(refused, Ok(Err(Refusal::TooManyServices)));
        assert_eq!(imports.service(said(3, "s0", 2, 1), &mut changed), Ok(Ok(())), "a change needs no room");
        for n in 0..500 {
            let name = format!("s{n}");
            let before = imports.services.places;
            let fits = imports.service(said(4 + n, &name, 3, 100), &mut changed).unwrap();
            assert_eq!(fits.is_err(), before + 99 > PLACES_MAX, "{n}: {before}");
        }
        assert!(imports.services.places <= PLACES_MAX && imports.services.places > PLACES_MAX - 100);
        let counted: usize = imports.services().values().map(|import| import.groups.len()).sum();
        assert_eq!(counted, imports.services.places);
    }

    #[derive(Debug, Clone)]
    enum Said {
        Begin(u64),
        FullBegin,
        Service(u64, u8, i32),
        Removed(u64, u8),
        FullEnd(u64),
    }

    fn anything() -> impl Strategy<Value = Said> {
        prop_oneof![
            (0..3_u64).prop_map(Said::Begin),
            Just(Said::FullBegin),
            (any::<u64>(), 0..5_u8, 0..3_i32)
                .prop_map(|(revision, name, kind)| Said::Service(revision, name, kind)),
            (0..20_u64, 0..5_u8, 0..3_i32)
                .prop_map(|(revision, name, kind)| Said::Service(revision, name, kind)),
            (0..20_u64, 0..5_u8).prop_map(|(revision, name)| Said::Removed(revision, name)),
            (0..20_u64).prop_map(Said::FullEnd),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: no panic, and the changes tell exactly what is held.
        #[test]
        fn changes_always_add_up_to_what_is_held(
            story in proptest::collection::vec((anything(), any::<bool>()), 0..60),
        ) {
            let mut imports = imports();
            let mut told: BTreeMap<ServiceName, Arc<Import>> = BTreeMap::new();
            let mut changed = Changed::default();
            for (step, ends_batch) in story {
                match step {
                    Said::Begin(epoch) => imports.begin(epoch),
                    Said::FullBegin => drop(imports.full_begin()),
                    Said::Service(revision, name, kind) => {
                        let said = proto::Service { kind, ..said(revision, &format!("s{name}"), 1, 2) };
                        drop(imports.service(said, &mut changed));
                    }
                    Said::Removed(revision, name) => drop(imports.removed(&gone(revision, &format!("s{name}")), &mut changed)),
                    Said::FullEnd(revision) => drop(imports.full_end(Revision(revision), &mut changed)),
                }
                if ends_batch {
                    let Changed { put, removed, .. } = std::mem::take(&mut changed);
                    removed.iter().for_each(|name| drop(told.remove(name)));
                    told.extend(put);
                    prop_assert_eq!(&told, imports.services());
                }
            }
        }
    }
}

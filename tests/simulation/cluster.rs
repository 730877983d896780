//! One cluster: what outlives a crash (disk, documents, clock), and one life of its federation process.
//!
//! A life is made of the real pure cores. What is here stands for the shells around them: read back at
//! start, commit before telling, tell before publishing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use federation::catalog::{AddressPool, Catalog, EndpointSlice, Event, Object, Recollection, Source};
use federation::control::state::Parts;
use federation::leader::first_generation;
use federation::model::{
    AppProtocol, ClusterName, Endpoint, Host, Label, Locality, ObjectKey, Readiness, RelationshipState,
    Service, ServiceKind, ServiceName, ServicePort, Timestamp, Transport,
};
use federation::peering::conversation;
use federation::peering::exports::ExportLog;
use federation::peering::imports::Imports;
use federation::peering::membership::{self, Membership, Thresholds};
use federation::peering::records::PeerRecord;
use federation::peering::seat::Claim;
use federation::snapshot::{LocalCluster, Snapshot};
use federation::store::keys;
use federation::store::{Revision, codec};

use crate::dice::Dice;
use crate::disk::{Disk, NotDone};
use crate::gateway::Gateway;
use crate::mutation::Mutation;

/// Small enough that numbers run out and are given away.
const POOL: &str = "127.80.0.0/28";
/// What could not be made durable is tried again this often.
const OWED_PAUSE_MS: u64 = 1000;

/// A service as the operator of a cluster wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) port: u16,
    pub(crate) ready: u32,
    pub(crate) draining: u32,
    pub(crate) exported: bool,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) name: ClusterName,
    pub(crate) disk: Disk,
    /// The clock on the wall, beside the true time.
    pub(crate) skew_seconds: i64,
    /// The directory of documents: the ground truth of what is offered.
    pub(crate) documents: BTreeMap<ServiceName, Spec>,
    pub(crate) life: Option<Life>,
    pub(crate) lives: u64,
    pub(crate) gateway: Gateway,
    /// Takes no messages until then.
    pub(crate) slow_until: u64,
    /// When it is next woken.
    pub(crate) wakes_at: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) epoch: u64,
    pub(crate) catalog: Catalog,
    recollection: Recollection,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) membership: Membership,
    pub(crate) peers: BTreeMap<ClusterName, PeerLife>,
    /// When the directory is read; nothing is published before.
    pub(crate) reads_at: Option<u64>,
    pub(crate) owed_at: Option<u64>,
    /// What the gateway was sent last.
    pub(crate) sent: Option<Parts>,
    pub(crate) mutation: Option<Mutation>,
}

#[derive(Debug)]
pub(crate) struct PeerLife {
    pub(crate) record: PeerRecord,
    pub(crate) revision: Revision,
    pub(crate) imports: Imports,
    /// The life of `exports`.
    pub(crate) epoch: u64,
    pub(crate) exports: ExportLog,
    pub(crate) seat: Option<Seat>,
    pub(crate) failures: u32,
    pub(crate) dials_at: Option<u64>,
    pub(crate) dialling: bool,
    /// A write of the relationship failed, and may have happened.
    pub(crate) doubted: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) stream: u64,
    pub(crate) claim: Claim,
}

impl PeerLife {
    pub(crate) fn new(
        record: PeerRecord,
        revision: Revision,
        imports: Imports,
        now: u64,
        epoch: u64,
    ) -> Self {
        Self {
            epoch,
            record,
            revision,
            imports,
            exports: ExportLog::default(),
            seat: None,
            failures: 0,
            dials_at: Some(now),
            dialling: false,
            doubted: false,
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.record.peer.state == RelationshipState::Active
    }
}

impl Cluster {
    pub(crate) fn new(name: ClusterName) -> Self {
        Self {
            name,
            disk: Disk::default(),
            skew_seconds: 0,
            documents: BTreeMap::new(),
            life: None,
            lives: 0,
            gateway: Gateway::default(),
            slow_until: 0,
            wakes_at: None,
        }
    }

    pub(crate) fn wall(&self, now: u64) -> Timestamp {
        Timestamp::from_unix(1_700_000_000 + (now / 1000) as i64 + self.skew_seconds)
    }

    /// A process starts: it reads back what the disk holds, and speaks of nothing yet.
    pub(crate) fn start(&mut self, now: u64, epoch: u64, reads_at: u64, mutation: Option<Mutation>) {
        self.lives += 1;
        let local = LocalCluster {
            name: self.name.clone(),
            trust_domain: format!("{}.example", self.name).as_str().try_into().expect("a trust domain"),
            locality: Locality::default(),
            gateways: None,
        };
        let snapshot = Arc::new(Snapshot::empty(Arc::new(local.clone())));
        // The counter in the store is raised by each life that leads.
        let epoch_of_leader = if mutation == Some(Mutation::ForgetsGenerations) { 1 } else { self.lives };
        let mut catalog = Catalog::new(local).after(first_generation(epoch_of_leader));
        let mut recollection =
            Recollection::new(AddressPool::new(POOL.parse().expect("a pool")).expect("a pool"));
        for prefix in [keys::documents(), keys::addresses(), keys::claims()] {
            let forgotten = mutation == Some(Mutation::ForgetsClaims) && prefix == keys::claims();
            for entry in self.disk.list(&prefix).iter().filter(|_| !forgotten) {
                if let Some(event) = recollection.recall(entry).expect("written by us") {
                    catalog.apply(event);
                }
            }
        }
        let membership = Membership::new(Thresholds::default());
        let mut life = Life {
            epoch,
            catalog,
            recollection,
            snapshot,
            membership,
            peers: BTreeMap::new(),
            reads_at: Some(reads_at),
            owed_at: None,
            sent: None,
            mutation,
        };
        for entry in self.disk.list(&keys::peers()) {
            let record: PeerRecord = codec::decode(&entry.value).expect("written by us");
            let name = record.peer.name.clone();
            let loaded = conversation::load(&name, &self.disk.list(&keys::imports_of(&name)));
            let imports = loaded.expect("written by us").imports;
            let epoch = Dice::new(life.epoch ^ entry.revision.0).roll();
            life.know(PeerLife::new(record, entry.revision, imports, now, epoch), now);
        }
        self.life = Some(life);
    }

    /// The directory is read, as a process does it when it starts.
    pub(crate) fn read_directory(&mut self, now: u64) {
        let wall = self.wall(now);
        let documents: Vec<_> =
            self.documents.iter().map(|(name, spec)| (name.clone(), spec.clone())).collect();
        let Some(life) = &mut self.life else { return };
        life.reads_at = None;
        for (name, spec) in documents {
            life.tell_documents(&name, None, Some(&spec), wall);
        }
    }

    /// What the catalog wants is made durable, and what is new is published; false if the process died.
    pub(crate) fn publish(&mut self, now: u64) -> Result<Published, NotDone> {
        let Some(life) = &mut self.life else { return Ok(Published::Nothing) };
        if life.reads_at.is_some() && life.mutation != Some(Mutation::PublishesBeforeLoaded) {
            return Ok(Published::Nothing);
        }
        let effects = life.catalog.settle();
        let mut owed = life.recollection.owed(&effects);
        life.owed_at = None;
        while let Some(write) = life.recollection.next(&mut owed, &life.catalog) {
            match self.disk.commit(&write.transaction) {
                Ok(_) if life.mutation == Some(Mutation::AllocatesTwice) => {
                    write.into_events().into_iter().for_each(|event| life.catalog.apply(event));
                }
                Ok(_) => {
                    life.recollection.kept(write).into_iter().for_each(|event| life.catalog.apply(event));
                }
                Err(NotDone::Crashed) => return Err(NotDone::Crashed),
                Err(NotDone::Fault | NotDone::Conflict) => {
                    life.recollection.doubted(write);
                    life.owed_at = Some(now + OWED_PAUSE_MS);
                    break;
                }
            }
        }
        let Some(snapshot) = life.catalog.snapshot() else { return Ok(Published::Nothing) };
        life.snapshot = snapshot;
        Ok(Published::Newer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    Nothing,
    Newer,
}

impl Life {
    /// Tells catalog and membership of a relationship, as `announce` does.
    pub(crate) fn know(&mut self, peer: PeerLife, now: u64) {
        let name = peer.record.peer.name.clone();
        self.catalog.apply(Event::PeerChanged(peer.record.peer.clone()));
        let imports = peer.imports.services().clone();
        self.catalog.apply(Event::ImportsReplaced { peer: name.clone(), imports });
        if peer.is_active() {
            self.sight(&name, membership::Event::Known, now);
        }
        self.peers.insert(name, peer);
    }

    pub(crate) fn sight(&mut self, peer: &ClusterName, event: membership::Event, now: u64) {
        if let Some(change) = self.membership.apply(peer, event, instant(now)) {
            self.believe(change);
        }
    }

    pub(crate) fn tick(&mut self, now: u64) {
        if self.mutation == Some(Mutation::StopsTheClock) {
            return;
        }
        for change in self.membership.tick(instant(now)) {
            self.believe(change);
        }
    }

    fn believe(&mut self, change: membership::Change) {
        let membership::Change { peer, freshness } = change;
        self.catalog.apply(Event::FreshnessChanged { peer, freshness });
    }

    /// One service's documents appear, change or go.
    pub(crate) fn tell_documents(
        &mut self,
        name: &ServiceName,
        before: Option<&Spec>,
        after: Option<&Spec>,
        wall: Timestamp,
    ) {
        let source = Source::File { path: format!("{name}.yaml").into(), line: 1 };
        let (was, is) = (objects(name, before), objects(name, after));
        for (key, object) in &is {
            if was.get(key) != Some(object) {
                let (source, key, object) = (source.clone(), key.clone(), object.clone());
                self.hear(Event::ObjectApplied { source, key, created: wall, object });
            }
        }
        for key in was.into_keys().filter(|key| !is.contains_key(key)) {
            self.hear(Event::ObjectRemoved { source: source.clone(), key });
        }
    }

    fn hear(&mut self, mut event: Event) {
        self.recollection.date(&mut event);
        self.catalog.apply(event);
    }
}

/// The documents of a service.
fn objects(name: &ServiceName, spec: Option<&Spec>) -> BTreeMap<ObjectKey, Object> {
    let Some(spec) = spec else { return BTreeMap::new() };
    let key = |kind: &str| ObjectKey {
        kind: kind.into(),
        namespace: name.namespace.clone(),
        name: name.name.as_str().try_into().expect("a label is an object name"),
    };
    let port = ServicePort {
        name: "http".into(),
        port: spec.port,
        transport: Transport::Tcp,
        protocol: AppProtocol::Http,
    };
    let service = Service { name: name.clone(), kind: ServiceKind::ClusterSetIp, ports: vec![port] };
    let endpoints = (0..spec.ready + spec.draining).map(|number| {
        let readiness = if number < spec.ready { Readiness::Ready } else { Readiness::Draining };
        Arc::new(endpoint(number, readiness))
    });
    let slice = EndpointSlice {
        service: name.clone(),
        namespace: name.namespace.clone(),
        endpoints: endpoints.collect(),
    };
    let mut objects = BTreeMap::from([
        (key("Service"), Object::Service(service)),
        (key("EndpointSlice"), Object::Endpoints(slice)),
    ]);
    if spec.exported {
        objects.insert(key("ServiceExport"), Object::Export(name.clone()));
    }
    objects
}

fn endpoint(number: u32, readiness: Readiness) -> Endpoint {
    let host = format!("10.0.{}.{}", number / 250, number % 250 + 1);
    Endpoint {
        host: Host::try_from(host.as_str()).expect("an address"),
        ports: Arc::new(BTreeMap::from([("http".to_owned(), 8080)])),
        locality: Locality::default(),
        readiness,
        weight: 1,
        hostname: None::<Label>,
    }
}

/// Virtual time as the cores take it.
#[expect(
    clippy::disallowed_methods,
    reason = "an instant can only be had from the clock; only differences count"
)]
pub(crate) fn instant(now: u64) -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_millis(now)
}

/// The other way round.
pub(crate) fn millis(then: Instant) -> u64 {
    let passed = then.saturating_duration_since(instant(0));
    // Rounded up: who wakes at this time is never too early.
    passed.as_micros().div_ceil(1000) as u64
}

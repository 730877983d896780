//! One lead: what works from the moment in which this process leads until it no longer does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use trust_bundle::{TrustDomain, TrustStore};

use super::federation::{part, until};
use super::office::OfficeTasks;
use crate::catalog::{CatalogDriver, Event, InvalidPool, Loading};
use crate::config::AppliedDocuments;
use crate::config::directory::DirectorySource;
use crate::control::nodes::{Nodes, NodesDeps};
use crate::control::{self, GATEWAY_GRACE, Gateways, Standing};
use crate::issuer::Role;
use crate::leader::{NoEpoch, raise_epoch};
use crate::model::RelationshipState;
use crate::operator::{Desk, Office};
use crate::peering::addresses::AddressRules;
use crate::peering::{self, Peering, PeeringTasks};
use crate::snapshot::{Generation, Snapshot};
use crate::store::{Fault, Store};

/// Streams to peers have been told to end by then.
const END_TIME_MAX: Duration = Duration::from_secs(3);

/// Why a lead did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum TermError {
    #[error("the store cannot be read: {0}")]
    Read(#[from] Fault),
    #[error("gateway.virtual.pool: {0}")]
    Pool(#[from] InvalidPool),
    #[error(transparent)]
    Epoch(#[from] NoEpoch),
    #[error(transparent)]
    Peering(#[from] peering::BuildError),
}

pub(super) struct Term {
    epoch: u64,
    driver: CatalogDriver,
    directory: DirectorySource,
    applied: AppliedDocuments,
    peering: PeeringTasks,
    desk: Desk,
    loading: [Loading; 3],
    /// Of this lead alone: they end with it.
    tasks: TaskTracker,
}

impl Term {
    /// Reads back what the store holds; starts nothing.
    pub(super) async fn build(office: &OfficeTasks, store: Arc<dyn Store>) -> Result<Self, TermError> {
        let config = &office.config;
        let in_use = office.seen.borrow().generation.max(office.gateways.seen());
        let epoch = raise_epoch(&*store, in_use).await?;
        let pool = config.gateway.virtual_addresses()?;
        let driver = CatalogDriver::build((*office.cluster).clone(), store.clone(), pool, epoch).await?;
        let loading = [driver.loading(), driver.loading(), driver.loading()];
        let tasks = TaskTracker::new();
        let nodes = (!office.addresses.is_empty()).then(|| {
            Nodes::new(NodesDeps {
                cluster: config.cluster.clone(),
                trust_domain: config.trust_domain.clone(),
                store: store.clone(),
                trust: office.trust.clone(),
                signer: office.signer.clone(),
                join_svid: office.join_svid.clone(),
                control: office.addresses.clone(),
            })
        });
        let (peering, peering_tasks, handover) = Peering::build(peering::Deps {
            cluster: config.cluster.clone(),
            trust_domain: config.trust_domain.clone(),
            gateway_id: Role::Gateway.id(&config.trust_domain),
            advertise: office.advertise.clone(),
            address_rules: AddressRules { own_ranges: config.gateway.virtual_pools.clone() },
            store: store.clone(),
            trust: office.trust.clone(),
            registry: office.registry.clone(),
            federation_svid: office.federation_svid.clone(),
            join_svid: office.join_svid.clone(),
            bundle: office.bundle.clone(),
            snapshot: driver.snapshots(),
            events: driver.events(),
            tasks: tasks.clone(),
            settings: peering::Settings::default(),
        })
        .await?;
        distrust_others(&office.trust, &config.trust_domain, &peering);
        let directory = DirectorySource::build(config.directory.clone());
        let applied = AppliedDocuments::new(store);
        let desk = Desk {
            catalog: driver.handle(),
            applied: applied.clone(),
            issuer: office.issuer.clone(),
            peering,
            handover,
            nodes,
            problems: directory.problems(),
            published: office.published.subscribe(),
        };
        Ok(Self { epoch, driver, directory, applied, peering: peering_tasks, desk, loading, tasks })
    }

    /// Works until told to stop, and returns when every part has ended.
    pub(super) async fn run(self, office: &OfficeTasks, stop: CancellationToken) {
        info!(epoch = self.epoch, "the control plane begins");
        // One part that ends by itself ends this lead, and not the process.
        let stop = stop.child_token();
        let (events, counted) = (self.driver.events(), self.driver.events());
        let [for_directory, for_applied, for_peering] = self.loading;
        let snapshots = self.driver.snapshots();
        let led = control::Term::new(control::TermDeps {
            snapshots: snapshots.clone(),
            trust: office.trust.clone(),
            signer: office.signer.clone(),
            gateways: office.gateways.clone(),
            handover: self.desk.handover.clone(),
            nodes: self.desk.nodes.clone(),
        });
        let peering = self.desk.peering.clone();
        office.office.send_replace(Office::Held(Arc::new(self.desk)));
        office.standing.send_replace(Standing::Leading(led));
        let paths = judge_paths(office.gateways.clone(), peering);
        tokio::join!(
            part("catalog", &stop, self.driver.run(stop.clone())),
            part("directory", &stop, self.directory.run(events.clone(), for_directory, stop.clone())),
            part("applied documents", &stop, self.applied.run(events, for_applied, stop.clone())),
            part("peering", &stop, self.peering.run(for_peering, stop.clone())),
            until(&stop, paths),
            until(&stop, count_gateways(office.gateways.clone(), counted)),
            outdone(office, &stop),
            publish(snapshots, office, &stop),
        );
        self.tasks.close();
        if timeout(END_TIME_MAX, self.tasks.wait()).await.is_err() {
            error!("streams to peers did not end in time");
        }
        info!(epoch = self.epoch, "the control plane has ended");
    }
}

/// Tells peering what gateways reach; a path of which no gateway speaks any more is none.
async fn judge_paths(gateways: Gateways, peering: Peering) {
    let (mut told, mut changes) = (BTreeMap::new(), gateways.changes());
    loop {
        changes.borrow_and_update();
        let paths = gateways.paths();
        for peer in told.keys().filter(|peer| !paths.contains_key(*peer)) {
            peering.report_path(peer, None).await;
        }
        for (peer, path) in paths.iter().filter(|(peer, path)| told.get(*peer) != Some(*path)) {
            peering.report_path(peer, Some(*path)).await;
        }
        told = paths;
        // A grace that ends is no change that anybody makes.
        let _in_any_case = timeout(GATEWAY_GRACE / 4, changes.changed()).await;
    }
}

/// Puts the number of gateways into the snapshot: each tells it to the gateways of peers.
async fn count_gateways(gateways: Gateways, events: mpsc::Sender<Event>) {
    let mut count = gateways.count();
    while events.send(Event::GatewaysCounted(count.next().await)).await.is_ok() {}
}

/// Ends a lead whose generations are older than what a gateway holds: the store was lost or set back,
/// and the next lead begins above that.
async fn outdone(office: &OfficeTasks, stop: &CancellationToken) {
    let mut changes = office.gateways.changes();
    loop {
        changes.borrow_and_update();
        let (published, seen) = (office.published.borrow().generation, office.gateways.seen());
        if published > Generation::default() && seen > published {
            warn!(%seen, %published, "a gateway holds what is newer than our store; leading anew above it");
            return stop.cancel();
        }
        match stop.run_until_cancelled(changes.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// Shows everybody in this process what the catalog makes, from its first snapshot on.
async fn publish(mut from: watch::Receiver<Arc<Snapshot>>, office: &OfficeTasks, stop: &CancellationToken) {
    loop {
        let snapshot = from.borrow_and_update().clone();
        if snapshot.generation > Generation::default() {
            office.published.send_replace(snapshot.clone());
            office.seen.send_replace(snapshot);
        }
        match stop.run_until_cancelled(from.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// What was trusted before may be of peers that another leader, or nobody, has removed since.
fn distrust_others(trust: &TrustStore, ours: &TrustDomain, peering: &Peering) {
    let peers = peering.peers();
    let active = peers.iter().filter(|status| status.peer.state == RelationshipState::Active);
    let known: BTreeSet<_> = active.map(|status| &status.peer.trust_domain).chain([ours]).collect();
    let trusted = trust.load();
    for bundle in trusted.bundles().filter(|bundle| !known.contains(bundle.trust_domain())) {
        info!(trust_domain = %bundle.trust_domain(), "no peer of ours, and no longer trusted");
        trust.remove(bundle.trust_domain());
    }
}

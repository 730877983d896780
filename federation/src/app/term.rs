//! One lead: what works from the moment in which this process leads until it no longer does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};
use trust_bundle::{TrustDomain, TrustStore};

use super::federation::part;
use super::office::OfficeTasks;
use crate::catalog::{AddressPool, CatalogDriver, InvalidPool, Loading};
use crate::config::AppliedDocuments;
use crate::config::directory::DirectorySource;
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
        let in_use = office.seen.borrow().generation;
        let epoch = raise_epoch(&*store, in_use).await?;
        let pool = AddressPool::new(config.gateway.virtual_pool)?;
        let driver = CatalogDriver::build((*office.cluster).clone(), store.clone(), pool, epoch).await?;
        let loading = [driver.loading(), driver.loading(), driver.loading()];
        let tasks = TaskTracker::new();
        let (peering, peering_tasks, handover) = Peering::build(peering::Deps {
            cluster: config.cluster.clone(),
            trust_domain: config.trust_domain.clone(),
            gateway_id: Role::Gateway.id(&config.trust_domain),
            advertise: office.advertise.clone(),
            address_rules: AddressRules { own_ranges: vec![config.gateway.virtual_pool] },
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
        let events = self.driver.events();
        let [for_directory, for_applied, for_peering] = self.loading;
        let snapshots = self.driver.snapshots();
        office.office.send_replace(Office::Held(Arc::new(self.desk)));
        tokio::join!(
            part("catalog", &stop, self.driver.run(stop.clone())),
            part("directory", &stop, self.directory.run(events.clone(), for_directory, stop.clone())),
            part("applied documents", &stop, self.applied.run(events, for_applied, stop.clone())),
            part("peering", &stop, self.peering.run(for_peering, stop.clone())),
            publish(snapshots, office, &stop),
        );
        self.tasks.close();
        if timeout(END_TIME_MAX, self.tasks.wait()).await.is_err() {
            error!("streams to peers did not end in time");
        }
        info!(epoch = self.epoch, "the control plane has ended");
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

//! Who leads: opens the store, stands for election, and holds office for as long as it lasts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use trust_bundle::{Bundle, Registry, SvidHandle, TrustStore};

use super::federation::{StoreSource, part, until};
use super::store_watch::{StoreCondition, StoreStatus, tell, watch_store};
use super::term::{Term, TermError};
use crate::clock;
use crate::config::{Config, StoreConfig};
use crate::control::{Gateways, SigningRequest, Standing};
use crate::issuer::Issuer;
use crate::leader::{Candidate, Leader, Leadership};
use crate::model::{GatewayAddress, Label};
use crate::operator::{Office, Vacancy};
use crate::snapshot::{LocalCluster, Snapshot};
use crate::store::{self, Store, expire_leases, familiarity};

/// What did not begin is tried again this often; another process may do better meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// A store that is open, or that is somewhere else and is opened when it answers.
#[derive(Debug)]
pub(super) enum Opening {
    Open(Arc<dyn Store>),
    Later,
}

/// Whether there may be others.
#[derive(Debug, Clone, Copy)]
pub(super) enum Election {
    /// The store is this process's own.
    Alone,
    Contested {
        ttl: Duration,
    },
}

impl Election {
    pub(super) fn of(source: &StoreSource, config: &Config) -> Self {
        let contested = Self::Contested { ttl: config.control.leader_ttl };
        match (source, &config.store) {
            (StoreSource::Shared(_), _) => contested,
            (StoreSource::Configured, StoreConfig::Embedded { .. }) => Self::Alone,
            (StoreSource::Configured, StoreConfig::Etcd(_)) => contested,
        }
    }
}

/// Everything that holding office needs.
#[derive(Debug)]
pub(super) struct OfficeTasks {
    pub(super) config: Config,
    pub(super) cluster: Arc<LocalCluster>,
    pub(super) opening: Opening,
    pub(super) election: Election,
    pub(super) name: Label,
    pub(super) advertise: Vec<GatewayAddress>,
    pub(super) addresses: Vec<GatewayAddress>,
    pub(super) gateways: Gateways,
    pub(super) signer: mpsc::Sender<SigningRequest>,
    /// For the control listener.
    pub(super) standing: watch::Sender<Standing>,
    pub(super) registry: Registry,
    pub(super) trust: TrustStore,
    pub(super) issuer: Issuer,
    pub(super) federation_svid: SvidHandle,
    pub(super) join_svid: SvidHandle,
    pub(super) bundle: watch::Receiver<Arc<Bundle>>,
    /// What this process serves, from whatever source.
    pub(super) seen: watch::Sender<Arc<Snapshot>>,
    /// What it has published in this lead.
    pub(super) published: watch::Sender<Arc<Snapshot>>,
    pub(super) office: watch::Sender<Office>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) status: watch::Sender<StoreStatus>,
}

impl OfficeTasks {
    pub(super) async fn run(self, stop: CancellationToken) {
        // What waits here waits for as long as the process lives, and is large.
        let Some(store) = stop.run_until_cancelled(Box::pin(self.open())).await else { return };
        let governing = async {
            match self.election {
                Election::Alone => self.govern_alone(store.clone(), &stop).await,
                Election::Contested { ttl } => self.govern_in_turn(store.clone(), ttl, &stop).await,
            }
        };
        tokio::join!(
            part("leases", &stop, expire_leases(store.clone(), stop.clone())),
            part("memory of the store", &stop, self.remember(store.clone(), &stop)),
            part("store", &stop, until(&stop, watch_store(store.clone(), &self.status))),
            part("leader", &stop, governing),
        );
    }

    /// Only of a store that was found by the configuration.
    async fn remember(&self, store: Arc<dyn Store>, stop: &CancellationToken) {
        familiarity::keep(store, self.config.data.clone(), stop.clone()).await;
    }

    async fn open(&self) -> Arc<dyn Store> {
        let store = match &self.opening {
            Opening::Open(store) => store.clone(),
            Opening::Later => self.open_elsewhere().await,
        };
        tell(&self.status, StoreCondition::Good);
        store
    }

    async fn open_elsewhere(&self) -> Arc<dyn Store> {
        let mut said = String::new();
        loop {
            let (error, suspicious) = match store::open(&self.config, clock::unix_now()).await {
                Ok(store) => return store,
                Err(error) => (error.to_string(), error.is_suspicious()),
            };
            if error != said {
                warn!(%error, "the store cannot be opened yet; what is known stays in use");
            }
            Office::vacate(&self.office, format!("this process does not lead: {error}"));
            let condition = match suspicious {
                true => StoreCondition::Suspicious(error.clone()),
                false => StoreCondition::Opening(Some(error.clone())),
            };
            tell(&self.status, condition);
            said = error;
            sleep(RETRY).await;
        }
    }

    /// The lock of the store is the lead.
    async fn govern_alone(&self, store: Arc<dyn Store>, stop: &CancellationToken) {
        let (name, addresses) = (self.name.clone(), self.addresses.clone());
        let leader = Leader { name, addresses, since: clock::timestamp_now() };
        while !stop.is_cancelled() {
            self.hold(leader.clone(), store.clone(), stop.child_token()).await;
        }
    }

    /// Others may lead: each in its turn.
    async fn govern_in_turn(&self, store: Arc<dyn Store>, ttl: Duration, stop: &CancellationToken) {
        let candidate = Candidate::new(store.clone(), self.name.clone(), self.addresses.clone(), ttl);
        while let Some(mut lead) = stop.run_until_cancelled(self.campaign(&candidate)).await {
            let term = stop.child_token();
            let fenced = Arc::new(lead.fenced(store.clone()));
            let holding = self.hold(lead.leader().clone(), fenced, term.clone());
            let keeping = async {
                let lost = candidate.keep(&mut lead).await;
                warn!(reason = %lost, "this process no longer leads; gateways go on with what they have");
                term.cancel();
            };
            let mut holding = std::pin::pin!(holding);
            tokio::select! {
                () = &mut holding => {}
                () = keeping => holding.await,
            }
            candidate.resign(lead).await;
        }
    }

    async fn campaign(&self, candidate: &Candidate) -> crate::leader::Lead {
        let telling = async {
            let mut leadership = self.leadership.subscribe();
            loop {
                let (why, leaders) = {
                    let now = leadership.borrow_and_update();
                    let leaders = now.leader().map(|leader| leader.addresses.clone());
                    (Vacancy::why(&now), leaders.unwrap_or_default())
                };
                Office::vacate(&self.office, why);
                self.standing.send_replace(Standing::Following { leaders });
                if leadership.changed().await.is_err() {
                    std::future::pending::<Infallible>().await;
                }
            }
        };
        tokio::select! {
            lead = candidate.campaign(&self.leadership) => lead,
            never = telling => match never {},
        }
    }

    /// Leads until told to stop, or until it cannot.
    async fn hold(&self, leader: Leader, store: Arc<dyn Store>, stop: CancellationToken) {
        // What was published in an earlier lead is older than what others published since.
        self.published.send_replace(Arc::new(Snapshot::empty(self.cluster.clone())));
        self.leadership.send_replace(Leadership::Leading { leader });
        let ended = match stop.run_until_cancelled(Box::pin(Term::build(self, store))).await {
            Some(Ok(term)) => {
                Box::pin(term.run(self, stop.clone())).await;
                None
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.leadership.send_replace(Leadership::Unknown);
        self.standing.send_replace(Standing::Following { leaders: Vec::new() });
        Office::vacate(&self.office, Vacancy::why(&Leadership::Unknown));
        if let Some(error) = ended {
            self.could_not(&error);
        }
        stop.run_until_cancelled(sleep(RETRY)).await;
    }

    fn could_not(&self, cause: &TermError) {
        error!(%cause, "cannot lead yet; trying again");
        Office::vacate(&self.office, format!("this process cannot lead: {cause}"));
    }
}

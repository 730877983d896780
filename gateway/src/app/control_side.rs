//! The side that leads a gateway: federation in this very process, or the stream to it.
//!
//! Either way the rest of the process holds the same: channels that exist from the first moment, a trust
//! store that is filled, a handle that says whether changes are made here, and where they are made.

use std::net::SocketAddr;
use std::sync::Arc;

use federation::app::{Federation, FederationDeps, Handles, Operator, StoreSource};
use federation::config::Config;
use federation::control::ControlPlane;
use federation::issuer::Issuer;
use federation::model::{GatewayAddress, Label};
use federation::peering;
use federation::snapshot::Snapshot;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trust_bundle::{Registry, SvidHandle, TrustStore};

use super::tasks::Tasks;
use crate::admin::Above;

/// Federation here, before it runs.
#[derive(Debug)]
pub(super) struct Here {
    federation: Federation,
    pub(super) issuer: Issuer,
}

/// What the rest of the process holds of it.
#[derive(Debug)]
pub(super) struct ControlHandles {
    pub(super) control: ControlPlane,
    pub(super) handover: mpsc::Sender<peering::HandedOver>,
    pub(super) operator: Operator,
    pub(super) above: Above,
    pub(super) svids: Vec<SvidHandle>,
}

/// What federation here is made from.
#[derive(Debug)]
pub(super) struct HereParts<'a> {
    pub(super) config: &'a Config,
    pub(super) store: StoreSource,
    pub(super) name: Label,
    /// Where peers are told to dial.
    pub(super) advertise: Vec<GatewayAddress>,
    pub(super) trust: TrustStore,
    pub(super) first: Option<Arc<Snapshot>>,
    pub(super) registry: Registry,
}

impl Here {
    pub(super) fn build(parts: HereParts<'_>) -> anyhow::Result<(Self, ControlHandles)> {
        let HereParts { config, store, name, advertise, trust, first, registry } = parts;
        let deps =
            FederationDeps { config, store, name, advertise, control: Vec::new(), trust, first, registry };
        let (federation, handles) = Federation::build(deps)?;
        let Handles { control, handover, issuer, operator, status, .. } = handles;
        let svids = vec![federation.svid()];
        let above = Above::Here(status);
        let handles = ControlHandles { control, handover, operator, above, svids };
        Ok((Self { federation, issuer }, handles))
    }

    pub(super) fn start(self, tasks: &Tasks, rest: &CancellationToken) {
        tasks.start("federation", rest, self.federation.run(rest.clone()));
    }

    /// Where gateways of other processes are listened for.
    pub(super) fn control_address(&self) -> Option<SocketAddr> {
        None
    }
}

//! The side that leads a gateway: federation in this very process, or the stream to it.
//!
//! Either way the rest of the process holds the same: channels that exist from the first moment, a trust
//! store that is filled, a handle that says whether changes are made here, and where they are made.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use federation::app::{Federation, FederationDeps, Handles, LocalGateway, Office, Operator, StoreSource};
use federation::config::Config;
use federation::control::{Client, ClientDeps, ControlPlane, ControlStatus, Gateways, Settings};
use federation::model::{GatewayAddress, Label};
use federation::peering;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use trust_bundle::{Registry, SvidHandle, TrustStore};

use super::first_state::FirstState;
use super::process::Roles;
use super::svid;
use super::tasks::Tasks;
use crate::admin::Above;
use crate::clock;
use crate::host::{SocketName, Sockets};
use crate::listener::bind;

/// The control side before it runs.
#[derive(Debug)]
pub(super) enum ControlSide {
    Here(Box<Federation>),
    There { client: Box<Client>, status: watch::Receiver<ControlStatus>, office: watch::Sender<Office> },
}

/// What the rest of the process holds of it.
#[derive(Debug)]
pub(super) struct ControlHandles {
    pub(super) control: ControlPlane,
    pub(super) handover: mpsc::Sender<peering::HandedOver>,
    pub(super) operator: Operator,
    pub(super) above: Above,
    /// Where gateways of other processes are listened for.
    pub(super) address: Option<SocketAddr>,
    /// Where there is a gateway.
    pub(super) gateway_svid: Option<SvidHandle>,
    /// All of this process.
    pub(super) svids: Vec<SvidHandle>,
}

/// What it is made from.
#[derive(Debug)]
pub(super) struct ControlParts<'a> {
    pub(super) config: &'a Config,
    pub(super) roles: Roles,
    pub(super) store: StoreSource,
    pub(super) name: Label,
    /// Where peers are told to dial.
    pub(super) advertise: Vec<GatewayAddress>,
    pub(super) trust: TrustStore,
    pub(super) first: Option<&'a FirstState>,
    pub(super) registry: Registry,
    pub(super) sockets: &'a Sockets,
    pub(super) tasks: Tasks,
}

/// What a gateway says that is asked to change something.
const READ_ONLY: &str = "this is a gateway process and changes nothing";

impl ControlSide {
    pub(super) async fn build(parts: ControlParts<'_>) -> anyhow::Result<(Self, ControlHandles)> {
        match parts.roles {
            Roles::All | Roles::Federation => Box::pin(here(parts)).await,
            Roles::Gateway => there(parts),
        }
    }

    pub(super) fn start(self, tasks: &Tasks, rest: &CancellationToken) {
        match self {
            Self::Here(federation) => {
                tasks.start("federation", rest, federation.run(rest.clone()));
            }
            Self::There { client, status, office } => {
                tasks.start_until(rest, say_where_to_ask(status, office));
                tasks.start("control", rest, client.run(rest.clone()));
            }
        }
    }
}

async fn here(parts: ControlParts<'_>) -> anyhow::Result<(ControlSide, ControlHandles)> {
    let ControlParts { config, roles, name, trust, first, .. } = parts;
    let listens = roles == Roles::Federation || config.control.wanted;
    if roles == Roles::Federation && config.gateway.advertise.is_empty() {
        let told = config.gateway.east_west;
        warn!(%told, "peers are told to dial an address that is no gateway's own word; hint: set gateway.eastWest.advertise to where the gateways of this cluster are reached");
    }
    let address = config.control.address;
    let control =
        listens.then(|| bind::listen_std(parts.sockets, SocketName::Control, address)).transpose()?;
    let gateway = first.map(|_| LocalGateway { replica: name.clone(), addresses: parts.advertise.clone() });
    let deps = FederationDeps {
        config,
        store: parts.store,
        name,
        advertise: parts.advertise,
        control,
        gateway,
        trust: trust.clone(),
        first: first.and_then(FirstState::snapshot),
        registry: parts.registry,
        tasks: parts.tasks.tracker,
    };
    let (federation, handles) = Federation::build(deps).await?;
    let Handles { control, handover, issuer, operator, status, control_address } = handles;
    let mut svids = vec![federation.svid()];
    let mut gateway_svid = None;
    if let Some(first) = first {
        // Our own bundle is the CA's; of peers the disk knows until the store is read.
        first.trust(&trust, Some(&config.trust_domain));
        let kept = svid::kept(&first.disk, &config.trust_domain);
        let handle = SvidHandle::new(svid::first(&issuer, kept, &config.trust_domain)?);
        svids.insert(0, handle.clone());
        gateway_svid = Some(handle);
    }
    let above = Above::Here(status);
    let address = control_address;
    let handles = ControlHandles { control, handover, operator, above, address, gateway_svid, svids };
    Ok((ControlSide::Here(Box::new(federation)), handles))
}

fn there(parts: ControlParts<'_>) -> anyhow::Result<(ControlSide, ControlHandles)> {
    let ControlParts { config, name, trust, first, .. } = parts;
    let first = first.context("a gateway has a disk")?;
    let hint = "hint: `isthmus node invite` at the federation process, `isthmus node join` here";
    let Some(svid) = svid::kept(&first.disk, &config.trust_domain) else {
        bail!("this gateway has no SVID of {} below {}; {hint}", config.trust_domain, config.data.display());
    };
    if svid.not_after() < clock::unix() {
        let expired = federation::clock::timestamp(svid.not_after());
        warn!(%expired, "the SVID of this gateway has ended: no peer and no federation process believes it; {hint}");
    }
    let endpoints = config.control.endpoints.clone();
    if endpoints.is_empty() {
        bail!("control.endpoints is empty; hint: name all federation processes of this cluster there");
    }
    first.trust(&trust, None);
    let svid = SvidHandle::new(svid);
    let (client, control, status) = Client::build(ClientDeps {
        endpoints,
        cluster: config.cluster.clone(),
        trust_domain: config.trust_domain.clone(),
        svid: svid.clone(),
        trust,
        registry: parts.registry,
        state: first.state.clone(),
        replica: name,
        addresses: parts.advertise,
        tasks: parts.tasks.tracker,
        settings: Settings::default(),
    })?;
    let (office, vacant) = watch::channel(Office::vacant(READ_ONLY));
    let operator = Operator::new(vacant, control.snapshot.clone(), Gateways::default());
    let (handover, above) = (client.handover(), Above::There(status.clone()));
    let (gateway_svid, svids) = (Some(svid.clone()), vec![svid]);
    let handles = ControlHandles { control, handover, operator, above, address: None, gateway_svid, svids };
    Ok((ControlSide::There { client: Box::new(client), status, office }, handles))
}

/// Keeps up to date which process a refused change is for.
async fn say_where_to_ask(mut status: watch::Receiver<ControlStatus>, office: watch::Sender<Office>) {
    loop {
        let place = match &*status.borrow_and_update() {
            ControlStatus::Connected { to, .. } => format!("the federation process at {to}"),
            ControlStatus::Apart { .. } => {
                "the federation process that leads; none is reached from here".to_owned()
            }
        };
        Office::vacate(&office, format!("{READ_ONLY}; hint: ask the admin API of {place}"));
        if status.changed().await.is_err() {
            return;
        }
    }
}

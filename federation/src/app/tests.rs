//! A control plane that runs, with a listener in the place of its gateway.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{BuiltinCa, CaSettings, Registry, SvidKey, TrustDomain, TrustStore};

use super::federation::sign;
use super::{Federation, FederationDeps, Handles, Operator, StoreSource};
use crate::clock;
use crate::config::{Config, Overrides};
use crate::control::{ControlPlane, SigningRequest};
use crate::issuer::{Issuer, Role};
use crate::peering::{HandedOver, PeeringService};

/// Long enough for a busy machine, and shorter than what the process would wait for.
const PATIENCE: Duration = Duration::from_secs(4);

/// A control plane that runs, with a listener in the place of its gateway.
struct Running {
    operator: Operator,
    tasks: TaskTracker,
    stop: CancellationToken,
    _directory: TempDir,
    _control: ControlPlane,
}

async fn start(cluster: &str) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let settings = [
        format!("cluster={cluster}"),
        format!("store.embedded.path={path}/data"),
        format!("config.directory={path}"),
    ];
    let config = Config::load(None, &Overrides::new([], &settings).unwrap()).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let deps = FederationDeps {
        config: &config,
        store: StoreSource::Configured,
        name: "here".try_into().unwrap(),
        advertise: vec![socket.local_addr().unwrap().into()],
        control: None,
        gateway: None,
        tasks: tasks.clone(),
        trust: TrustStore::new(),
        first: None,
        registry: Registry::new(),
    };
    let (federation, handles) = Federation::build(deps).await.unwrap();
    let Handles { control, handover, operator, .. } = handles;
    tasks.spawn(federation.run(stop.clone()));
    tasks.spawn(stop.clone().run_until_cancelled_owned(hand_over(socket, handover)));
    while !operator.is_current() {
        sleep(Duration::from_millis(5)).await;
    }
    Running { operator, tasks, stop, _directory: directory, _control: control }
}

async fn hand_over(socket: TcpListener, to: mpsc::Sender<HandedOver>) {
    while let Ok((stream, peer_address)) = socket.accept().await {
        let mut hello = [0; 4096];
        let length = stream.peek(&mut hello).await.unwrap();
        let joins = hello[..length].windows(5).any(|part| part == b"join.");
        let service = if joins { PeeringService::Join } else { PeeringService::Federation };
        drop(to.try_send(HandedOver { stream: Box::new(stream), peer_address, service }));
    }
}

#[tokio::test]
async fn nothing_outlives_a_control_plane_that_was_told_to_stop() {
    let (cloud, onprem) = (start("cloud").await, start("onprem").await);
    let joiner = "onprem".try_into().unwrap();
    let invitation = cloud.operator.invite(&joiner, Duration::from_secs(60)).await.unwrap();
    onprem.operator.join(&invitation.token).await.unwrap();
    while cloud.operator.peers().iter().all(|peer| peer.stream.is_none()) {
        sleep(Duration::from_millis(5)).await;
    }
    for side in [&cloud, &onprem] {
        side.stop.cancel();
        side.tasks.close();
        assert!(timeout(PATIENCE, side.tasks.wait()).await.is_ok(), "tasks outlive the control plane");
    }
}

#[tokio::test]
async fn issuing_does_not_keep_the_thread_from_others() {
    let directory = tempfile::tempdir().unwrap();
    let domain = TrustDomain::try_from("a.example").unwrap();
    let now = clock::unix_now();
    let ca = BuiltinCa::open(directory.path(), domain.clone(), CaSettings::default(), now).unwrap();
    let hour = Duration::from_secs(3600);
    let (requests, queue) = mpsc::channel(1);
    let mut signing = std::pin::pin!(sign(Issuer::new(Arc::new(ca), hour, hour), queue));
    let (answer, mut answered) = oneshot::channel();
    let id = Role::Gateway.id(&domain);
    requests.send(SigningRequest { id, csr: SvidKey::generate().csr(), answer }).await.unwrap();
    tokio::select! {
        biased;
        () = &mut signing => {}
        () = std::future::ready(()) => assert!(answered.try_recv().is_err(), "others go first"),
    }
    tokio::select! {
        () = &mut signing => {}
        signed = &mut answered => assert_eq!(signed.unwrap().unwrap().len(), 1),
    }
}

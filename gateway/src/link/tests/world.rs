//! Our gateway's links (`onprem`), and requests on them to `cloud`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use federation::control::{REPORTS_MAX, Report};
use federation::snapshot::Snapshot;
use http::HeaderMap;
use pingora_core::protocols::http::v2::write_body;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{Registry, SvidHandle, TrustStore};

use super::domain::Domain;
use crate::balancer::{LinkState, Reachability};
use crate::link::{HttpStream, LinkParts, Links};
use crate::testing::{cluster, snapshot};
use crate::windows::Windows;

pub(super) struct World {
    pub(super) onprem: Domain,
    pub(super) cloud: Domain,
    pub(super) links: Links,
    pub(super) trust: TrustStore,
    pub(super) svid: SvidHandle,
    pub(super) registry: Registry,
    pub(super) reports: mpsc::Receiver<Report>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) shutdown: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: ResponseHeader,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

impl World {
    /// Runs, and knows no peer yet.
    pub(super) fn new() -> Self {
        let (onprem, cloud) = (Domain::new("onprem"), Domain::new("cloud"));
        let trust = TrustStore::new();
        trust.put(onprem.bundle()).unwrap();
        trust.put(cloud.bundle()).unwrap();
        let (svid, registry) = (onprem.handle("/isthmus/gateway"), Registry::new());
        let (snapshots, following) = watch::channel(Arc::new(snapshot().build()));
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let links = Links::build(LinkParts {
            trust: trust.clone(),
            svid: svid.clone(),
            registry: registry.clone(),
            snapshots: following,
            reports: report,
            tasks: tasks.clone(),
            windows: Windows::LINK,
            replica: "onprem-1".to_owned().try_into().unwrap(),
        });
        tasks.spawn(links.clone().run(shutdown.clone()));
        Self { onprem, cloud, links, trust, svid, registry, reports, snapshots, shutdown, tasks }
    }

    /// The snapshot now says that `cloud` has gateways at these addresses.
    pub(super) fn joined(&self, gateways: &[SocketAddr]) {
        let gateways: Vec<_> = gateways.iter().map(|address| (*address).into()).collect();
        let known = snapshot().change_peer("cloud", |view| view.peer.gateways = gateways);
        self.snapshots.send_replace(Arc::new(known.build()));
    }

    pub(super) fn removed(&self) {
        self.snapshots.send_replace(Arc::new(snapshot().build()));
    }

    pub(super) fn state(&self) -> LinkState {
        self.links.state(&cluster("cloud"))
    }

    pub(super) async fn up(&self) {
        eventually("the path is up", || self.state() == LinkState::Up).await;
    }

    /// Links for HTTP that can be borrowed from.
    pub(super) fn http_links(&self) -> Vec<u64> {
        let status = self.links.status();
        let dialled = status.iter().flat_map(|peer| &peer.dialled);
        dialled.filter(|link| link.protocol == super::super::Protocol::Http).map(|link| link.id).collect()
    }

    pub(super) async fn open(&self) -> HttpStream {
        self.links.http_stream(&cluster("cloud")).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, Box<dyn std::error::Error>> {
        request(&self.links, path, Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Answer, Box<dyn std::error::Error>> {
        request(&self.links, path, body).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.registry.cut(|_| true);
    }
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn total(&self) -> Option<usize> {
        self.trailers.as_ref()?.get("x-total")?.to_str().ok()?.parse().ok()
    }
}

/// Sends one as pingora would: what the peer has not seen is sent again.
pub(super) async fn request(
    links: &Links,
    path: &str,
    body: Bytes,
) -> Result<Answer, Box<dyn std::error::Error>> {
    for _ in 0..3 {
        let mut stream = links.http_stream(&cluster("cloud")).await?;
        match exchange(&mut stream, path, body.clone()).await {
            Err(error) if error.retry() => {}
            answered => return Ok(answered?),
        }
    }
    Err("retried in vain".into())
}

pub(super) async fn exchange(
    stream: &mut HttpStream,
    path: &str,
    body: Bytes,
) -> pingora_error::Result<Answer> {
    let session = &mut stream.session;
    session.write_request_header(Box::new(head(path)), body.is_empty())?;
    let mut send = session.take_request_body_writer().unwrap();
    let sending = async {
        if body.is_empty() {
            return Ok(());
        }
        write_body(&mut send, body, true, None).await
    };
    let receiving = async {
        session.read_response_header().await?;
        let head = session.response_header().unwrap().clone();
        let mut body = Vec::new();
        while let Some(chunk) = session.read_response_body().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { head, body, trailers: session.read_trailers().await? })
    };
    let (sent, received) = tokio::join!(sending, receiving);
    // What could not be sent says less than what came back, or did not.
    received.and_then(|answer| sent.map(|()| answer))
}

pub(super) fn head(path: &str) -> RequestHeader {
    let mut request = RequestHeader::build("POST", path.as_bytes(), None).unwrap();
    request.insert_header("host", "cart.shop.svc.clusterset.local").unwrap();
    request
}

/// Waits until something holds, and no longer than a test may take.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "never came true: {what}");
}

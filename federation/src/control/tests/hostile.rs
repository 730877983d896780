//! Who must not come in, what must not be believed, and whom it must not harm.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use futures::stream::poll_fn;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming};
use trust_bundle::{
    ClientAuth, ExpectedPeer, SvidHandle, TrustStore, X509Svid, client_config, server_config,
};

use super::fixture::{Federation, Site, eventually};
use crate::control::message::{PROTOCOL, position_said};
use crate::control::proto::control_client::ControlClient;
use crate::control::proto::control_server::{Control, ControlServer};
use crate::control::proto::{
    Chunk, FromFederation, FromGateway, Heartbeat, Hello, Update, from_federation, from_gateway,
};
use crate::control::state::{Digest, Parts, State};
use crate::issuer::Role;
use crate::peering::dial::{self, DialError};

type Talk = (mpsc::Sender<FromGateway>, Streaming<FromFederation>);

/// Speaks as a gateway would, whatever it says.
async fn talk(
    site: &Site,
    federation: &Federation,
    svid: X509Svid,
    trust: &TrustStore,
) -> Result<Talk, String> {
    let name = dial::server_name("control", &site.cluster);
    let expected = ExpectedPeer::Exact(Role::Federation.id(&site.domain));
    let config = client_config(trust, &SvidHandle::new(svid), expected, &[b"h2"]);
    let dialled = dial::dial(&federation.address, None, config, name.clone()).await;
    let tls = dialled.map_err(|error: DialError| error.to_string())?.tls;
    let channel = dial::channel(&name, tls).await.map_err(|error| error.to_string())?;
    let (sender, mut messages) = mpsc::channel(4);
    let outgoing = poll_fn(move |cx| messages.poll_recv(cx));
    let attached = ControlClient::new(channel).attach(outgoing).await;
    Ok((sender, attached.map_err(|status| status.to_string())?.into_inner()))
}

fn hello(replica: &str) -> FromGateway {
    let hello = Hello { protocol: PROTOCOL, replica: replica.into(), held: None, addresses: Vec::new() };
    FromGateway { body: Some(from_gateway::Body::Hello(hello)) }
}

/// Whoever is refused sees its connection end, in the handshake or right after it.
async fn is_refused(site: &Site, federation: &Federation, svid: X509Svid, trust: &TrustStore) {
    if let Ok((sender, mut inbound)) = talk(site, federation, svid, trust).await {
        let _refused_already = sender.send(hello("x")).await;
        assert!(!matches!(inbound.message().await, Ok(Some(_))), "it was served");
    }
}

#[tokio::test]
async fn only_the_gateway_role_of_our_own_trust_domain_is_served() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    federation.publish(site.snapshot(1, 1, 1));
    for path in ["/isthmus/federation", "/isthmus/join", "/shop/cart", "/isthmus/gateway/x"] {
        is_refused(&site, &federation, site.svid(path), &site.trust()).await;
    }
    federation.refused("other_role").await;
    // A peer's gateway is trusted for links, and has no business here.
    let quay = Site::new("quay");
    federation.trust.put(quay.ca.bundle()).unwrap();
    let roles = federation.refusals.list()["other_role"];
    is_refused(&site, &federation, quay.svid("/isthmus/gateway"), &site.trust()).await;
    eventually("counted", async || federation.refusals.list()["other_role"] > roles).await;
    // One that nobody knows does not get through the handshake.
    let stranger = Site::new("elsewhere");
    let before: u64 = federation.refusals.list().values().sum();
    is_refused(&site, &federation, stranger.svid("/isthmus/gateway"), &site.trust()).await;
    eventually("counted", async || federation.refusals.list().values().sum::<u64>() > before).await;
    assert!(federation.gateways.list().is_empty());
}

#[tokio::test]
async fn bytes_that_are_no_tls_are_counted_and_dropped() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let mut stranger = TcpStream::connect(federation.socket()).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _closed = stranger.read_to_end(&mut answer).await;
    federation.refused("no_tls").await;
}

#[tokio::test]
async fn a_gateway_that_breaks_the_protocol_is_cut_and_counted() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    federation.publish(site.snapshot(1, 1, 1));
    let heartbeat = || FromGateway { body: Some(from_gateway::Body::Heartbeat(Heartbeat {})) };
    for (count, first, second) in [
        (1, heartbeat(), heartbeat()),
        (2, hello("UPPER CASE"), heartbeat()),
        (3, hello("twice"), hello("twice")),
    ] {
        let gateway = site.svid("/isthmus/gateway");
        let (sender, mut inbound) = talk(&site, &federation, gateway, &site.trust()).await.unwrap();
        sender.send(first).await.unwrap();
        let _cut_already = sender.send(second).await;
        while let Ok(Some(_)) = inbound.message().await {}
        eventually("counted", async || federation.refusals.list().get("violation") == Some(&count)).await;
    }
}

#[tokio::test]
async fn a_gateway_that_reads_nothing_delays_no_other() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    federation.publish(site.snapshot(1, 50, 50));
    let deaf = talk(&site, &federation, site.svid("/isthmus/gateway"), &site.trust()).await.unwrap();
    deaf.0.send(hello("deaf")).await.unwrap();
    let gateway = site.gateway("g1", &[&federation]);
    for generation in 2..20 {
        let endpoints = 50 + usize::try_from(generation).unwrap();
        let snapshot = federation.publish(site.snapshot(generation, 50, endpoints));
        gateway.holds(&snapshot).await;
    }
}

/// A federation process that sends what the test wants, and notes what it is asked.
struct Scripted {
    script: Mutex<Option<mpsc::Receiver<FromFederation>>>,
    heard: mpsc::UnboundedSender<from_gateway::Body>,
    tasks: tokio_util::task::TaskTracker,
}

#[tonic::async_trait]
impl Control for Scripted {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FromFederation, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromGateway>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (mut inbound, heard) = (request.into_inner(), self.heard.clone());
        self.tasks.spawn(async move {
            while let Ok(Some(FromGateway { body: Some(body) })) = inbound.message().await {
                drop(heard.send(body));
            }
        });
        let mut script =
            self.script.lock().take().ok_or_else(|| Status::unavailable("the script is over"))?;
        Ok(Response::new(Box::pin(poll_fn(move |cx| script.poll_recv(cx).map(|said| said.map(Ok))))))
    }
}

fn update(parts: &Parts, base: Option<&Parts>, digest: Digest) -> Vec<FromFederation> {
    let bytes = match base {
        Some(base) => crate::control::state::diff(base, parts).to_bytes(),
        None => parts.full().to_bytes(),
    };
    let mut position = parts.position();
    position.digest = digest;
    let begin = Update {
        base: base.map(|base| position_said(base.position())),
        position: Some(position_said(position)),
        length: bytes.len() as u64,
    };
    let chunk = from_federation::Body::Chunk(Chunk { bytes: bytes.to_vec() });
    [from_federation::Body::Update(begin), chunk].map(|body| FromFederation { body: Some(body) }).into()
}

#[tokio::test]
async fn a_change_with_a_wrong_digest_is_refused_and_everything_asked_for() {
    let site = Site::new("cloud");
    let trust = site.trust();
    let parts = |generation, endpoints| {
        let snapshot = Arc::new(site.snapshot(generation, 3, endpoints));
        Parts::encode(State::new(snapshot, &trust), None)
    };
    let (first, second) = (parts(1, 1), parts(2, 2));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut federation = site.federation().await;
    federation.address = listener.local_addr().unwrap().into();
    let (script, scripted) = mpsc::channel(16);
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let scripted = Scripted { script: Mutex::new(Some(scripted)), heard, tasks: site.tasks.clone() };
    let svid = SvidHandle::new(site.svid("/isthmus/federation"));
    let acceptor = TlsAcceptor::from(server_config(&trust, &svid, ClientAuth::Required, &[b"h2"]));
    site.tasks.spawn(async move {
        let (tcp, _from) = listener.accept().await.unwrap();
        let tls = acceptor.accept(tcp).await.unwrap();
        let stream = crate::peering::io::Terminated::new(tls, (), None);
        let once = futures::stream::iter([Ok::<_, std::io::Error>(stream)]);
        let server = tonic::transport::Server::builder().add_service(ControlServer::new(scripted));
        drop(server.serve_with_incoming(once).await);
    });
    let gateway = site.gateway("g1", &[&federation]);
    for said in update(&first, None, first.digest()) {
        script.send(said).await.unwrap();
    }
    gateway.holds(&first.state().snapshot).await;
    for said in update(&second, Some(&first), first.digest()) {
        script.send(said).await.unwrap();
    }
    loop {
        match hearing.recv().await.unwrap() {
            from_gateway::Body::Resync(resync) => {
                break assert!(resync.reason.contains("digest"), "{resync:?}");
            }
            _ => continue,
        }
    }
    assert!(*gateway.snapshot() == *first.state().snapshot, "it serves what it had");
    for said in update(&second, None, second.digest()) {
        script.send(said).await.unwrap();
    }
    gateway.holds(&second.state().snapshot).await;
}

//! What the gateway wants told and asked: the newest of each kind, kept until somebody leads.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{mpsc, oneshot};
use trust_bundle::X509Svid;

use super::super::message::{PROTOCOL, addresses_said, position_said, report_said};
use super::super::proto::from_gateway::Body;
use super::super::proto::{Applied, Heartbeat, Hello, Resync, Sign};
use super::super::state::Position;
use super::super::{
    Path, ReplicaName, Report, SIGNING_REQUESTS_MAX, SigningRefused, SigningRequest, Unbound,
};
use crate::model::{ClusterName, GatewayAddress};
use crate::snapshot::{Generation, Snapshot};
use rustls::pki_types::CertificateDer;

type Answer = oneshot::Sender<Result<Vec<CertificateDer<'static>>, SigningRefused>>;

#[derive(Debug)]
pub(super) struct Inbox {
    replica: ReplicaName,
    addresses: Vec<GatewayAddress>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) signing: mpsc::Receiver<SigningRequest>,
    paths: BTreeMap<ClusterName, Path>,
    unbound: Vec<Unbound>,
    serving: Generation,
    held: Option<Position>,
    owed: Owed,
    asked: BTreeMap<u64, Answer>,
    last: u64,
}

/// What the federation process has not been told yet.
#[derive(Debug, Default)]
struct Owed {
    first: Option<Hello>,
    signs: Vec<Sign>,
    resync: Option<String>,
    paths: BTreeSet<ClusterName>,
    unbound: bool,
    applied: bool,
    heartbeat: bool,
}

impl Inbox {
    pub(super) fn new(
        replica: ReplicaName,
        addresses: Vec<GatewayAddress>,
        reports: mpsc::Receiver<Report>,
        signing: mpsc::Receiver<SigningRequest>,
    ) -> Self {
        Self {
            replica,
            addresses,
            reports,
            signing,
            paths: BTreeMap::new(),
            unbound: Vec::new(),
            serving: Generation::default(),
            held: None,
            owed: Owed::default(),
            asked: BTreeMap::new(),
            last: 0,
        }
    }

    /// Takes in what comes while nobody leads; goes on until it is dropped.
    pub(super) async fn idle(&mut self, reason: &str) {
        loop {
            tokio::select! {
                Some(report) = self.reports.recv() => self.note(report),
                Some(SigningRequest { answer, .. }) = self.signing.recv() => {
                    // Whoever asked tries again; if it is gone nobody needs the answer.
                    drop(answer.send(Err(SigningRefused { reason: reason.to_owned() })));
                }
                else => std::future::pending().await,
            }
        }
    }

    /// A stream begins: everything is owed.
    pub(super) fn begin(&mut self, held: Option<Position>) {
        self.held = held;
        self.owed = Owed {
            first: Some(Hello {
                protocol: PROTOCOL,
                replica: self.replica.to_string(),
                held: held.map(position_said),
                addresses: addresses_said(&self.addresses),
            }),
            paths: self.paths.keys().cloned().collect(),
            unbound: true,
            applied: held.is_some(),
            ..Owed::default()
        };
    }

    /// A stream is over: whoever waits for an SVID asks again.
    pub(super) fn abandon(&mut self) {
        self.asked.clear();
        self.owed = Owed::default();
    }

    pub(super) fn note(&mut self, report: Report) {
        match report {
            Report::Path { peer, path } => {
                self.paths.insert(peer.clone(), path);
                self.owed.paths.insert(peer);
            }
            Report::Unbound(sockets) => {
                self.unbound = sockets;
                self.owed.unbound = true;
            }
            Report::Applied { generation } => {
                self.serving = generation;
                self.owed.applied = true;
            }
        }
    }

    /// A state was taken in; peers that are not in it have no path.
    pub(super) fn applied(&mut self, position: Position, snapshot: &Snapshot) {
        self.held = Some(position);
        self.owed.applied = true;
        self.paths.retain(|peer, _| snapshot.peers.contains_key(peer));
    }

    pub(super) fn resync(&mut self, reason: String) {
        self.owed.resync = Some(reason);
    }

    pub(super) fn beat(&mut self) {
        self.owed.heartbeat = true;
    }

    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < SIGNING_REQUESTS_MAX
    }

    pub(super) fn ask(&mut self, request: SigningRequest) {
        let SigningRequest { id, csr, answer } = request;
        self.last += 1;
        self.asked.retain(|_, answer| !answer.is_closed());
        self.asked.insert(self.last, answer);
        self.owed.signs.push(Sign { number: self.last, id: id.to_string(), csr });
    }

    pub(super) fn answered(&mut self, number: u64, answer: Result<Vec<Vec<u8>>, String>) {
        let Some(asked) = self.asked.remove(&number) else { return };
        let chain = |chain: Vec<Vec<u8>>| chain.into_iter().map(CertificateDer::from).collect();
        // Whoever asked may have gone.
        drop(asked.send(answer.map(chain).map_err(|reason| SigningRefused { reason })));
    }

    pub(super) fn is_empty(&self) -> bool {
        let Owed { first, signs, resync, paths, unbound, applied, heartbeat } = &self.owed;
        first.is_none()
            && signs.is_empty()
            && resync.is_none()
            && paths.is_empty()
            && !(*unbound || *applied || *heartbeat)
    }

    /// The next message; the hello is always the first.
    pub(super) fn next(&mut self) -> Option<Body> {
        let owed = &mut self.owed;
        if let Some(hello) = owed.first.take() {
            return Some(Body::Hello(hello));
        }
        if std::mem::take(&mut owed.heartbeat) {
            return Some(Body::Heartbeat(Heartbeat {}));
        }
        if let Some(reason) = owed.resync.take() {
            return Some(Body::Resync(Resync { reason }));
        }
        if let Some(sign) = owed.signs.pop() {
            return Some(Body::Sign(sign));
        }
        if std::mem::take(&mut owed.applied)
            && let Some(held) = self.held
        {
            let serving = self.serving.0;
            return Some(Body::Applied(Applied { held: Some(position_said(held)), serving }));
        }
        while let Some(peer) = owed.paths.pop_first() {
            if let Some(path) = self.paths.get(&peer) {
                return report_said(&Report::Path { peer, path: *path });
            }
        }
        std::mem::take(&mut owed.unbound).then(|| report_said(&Report::Unbound(self.unbound.clone())))?
    }
}

/// When to attach anew: well before our own SVID ends, so that the stream never ends for it.
pub(super) fn renew_within(svid: &X509Svid, now: u64, chance: f64) -> std::time::Duration {
    let left = svid.not_after().as_secs().saturating_sub(now);
    std::time::Duration::from_secs(left).mul_f64(0.6 + 0.2 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn inbox() -> (Inbox, mpsc::Sender<Report>, mpsc::Sender<SigningRequest>) {
        let (reporting, reports) = mpsc::channel(8);
        let (signer, signing) = mpsc::channel(8);
        (Inbox::new("g".try_into().unwrap(), Vec::new(), reports, signing), reporting, signer)
    }

    fn path(millis: u64) -> Report {
        let path = Path::Up { round_trip: Duration::from_millis(millis) };
        Report::Path { peer: "cloud".try_into().unwrap(), path }
    }

    fn drain(inbox: &mut Inbox) -> Vec<Body> {
        std::iter::from_fn(|| inbox.next()).collect()
    }

    #[test]
    fn only_the_newest_of_each_kind_is_told() {
        let (mut inbox, ..) = inbox();
        (0..1000).for_each(|n| inbox.note(path(n)));
        (0..1000).for_each(|_| inbox.note(Report::Unbound(Vec::new())));
        inbox.begin(None);
        let said = drain(&mut inbox);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(matches!(said[0], Body::Hello(_)));
        assert_eq!(Some(&said[1]), report_said(&path(999)).as_ref());
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_new_stream_is_told_everything_again() {
        let (mut inbox, ..) = inbox();
        inbox.note(path(7));
        inbox.begin(None);
        let first = drain(&mut inbox);
        inbox.abandon();
        inbox.begin(None);
        assert_eq!(drain(&mut inbox), first);
    }

    #[tokio::test]
    async fn who_wants_an_svid_while_nobody_leads_is_told_so() {
        let (mut inbox, reporting, signer) = inbox();
        let (answer, answered) = oneshot::channel();
        let id = "spiffe://a.example/isthmus/gateway".try_into().unwrap();
        signer.send(SigningRequest { id, csr: Vec::new(), answer }).await.unwrap();
        reporting.send(path(1)).await.unwrap();
        let refused = tokio::select! {
            () = inbox.idle("nobody") => unreachable!("it goes on"),
            answered = answered => answered.unwrap().unwrap_err(),
        };
        assert_eq!(refused.reason, "nobody");
    }
}

//! The CONNECT streams that a peer's gateway opens on a link.
//!
//! Each stream is checked against what is exported to that peer (T8). A stream to an HTTP port goes
//! through the HTTP path with the identity of the link, any other is copied to an endpoint; 200 is only
//! said when the endpoint has taken the connection. What was offered when a stream was opened is checked
//! again with each snapshot: a withdrawn export takes its open streams with it (T25).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use federation::model::ClusterName;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Errand, Tunnel};
use crate::answer::Refusal;
use crate::connection::{ConnectionIo, ConnectionKind, Facts, LinkTunnel, Transport, until_drained};
use crate::context::Caller;
use crate::headers::LinkHeaders;
use crate::listener::{Server, abuse, serve_http};
use crate::telemetry::Entrance;
use crate::windows::Windows;

/// A gateway that dialled for tunnels has its preface ready.
const PREFACE_TIME_MAX: Duration = Duration::from_secs(10);

/// Serves until the link is gone, or until its streams are finished after a drain.
pub(crate) async fn serve<S: Transport>(server: &Arc<Server>, io: ConnectionIo<S>) {
    let facts = io.facts().clone();
    let ConnectionKind::Link(peer) = facts.kind().clone() else { return };
    let mut drain = facts.connection().drained();
    let options = Windows::LINK.tunnel_server();
    let handshake = options.handshake::<_, Bytes>(io.lingering());
    let refused = |reason| server.refused(Entrance::Link, reason, facts.entry().client);
    let mut link = match timeout(PREFACE_TIME_MAX, handshake).await {
        Ok(Ok(link)) => link,
        Ok(Err(error)) => return refused(abuse(&error).unwrap_or("http2_preface_broken")),
        Err(_elapsed) => return refused("http2_preface_slow"),
    };
    let mut ending = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = until_drained(&mut drain), if !ending => {
                link.graceful_shutdown();
                ending = true;
                continue;
            }
            accepted = link.accept() => accepted,
        };
        let (request, respond) = match accepted {
            Some(Ok(opened)) => opened,
            Some(Err(error)) => return abuse(&error).into_iter().for_each(refused),
            None => return,
        };
        let stream = Stream { server: server.clone(), facts: facts.clone(), peer: peer.clone() };
        server.tasks().spawn(stream.serve(request, respond));
    }
}

/// One CONNECT stream.
struct Stream {
    server: Arc<Server>,
    facts: Facts,
    peer: ClusterName,
}

impl Stream {
    async fn serve(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if let Err(refusal) = self.answer(request, &mut respond).await {
            // The peer may have given the stream up; there is nobody else to tell.
            let _ = respond.send_response(refusal.to_stream(), true);
        }
    }

    async fn answer(
        &self,
        request: Request<RecvStream>,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<(), Refusal> {
        if request.method() != Method::CONNECT {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "not-connect",
                "only CONNECT is served here",
            ));
        }
        let view = self.server.plane().views.load();
        let to = request.uri().authority().map(|to| to.as_str().to_owned()).ok_or_else(Refusal::not_found)?;
        let destination = view.router.link(&self.peer, &to)?;
        let said = self.said(&request);
        let cut = self.facts.connection().cut_token().child_token();
        if destination.port.protocol.is_http() {
            let facts = self.facts.inside(self.kind(to.clone(), said));
            let io = ConnectionIo::new(accept(respond, request)?, facts).cut_by(cut.clone());
            self.while_offered(&to, &cut, serve_http(&self.server, io)).await;
            return Ok(());
        }
        let caller = Caller::of_link(&self.peer, &said);
        let entry = self.facts.entry().clone();
        let errand = Errand::new(self.server.plane(), &view, &destination, entry, caller);
        let opened = errand.open().await?;
        let io = ConnectionIo::new(accept(respond, request)?, self.facts.clone()).cut_by(cut.clone());
        self.while_offered(&to, &cut, errand.copy(io, opened)).await;
        Ok(())
    }

    /// Serves, and cuts the stream as soon as its destination is no longer offered to this peer.
    async fn while_offered(&self, to: &str, cut: &CancellationToken, serving: impl Future<Output = ()>) {
        let withdrawn = async {
            self.withdrawn(to).await;
            cut.cancel();
            // Whoever serves notices, and leaves the line in the access log.
            std::future::pending().await
        };
        tokio::select! {
            () = serving => {}
            () = withdrawn => {}
        }
    }

    async fn withdrawn(&self, to: &str) {
        let mut views = self.server.plane().views.subscribe();
        // An error means that the process ends, which has its own way with streams.
        if views.wait_for(|view| view.router.link(&self.peer, to).is_err()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn said(&self, request: &Request<RecvStream>) -> LinkHeaders {
        let peer = self.facts.connection().peer();
        peer.map(|peer| LinkHeaders::read(request.headers(), peer.trust_domain())).unwrap_or_default()
    }

    fn kind(&self, to: String, said: LinkHeaders) -> ConnectionKind {
        let LinkHeaders { caller, client, .. } = said;
        ConnectionKind::LinkTunnel(Arc::new(LinkTunnel { peer: self.peer.clone(), to, caller, client }))
    }
}

/// Says 200 and turns the stream into bytes.
fn accept(respond: &mut SendResponse<Bytes>, request: Request<RecvStream>) -> Result<Tunnel, Refusal> {
    let sent = respond.send_response(Response::new(()), false);
    let send =
        sent.map_err(|_gone| Refusal::new(StatusCode::BAD_REQUEST, "gone", "the stream was given up"))?;
    Ok(Tunnel::new(send, request.into_body()))
}

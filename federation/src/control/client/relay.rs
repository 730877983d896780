//! Carries connections of peers on to the leader, with the address that they really come from.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy, split};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::link::{self, NoLink};
use super::{ControlStatus, Shared};
use crate::control::handover::{HANDOVER_ALPN, header};
use crate::model::GatewayAddress;
use crate::peering::HandedOver;
use crate::peering::dial;
use crate::peering::io::Terminated;

/// Connections that are carried at a time: a stream for each peer, and strangers who join.
const RELAYED_MAX: usize = 1024;
/// How long the leader may take to take a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long one direction may go on once the other has ended.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum NotRelayed {
    #[error("no federation process leads us")]
    Apart,
    #[error(transparent)]
    Link(#[from] NoLink),
    #[error("the leader did not answer in time")]
    Slow,
    #[error("the connection is lost: {0}")]
    Io(#[from] io::Error),
}

pub(super) async fn run(shared: &Arc<Shared>, mut connections: mpsc::Receiver<HandedOver>) {
    let room = Arc::new(Semaphore::new(RELAYED_MAX));
    while let Some(connection) = connections.recv().await {
        let from = connection.peer_address;
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(%from, "more connections for the control plane than can be carried; one was dropped");
            continue;
        };
        let shared = shared.clone();
        shared.tasks.clone().spawn(async move {
            let _permit = permit;
            if let Err(error) = relay(&shared, connection).await {
                tracing::info!(%from, %error, "a connection for the control plane was not carried");
            }
        });
    }
    std::future::pending().await
}

async fn relay(shared: &Shared, connection: HandedOver) -> Result<(), NotRelayed> {
    let HandedOver { stream, peer_address, service } = connection;
    let leader = leader(shared).ok_or(NotRelayed::Apart)?;
    let name = dial::server_name("control", &shared.cluster);
    let connecting = timeout(CONNECT_TIME, link::connect(shared, &leader, &name, HANDOVER_ALPN));
    let (tls, entry) = connecting.await.map_err(|_elapsed| NotRelayed::Slow)??;
    let mut onward = Terminated::new(tls, (), Some(&entry));
    onward.write_all(&header::write(peer_address, service, &shared.cluster)).await?;
    carry(stream, onward).await;
    Ok(())
}

/// Carries both ways until one of them ends; the other then has a moment, not for ever: an end that has
/// vanished without a word would keep its place.
async fn carry(peer: impl AsyncRead + AsyncWrite, leader: impl AsyncRead + AsyncWrite) {
    let ((from_peer, to_peer), (from_leader, to_leader)) = (split(peer), split(leader));
    let (mut up, mut down) = (pin!(pass(from_peer, to_leader)), pin!(pass(from_leader, to_peer)));
    // Whoever ended it knows why; here it is only an end.
    let _either = tokio::select! {
        _ended = &mut up => timeout(LINGER, down).await,
        _ended = &mut down => timeout(LINGER, up).await,
    };
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

fn leader(shared: &Shared) -> Option<GatewayAddress> {
    match &*shared.status.borrow() {
        ControlStatus::Connected { to, .. } => Some(to.clone()),
        ControlStatus::Apart { .. } => None,
    }
}

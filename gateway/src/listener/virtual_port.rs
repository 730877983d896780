//! A port of a service's own address: HTTP if the port says so, else bytes.

use std::sync::Arc;

use super::accept::Accepted;
use super::http1;
use super::server::Server;
use crate::connection::{ConnectionIo, ConnectionKind, Facts};
use crate::destination::DestinationKey;
use crate::telemetry::Entrance;
use crate::tunnel;

/// The snapshot at the moment of the connection decides, so a port may change what it speaks.
pub(super) async fn serve(server: &Arc<Server>, owner: &str, accepted: Accepted, key: DestinationKey) {
    let Accepted { stream, from, slot: _slot } = accepted;
    let view = server.plane().views.load();
    let Some(destination) = view.router.destination(&key) else {
        return server.refused(Entrance::Virtual, "virtual_port_gone", Some(from));
    };
    let Ok(connection) = server.open(owner, None) else { return };
    let facts = Facts::new(&stream, connection, ConnectionKind::Virtual(key), None);
    let io = ConnectionIo::new(stream, facts);
    if destination.port.protocol.is_http() {
        http1::serve(server, io).await;
    } else {
        tunnel::carry(server.plane(), &view, &destination, io).await;
    }
}

//! The far end of a byte stream: an endpoint of this cluster, or a CONNECT stream to a peer's gateway.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use federation::model::Host;
use tokio::net::TcpStream;
use tokio::time::timeout;
use trust_bundle::Connection;

use crate::answer::Refusal;
use crate::balancer::{InFlight, Pick, Reason, Target};
use crate::clock;
use crate::context::{Caller, TRIES_MAX};
use crate::destination::Destination;
use crate::fault::Fault;
use crate::link::BorrowedTunnel;
use crate::listener::bind;
use crate::overload::Admission;
use crate::plane::Plane;
use crate::snapshot::View;
use crate::upstream::Resolver;

/// An endpoint in this cluster answers a SYN in milliseconds; a dead one must not use up the patience
/// of the client.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// An open stream to a target, which counts as in flight until dropped.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Taken by whoever copies.
    pub(crate) stream: Option<FarEnd>,
    pub(crate) target: Target,
    pub(crate) why: Reason,
    pub(crate) tried: Vec<Target>,
    pub(crate) _in_flight: InFlight,
    pub(crate) _admission: Admission,
}

#[derive(Debug)]
pub(crate) enum FarEnd {
    Endpoint(TcpStream),
    Link(BorrowedTunnel),
}

impl FarEnd {
    /// The link that carries it.
    pub(super) fn link(&self) -> Option<&Arc<Connection>> {
        match self {
            Self::Endpoint(_) => None,
            Self::Link(tunnel) => Some(tunnel.facts().connection()),
        }
    }
}

/// Picks and connects, and tries the next target where one cannot be connected to.
pub(super) async fn open(
    plane: &Plane,
    view: &View,
    destination: &Destination,
    caller: &Caller,
    admission: Admission,
) -> Result<Opened, Refusal> {
    let mut tried = Vec::new();
    let mut refusal = None;
    while tried.len() < TRIES_MAX {
        let pick = match plane.pick(view, destination, &tried) {
            Ok(pick) => pick,
            // A failed try says more than that nobody is left.
            Err(nobody) => return Err(refusal.unwrap_or_else(|| Refusal::from(&nobody))),
        };
        let Pick { target, reason: why, in_flight, .. } = pick;
        match connect(plane, destination, caller, &target).await {
            Ok(stream) => {
                in_flight.connected();
                let stream = Some(stream);
                let (_in_flight, _admission) = (in_flight, admission);
                return Ok(Opened { stream, target, why, tried, _in_flight, _admission });
            }
            Err(Failed { refusal: failed, elsewhere }) => {
                in_flight.connect_failed(clock::now());
                refusal = Some(failed);
                tried.push(target);
                if !elsewhere {
                    break;
                }
            }
        }
    }
    Err(refusal.unwrap_or_else(|| Refusal::fault(Fault::Connect, "nothing was tried")))
}

/// One target could not be had.
struct Failed {
    refusal: Refusal,
    /// No byte has reached the service, so another target may be tried.
    elsewhere: bool,
}

async fn connect(
    plane: &Plane,
    destination: &Destination,
    caller: &Caller,
    target: &Target,
) -> Result<FarEnd, Failed> {
    match target {
        Target::Endpoint { host, port, .. } => {
            let connected = timeout(CONNECT_TIME_MAX, dial(&plane.resolver, host, *port)).await;
            let connected = connected.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
            connected.map(FarEnd::Endpoint).map_err(|error| {
                let message = format!("cannot connect to the endpoint: {}", error.kind());
                Failed { refusal: Refusal::fault(Fault::Connect, message), elsewhere: true }
            })
        }
        Target::Cluster(peer) => {
            let (name, port) = (destination.name(), destination.port.port);
            let said = caller.headers(destination, None);
            let opened = plane.links.tunnel(peer, name, port, said.pairs()).await;
            opened.map(FarEnd::Link).map_err(|fault| {
                let refusal = Refusal::fault(fault.fault(), format!("cluster {peer}: {fault}"));
                Failed { refusal, elsewhere: fault.may_try_elsewhere() }
            })
        }
    }
}

async fn dial(resolver: &Resolver, host: &Host, port: u16) -> io::Result<TcpStream> {
    let address = resolver.resolve(host, port).await.map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    bind::tune(&stream)?;
    Ok(stream)
}

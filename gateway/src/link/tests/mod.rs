//! Links between two gateways over real sockets, with real SVIDs.

mod domain;
mod front;
mod goodbyes;
mod hole;
mod manners;
mod peer;
mod proxied;
mod requests;
mod stalls;
mod trust;
mod tunnels;
mod world;

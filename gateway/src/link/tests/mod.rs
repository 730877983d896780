//! Links between two gateways over real sockets, with real SVIDs.

mod domain;
mod goodbyes;
mod hole;
mod manners;
mod peer;
mod requests;
mod stalls;
mod trust;
mod tunnels;
mod world;

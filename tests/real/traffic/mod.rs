//! Constant traffic between clusters, with the fate of every single request.
//!
//! ```text
//! workloads of one cluster ─► two gateways ══► two gateways ─► endpoints of the other
//! ```
//!
//! Clients and endpoints are programs of their own on the workloads' machine of their cluster, so that
//! they meet the network as workloads do. A client behaves as good ones do: it knows two gateways, asks
//! two name servers, connects to the next address where one does not answer, and repeats what is
//! idempotent on a connection of its own. The rate does not depend on the answers.

mod client;
mod endpoints;
mod http;
mod names;
mod outcome;
mod tcp;

pub(crate) use client::{Plan, generate};
pub(crate) use endpoints::{HTTP_PORTS, TCP_PORT, serve};
pub(crate) use outcome::{Flow, Outcome};

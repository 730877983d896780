//! The harness of the tests that cross crates.
//!
//! Real sockets on port 0, a real CA in a temporary directory, snapshots made by the real catalog from
//! documents. Nothing here sleeps for a fixed time: what takes a while is waited for, with a deadline.

mod apart;
mod cluster;
mod documents;
mod echo;
mod etcd;
mod eventually;
mod gateway;
mod http1;
mod http2;
mod load;
mod scene;
mod trust;

pub use apart::{ApartCluster, TestProcess};
pub use cluster::{Exported, TestCluster};
pub use documents::{export_document, service_documents, slice_document};
pub use echo::{EchoServer, GREETING, HttpEcho};
pub use etcd::{EtcdShape, TestEtcd};
pub use eventually::{eventually, within};
pub use gateway::{Bounds, TestGateway};
pub use http1::{Answer, Http1};
pub use http2::{Answered, Http2, Http2Echo, Seen};
pub use load::{Connections, Load, LoadReport, RunningLoad};
pub use scene::Scene;
pub use trust::TestTrustDomain;

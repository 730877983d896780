//! The rim: looks at the host and brings facts home. Everything here is read or tried, nothing is changed:
//! a socket that could be bound is closed at once.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use federation::config::Config;
use serde_json::Value;

use super::facts::{AdminFact, CertificateFact, Clock, EndpointFact, Facts};
use crate::clock;

mod dns;
mod files;
mod holders;
mod kernel;
mod sockets;
mod systemd;

/// For each thing that may not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a running process told, asked beforehand.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub admin: AdminFact,
    pub certificates: Vec<CertificateFact>,
    /// A service of this cluster and its address.
    pub name: Option<(String, IpAddr)>,
}

/// Looks at this host; blocks, for some seconds where something does not answer.
pub fn gather(config: &Config, wrong: Vec<String>, told: Told) -> Facts {
    let is_root = files::owner(Path::new("/proc/self")) == Some(0);
    let (unit, unit_limits) = systemd::unit().unzip();
    let unit_limits = unit_limits.unwrap_or_default();
    let mut limits = kernel::limits();
    if unit.is_some() {
        // What counts is what the process gets, not this shell.
        limits.descriptors = unit_limits.descriptors.or(limits.descriptors);
        limits.memory = unit_limits.memory;
    }
    let settings = serde_json::to_value(config).unwrap_or_default();
    let now = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    Facts {
        configuration: wrong,
        limits,
        sockets: sockets::configured(config),
        pool: sockets::pool(config),
        zones: dns::zones(config.dns),
        name: told.name.map(dns::name),
        clock: Clock { unix_seconds: now.as_secs(), synchronised: systemd::synchronised() },
        directories: files::directories(config),
        secrets: files::secrets(config, &settings),
        certificates: told.certificates,
        endpoints: endpoints(config, &settings),
        unit,
        admin: told.admin,
        is_root,
    }
}

/// etcd, and the federation processes of a gateway.
fn endpoints(config: &Config, settings: &Value) -> Vec<EndpointFact> {
    let etcd = settings.pointer("/store/etcd/endpoints").and_then(Value::as_array);
    let etcd = etcd.into_iter().flatten().filter_map(Value::as_str);
    let etcd = etcd.map(|endpoint| ("store.etcd.endpoints", endpoint.to_owned()));
    let control = config.control.endpoints.iter().map(|at| ("control.endpoints", at.to_string()));
    etcd.chain(control)
        .map(|(setting, endpoint)| EndpointFact { setting, reached: reach(&endpoint), endpoint })
        .collect()
}

/// Whether somebody accepts connections there; what they speak is not tried.
fn reach(endpoint: &str) -> Result<(), String> {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = authority.trim_end_matches('/').to_owned();
    let addresses = within(move || authority.to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>));
    let addresses =
        addresses.ok_or("its name is not resolved in time")?.map_err(|error| error.to_string())?;
    let mut last = Err("its name has no address".to_owned());
    for address in addresses {
        match std::net::TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_connected) => return Ok(()),
            Err(error) => last = Err(format!("{address}: {error}")),
        }
    }
    last
}

/// The C library's resolver cannot be told to hurry; a thread that is late is left behind.
fn within<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || answer.send(ask()));
    answered.recv_timeout(PATIENCE).ok()
}

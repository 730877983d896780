//! What a look at the host brings home; nothing here is judged yet. None means: could not be found out.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Everything that the checks look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// What is wrong with the configuration; the rest is about its defaults then.
    pub configuration: Vec<String>,
    pub limits: Limits,
    pub sockets: Vec<SocketFact>,
    /// Where a virtual address could be bound.
    pub pool: Option<(IpAddr, Bind)>,
    pub zones: Vec<ZoneFact>,
    /// A name of this cluster as programs of the host see it.
    pub name: Option<NameFact>,
    pub clock: Clock,
    pub directories: Vec<DirectoryFact>,
    pub secrets: Vec<FileFact>,
    pub certificates: Vec<CertificateFact>,
    pub endpoints: Vec<EndpointFact>,
    pub unit: Option<UnitFact>,
    pub admin: AdminFact,
    /// We may bind low ports that the process may not.
    pub is_root: bool,
}

/// Limits of the kernel, and of the unit where there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub descriptors: Option<u64>,
    pub somaxconn: Option<u64>,
    pub ephemeral_ports: Option<(u16, u16)>,
    pub low_ports_end: Option<u16>,
    /// Connections that are tracked, and how many may be.
    pub conntrack: Option<(u64, u64)>,
    /// Bytes used, and the limit.
    pub memory: Option<(u64, u64)>,
}

/// What an attempt to bind said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    Free,
    /// By whom, where that can be seen: `name (pid)`.
    Taken(Option<String>),
    NoSuchAddress,
    NotPermitted,
    Failed(String),
}

/// A socket of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFact {
    pub setting: &'static str,
    pub address: SocketAddr,
    pub udp: bool,
    pub bind: Bind,
}

/// What a DNS server answered to the question for a zone's SOA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The zone is served there.
    Served,
    /// Another code, by its number.
    Code(u8),
    NoAnswer(String),
}

/// A zone, asked here and at the host's resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneFact {
    pub zone: &'static str,
    pub ours: Answer,
    /// The server that programs of this host ask, and its answer.
    pub host: Option<(SocketAddr, Answer)>,
}

/// A name, as our DNS answers it and as the C library finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameFact {
    pub name: String,
    pub expected: IpAddr,
    pub found: Result<Vec<IpAddr>, String>,
    /// The line `hosts:` of nsswitch.conf.
    pub order: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clock {
    pub unix_seconds: u64,
    pub synchronised: Option<bool>,
}

/// A directory of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryFact {
    pub setting: &'static str,
    pub path: PathBuf,
    /// Holds keys, so that nobody else may look in.
    pub private: bool,
    pub state: DirectoryState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryState {
    Missing,
    Unreadable(String),
    There { mode: u32, free_bytes: Option<u64> },
}

/// A file with a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    pub path: PathBuf,
    pub mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFact {
    pub id: String,
    pub not_after: u64,
}

/// Something that the configuration tells us to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFact {
    pub setting: &'static str,
    pub endpoint: String,
    pub reached: Result<(), String>,
}

/// A systemd unit of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFact {
    pub name: String,
    pub active: String,
    pub sub: String,
    pub result: String,
    pub restarts: u64,
    pub reload_needed: bool,
    pub may_bind_low_ports: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AdminFact {
    #[default]
    NotAsked,
    Silent(String),
    Answers {
        cluster: String,
        expected: String,
        ready: bool,
        problems: usize,
    },
}

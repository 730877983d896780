//! Why a request has no destination, as data for logs, metrics and answers.

use std::sync::Arc;

/// Why nothing answers for a host, a route or a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("the host is not a valid host name")]
    InvalidHost,
    #[error(
        "no listener or zone has this host; hint: services are called <service>.<namespace>.svc.clusterset.local"
    )]
    UnknownHost,
    #[error("no such service; hint: `isthmus get` lists what this cluster knows")]
    UnknownService,
    #[error("the service has no port {0}")]
    UnknownPort(u16),
    #[error("the service has more than one HTTP port and none is {0}; hint: put the port into the host")]
    AmbiguousPort(u16),
    #[error("port {0} of the service does not carry HTTP; hint: use its own address, or CONNECT")]
    NotHttp(u16),
    #[error("no route of this host matches the request")]
    NoMatch,
    #[error("the rule of the route has no backends with a weight")]
    NoBackend,
    #[error("a backend of the route cannot be served: {0}")]
    InvalidBackend(Arc<str>),
    /// The one answer for "no such service" and "not exported to you" (T8).
    #[error("not found")]
    NotFound,
}

impl NoRoute {
    /// The status that says whose fault it is.
    pub fn status(&self) -> u16 {
        match self {
            Self::InvalidHost => 400,
            Self::NoBackend | Self::InvalidBackend(_) => 500,
            _ => 404,
        }
    }

    /// One word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidHost => "invalid-host",
            Self::UnknownHost => "unknown-host",
            Self::UnknownService => "unknown-service",
            Self::UnknownPort(_) => "unknown-port",
            Self::AmbiguousPort(_) => "ambiguous-port",
            Self::NotHttp(_) => "not-http",
            Self::NoMatch => "no-match",
            Self::NoBackend => "no-backend",
            Self::InvalidBackend(_) => "invalid-backend",
            Self::NotFound => "not-found",
        }
    }
}

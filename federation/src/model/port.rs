//! A port of a service, and what is spoken on it.

use serde::{Deserialize, Serialize};

/// The transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
}

/// What is spoken on a port (design.md, section 3, "Protocol of a port").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    Http,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
    Grpc,
    Tcp,
    Tls,
    /// HTTP when addressed by Host on an HTTP listener, opaque on its own address.
    #[default]
    Auto,
}

impl AppProtocol {
    /// Takes `appProtocol`, else the port name's prefix as Istio reads it, else `auto`.
    pub fn detect(app_protocol: Option<&str>, port_name: &str) -> Self {
        let prefix = port_name.split('-').next().unwrap_or_default();
        app_protocol.and_then(Self::from_word).or_else(|| Self::from_word(prefix)).unwrap_or_default()
    }

    fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "http" | "kubernetes.io/ws" => Self::Http,
            "http2" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" | "grpc-web" => Self::Grpc,
            "https" | "tls" | "kubernetes.io/wss" => Self::Tls,
            "tcp" | "udp" | "mongo" | "mysql" | "redis" | "postgres" | "postgresql" => Self::Tcp,
            _ => return None,
        })
    }

    /// May a request be routed here by its Host.
    pub fn carries_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::Auto)
    }

    /// Is every connection to this port HTTP, also on the service's own address.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

/// One port that a service offers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty where the service has only one.
    pub name: String,
    pub port: u16,
    pub transport: Transport,
    pub protocol: AppProtocol,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_wins_over_the_name() {
        for (app_protocol, name, expected) in [
            (Some("kubernetes.io/h2c"), "http", AppProtocol::Http2),
            (None, "http-admin", AppProtocol::Http),
            (None, "grpc", AppProtocol::Grpc),
            (None, "mysql", AppProtocol::Tcp),
            (None, "httpx", AppProtocol::Auto),
            (Some("unheard-of"), "tcp-x", AppProtocol::Tcp),
            (None, "", AppProtocol::Auto),
        ] {
            assert_eq!(AppProtocol::detect(app_protocol, name), expected, "{app_protocol:?} {name}");
        }
    }
}

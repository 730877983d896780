//! Which port of a service a number means.

use federation::model::{ServicePort, Transport};

use super::NoRoute;

/// The port that a Host without one names.
const HTTP_PORT: u16 = 80;

/// The port for a request that came by its Host: by number, else the only one that speaks HTTP.
pub(super) fn http(ports: &[ServicePort], number: Option<u16>) -> Result<&ServicePort, NoRoute> {
    let wanted = number.unwrap_or(HTTP_PORT);
    if let Some(port) = tcp(ports, wanted) {
        if port.protocol.carries_http() {
            return Ok(port);
        }
        if number.is_some() {
            return Err(NoRoute::NotHttp(wanted));
        }
    }
    // A port that says HTTP counts before one that says nothing.
    let declared = ports.iter().filter(|port| is_tcp(port) && port.protocol.is_http());
    let possible = ports.iter().filter(|port| is_tcp(port) && port.protocol.carries_http());
    match (only(declared.clone()), declared.count()) {
        (Some(port), _) => Ok(port),
        (None, 0) => only(possible.clone()).ok_or_else(|| match possible.count() {
            0 => NoRoute::UnknownPort(wanted),
            _ => NoRoute::AmbiguousPort(wanted),
        }),
        (None, _) => Err(NoRoute::AmbiguousPort(wanted)),
    }
}

/// The TCP port with exactly this number; UDP may have the same one.
pub(super) fn tcp(ports: &[ServicePort], number: u16) -> Option<&ServicePort> {
    ports.iter().find(|port| port.port == number && is_tcp(port))
}

fn is_tcp(port: &ServicePort) -> bool {
    port.transport == Transport::Tcp
}

fn only<'a>(mut ports: impl Iterator<Item = &'a ServicePort>) -> Option<&'a ServicePort> {
    ports.next().filter(|_| ports.next().is_none())
}

#[cfg(test)]
mod tests {
    use federation::model::AppProtocol;

    use super::*;

    /// Reads `80=http 443=tls 53/udp`.
    fn ports(text: &str) -> Vec<ServicePort> {
        let port = |word: &str| {
            let (number, protocol) = word.split_once('=').unwrap_or((word, ""));
            let (number, transport) = match number.strip_suffix("/udp") {
                Some(number) => (number, Transport::Udp),
                None => (number, Transport::Tcp),
            };
            ServicePort {
                name: protocol.to_owned(),
                port: number.parse().unwrap(),
                transport,
                protocol: AppProtocol::detect(Some(protocol), ""),
            }
        };
        text.split_whitespace().map(port).collect()
    }

    #[test]
    fn a_single_http_port_takes_any_number() {
        for (text, number, expected) in [
            ("80=http", None, Ok(80)),
            ("8080=http", None, Ok(8080)),
            ("8080=http", Some(9), Ok(8080)),
            ("8080=http 5432=tcp", Some(80), Ok(8080)),
            ("8080=http 9090=grpc", Some(9090), Ok(9090)),
            ("8080=http 9090=grpc", None, Err(NoRoute::AmbiguousPort(80))),
            ("80=http 9090=grpc", None, Ok(80)),
            ("8080=http 9090", None, Ok(8080)),
            ("8080 9090", None, Err(NoRoute::AmbiguousPort(80))),
            ("8080 9090", Some(9090), Ok(9090)),
            ("8080", None, Ok(8080)),
            ("8080=http 5432=tcp", Some(5432), Err(NoRoute::NotHttp(5432))),
            ("80=tcp 8080=http", None, Ok(8080)),
            ("80=tcp 8080=http", Some(80), Err(NoRoute::NotHttp(80))),
            ("5432=tcp", None, Err(NoRoute::UnknownPort(80))),
            ("80/udp=http", None, Err(NoRoute::UnknownPort(80))),
            ("53/udp 53=tcp 80=http", Some(53), Err(NoRoute::NotHttp(53))),
            ("", None, Err(NoRoute::UnknownPort(80))),
        ] {
            let ports = ports(text);
            assert_eq!(http(&ports, number).map(|port| port.port), expected, "{text:?} {number:?}");
        }
    }
}

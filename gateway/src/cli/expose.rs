//! `isthmus expose`: writes the documents that a service outside Kubernetes needs.
//!
//! The decision is pure: arguments in, documents out. Whoever likes them puts them into the
//! configuration directory, or pipes them into `isthmus apply -f -`.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use federation::model::{AppProtocol, GatewayAddress, Host, Label};

use super::output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    isthmus expose cart -n shop --port 80=http --to 10.0.0.5:8080 --export > conf.d/cart.yaml\n  \
    isthmus expose ledger -n bank --port 5432=postgres --to db1:5432 --to db2:5432 | isthmus apply -f -")]
pub(super) struct Expose {
    /// Name of the service
    name: Label,
    /// Namespace of the service
    #[arg(short, long, default_value = "default")]
    namespace: Label,
    /// A port and what is spoken on it, for example 80=http; more than one needs the endpoints' own
    /// number behind a colon, for example 80=http:8080
    #[arg(long, required = true, value_name = "PORT[=PROTOCOL][:TARGET]")]
    port: Vec<Port>,
    /// An endpoint: HOST:PORT, or HOST where each --port says its target; may be given more than once
    #[arg(long, required = true, value_name = "HOST[:PORT]")]
    to: Vec<String>,
    /// Zone of the endpoints
    #[arg(long)]
    zone: Option<String>,
    /// Offer the service to joined clusters
    #[arg(long)]
    export: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    number: u16,
    protocol: Option<String>,
    target: Option<u16>,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|n| *n != 0)
                .ok_or_else(|| format!("{text:?} is not a port: 1 to 65535"))
        };
        let (rest, target) = match text.rsplit_once(':') {
            Some((rest, target)) => (rest, Some(number(target)?)),
            None => (text, None),
        };
        let (port, protocol) = match rest.split_once('=') {
            Some((port, protocol)) => (port, Some(protocol)),
            None => (rest, None),
        };
        if let Some(protocol) = protocol.filter(|p| AppProtocol::detect(Some(p), "") == AppProtocol::Auto) {
            return Err(format!(
                "protocol {protocol:?} is not known (hint: http, http2, grpc, tcp, tls, or none)"
            ));
        }
        Ok(Self { number: number(port)?, protocol: protocol.map(str::to_owned), target })
    }
}

/// One address, and the number behind each port.
struct Target {
    host: Host,
    numbers: Vec<u16>,
}

impl Expose {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        output::line(self.documents()?.trim_end());
        Ok(ExitCode::SUCCESS)
    }

    fn documents(&self) -> anyhow::Result<String> {
        let targets = self.to.iter().map(|to| self.target(to)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut documents = vec![self.service()];
        for (at, target) in targets.iter().enumerate() {
            documents.push(self.slice(at + 1, target));
        }
        if self.export {
            documents.push(self.service_export());
        }
        Ok(documents.join("---\n"))
    }

    fn target(&self, to: &str) -> anyhow::Result<Target> {
        if let Ok(address) = to.parse::<GatewayAddress>() {
            if self.port.len() > 1 || self.port[0].target.is_some() {
                bail!(
                    "{to}: with more than one --port, write --to HOST and each --port as PORT=PROTOCOL:TARGET"
                );
            }
            return Ok(Target { host: address.host, numbers: vec![address.port] });
        }
        let host = Host::try_from(to).context("--to takes HOST:PORT or HOST")?;
        let numbers = self.port.iter().map(|port| port.target.unwrap_or(port.number)).collect();
        Ok(Target { host, numbers })
    }

    fn metadata(&self, name: &str) -> String {
        format!("metadata:\n  name: {name}\n  namespace: {}\n", self.namespace)
    }

    fn service(&self) -> String {
        let ports = self.port.iter().map(|port| {
            let app_protocol =
                port.protocol.iter().map(|p| format!("      appProtocol: {p}\n")).collect::<String>();
            format!("    - name: {}\n      port: {}\n{app_protocol}", port.name(), port.number)
        });
        let ports: String = ports.collect();
        format!(
            "apiVersion: v1\nkind: Service\n{}spec:\n  ports:\n{ports}",
            self.metadata(self.name.as_str())
        )
    }

    /// A slice holds one kind of address, so each endpoint gets its own.
    fn slice(&self, number: usize, target: &Target) -> String {
        let kind = match &target.host {
            Host::Ip(ip) if ip.is_ipv4() => "IPv4",
            Host::Ip(_) => "IPv6",
            Host::Name(_) => "FQDN",
        };
        let ports = self.port.iter().zip(&target.numbers);
        let ports: String =
            ports.map(|(port, number)| format!("  - name: {}\n    port: {number}\n", port.name())).collect();
        let zone = self.zone.iter().map(|zone| format!("    zone: {zone}\n")).collect::<String>();
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{}  labels:\n    kubernetes.io/service-name: {}\n\
             addressType: {kind}\nports:\n{ports}endpoints:\n  - addresses: [\"{}\"]\n{zone}",
            self.metadata(&format!("{}-{number}", self.name)),
            self.name,
            target.host,
        )
    }

    fn service_export(&self) -> String {
        format!(
            "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n{}",
            self.metadata(self.name.as_str())
        )
    }
}

impl Port {
    /// Named after the protocol, as Istio reads it, and unique by its number.
    fn name(&self) -> String {
        match &self.protocol {
            Some(protocol) => format!("{}-{}", protocol.rsplit('/').next().unwrap_or(protocol), self.number),
            None => format!("port-{}", self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use federation::kubernetes::objects::parse_documents;

    use super::*;

    #[derive(Debug, Parser)]
    struct Harness {
        #[command(flatten)]
        expose: Expose,
    }

    fn documents(arguments: &str) -> anyhow::Result<String> {
        let arguments = std::iter::once("expose").chain(arguments.split(' '));
        Harness::try_parse_from(arguments)?.expose.documents()
    }

    #[test]
    fn what_is_written_is_what_the_directory_reads() {
        for (arguments, objects) in [
            ("cart --port 80=http --to 10.0.0.5:8080 --export", 3),
            ("cart -n shop --port 80 --to 10.0.0.5:8080 --to [::1]:8080 --to db.example.com:1", 4),
            ("cart --port 80=http:8080 --port 81=grpc:8081 --to 10.0.0.5 --zone a", 2),
        ] {
            let text = documents(arguments).unwrap();
            let parsed = parse_documents(&text);
            assert_eq!(parsed.len(), objects, "{text}");
            assert!(parsed.iter().all(Result::is_ok), "{text}\n{parsed:#?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (arguments, reason) in [
            ("cart --port 80=smoke --to a:1", "not known"),
            ("cart --port 0 --to a:1", "not a port"),
            ("Cart --port 80 --to a:1", "DNS label"),
            ("cart --port 80 --port 81 --to a:1", "PORT=PROTOCOL:TARGET"),
            ("cart --port 80 --to 300.1.1.1:1", "HOST"),
        ] {
            let error = format!("{:#}", documents(arguments).unwrap_err());
            assert!(error.contains(reason), "{arguments}: {error}");
        }
    }
}

//! The static configuration as the rest of the program sees it: valid, complete, typed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use humantime::format_duration;
use ipnet::{IpNet, Ipv4Net};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::Value;
use trust_bundle::TrustDomain;

use super::error::{ConfigError, ConfigErrors};
use super::overrides::Overrides;
use super::settings::{self, Fallback};
use super::store::StoreConfig;
use super::tree::{self, Given, Tree, wrong};
use crate::catalog::{AddressPool, InvalidPool};
use crate::model::{ClusterName, GatewayAddress, Host, Locality};

/// An SVID must live long enough to be renewed before it ends.
const SVID_TTL_MIN: Duration = Duration::from_secs(10);
/// RT6: a root outlives its SVIDs by far, or rotation has no time.
const ROOT_TTL_SVIDS_MIN: u32 = 4;
/// No time that is set here is longer: what is added to the clock must stay within what certificates can say.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Shorter, and a moment of a busy disk would change the leader.
const LEADER_TTL_MIN: Duration = Duration::from_secs(2);
/// A join token carries as many.
const ADVERTISED_MAX: usize = 8;
/// Where the CA keeps its key, below the data directory.
const CA_DIRECTORY: &str = "ca";
/// Where a process keeps its own things if nothing else says it.
const DATA_DIRECTORY: &str = "./data";
/// A static file is a page or two.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a process starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    pub cluster: ClusterName,
    pub trust_domain: TrustDomain,
    pub locality: Locality,
    pub store: StoreConfig,
    /// The directory of what a process keeps for itself.
    pub data: PathBuf,
    pub control: ControlConfig,
    /// The directory of documents, watched.
    pub directory: PathBuf,
    pub gateway: GatewayConfig,
    pub dns: SocketAddr,
    pub admin: SocketAddr,
    pub trust: TrustConfig,
}

/// Where the two roles of a cluster meet, if they run in processes of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlConfig {
    /// Where gateways of other processes are listened for.
    pub address: SocketAddr,
    /// Somebody chose that address, so that `isthmus run` listens there too.
    pub wanted: bool,
    /// Empty means the address that is listened on.
    pub advertise: Vec<GatewayAddress>,
    /// The federation processes of this cluster.
    pub endpoints: Vec<GatewayAddress>,
    pub leader_ttl: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfig {
    pub mesh: SocketAddr,
    pub east_west: SocketAddr,
    /// Empty means the address that `east_west` is bound to.
    pub advertise: Vec<GatewayAddress>,
    pub ingress: IpAddr,
    pub virtual_pool: IpNet,
    /// Those of all gateways, as federation gives addresses out; never empty.
    pub virtual_pools: Vec<IpNet>,
    pub overload: OverloadConfig,
}

/// When a gateway tells bulk traffic that it is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OverloadConfig {
    /// Percent of the memory limit.
    pub memory: u8,
    /// None follows the memory limit.
    pub requests: Option<u32>,
}

/// Lifetimes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustConfig {
    pub svid_ttl: Duration,
    pub workload_svid_ttl: Duration,
    pub root_ttl: Duration,
    /// The directory of the built-in CA.
    pub ca: PathBuf,
}

impl Config {
    /// Reads a file, if any, and puts overrides on top; says everything that is wrong.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        let text = path.map(read).transpose().map_err(|error| ConfigErrors(vec![error]))?;
        let directory = path.and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
        let parsed = Self::parse(text.as_deref().unwrap_or_default(), &directory, overrides);
        parsed.map_err(|errors| match path {
            Some(path) => errors.in_file(path),
            None => errors,
        })
    }

    /// Judges a text; relative paths are below `directory`.
    pub fn parse(text: &str, directory: &Path, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        let document: Value =
            if text.trim().is_empty() { Ok(Value::Null) } else { serde_saphyr::from_str(text) }
                .map_err(|error| ConfigErrors(vec![wrong("(document)", format!("is not YAML: {error}"))]))?;
        let mut errors = Vec::new();
        let mut tree = tree::flatten(&document, &mut errors);
        overrides.apply(&mut tree, &mut errors);
        let config = Self::validate(&mut Reader { tree: &tree, directory, errors: &mut errors });
        if errors.is_empty() {
            config.contradictions(&mut errors);
        }
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    fn validate(reader: &mut Reader<'_>) -> Self {
        let cluster = reader.name("cluster");
        let store = StoreConfig::validate(reader);
        let data = reader.path_or("data", store.directory());
        Self {
            trust_domain: reader.trust_domain("trustDomain", &cluster),
            locality: Locality {
                region: reader.text("locality.region"),
                zone: reader.text("locality.zone"),
                sub_zone: reader.text("locality.subZone"),
            },
            control: ControlConfig::validate(reader),
            directory: reader.path("config.directory"),
            gateway: GatewayConfig::validate(reader, &cluster),
            dns: reader.address("dns.address"),
            admin: reader.address("admin.address"),
            trust: TrustConfig::validate(reader, &data),
            store,
            data,
            cluster,
        }
    }

    /// Settings that are valid each by itself, and not together.
    fn contradictions(&self, errors: &mut Vec<ConfigError>) {
        let pool = self.gateway.virtual_pool;
        if let Err(error) = AddressPool::new(pool) {
            errors.push(wrong("gateway.virtual.pool", error.to_string()));
        }
        if let Err(error) = self.gateway.virtual_addresses() {
            errors.push(wrong("gateway.virtual.pools", format!("{error}, and none smaller than the first")));
        }
        let TrustConfig { svid_ttl, workload_svid_ttl, root_ttl, .. } = self.trust;
        let least = ROOT_TTL_SVIDS_MIN * svid_ttl.max(workload_svid_ttl);
        if root_ttl < least {
            let [root, least] = [root_ttl, least].map(format_duration);
            let message = format!("{root} is less than {least}, {ROOT_TTL_SVIDS_MIN} lifetimes of an SVID");
            errors.push(wrong("trust.rootTtl", message));
        }
        if !self.admin.ip().is_loopback() {
            let message =
                format!("{} is no loopback address, and everybody who reaches it may read", self.admin);
            errors.push(wrong("admin.address", message));
        }
        let listeners = [
            ("gateway.mesh.address", self.gateway.mesh),
            ("gateway.eastWest.address", self.gateway.east_west),
            ("dns.address", self.dns),
            ("admin.address", self.admin),
            ("control.address", self.control.address),
        ];
        for (at, (path, address)) in listeners.iter().enumerate() {
            let same = |(_, other): &&(&str, SocketAddr)| other == address && address.port() != 0;
            if let Some((other, _)) = listeners[..at].iter().find(same) {
                errors.push(wrong(path, format!("{address} is also {other}")));
            }
            if pool.contains(&address.ip()) {
                let message = format!("{pool} holds {}, which is {path}", address.ip());
                errors.push(wrong("gateway.virtual.pool", message));
            }
        }
    }
}

impl GatewayConfig {
    /// The pool of all gateways, of which nothing is given out yet.
    pub fn virtual_addresses(&self) -> Result<AddressPool, InvalidPool> {
        let (first, more) = self.virtual_pools.split_first().unwrap_or((&self.virtual_pool, &[]));
        AddressPool::new(*first)?.and(more.iter().copied())
    }

    fn validate(reader: &mut Reader<'_>, cluster: &ClusterName) -> Self {
        let east_west = reader.address("gateway.eastWest.address");
        let virtual_pool = reader.pool("gateway.virtual.pool", cluster);
        Self {
            mesh: reader.address("gateway.mesh.address"),
            east_west,
            advertise: reader.advertise("gateway.eastWest.advertise", east_west),
            ingress: reader.ip("gateway.ingress.address"),
            virtual_pool,
            virtual_pools: reader.pools("gateway.virtual.pools", virtual_pool),
            overload: OverloadConfig::validate(reader),
        }
    }
}

impl OverloadConfig {
    fn validate(reader: &mut Reader<'_>) -> Self {
        let memory = reader.parse("gateway.overload.memory", |text| {
            let percent = text.parse().ok().filter(|percent| (1..=100).contains(percent));
            percent.ok_or_else(|| format!("{text:?} is not a number of percent, 1 to 100"))
        });
        let requests = reader.parse("gateway.overload.requests", |text| match text {
            "" => Ok(None),
            text => match text.parse() {
                Ok(requests @ 1..) => Ok(Some(requests)),
                _ => Err(format!("{text:?} is not a number of requests, at least 1")),
            },
        });
        Self { memory, requests }
    }
}

impl ControlConfig {
    fn validate(reader: &mut Reader<'_>) -> Self {
        Self {
            wanted: reader.given("control.address").is_some(),
            address: reader.address("control.address"),
            advertise: reader.gateway_addresses("control.advertise"),
            endpoints: reader.gateway_addresses("control.endpoints"),
            leader_ttl: reader.duration("control.leaderTtl", LEADER_TTL_MIN),
        }
    }
}

impl TrustConfig {
    fn validate(reader: &mut Reader<'_>, data: &Path) -> Self {
        let svid_ttl = reader.duration("trust.svidTtl", SVID_TTL_MIN);
        let workload_svid_ttl = reader.duration("trust.workloadSvidTtl", SVID_TTL_MIN);
        let root_ttl = reader.duration("trust.rootTtl", ROOT_TTL_SVIDS_MIN * SVID_TTL_MIN);
        let ca = reader.path_or("trust.ca.directory", Some(&data.join(CA_DIRECTORY)));
        Self { svid_ttl, workload_svid_ttl, root_ttl, ca }
    }
}

impl ConfigErrors {
    fn in_file(self, file: &Path) -> Self {
        let document = |error| match error {
            ConfigError::Setting { path, message } if path == "(document)" => {
                ConfigError::File { file: file.to_owned(), message }
            }
            other => other,
        };
        Self(self.0.into_iter().map(document).collect())
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let wrong = |message: String| ConfigError::File { file: path.to_owned(), message };
    let metadata = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(wrong(format!("has {} bytes, more than {FILE_BYTES_MAX}", metadata.len())));
    }
    std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))
}

/// Reads typed settings and collects what is wrong; a wrong one stands for its default meanwhile.
pub(super) struct Reader<'a> {
    pub(super) tree: &'a Tree,
    directory: &'a Path,
    pub(super) errors: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    pub(super) fn given(&self, path: &str) -> Option<&str> {
        match self.tree.get(path)? {
            Given::Text(text) => Some(text),
            Given::List(_) => None,
        }
    }

    fn default(path: &str) -> &'static str {
        match settings::find(path).expect("only settings of the table are read").fallback {
            Fallback::Value(value) => value,
            Fallback::Derived(_) => "",
        }
    }

    /// The given value if it is valid, else the default.
    pub(super) fn parse<T>(&mut self, path: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        if let Some(given) = self.given(path) {
            match parse(given) {
                Ok(value) => return value,
                Err(message) => self.errors.push(wrong(path, message)),
            }
        }
        parse(Self::default(path)).expect("the defaults of the table are valid")
    }

    fn text(&mut self, path: &str) -> String {
        self.parse(path, |text| {
            let bad =
                text.len() > 63 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if bad {
                Err(format!("{text:?} is not 0 to 63 letters, digits, '-', '_' or '.'"))
            } else {
                Ok(text.to_owned())
            }
        })
    }

    fn name(&mut self, path: &str) -> ClusterName {
        self.parse(path, |text| ClusterName::try_from(text).map_err(|error| error.to_string()))
    }

    pub(super) fn path(&mut self, path: &str) -> PathBuf {
        let directory = self.directory.to_owned();
        self.parse(path, |text| match text {
            "" => Err("is empty".to_owned()),
            text => Ok(directory.join(text)),
        })
    }

    /// The given path, else one that follows from another setting.
    fn path_or(&mut self, path: &str, derived: Option<&Path>) -> PathBuf {
        let given = self.given(path).map(|given| self.directory.join(given));
        let default = self.directory.join(DATA_DIRECTORY);
        given.unwrap_or_else(|| derived.unwrap_or(&default).to_owned())
    }

    fn address(&mut self, path: &str) -> SocketAddr {
        let hint = "is not an address with a port, for example 127.0.0.1:15080 or [::]:15080";
        self.parse(path, |text| text.parse().map_err(|_invalid| format!("{text:?} {hint}")))
    }

    fn ip(&mut self, path: &str) -> IpAddr {
        self.parse(path, |text| text.parse().map_err(|_invalid| format!("{text:?} is not an IP address")))
    }

    fn duration(&mut self, path: &str, least: Duration) -> Duration {
        self.parse(path, |text| {
            let duration = humantime::parse_duration(text).map_err(|error| {
                format!("{text:?} is not a duration, for example 20s, 15m or 24h: {error}")
            })?;
            match duration {
                short if short < least => Err(format!("{text} is less than {}", format_duration(least))),
                long if long > DURATION_MAX => {
                    Err(format!("{text} is more than {}", format_duration(DURATION_MAX)))
                }
                duration => Ok(duration),
            }
        })
    }

    fn trust_domain(&mut self, path: &str, cluster: &ClusterName) -> TrustDomain {
        let derived = format!("{cluster}.isthmus.internal");
        let given = self.given(path).unwrap_or(&derived).to_owned();
        match TrustDomain::try_from(given.as_str()) {
            Ok(domain) => domain,
            Err(error) => {
                self.errors.push(wrong(path, error.to_string()));
                TrustDomain::try_from(derived.as_str()).expect("a label below our own name is a trust domain")
            }
        }
    }

    /// A list of addresses that somebody is to dial.
    fn gateway_addresses(&mut self, path: &str) -> Vec<GatewayAddress> {
        let given = match self.tree.get(path) {
            Some(Given::List(entries)) => entries.as_slice(),
            _ => &[],
        };
        let parsed: Vec<_> = given.iter().map(|entry| entry.parse::<GatewayAddress>()).collect();
        let mut addresses = Vec::new();
        for (at, entry) in parsed.into_iter().enumerate() {
            match entry {
                Ok(GatewayAddress { host: Host::Ip(ip), .. }) if ip.is_unspecified() => {
                    let message = format!("{ip} leads nobody here; name an address that others can dial");
                    self.errors.push(wrong(&format!("{path}[{at}]"), message));
                }
                Ok(address) => addresses.push(address),
                Err(error) => self.errors.push(wrong(&format!("{path}[{at}]"), error.to_string())),
            }
        }
        if addresses.len() > ADVERTISED_MAX {
            self.errors
                .push(wrong(path, format!("has {} entries, more than {ADVERTISED_MAX}", addresses.len())));
        }
        addresses
    }

    fn advertise(&mut self, path: &str, east_west: SocketAddr) -> Vec<GatewayAddress> {
        let given = matches!(self.tree.get(path), Some(Given::List(entries)) if !entries.is_empty());
        let addresses = self.gateway_addresses(path);
        if !given && east_west.ip().is_unspecified() {
            let message = format!(
                "must say where other clusters reach this one, since gateway.eastWest.address is {east_west}, \
                 for example [\"gw.example.com:{}\"]",
                east_west.port()
            );
            self.errors.push(wrong(path, message));
        }
        addresses
    }

    /// The given networks, else the one.
    fn pools(&mut self, path: &str, one: IpNet) -> Vec<IpNet> {
        let Some(Given::List(given)) = self.tree.get(path) else { return vec![one] };
        let mut pools = Vec::new();
        for (at, entry) in given.iter().enumerate() {
            match entry.parse::<IpNet>() {
                Ok(net) => pools.push(net.trunc()),
                Err(_) => {
                    let message = format!("{entry:?} is not a network, for example 10.1.16.0/24");
                    self.errors.push(wrong(&format!("{path}[{at}]"), message));
                }
            }
        }
        if pools.is_empty() { vec![one] } else { pools }
    }

    fn pool(&mut self, path: &str, cluster: &ClusterName) -> IpNet {
        match self.given(path).map(|text| (text.to_owned(), text.parse::<IpNet>())) {
            None => derived_pool(cluster).into(),
            Some((_, Ok(net))) => net.trunc(),
            Some((text, Err(_))) => {
                self.errors
                    .push(wrong(path, format!("{text:?} is not a network, for example 127.80.0.0/20")));
                derived_pool(cluster).into()
            }
        }
    }
}

/// A /20 within 127.64.0.0/10, so that clusters on one machine hardly ever share one.
fn derived_pool(cluster: &ClusterName) -> Ipv4Net {
    const BASE: u32 = u32::from_be_bytes([127, 64, 0, 0]);
    const POOLS: u32 = 1 << (20 - 10);
    let hash = digest(&SHA256, cluster.as_str().as_bytes());
    let number = u32::from(hash.as_ref()[0]) << 8 | u32::from(hash.as_ref()[1]);
    let address = Ipv4Addr::from(BASE + ((number % POOLS) << 12));
    Ipv4Net::new(address, 20).expect("20 is a prefix length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, settings: &[&str]) -> Result<Config, Vec<String>> {
        let settings: Vec<_> = settings.iter().map(|&s| s.to_owned()).collect();
        let overrides = Overrides::new([], &settings).unwrap();
        Config::parse(text, Path::new("/etc/isthmus"), &overrides)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_file_is_a_working_cluster() {
        let config = parse("", &[]).unwrap();
        assert_eq!(config.cluster.as_str(), "local");
        assert_eq!(config.trust_domain.as_str(), "local.isthmus.internal");
        assert_eq!(config.directory, Path::new("/etc/isthmus/./conf.d"));
        assert_eq!(config.gateway.mesh.to_string(), "127.0.0.1:15080");
        assert_eq!(config.trust.svid_ttl, Duration::from_secs(24 * 3600));
        let IpNet::V4(pool) = config.gateway.virtual_pool else { panic!("{config:?}") };
        assert!("127.64.0.0/10".parse::<Ipv4Net>().unwrap().contains(&pool) && pool.prefix_len() == 20);
    }

    #[test]
    fn the_whole_contract_is_read() {
        let text = "
cluster: onprem
trustDomain: onprem.example.org
locality: {region: eu, zone: eu-a}
store: {embedded: {path: ./data}}
config: {directory: /srv/conf.d}
gateway:
  mesh: {address: 127.0.0.1:1}
  eastWest: {address: '0.0.0.0:2', advertise: ['gw.example.com:15443', '[2001:db8::1]:3']}
  virtual: {pool: 127.80.0.1/20}
dns: {address: 127.0.0.1:4}
admin: {address: 127.0.0.1:5}
trust: {svidTtl: 20s}
";
        let config = parse(text, &[]).unwrap();
        assert_eq!(config.trust_domain.as_str(), "onprem.example.org");
        assert_eq!(config.locality.to_string(), "eu/eu-a");
        assert_eq!(config.directory, Path::new("/srv/conf.d"));
        assert_eq!(config.gateway.advertise.len(), 2);
        assert_eq!(config.gateway.virtual_pool.to_string(), "127.80.0.0/20");
        assert_eq!(config.trust.svid_ttl, Duration::from_secs(20));
    }

    #[test]
    fn nobody_is_told_to_dial_every_address() {
        let text = "cluster: onprem\ngateway: {eastWest: {advertise: ['0.0.0.0:15443', '[::]:1', 'gw:1']}}";
        let errors = parse(text, &[]).unwrap_err();
        let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("gateway.eastWest.advertise[0]: 0.0.0.0 leads nobody here"), "{told:?}");
    }

    #[test]
    fn everything_wrong_is_said_at_once_with_its_path() {
        let text = "
cluster: On_Prem
gatway: {}
gateway: {mesh: {adress: x}, eastWest: {address: '0.0.0.0:1'}, virtual: {pool: many}}
dns: 53
trust: {svidTtl: 1s, rootTtl: soon}
locality: here
";
        let errors = parse(text, &[]).unwrap_err();
        for (path, word) in [
            ("cluster:", "DNS label"),
            ("gatway:", "not a setting"),
            ("gateway.mesh.adress:", "did you mean gateway.mesh.address?"),
            ("gateway.eastWest.advertise:", "must say where"),
            ("gateway.virtual.pool:", "not a network"),
            ("dns:", "has settings below it"),
            ("trust.svidTtl:", "less than 10s"),
            ("trust.rootTtl:", "not a duration"),
            ("locality:", "has settings below it"),
        ] {
            assert!(
                errors.iter().any(|e| e.starts_with(path) && e.contains(word)),
                "{path} {word}: {errors:#?}"
            );
        }
        assert_eq!(errors.len(), 9, "{errors:#?}");
    }

    #[test]
    fn lifetimes_fit_each_other_and_the_calendar() {
        for (trust, path, word) in [
            ("{svidTtl: 100days}", "trust.rootTtl:", "lifetimes of an SVID"),
            ("{workloadSvidTtl: 1h, rootTtl: 3days}", "trust.rootTtl:", "3days is less than 4days"),
            ("{svidTtl: 91999999999999h}", "trust.svidTtl:", "91999999999999h is more than"),
            ("{svidTtl: 99999999999999999h}", "trust.svidTtl:", "not a duration"),
        ] {
            let errors = parse(&format!("trust: {trust}"), &[]).unwrap_err();
            let [error] = &errors[..] else { panic!("{trust}: {errors:#?}") };
            assert!(error.starts_with(path) && error.contains(word), "{trust}: {error}");
        }
        parse("trust: {svidTtl: 100days, rootTtl: 400days}", &[]).unwrap();
    }

    #[test]
    fn what_comes_later_wins() {
        let environment =
            [("ISTHMUS_CLUSTER", "env"), ("ISTHMUS_GATEWAY__MESH__ADDRESS", "127.0.0.1:7"), ("PATH", "x")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let set = ["cluster=set".to_owned(), "gateway.eastWest.advertise=a:1, b:2".to_owned()];
        let overrides = Overrides::new(environment, &set).unwrap();
        let config = Config::parse("cluster: file", Path::new(""), &overrides).unwrap();
        assert_eq!(config.cluster.as_str(), "set");
        assert_eq!(config.gateway.mesh.port(), 7);
        assert_eq!(config.gateway.advertise.len(), 2);
    }

    #[test]
    fn overrides_that_name_no_setting_are_refused() {
        let unknown = Overrides::new([("ISTHMUS_CLUSTRE".to_owned(), "x".to_owned())], &[]).unwrap();
        assert!(Config::parse("", Path::new(""), &unknown).is_err());
        assert!(parse("", &["clustre=x"]).unwrap_err()[0].contains("did you mean cluster?"));
        assert!(Overrides::new([], &["cluster".to_owned()]).is_err());
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let of = |name: &str| Overrides::new([(name.to_owned(), "x".to_owned())], &[]).unwrap();
        for name in ["ISTHMUS_SERVICE_HOST", "ISTHMUS_PORT_15443_TCP_ADDR", "ISTHMUS_GATEWAY_SERVICE_PORT"] {
            assert!(Config::parse("", Path::new(""), &of(name)).is_ok(), "{name}");
        }
        for (name, hint) in [
            ("ISTHMUS_CLUSTR", "ISTHMUS_CLUSTER?"),
            ("ISTHMUS_GATEWAY__MESH__ADRESS", "ISTHMUS_GATEWAY__MESH__ADDRESS?"),
            ("ISTHMUS_SOMETHING__ELSE", "names no setting"),
        ] {
            let errors = Config::parse("", Path::new(""), &of(name)).unwrap_err();
            assert!(errors.to_string().contains(hint), "{errors}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (text, message) in [
            ("dns: {address: '127.0.0.1:15000'}", "admin.address: 127.0.0.1:15000 is also dns.address"),
            ("admin: {address: '0.0.0.0:15000'}", "admin.address: 0.0.0.0:15000 is no loopback address"),
            ("gateway: {virtual: {pool: 127.0.0.0/8}}", "holds 127.0.0.1, which is gateway.mesh.address"),
            ("gateway: {virtual: {pool: 127.80.0.0/31}}", "gateway.virtual.pool: 127.80.0.0/31 is too small"),
        ] {
            let errors = parse(text, &[]).unwrap_err();
            assert!(errors.iter().any(|error| error.contains(message)), "{text}: {errors:#?}");
        }
        // Tests take any free port, for every listener.
        let any =
            ["dns.address=127.0.0.1:0", "admin.address=127.0.0.1:0", "gateway.mesh.address=127.0.0.1:0"];
        assert!(parse("", &any).is_ok());
    }

    #[test]
    fn what_is_no_yaml_never_panics() {
        for text in ["[", "a: b: c", "- x", "3", "\0", "cluster: [x]", "cluster: {a: b}", "? x"] {
            assert!(parse(text, &[]).is_err(), "{text:?}");
        }
    }
}

//! Where a cluster keeps what it must remember: one of two stores, never both.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::settings;
use super::tree::{Given, wrong};
use super::validated::Reader;
use crate::store::{Prefix, keys};

/// An etcd has 3 or 5 members; more is a mistake.
const ENDPOINTS_MAX: usize = 8;
/// Keys are bounded, and most of a key belongs to names.
const PREFIX_BYTES_MAX: usize = 64;

const EMBEDDED: &str = "store.embedded.path";
const ENDPOINTS: &str = "store.etcd.endpoints";
const PREFIX: &str = "store.etcd.prefix";
const CA: &str = "store.etcd.tls.ca";
const CERTIFICATE: &str = "store.etcd.tls.cert";
const KEY: &str = "store.etcd.tls.key";

/// Where a cluster keeps what it must remember.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StoreConfig {
    Embedded { path: PathBuf },
    Etcd(EtcdConfig),
}

/// The etcd of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdConfig {
    /// Client URLs, all of one scheme.
    pub endpoints: Vec<String>,
    /// What stands for `/isthmus/v1/` in this etcd.
    pub prefix: Prefix,
    /// Present exactly with https.
    pub tls: Option<EtcdTls>,
}

/// Files, never an SVID of ours: nothing may depend on itself (E5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdTls {
    pub ca: PathBuf,
    pub client: Option<ClientCertificate>,
}

/// Who we are for etcd: the certificate's common name is the user (E2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl StoreConfig {
    pub(super) fn validate(reader: &mut Reader<'_>) -> Self {
        let embedded = Self::Embedded { path: reader.path(EMBEDDED) };
        let Some(given) = reader.tree.keys().find(|path| path.starts_with("store.etcd.")).cloned() else {
            return embedded;
        };
        if reader.given(EMBEDDED).is_some() {
            let message = format!("is given beside {given}; a cluster has one store, remove one of them");
            reader.errors.push(wrong(EMBEDDED, message));
        }
        Self::Etcd(EtcdConfig::validate(reader))
    }

    /// The directory that it is in, if it is on this machine.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Embedded { path } => Some(path),
            Self::Etcd(_) => None,
        }
    }
}

impl EtcdConfig {
    fn validate(reader: &mut Reader<'_>) -> Self {
        let endpoints = endpoints(reader);
        let prefix = reader.parse(PREFIX, |text| match Prefix::new(text) {
            Ok(prefix) if text.len() <= PREFIX_BYTES_MAX => Ok(prefix),
            Ok(_) => Err(format!("has {} bytes, more than {PREFIX_BYTES_MAX}", text.len())),
            Err(invalid) => Err(invalid.to_string()),
        });
        let https = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        let tls = if https { EtcdTls::validate(reader) } else { none_for_http(reader) };
        Self { endpoints, prefix, tls }
    }

    /// What is at a URL is the same whatever the prefix; the default is the layout itself.
    pub fn at(endpoints: Vec<String>) -> Self {
        Self { endpoints, prefix: keys::everything(), tls: None }
    }
}

impl EtcdTls {
    fn validate(reader: &mut Reader<'_>) -> Option<Self> {
        let mut file = |path| reader.given(path).is_some().then(|| reader.path(path));
        let (ca, cert, key) = (file(CA), file(CERTIFICATE), file(KEY));
        let client = match (cert, key) {
            (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
            (None, None) => None,
            (cert, _) => {
                let (missing, given) = if cert.is_some() { (KEY, CERTIFICATE) } else { (CERTIFICATE, KEY) };
                reader.errors.push(wrong(missing, format!("is missing, but {given} is given")));
                None
            }
        };
        if ca.is_none() {
            reader
                .errors
                .push(wrong(CA, "is missing: with https the CA of etcd's certificates must be named"));
        }
        Some(Self { ca: ca?, client })
    }
}

fn endpoints(reader: &mut Reader<'_>) -> Vec<String> {
    let given = match reader.tree.get(ENDPOINTS) {
        Some(Given::List(entries)) => entries.clone(),
        _ => Vec::new(),
    };
    if given.is_empty() || given.len() > ENDPOINTS_MAX {
        let message =
            format!("has {} entries; 1 to {ENDPOINTS_MAX} client URLs of etcd are needed", given.len());
        reader.errors.push(wrong(ENDPOINTS, message));
    }
    for (at, endpoint) in given.iter().enumerate() {
        if let Err(message) = check_endpoint(endpoint) {
            reader.errors.push(wrong(&format!("{ENDPOINTS}[{at}]"), message));
        }
    }
    let secure = given.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    if secure != 0 && secure != given.len() {
        reader.errors.push(wrong(ENDPOINTS, "mixes http and https; one attacker on the way is enough"));
    }
    given
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let hint = "for example https://10.0.0.5:2379";
    let rest = ["https://", "http://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
    let Some(authority) = rest else { return Err(format!("{endpoint:?} begins with no http(s)://, {hint}")) };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    authority
        .parse::<crate::model::GatewayAddress>()
        .map(drop)
        .map_err(|error| format!("{endpoint:?} is not a URL with host and port, {hint}: {error}"))
}

fn none_for_http(reader: &mut Reader<'_>) -> Option<EtcdTls> {
    for path in [CA, CERTIFICATE, KEY] {
        debug_assert!(settings::find(path).is_some());
        if reader.given(path).is_some() {
            reader.errors.push(wrong(path, format!("is given, but {ENDPOINTS} has no https URL")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/isthmus"), &Overrides::default())
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn an_etcd_is_read_with_its_files() {
        let text = "
store:
  etcd:
    endpoints: ['https://a.example:2379', 'https://[2001:db8::1]:2379/']
    prefix: /sites/onprem/
    tls: {ca: ca.pem, cert: client.pem, key: /run/key.pem}
";
        let config = parse(text).unwrap();
        let StoreConfig::Etcd(etcd) = config.store else { panic!("{:?}", config.store) };
        assert_eq!(etcd.endpoints.len(), 2);
        assert_eq!(etcd.prefix.as_str(), "/sites/onprem/");
        let tls = etcd.tls.unwrap();
        assert_eq!(tls.ca, Path::new("/etc/isthmus/ca.pem"));
        assert_eq!(tls.client.unwrap().key, Path::new("/run/key.pem"));
        assert_eq!(config.data, Path::new("/etc/isthmus/./data"));
    }

    #[test]
    fn the_data_directory_follows_the_embedded_store_unless_given() {
        assert_eq!(parse("store: {embedded: {path: /srv/x}}").unwrap().data, Path::new("/srv/x"));
        let given = parse("data: /srv/y\nstore: {embedded: {path: /srv/x}}").unwrap();
        assert_eq!(given.data, Path::new("/srv/y"));
        assert_eq!(given.store, StoreConfig::Embedded { path: "/srv/x".into() });
    }

    #[test]
    fn what_no_etcd_can_be_is_refused() {
        for (store, message) in [
            (
                "embedded: {path: ./d}, etcd: {endpoints: ['http://a:1']}",
                "store.embedded.path: is given beside store.etcd.endpoints",
            ),
            ("etcd: {prefix: /a/}", "store.etcd.endpoints: has 0 entries"),
            ("etcd: {endpoints: [a:1]}", "store.etcd.endpoints[0]: \"a:1\" begins with no http(s)://"),
            ("etcd: {endpoints: ['http://a']}", "is not a URL with host and port"),
            ("etcd: {endpoints: ['http://a:1/x']}", "is not a URL with host and port"),
            ("etcd: {endpoints: ['http://a:1', 'https://b:1'], tls: {ca: x}}", "mixes http and https"),
            ("etcd: {endpoints: ['https://a:1']}", "store.etcd.tls.ca: is missing"),
            ("etcd: {endpoints: ['https://a:1'], tls: {ca: x, cert: y}}", "store.etcd.tls.key: is missing"),
            ("etcd: {endpoints: ['http://a:1'], tls: {ca: x}}", "store.etcd.tls.ca: is given, but"),
            ("etcd: {endpoints: ['http://a:1'], prefix: a}", "store.etcd.prefix: \"a\" is not a prefix"),
        ] {
            let errors = parse(&format!("store: {{{store}}}")).unwrap_err();
            assert!(errors.contains(message), "{store}: {errors}");
        }
    }
}

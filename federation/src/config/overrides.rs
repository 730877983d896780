//! Single settings from the environment and from `--set`.
//!
//! `ISTHMUS_` and the path in capitals with `__` between its parts: `gateway.mesh.address` is
//! `ISTHMUS_GATEWAY__MESH__ADDRESS`. A list is written with commas. `--set` wins over the environment,
//! which wins over the file.

use super::error::ConfigError;
use super::settings::{self, Kind, SETTINGS, Setting};
use super::tree::{Given, Tree, unknown};

const PREFIX: &str = "ISTHMUS_";
/// What the commands themselves read; not settings of a process.
const RESERVED: &[&str] = &["ISTHMUS_ADMIN", "ISTHMUS_ETCD", "ISTHMUS_ETCDCTL", "ISTHMUS_LOG"];

/// Settings from outside the file, in the order in which they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    environment: Vec<(String, String)>,
    settings: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--set {0:?} is not PATH=VALUE, for example --set trust.svidTtl=1h")]
pub struct InvalidOverride(String);

impl Overrides {
    /// Takes environment variables and `--set` arguments as they are.
    pub fn new(
        environment: impl IntoIterator<Item = (String, String)>,
        settings: &[String],
    ) -> Result<Self, InvalidOverride> {
        let split = |text: &String| {
            let (path, value) = text.split_once('=').ok_or_else(|| InvalidOverride(text.clone()))?;
            Ok((path.trim().to_owned(), value.to_owned()))
        };
        let ours =
            |(name, _): &(String, String)| name.starts_with(PREFIX) && !RESERVED.contains(&name.as_str());
        let environment = environment.into_iter().filter(ours).collect();
        Ok(Self { environment, settings: settings.iter().map(split).collect::<Result<_, _>>()? })
    }

    /// The same with the environment of this process.
    pub fn from_process(settings: &[String]) -> Result<Self, InvalidOverride> {
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::new(std::env::vars_os().filter_map(readable), settings)
    }

    /// Puts what was given over what the file says.
    pub(super) fn apply(&self, tree: &mut Tree, errors: &mut Vec<ConfigError>) {
        for (name, value) in &self.environment {
            match SETTINGS.iter().find(|setting| variable(setting) == *name) {
                Some(setting) => put(tree, setting, value),
                None => errors.extend(stray(name)),
            }
        }
        for (path, value) in &self.settings {
            match settings::find(path) {
                Some(setting) => put(tree, setting, value),
                None => errors.push(unknown(path)),
            }
        }
    }
}

/// A variable that names no setting: a mistake, or somebody else's.
///
/// Kubernetes puts variables such as `ISTHMUS_SERVICE_HOST` into every pod beside a Service of our name.
/// None of those has the separator, so without it only what is nearly a setting is taken for a mistake.
fn stray(name: &str) -> Option<ConfigError> {
    let path = name.strip_prefix(PREFIX)?.replace("__", ".").to_ascii_lowercase();
    let near = settings::nearest(&path);
    if near.is_none() && !path.contains('.') {
        return None;
    }
    let hint = near.and_then(settings::find).map(|near| format!(" (hint: did you mean {}?)", variable(near)));
    let message = format!("this environment variable names no setting{}", hint.unwrap_or_default());
    Some(ConfigError::Setting { path: name.to_owned(), message })
}

/// The environment variable of a setting.
pub(super) fn variable(setting: &Setting) -> String {
    format!("{PREFIX}{}", setting.path.to_ascii_uppercase().replace('.', "__"))
}

fn put(tree: &mut Tree, setting: &Setting, value: &str) {
    let given = match setting.kind {
        Kind::GatewayAddresses | Kind::Endpoints | Kind::Networks => {
            Given::List(value.split(',').map(|entry| entry.trim().to_owned()).collect())
        }
        _ => Given::Text(value.to_owned()),
    };
    tree.insert(setting.path.to_owned(), given);
}

//! Gateway API `HTTPRoute`.
//!
//! Nothing that would change which requests go where is left out in silence:
//! - a rule with a filter that we do not know answers 500, since a request must never pass a filter
//!   unfiltered;
//! - a rule with a match that we cannot judge is dropped and reported;
//! - a backend that we cannot reach keeps its share, which is answered 500;
//! - what only shapes the traffic (timeouts, retries) is left out and reported.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Deserialize;
use serde_json::Value;

use super::InvalidObject;
use super::document::Read;
use crate::catalog::{Condition, ConditionKind, Object, Route};
use crate::model::{
    Backend, BackendTarget, HeaderMatch, Hostname, HttpMatch, HttpRoute, HttpRule, Label, ObjectKey,
    ObjectName, ParentRef, PathMatch, ServiceName, Timestamp,
};

/// As the API server has them, or somewhat more.
const PARENTS_MAX: usize = 32;
const HOSTNAMES_MAX: usize = 64;
const RULES_MAX: usize = 64;
const MATCHES_MAX: usize = 64;
const HEADERS_MAX: usize = 16;
const BACKENDS_MAX: usize = 64;
const WEIGHT_MAX: u32 = 1_000_000;
const PATH_BYTES_MAX: usize = 1024;
const HEADER_BYTES_MAX: usize = 4096;

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
const IMPORT_GROUP: &str = "multicluster.x-k8s.io";

#[derive(Debug, Deserialize)]
pub(super) struct RouteObject {
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    parent_refs: Option<Vec<Parent>>,
    #[serde(default)]
    hostnames: Option<Vec<String>>,
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parent {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    section_name: Option<String>,
    port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    matches: Option<Vec<Match>>,
    filters: Option<Vec<Filter>>,
    backend_refs: Option<Vec<BackendRef>>,
    timeouts: Option<Value>,
    retry: Option<Value>,
    session_persistence: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Match {
    path: Option<Path>,
    headers: Option<Vec<Header>>,
    query_params: Option<Vec<Value>>,
    method: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Path {
    r#type: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Header {
    r#type: Option<String>,
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Filter {
    r#type: String,
}

#[derive(Debug, Deserialize)]
struct BackendRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<u16>,
    weight: Option<u32>,
    filters: Option<Vec<Filter>>,
}

/// Why a match cannot be judged, as opposed to being wrong.
enum MatchFault {
    Unsupported(String),
    Invalid(InvalidObject),
}

/// What cannot be served of a route, by condition and reason.
#[derive(Default)]
struct Faults(BTreeMap<(ConditionKind, &'static str), Vec<String>>);

impl Faults {
    fn add(&mut self, kind: ConditionKind, reason: &'static str, message: String) {
        self.0.entry((kind, reason)).or_default().push(message);
    }

    fn into_conditions(self) -> Vec<Condition> {
        let condition = |((kind, reason), messages): ((ConditionKind, _), Vec<String>)| {
            let message = messages.join("; ");
            match kind {
                // "Partially invalid" is the one fault that is stated as being true.
                ConditionKind::PartiallyInvalid => Condition::holds(kind, reason, message),
                _ => Condition::fails(kind, reason, message),
            }
        };
        self.0.into_iter().map(condition).collect()
    }
}

pub(super) fn read(key: &ObjectKey, object: RouteObject) -> Result<Read, InvalidObject> {
    let spec = object.spec;
    let mut notes = Vec::new();
    let parents = parents(key, spec.parent_refs.unwrap_or_default(), &mut notes)?;
    if parents.is_empty() {
        notes.push((
            "spec.parentRefs".to_owned(),
            "name no Gateway, so the route is attached to nothing".to_owned(),
        ));
    }
    let mut faults = Faults::default();
    let rules = rules(key, spec.rules, &mut faults)?;
    let route = HttpRoute {
        key: key.clone(),
        // Whoever applies the document knows its age.
        created: Timestamp::default(),
        parents,
        hostnames: hostnames(spec.hostnames.unwrap_or_default())?,
        rules,
    };
    Ok(Read { object: Object::HttpRoute(Route { route, faults: faults.into_conditions() }), notes })
}

fn parents(
    key: &ObjectKey,
    written: Vec<Parent>,
    notes: &mut Vec<(String, String)>,
) -> Result<Vec<ParentRef>, InvalidObject> {
    bounded(&written, PARENTS_MAX, "spec.parentRefs")?;
    let mut parents = Vec::new();
    for (index, parent) in written.into_iter().enumerate() {
        let path = format!("spec.parentRefs[{index}]");
        let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
        if group != GATEWAY_GROUP || parent.kind.as_deref().unwrap_or("Gateway") != "Gateway" {
            notes.push((path, "is left out: only a Gateway can be a parent here".to_owned()));
            continue;
        }
        let namespace = label(parent.namespace.as_deref(), &path, "namespace")?;
        let name = ObjectName::try_from(parent.name.as_str()).map_err(at(&path, "name"))?;
        let section = label(parent.section_name.as_deref(), &path, "sectionName")?;
        let namespace = namespace.unwrap_or_else(|| key.namespace.clone());
        let gateway = ObjectKey { kind: "Gateway".into(), namespace, name };
        parents.push(ParentRef { gateway, section, port: parent.port });
    }
    Ok(parents)
}

fn hostnames(written: Vec<String>) -> Result<Vec<Hostname>, InvalidObject> {
    bounded(&written, HOSTNAMES_MAX, "spec.hostnames")?;
    let read = |(index, name): (usize, &String)| {
        Hostname::try_from(name.as_str()).map_err(at(&format!("spec.hostnames[{index}]"), ""))
    };
    written.iter().enumerate().map(read).collect()
}

fn rules(
    key: &ObjectKey,
    written: Option<Vec<Rule>>,
    faults: &mut Faults,
) -> Result<Vec<HttpRule>, InvalidObject> {
    // No rules at all is one rule for every request (Gateway API, HTTPRouteSpec.rules).
    let written = written.unwrap_or_else(|| vec![Rule::default()]);
    bounded(&written, RULES_MAX, "spec.rules")?;
    let mut rules = Vec::new();
    for (index, rule) in written.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        match rule.matches(&path) {
            Ok(matches) => rules.push(HttpRule { matches, backends: rule.backends(key, &path, faults)? }),
            Err(MatchFault::Invalid(invalid)) => return Err(invalid),
            Err(MatchFault::Unsupported(what)) => {
                let message = format!("Dropped Rule {index}: {what}");
                faults.add(ConditionKind::PartiallyInvalid, "UnsupportedValue", message);
            }
        }
    }
    if rules.is_empty() && !written.is_empty() {
        let message = "no rule of it can be judged; see PartiallyInvalid".to_owned();
        faults.add(ConditionKind::Accepted, "UnsupportedValue", message);
    }
    Ok(rules)
}

impl Rule {
    fn matches(&self, path: &str) -> Result<Vec<HttpMatch>, MatchFault> {
        let written = self.matches.as_deref().unwrap_or_default();
        bounded(written, MATCHES_MAX, &format!("{path}.matches")).map_err(MatchFault::Invalid)?;
        let read = |(index, written): (usize, &Match)| written.read(&format!("{path}.matches[{index}]"));
        written.iter().enumerate().map(read).collect()
    }

    fn backends(
        &self,
        key: &ObjectKey,
        path: &str,
        faults: &mut Faults,
    ) -> Result<Vec<Backend>, InvalidObject> {
        for (field, value) in [
            ("timeouts", &self.timeouts),
            ("retry", &self.retry),
            ("sessionPersistence", &self.session_persistence),
        ] {
            if value.is_some() {
                let message =
                    format!("{path}.{field} is not supported and not applied; the rule is served without it");
                faults.add(ConditionKind::PartiallyInvalid, "UnsupportedValue", message);
            }
        }
        if let Some(filter) = self.filters.as_deref().unwrap_or_default().first() {
            let what = format!("{path}.filters: {:?} is not supported", shortened(&filter.r#type));
            let message = format!("{what}, so requests of the rule are answered 500");
            faults.add(ConditionKind::PartiallyInvalid, "UnsupportedValue", message);
            return Ok(vec![invalid(1, format!("UnsupportedValue: {what}"))]);
        }
        let written = self.backend_refs.as_deref().unwrap_or_default();
        bounded(written, BACKENDS_MAX, &format!("{path}.backendRefs"))?;
        let read = |(index, backend): (usize, &BackendRef)| {
            backend.read(key, &format!("{path}.backendRefs[{index}]"), faults)
        };
        written.iter().enumerate().map(read).collect()
    }
}

impl Match {
    fn read(&self, path: &str) -> Result<HttpMatch, MatchFault> {
        let unsupported = |what: String| Err(MatchFault::Unsupported(what));
        if self.query_params.as_ref().is_some_and(|params| !params.is_empty()) {
            return unsupported(format!("{path}.queryParams is not supported"));
        }
        if self.method.is_some() {
            return unsupported(format!("{path}.method is not supported"));
        }
        let written = self.headers.as_deref().unwrap_or_default();
        bounded(written, HEADERS_MAX, &format!("{path}.headers")).map_err(MatchFault::Invalid)?;
        let mut headers: Vec<HeaderMatch> = Vec::new();
        for (index, header) in written.iter().enumerate() {
            let header = header.read(&format!("{path}.headers[{index}]"))?;
            // Of two for one header the first counts (Gateway API, HTTPHeaderMatch.name).
            if !headers.iter().any(|held| held.name == header.name) {
                headers.push(header);
            }
        }
        Ok(HttpMatch { path: self.path.as_ref().map_or(Ok(anything()), |p| p.read(path))?, headers })
    }
}

fn anything() -> PathMatch {
    PathMatch::Prefix(String::new())
}

impl Path {
    fn read(&self, path: &str) -> Result<PathMatch, MatchFault> {
        let value = self.value.as_deref().unwrap_or("/");
        if !value.starts_with('/') || value.len() > PATH_BYTES_MAX {
            let reason = format!("must begin with '/' and have at most {PATH_BYTES_MAX} bytes");
            return Err(MatchFault::Invalid(InvalidObject::new(format!("{path}.path.value"), reason)));
        }
        match self.r#type.as_deref().unwrap_or("PathPrefix") {
            "Exact" => Ok(PathMatch::Exact(value.to_owned())),
            "PathPrefix" => Ok(PathMatch::Prefix(value.trim_end_matches('/').to_owned())),
            other => {
                let what = format!("{path}.path.type {:?} is not supported", shortened(other));
                Err(MatchFault::Unsupported(what))
            }
        }
    }
}

impl Header {
    fn read(&self, path: &str) -> Result<HeaderMatch, MatchFault> {
        let kind = self.r#type.as_deref().unwrap_or("Exact");
        if kind != "Exact" {
            return Err(MatchFault::Unsupported(format!(
                "{path}.type {:?} is not supported",
                shortened(kind)
            )));
        }
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let valid = !self.name.is_empty() && self.name.len() <= 256 && self.name.bytes().all(is_token);
        if !valid || self.value.len() > HEADER_BYTES_MAX {
            let reason = "must be a header name and a value of at most 4096 bytes";
            return Err(MatchFault::Invalid(InvalidObject::new(path, reason)));
        }
        Ok(HeaderMatch { name: self.name.to_ascii_lowercase(), value: self.value.clone() })
    }
}

impl BackendRef {
    fn read(&self, key: &ObjectKey, path: &str, faults: &mut Faults) -> Result<Backend, InvalidObject> {
        let weight = self.weight.unwrap_or(1);
        if weight > WEIGHT_MAX {
            return Err(InvalidObject::new(
                format!("{path}.weight"),
                format!("must be at most {WEIGHT_MAX}"),
            ));
        }
        if let Some(filter) = self.filters.as_deref().unwrap_or_default().first() {
            let what = format!("{path}.filters: {:?} is not supported", shortened(&filter.r#type));
            let message = format!("{what}, so its share is answered 500");
            faults.add(ConditionKind::PartiallyInvalid, "UnsupportedValue", message);
            return Ok(invalid(weight, format!("UnsupportedValue: {what}")));
        }
        let group = self.group.as_deref().unwrap_or_default();
        let kind = self.kind.as_deref().unwrap_or("Service");
        let service = |name: &str| -> Result<ServiceName, InvalidObject> {
            let namespace = label(self.namespace.as_deref(), path, "namespace")?;
            let name = Label::try_from(name).map_err(at(path, "name"))?;
            Ok(ServiceName::new(name, namespace.unwrap_or_else(|| key.namespace.clone())))
        };
        let target = match (group, kind) {
            ("", "Service") => BackendTarget::Service {
                service: service(&self.name)?,
                port: self
                    .port
                    .ok_or_else(|| InvalidObject::new(format!("{path}.port"), "is needed for a Service"))?,
            },
            (IMPORT_GROUP, "ServiceImport") => {
                BackendTarget::Import { service: service(&self.name)?, port: self.port }
            }
            _ => {
                let what = format!(
                    "{path}: {:?} in group {:?} cannot be a backend",
                    shortened(kind),
                    shortened(group)
                );
                faults.add(ConditionKind::ResolvedRefs, "InvalidKind", what.clone());
                return Ok(invalid(weight, format!("InvalidKind: {what}")));
            }
        };
        Ok(Backend { weight, target })
    }
}

fn invalid(weight: u32, reason: String) -> Backend {
    Backend { weight, target: BackendTarget::Invalid { reason: reason.into() } }
}

fn bounded<T>(items: &[T], max: usize, path: &str) -> Result<(), InvalidObject> {
    if items.len() <= max {
        return Ok(());
    }
    Err(InvalidObject::new(path, format!("holds {} items, at most {max} are read", items.len())))
}

fn label(text: Option<&str>, path: &str, field: &str) -> Result<Option<Label>, InvalidObject> {
    text.filter(|text| !text.is_empty()).map(Label::try_from).transpose().map_err(at(path, field))
}

fn at<E: Display>(path: &str, field: &str) -> impl FnOnce(E) -> InvalidObject {
    let path = if field.is_empty() { path.to_owned() } else { format!("{path}.{field}") };
    move |error| InvalidObject::new(path, error)
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

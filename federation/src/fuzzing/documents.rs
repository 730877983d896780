//! What an operator writes: objects, settings, names.

use std::fmt::Display;
use std::path::Path;
use std::str;

use super::{catalog, reaches_a_gateway};
use crate::catalog::{Event, Source};
use crate::config::{Config, Overrides};
use crate::kubernetes::objects::{DocumentError, ParsedDocument, parse_documents};
use crate::model::{ClusterName, GatewayAddress, Host, Hostname, Label, ObjectName, ServiceName, Timestamp};

/// No line that an operator is shown is longer.
const MESSAGE_CHARS_MAX: usize = 2000;

pub(super) fn documents(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let lines = u32::try_from(text.split(['\n', '\r']).count()).expect("a small text");
    let mut catalog = catalog();
    for parsed in parse_documents(text) {
        match parsed {
            Ok(document) => {
                assert!((1..=lines).contains(&document.line), "{document:?}");
                assert!(document.notes.iter().all(|note| (1..=lines).contains(&note.line)), "{document:?}");
                is_read_again(&document);
                let source = Source::File { path: "a.yaml".into(), line: document.line };
                let ParsedDocument { key, object, .. } = document;
                catalog.apply(Event::ObjectApplied { source, key, created: Timestamp::from_unix(0), object });
            }
            Err(DocumentError { line, message, .. }) => {
                assert!((1..=lines).contains(&line), "line {line} of {lines}: {message}");
                assert!(message.chars().count() <= MESSAGE_CHARS_MAX, "{message}");
            }
        }
    }
    catalog.settle();
    for kind in catalog.kinds() {
        catalog.objects(&kind);
    }
    reaches_a_gateway(catalog.snapshot().expect("the first snapshot is news"));
}

/// The store keeps a document as it was written, and reads it by itself.
fn is_read_again(document: &ParsedDocument) {
    let again = parse_documents(&document.raw);
    let [Ok(again)] = &again[..] else { panic!("{:?} became {again:?}", document.raw) };
    assert_eq!((&again.key, &again.object), (&document.key, &document.object));
}

pub(super) fn settings(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Config::parse(text, Path::new("/etc/isthmus"), &Overrides::default()) {
        Ok(config) => drop(serde_json::to_value(&config).expect("what is used can be shown")),
        Err(errors) => assert!(errors.iter().next().is_some()),
    }
}

pub(super) fn names(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    exact(text, Label::try_from(text));
    exact(text, ObjectName::try_from(text));
    exact(text, ClusterName::try_from(text));
    exact(text, ServiceName::try_from(text));
    if let Ok(host) = Host::try_from(text) {
        assert_eq!(Host::try_from(host.to_string().as_str()), Ok(host));
    }
    if let Ok(hostname) = Hostname::try_from(text) {
        assert_eq!(Hostname::try_from(hostname.to_string().as_str()), Ok(hostname));
    }
    if let Ok(address) = text.parse::<GatewayAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Some(time) = Timestamp::parse_rfc3339(text) {
        assert_eq!(Timestamp::parse_rfc3339(&time.to_string()), Some(time));
    }
}

/// A name that is one says the same again: it never means another.
fn exact<T: Display, E>(text: &str, read: Result<T, E>) {
    if let Ok(name) = read {
        assert_eq!(name.to_string(), text);
    }
}

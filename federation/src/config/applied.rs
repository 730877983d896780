//! Documents that `isthmus apply` brought: kept in the store, told to the catalog.
//!
//! Writing only changes the store; the catalog hears of it through the watch, as it does after a
//! restart and as every other process of the cluster does. So there is one way in, not two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::catalog::{Event, Source};
use crate::kubernetes::objects::{ParsedDocument, parse_documents};
use crate::model::{ObjectKey, Timestamp};
use crate::store::keys::{self, Place};
use crate::store::{
    Change, CommitError, Entry, Fault, Revision, Store, Stored, Transaction, VALUE_BYTES_MAX, Watch,
    WatchEnd, codec, list_all,
};

/// Between two attempts to read a store that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Another process that changes the same document at the same time wins this often.
const COMMIT_ATTEMPTS_MAX: usize = 4;

/// One document as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AppliedDocument {
    created: Timestamp,
    document: String,
}

impl Stored for AppliedDocument {
    const KIND: &'static str = "applied";
}

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyOutcome {
    /// The object, or the line where one should have been.
    pub object: String,
    pub result: Result<Applied, String>,
}

/// What a document changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Created,
    Configured,
    Unchanged,
    Deleted,
}

/// Writes applied documents.
#[derive(Debug, Clone)]
pub struct AppliedDocuments {
    store: Arc<dyn Store>,
}

impl AppliedDocuments {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Writes every good document of a text; `owner` says whether another source has an object already.
    pub async fn apply(
        &self,
        text: &str,
        now: Timestamp,
        owner: impl Fn(&ObjectKey) -> Option<Source>,
    ) -> Result<Vec<ApplyOutcome>, Fault> {
        let mut outcomes = Vec::new();
        let mut seen = BTreeSet::new();
        for document in parse_documents(text) {
            let outcome = match document {
                Err(error) => ApplyOutcome {
                    object: describe(error.key.as_ref(), error.line),
                    result: Err(error.to_string()),
                },
                Ok(document) => {
                    let result = match refusal(&document, &mut seen, &owner) {
                        Some(reason) => Err(reason),
                        None => self.write(&document, now).await?,
                    };
                    ApplyOutcome { object: document.key.to_string(), result }
                }
            };
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// Removes the objects that a text names, whatever else it says of them.
    pub async fn delete(&self, text: &str) -> Result<Vec<ApplyOutcome>, Fault> {
        let mut outcomes = Vec::new();
        for document in parse_documents(text) {
            let (key, line, error) = match document {
                Ok(document) => (Some(document.key), document.line, None),
                Err(error) => (error.key.clone(), error.line, Some(error.to_string())),
            };
            let result = match (&key, error) {
                (Some(key), _) => self.remove(key).await?,
                (None, error) => Err(error.unwrap_or_default()),
            };
            outcomes.push(ApplyOutcome { object: describe(key.as_ref(), line), result });
        }
        Ok(outcomes)
    }

    async fn write(
        &self,
        document: &ParsedDocument,
        now: Timestamp,
    ) -> Result<Result<Applied, String>, Fault> {
        let key = Place::Applied(document.key.clone()).key();
        for _attempt in 0..COMMIT_ATTEMPTS_MAX {
            let held = self.store.get(&key).await?;
            let known = held.as_ref().and_then(|entry| codec::decode::<AppliedDocument>(&entry.value).ok());
            if known.as_ref().is_some_and(|known| known.document == document.raw) {
                return Ok(Ok(Applied::Unchanged));
            }
            let created = known.as_ref().map_or(now, |known| known.created);
            let value = AppliedDocument { created, document: document.raw.clone() };
            let Ok(value) = codec::encode(&value) else {
                return Ok(Err("it cannot be written as JSON".to_owned()));
            };
            if value.len() > VALUE_BYTES_MAX {
                return Ok(Err(format!(
                    "it is larger than {VALUE_BYTES_MAX} bytes; split it, or use the directory"
                )));
            }
            let revision = held.map_or(Revision::ABSENT, |entry| entry.revision);
            let done = if revision == Revision::ABSENT { Applied::Created } else { Applied::Configured };
            let transaction = Transaction::new().when(key.clone(), revision).put(key.clone(), value);
            if let Some(result) = committed(self.store.commit(transaction).await, done)? {
                return Ok(result);
            }
        }
        Ok(Err("somebody else keeps changing it; try again".to_owned()))
    }

    async fn remove(&self, object: &ObjectKey) -> Result<Result<Applied, String>, Fault> {
        let key = Place::Applied(object.clone()).key();
        let Some(held) = self.store.get(&key).await? else {
            return Ok(Err(
                "it was not applied (hint: objects of files are removed with their file)".to_owned()
            ));
        };
        let transaction = Transaction::new().when(key.clone(), held.revision).delete(key);
        let result = committed(self.store.commit(transaction).await, Applied::Deleted)?;
        Ok(result.unwrap_or_else(|| Err("somebody else just changed it; try again".to_owned())))
    }

    /// Tells the catalog what the store holds, and what changes there, until told to stop; drops
    /// `loading` once the first listing is told.
    pub async fn run(self, events: mpsc::Sender<Event>, loading: impl Send, shutdown: CancellationToken) {
        let mut told = BTreeMap::new();
        let mut loading = Some(loading);
        let following = async {
            while !events.is_closed() {
                if let Err(fault) = self.follow(&events, &mut told, &mut loading).await {
                    warn!(%fault, "applied documents cannot be read; the last known ones stay in use");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        };
        shutdown.run_until_cancelled(following).await;
    }

    /// Lists, then follows from there; returns when the watch must begin anew.
    async fn follow(
        &self,
        events: &mpsc::Sender<Event>,
        told: &mut BTreeMap<ObjectKey, Revision>,
        loading: &mut Option<impl Send>,
    ) -> Result<(), Fault> {
        let prefix = keys::applied();
        let listing = list_all(&*self.store, &prefix).await?;
        let mut gone: BTreeSet<_> = told.keys().cloned().collect();
        for entry in &listing.entries {
            if let Some((key, event)) = read(entry) {
                gone.remove(&key);
                if told.insert(key, entry.revision) != Some(entry.revision) {
                    let _ = events.send(event).await;
                }
            }
        }
        for key in gone {
            told.remove(&key);
            let _ = events.send(Event::ObjectRemoved { source: Source::Applied, key }).await;
        }
        drop(loading.take());
        let mut watch = match self.store.watch(&prefix, listing.revision.next()).await {
            Ok(watch) => watch,
            Err(WatchEnd::Compacted { .. }) => return Ok(()),
            Err(WatchEnd::Fault(fault)) => return Err(fault),
        };
        self.tell_changes(&mut *watch, events, told).await
    }

    async fn tell_changes(
        &self,
        watch: &mut dyn Watch,
        events: &mpsc::Sender<Event>,
        told: &mut BTreeMap<ObjectKey, Revision>,
    ) -> Result<(), Fault> {
        while !events.is_closed() {
            let changes = match watch.next().await {
                Ok(changes) => changes,
                Err(WatchEnd::Compacted { .. }) => return Ok(()),
                Err(WatchEnd::Fault(fault)) => return Err(fault),
            };
            for change in &changes.changes {
                let event = match change {
                    Change::Put(entry) => read(entry).map(|(key, event)| {
                        told.insert(key, entry.revision);
                        event
                    }),
                    Change::Deleted { key, .. } => removed(key).map(|(key, event)| {
                        told.remove(&key);
                        event
                    }),
                };
                if let Some(event) = event {
                    let _ = events.send(event).await;
                }
            }
        }
        Ok(())
    }
}

/// What stands against a document before anything is written.
fn refusal(
    document: &ParsedDocument,
    seen: &mut BTreeSet<ObjectKey>,
    owner: impl Fn(&ObjectKey) -> Option<Source>,
) -> Option<String> {
    if !seen.insert(document.key.clone()) {
        return Some("the same object stands further up".to_owned());
    }
    owner(&document.key)
        .filter(|source| *source != Source::Applied)
        .map(|source| format!("{source} has this object already; change it there, or remove it there first"))
}

/// None means that somebody else was faster.
fn committed(
    result: Result<Revision, CommitError>,
    done: Applied,
) -> Result<Option<Result<Applied, String>>, Fault> {
    match result {
        Ok(_) => Ok(Some(Ok(done))),
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(CommitError::Fault(fault)) => Err(fault),
        Err(error @ (CommitError::Invalid(_) | CommitError::NoSuchLease(_))) => {
            Ok(Some(Err(error.to_string())))
        }
    }
}

fn describe(key: Option<&ObjectKey>, line: u32) -> String {
    key.map_or_else(|| format!("document at line {line}"), ToString::to_string)
}

/// An entry as an event; one that this program cannot read is named and left out.
fn read(entry: &Entry) -> Option<(ObjectKey, Event)> {
    let Ok(stored) = codec::decode::<AppliedDocument>(&entry.value).inspect_err(|error| {
        warn!(key = entry.key.as_str(), %error, "an applied document cannot be read");
    }) else {
        return None;
    };
    let document = parse_documents(&stored.document).into_iter().next()?;
    let Ok(ParsedDocument { key, object, .. }) = document.inspect_err(|error| {
        warn!(key = entry.key.as_str(), %error, "an applied document is not valid any more");
    }) else {
        return None;
    };
    let event =
        Event::ObjectApplied { source: Source::Applied, key: key.clone(), created: stored.created, object };
    Some((key, event))
}

fn removed(key: &crate::store::Key) -> Option<(ObjectKey, Event)> {
    let Ok(Place::Applied(key)) = Place::try_from(key) else { return None };
    Some((key.clone(), Event::ObjectRemoved { source: Source::Applied, key }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::store::Embedded;
    use crate::store::embedded::ChangeLog;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec:\n  ports: [{port: 80}]\n";
    const NOW: Timestamp = Timestamp::from_unix(7);

    fn documents(directory: &tempfile::TempDir) -> AppliedDocuments {
        let store = Embedded::open(directory.path(), ChangeLog::default(), clock::unix_now()).unwrap();
        AppliedDocuments::new(Arc::new(store))
    }

    async fn outcome(documents: &AppliedDocuments, text: &str) -> Vec<Result<Applied, String>> {
        let outcomes = documents.apply(text, NOW, |_| None).await.unwrap();
        outcomes.into_iter().map(|outcome| outcome.result).collect()
    }

    #[tokio::test]
    async fn a_document_is_created_then_unchanged_then_configured_then_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let documents = documents(&directory);
        assert_eq!(outcome(&documents, SERVICE).await, [Ok(Applied::Created)]);
        assert_eq!(outcome(&documents, SERVICE).await, [Ok(Applied::Unchanged)]);
        assert_eq!(outcome(&documents, &SERVICE.replace("80", "81")).await, [Ok(Applied::Configured)]);
        assert_eq!(documents.delete(SERVICE).await.unwrap()[0].result, Ok(Applied::Deleted));
        assert!(documents.delete(SERVICE).await.unwrap()[0].result.is_err());
    }

    #[tokio::test]
    async fn a_bad_document_and_a_second_owner_are_refused_and_the_rest_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let documents = documents(&directory);
        let text =
            format!("kind: Servic\n---\n{SERVICE}---\n{SERVICE}---\n{}", SERVICE.replace("cart", "desk"));
        let file = Source::File { path: "a.yaml".into(), line: 3 };
        let outcomes = documents
            .apply(&text, NOW, |key| (key.name.as_str() == "desk").then(|| file.clone()))
            .await
            .unwrap();
        assert_eq!(outcomes[1].result, Ok(Applied::Created));
        assert!(outcomes[0].result.is_err() && outcomes[2].result.is_err());
        assert!(outcomes[3].result.as_ref().unwrap_err().contains("a.yaml:3"));
    }

    #[tokio::test]
    async fn the_catalog_hears_the_same_before_and_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        {
            let documents = documents(&directory);
            let (events, mut heard) = mpsc::channel(8);
            let shutdown = CancellationToken::new();
            let running = documents.clone().run(events, (), shutdown.clone());
            let acting = async {
                outcome(&documents, SERVICE).await;
                assert!(matches!(heard.recv().await, Some(Event::ObjectApplied { created: NOW, .. })));
                documents.delete(SERVICE).await.unwrap();
                assert!(matches!(heard.recv().await, Some(Event::ObjectRemoved { .. })));
                outcome(&documents, SERVICE).await;
                assert!(matches!(heard.recv().await, Some(Event::ObjectApplied { created: NOW, .. })));
                shutdown.cancel();
            };
            tokio::join!(running, acting);
        }
        let (events, mut heard) = mpsc::channel(8);
        let shutdown = CancellationToken::new();
        let documents = documents(&directory);
        let hearing = async {
            assert!(matches!(heard.recv().await, Some(Event::ObjectApplied { created: NOW, .. })));
            shutdown.cancel();
        };
        tokio::join!(documents.run(events, (), shutdown.clone()), hearing);
    }
}

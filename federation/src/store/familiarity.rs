//! Is this the store that this process knew? (E18)
//!
//! A process remembers, below its data directory, which store it used and how far that had come.
//! Another store, or an earlier state of the same one, is suspicious: what it does not hold would be
//! withdrawn from peers and gateways as if somebody had removed it. Such a store is not opened; what was
//! last published is served on, until an operator says `isthmus store accept`. A restore by our own
//! command is told by the store itself (`Meta::restored`), and needs no confirmation.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::change::{Revision, StoreId};
use super::codec::{self, Stored};
use super::contract::{Fault, Store};
use super::keys;
use super::meta::Meta;

/// The file within the data directory of a process.
const FILE_NAME: &str = "store.known";
const FILE_BYTES_MAX: u64 = 4096;
/// How old the remembered revision may be.
const EVERY: Duration = Duration::from_secs(10);

/// What a process knows of its store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub id: StoreId,
    #[serde(default)]
    pub restored: u64,
    pub revision: Revision,
}

impl Stored for Known {
    const KIND: &'static str = "known-store";
}

/// A store as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub known: Known,
    /// The store that the last backup restored into it was taken of.
    pub restored_from: Option<StoreId>,
}

/// What a process may make of the store that it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Familiarity {
    /// It never had one.
    New,
    Familiar,
    /// A backup of the known store was restored on purpose.
    Restored,
    OtherStore,
    EarlierState,
}

impl Familiarity {
    /// Decides; nothing else is looked at.
    pub fn judge(known: Option<&Known>, found: &Found) -> Self {
        let Some(known) = known else { return Self::New };
        let of_the_known = found.known.id == known.id || found.restored_from.as_ref() == Some(&known.id);
        if found.known.restored > known.restored && of_the_known {
            return Self::Restored;
        }
        if found.known.id != known.id {
            return Self::OtherStore;
        }
        let earlier = (found.known.restored, found.known.revision) < (known.restored, known.revision);
        if earlier { Self::EarlierState } else { Self::Familiar }
    }

    /// May what the store holds be published?
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::New | Self::Familiar | Self::Restored)
    }
}

impl Found {
    /// Looks at a store; any role in etcd may do this.
    pub async fn look(store: &dyn Store, meta: Option<&Meta>) -> Result<Self, Fault> {
        let revision = revision(store).await?;
        let known =
            Known { id: store.identity().clone(), restored: meta.map_or(0, |meta| meta.restored), revision };
        Ok(Self { known, restored_from: meta.and_then(|meta| meta.restored_from.clone()) })
    }

    /// Refuses a store that is not the known one.
    pub fn check(&self, known: Option<&Known>) -> Result<(), Fault> {
        let Some(known) = known.filter(|known| !Familiarity::judge(Some(known), self).is_trusted()) else {
            return Ok(());
        };
        let (found, state) = (&self.known, |of: &Known| format!("{} at revision {}", of.id, of.revision));
        Err(Fault::Suspicious(format!("found {}, this process knew {}", state(found), state(known))))
    }
}

/// The revision of a store as of now.
async fn revision(store: &dyn Store) -> Result<Revision, Fault> {
    Ok(store.list(&keys::addresses(), 1).await?.revision())
}

/// What the process remembers, or `None` if it never had a store.
///
/// A file that cannot be read does not count: to forget is less harm than never to start again.
pub fn recall(data: &Path) -> io::Result<Option<Known>> {
    let file = match File::open(file_in(data)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    let known = codec::decode(&content);
    if let Err(error) = &known {
        tracing::warn!(%error, file = %file_in(data).display(), "what was known of the store cannot be read");
    }
    Ok(known.ok())
}

/// Remembers a store, durably and whole or not at all.
pub fn remember(data: &Path, known: &Known) -> io::Result<()> {
    let content = codec::encode(known).map_err(io::Error::other)?;
    let path = file_in(data);
    let unfinished = path.with_extension("unfinished");
    DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&content)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    File::open(data)?.sync_all()
}

/// Goes on remembering how far the store has come, until the process stops.
pub async fn keep(store: Arc<dyn Store>, data: PathBuf, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(Ok(revision)) = shutdown.run_until_cancelled(revision(&*store)).await else { continue };
        let data = data.clone();
        let written = tokio::task::spawn_blocking(move || advance(&data, revision)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "how far the store has come is not remembered");
        }
    }
}

fn advance(data: &Path, revision: Revision) -> io::Result<()> {
    match recall(data)? {
        Some(known) if known.revision < revision => remember(data, &Known { revision, ..known }),
        _ => Ok(()),
    }
}

fn file_in(data: &Path) -> PathBuf {
    data.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, restored: u64, revision: u64) -> Known {
        Known { id: StoreId(id.to_owned()), restored, revision: Revision(revision) }
    }

    #[test]
    fn another_store_and_an_earlier_state_are_suspicious() {
        use Familiarity::{EarlierState, Familiar, OtherStore, Restored};
        for (found, restored_from, judged) in [
            (known("a", 1, 10), None, Familiar),
            (known("a", 1, 99), None, Familiar),
            (known("a", 1, 9), None, EarlierState),
            (known("a", 0, 99), None, EarlierState),
            (known("b", 1, 99), None, OtherStore),
            (known("b", 0, 99), Some("a"), OtherStore),
            (known("a", 2, 1), Some("a"), Restored),
            (known("b", 2, 1), Some("a"), Restored),
            (known("b", 2, 1), Some("c"), OtherStore),
        ] {
            let found = Found { known: found, restored_from: restored_from.map(|id| StoreId(id.to_owned())) };
            let before = known("a", 1, 10);
            assert_eq!(Familiarity::judge(Some(&before), &found), judged, "{found:?}");
            assert_eq!(found.check(Some(&before)).is_ok(), judged.is_trusted(), "{found:?}");
            assert_eq!(Familiarity::judge(None, &found), Familiarity::New);
        }
    }

    #[test]
    fn what_is_remembered_only_grows_and_survives_nonsense() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        assert_eq!(recall(data).unwrap(), None);
        remember(data, &known("a", 0, 5)).unwrap();
        advance(data, Revision(7)).unwrap();
        advance(data, Revision(6)).unwrap();
        assert_eq!(recall(data).unwrap(), Some(known("a", 0, 7)));
        fs::write(file_in(data), [0xff; 9000]).unwrap();
        assert_eq!(recall(data).unwrap(), None);
    }
}

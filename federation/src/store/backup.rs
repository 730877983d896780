//! A store as a file, and a store from such a file; the same for every kind of store.
//!
//! ```text
//! {"format":"isthmus-store-backup","version":1,"cluster":...,"store":...,"revision":...}
//! {"key":"/isthmus/v1/...","value":"<base64>"}        one line an entry, as of that one revision
//! {"entries":..., "sha256":"..."}                     over all that is before this line
//! ```
//!
//! What hangs on a lease is left out: it says that somebody is alive, or is over in minutes. A restored
//! store counts `Meta::restored` up, so that who knew the store sees that this was meant (E18).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::change::{Revision, StoreId};
use super::codec::{self, InvalidValue};
use super::contract::{CommitError, Fault, Store, list_all};
use super::key::Key;
use super::keys::{self, Place, ROOT};
use super::meta::{self, Meta, Owner, SCHEMA_VERSION, Unfit};
use super::transaction::{OPERATIONS_MAX, TRANSACTION_BYTES_MAX, Transaction, VALUE_BYTES_MAX};

const FORMAT: &str = "isthmus-store-backup";
const VERSION: u32 = 1;
/// An etcd's default quota is 2 GiB with all its history; base64 takes a third more.
pub const BACKUP_BYTES_MAX: u64 = 2 << 30;
/// A value of the largest size in base64, its key, and what stands around them.
const LINE_BYTES_MAX: usize = VALUE_BYTES_MAX / 3 * 4 + 4096;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    format: String,
    version: u32,
    pub schema: u32,
    #[serde(flatten)]
    pub owner: Owner,
    pub store: StoreId,
    pub restored: u64,
    pub revision: Revision,
}

/// Everything that a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub header: Header,
    pub entries: Vec<(Key, Bytes)>,
    /// Entries that hang on a lease and are not part of it.
    pub left_out: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    entries: usize,
    sha256: String,
}

/// Why a file is no backup that this program can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackup {
    #[error("it is not a backup of a store")]
    NotABackup,
    #[error(
        "it is of version {0}, this program reads {VERSION}; hint: use the isthmus that wrote it, or a newer one"
    )]
    OtherVersion(u32),
    #[error("it has schema {0}, this program knows up to {SCHEMA_VERSION}; hint: use a newer isthmus")]
    NewerSchema(u32),
    #[error("it is incomplete or was changed: {0}")]
    Damaged(&'static str),
    #[error("line {line} is no entry of a store: {reason}")]
    Entry { line: usize, reason: String },
}

/// Why a backup could not be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "the store has {0} entries; hint: stop every process that uses it, then --force replaces them all"
    )]
    NotEmpty(usize),
    #[error(
        "a federation process leads on this store; hint: stop every process that uses it, and wait until its lease is over"
    )]
    InUse,
    #[error(
        "the backup is of cluster {found}, this is {expected}; hint: restore it with the configuration of {found}"
    )]
    OtherCluster { found: String, expected: String },
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Value(#[from] InvalidValue),
    #[error("the restore did not end, the store cannot be used: {0}; hint: run it again with --force")]
    Commit(#[from] CommitError),
}

/// May a restore remove what is there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Replace,
}

impl Backup {
    /// Everything as of one revision, while the store goes on.
    pub async fn take(store: &dyn Store, owner: &Owner) -> Result<Self, Unfit> {
        let meta = meta::read(store).await?;
        let meta = meta.unwrap_or_else(|| Meta::new(owner.clone()));
        meta.check(owner)?;
        let listing = list_all(store, &keys::everything()).await?;
        let left_out = listing.entries.iter().filter(|entry| entry.lease.is_some()).count();
        let own = Place::Meta.key();
        let kept = listing.entries.into_iter().filter(|entry| entry.lease.is_none() && entry.key != own);
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            schema: meta.schema,
            owner: meta.owner,
            store: store.identity().clone(),
            restored: meta.restored,
            revision: listing.revision,
        };
        Ok(Self { header, entries: kept.map(|entry| (entry.key, entry.value)).collect(), left_out })
    }

    /// The file.
    pub fn render(&self) -> Result<Vec<u8>, InvalidValue> {
        let mut text = line(&self.header)?;
        for (key, value) in &self.entries {
            text.extend(line(&Line { key: key.as_str().to_owned(), value: BASE64.encode(value) })?);
        }
        let trailer = Trailer { entries: self.entries.len(), sha256: BASE64.encode(digest(&SHA256, &text)) };
        text.extend(line(&trailer)?);
        Ok(text)
    }

    /// Reads a file; nothing is believed before the checksum is right.
    pub fn parse(file: &[u8]) -> Result<Self, InvalidBackup> {
        let first = file.split(|byte| *byte == b'\n').next().filter(|first| first.len() <= LINE_BYTES_MAX);
        let header = read_header(first.unwrap_or_default())?;
        let body = file.strip_suffix(b"\n").ok_or(InvalidBackup::Damaged("its end is missing"))?;
        let end = body
            .iter()
            .rposition(|byte| *byte == b'\n')
            .ok_or(InvalidBackup::Damaged("its end is missing"))?;
        let (before, last) = (&file[..=end], &body[end + 1..]);
        let bounded = Some(last).filter(|last| last.len() <= LINE_BYTES_MAX);
        let trailer: Trailer = bounded
            .and_then(|last| serde_json::from_slice(last).ok())
            .ok_or(InvalidBackup::Damaged("its end is missing"))?;
        if BASE64.encode(digest(&SHA256, before)) != trailer.sha256 {
            return Err(InvalidBackup::Damaged("the checksum is wrong"));
        }
        let lines =
            before.split(|byte| *byte == b'\n').enumerate().skip(1).filter(|(_, line)| !line.is_empty());
        let entries: Vec<_> = lines.map(|(at, line)| read_entry(at + 1, line)).collect::<Result<_, _>>()?;
        if entries.len() != trailer.entries {
            return Err(InvalidBackup::Damaged("the number of entries is wrong"));
        }
        Ok(Self { header, entries, left_out: 0 })
    }

    /// Puts everything into a store that is empty, or may be replaced.
    ///
    /// Several transactions: in between the store says that it is half restored, and nobody opens it.
    pub async fn restore(
        self,
        store: &dyn Store,
        owner: &Owner,
        existing: Existing,
    ) -> Result<Meta, RestoreError> {
        if self.header.owner != *owner {
            let (found, expected) = (self.header.owner.cluster.to_string(), owner.cluster.to_string());
            return Err(RestoreError::OtherCluster { found, expected });
        }
        let before = meta::read(store).await?;
        let own = Place::Meta.key();
        let there = list_all(store, &keys::everything()).await.map_err(Unfit::from)?.entries;
        if there.iter().any(|entry| entry.key == Place::Leader.key()) {
            return Err(RestoreError::InUse);
        }
        let there = there.iter().filter(|entry| entry.key != own).count();
        if there > 0 && existing == Existing::Refuse {
            return Err(RestoreError::NotEmpty(there));
        }
        let restored = before.map_or(0, |meta| meta.restored).max(self.header.restored) + 1;
        let restored_from = Some(self.header.store);
        let meta = Meta { restored, restored_from, restoring: true, ..Meta::new(owner.clone()) };
        store.commit(Transaction::new().delete_prefix(keys::everything())).await?;
        store.commit(Transaction::new().put(own.clone(), codec::encode(&meta)?)).await?;
        for transaction in transactions(self.entries) {
            store.commit(transaction).await?;
        }
        let meta = Meta { restoring: false, ..meta };
        store.commit(Transaction::new().put(own, codec::encode(&meta)?)).await?;
        Ok(meta)
    }
}

/// As few transactions as the bounds allow.
fn transactions(entries: Vec<(Key, Bytes)>) -> Vec<Transaction> {
    let mut all = Vec::new();
    let mut next = Transaction::new();
    for (key, value) in entries {
        let bytes = next.bytes() + key.as_str().len() + value.len();
        if next.len() == OPERATIONS_MAX || bytes > TRANSACTION_BYTES_MAX {
            all.push(std::mem::take(&mut next));
        }
        next = next.put(key, value);
    }
    all.push(next);
    all
}

fn read_header(line: &[u8]) -> Result<Header, InvalidBackup> {
    #[derive(Deserialize)]
    struct Marks {
        format: String,
        version: u32,
        schema: u32,
    }
    let marks: Marks = serde_json::from_slice(line).map_err(|_other| InvalidBackup::NotABackup)?;
    match marks {
        Marks { format, .. } if format != FORMAT => Err(InvalidBackup::NotABackup),
        Marks { version, .. } if version != VERSION => Err(InvalidBackup::OtherVersion(version)),
        Marks { schema, .. } if schema > SCHEMA_VERSION => Err(InvalidBackup::NewerSchema(schema)),
        _ => serde_json::from_slice(line).map_err(|_wrong| InvalidBackup::NotABackup),
    }
}

fn read_entry(number: usize, line: &[u8]) -> Result<(Key, Bytes), InvalidBackup> {
    let invalid = |reason: String| InvalidBackup::Entry { line: number, reason };
    if line.len() > LINE_BYTES_MAX {
        return Err(invalid(format!("it has {} bytes, at most {LINE_BYTES_MAX} are read", line.len())));
    }
    let read: Line = serde_json::from_slice(line).map_err(|error| invalid(error.to_string()))?;
    let key = Key::new(&read.key).map_err(|error| invalid(error.to_string()))?;
    if !key.as_str().starts_with(ROOT) || key == Place::Meta.key() {
        return Err(invalid(format!("{key} has no place in a backup")));
    }
    let value = BASE64.decode(&read.value).map_err(|error| invalid(error.to_string()))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(invalid(format!(
            "its value has {} bytes, at most {VALUE_BYTES_MAX} are taken",
            value.len()
        )));
    }
    Ok((key, value.into()))
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, InvalidValue> {
    let mut line = serde_json::to_vec(value).map_err(|error| InvalidValue::Malformed(error.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

impl From<Fault> for RestoreError {
    fn from(fault: Fault) -> Self {
        Self::Unfit(fault.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::clock;
    use crate::store::Embedded;
    use crate::store::embedded::ChangeLog;

    fn owner() -> Owner {
        Owner {
            cluster: "onprem".try_into().unwrap(),
            trust_domain: "onprem.example.org".try_into().unwrap(),
        }
    }

    fn empty() -> (TempDir, Embedded) {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), ChangeLog::default(), clock::unix_now()).unwrap();
        (directory, store)
    }

    fn key(path: &str) -> Key {
        Key::new(&format!("{ROOT}{path}")).unwrap()
    }

    async fn filled() -> (TempDir, Embedded) {
        let (directory, store) = empty();
        meta::claim(&store, &owner()).await.unwrap();
        for n in 0..250 {
            store.commit(Transaction::new().put(key(&format!("a/{n}")), vec![n; 100])).await.unwrap();
        }
        for n in 0..9 {
            let large = Transaction::new().put(key(&format!("b/{n}")), vec![n; VALUE_BYTES_MAX]);
            store.commit(large).await.unwrap();
        }
        let lease = store.grant(Duration::from_secs(60), clock::unix_now()).await.unwrap();
        store.commit(Transaction::new().put_leased(key("leased"), "x", lease)).await.unwrap();
        (directory, store)
    }

    #[tokio::test]
    async fn everything_but_leases_comes_back() {
        let (_directory, store) = filled().await;
        let taken = Backup::take(&store, &owner()).await.unwrap();
        assert_eq!((taken.entries.len(), taken.left_out), (259, 1));
        let read = Backup::parse(&taken.render().unwrap()).unwrap();
        assert_eq!(read, Backup { left_out: 0, ..taken.clone() });

        let (_other, restored) = empty();
        let meta = read.restore(&restored, &owner(), Existing::Refuse).await.unwrap();
        assert_eq!((meta.restored, &meta.restored_from), (1, &Some(store.identity().clone())));
        assert_eq!(meta::claim(&restored, &owner()).await, Ok(meta));
        assert_eq!(Backup::take(&restored, &owner()).await.unwrap().entries, taken.entries);
    }

    #[tokio::test]
    async fn what_is_there_is_only_replaced_on_demand() {
        let (_directory, store) = filled().await;
        let taken = Backup::take(&store, &owner()).await.unwrap();
        store.commit(Transaction::new().put(key("later"), "x").delete(key("a/1"))).await.unwrap();
        let refused = taken.clone().restore(&store, &owner(), Existing::Refuse).await;
        assert_eq!(refused, Err(RestoreError::NotEmpty(260)));
        let other = Owner { cluster: "cloud".try_into().unwrap(), ..owner() };
        let refused = taken.clone().restore(&store, &other, Existing::Replace).await;
        assert!(matches!(refused, Err(RestoreError::OtherCluster { .. })), "{refused:?}");
        assert!(store.get(&key("later")).await.unwrap().is_some());
        let meta = taken.clone().restore(&store, &owner(), Existing::Replace).await.unwrap();
        assert_eq!(meta.restored, 1);
        assert_eq!(Backup::take(&store, &owner()).await.unwrap().entries, taken.entries);
    }

    #[tokio::test]
    async fn nothing_damaged_or_newer_is_read() {
        let (_directory, store) = filled().await;
        let file = Backup::take(&store, &owner()).await.unwrap().render().unwrap();
        let text = String::from_utf8(file.clone()).unwrap();
        for (from, to, error) in [
            ("\"version\":1", "\"version\":2", InvalidBackup::OtherVersion(2)),
            ("\"schema\":1", "\"schema\":7", InvalidBackup::NewerSchema(7)),
            (FORMAT, "something", InvalidBackup::NotABackup),
            ("a/7\"", "a/8\"", InvalidBackup::Damaged("the checksum is wrong")),
        ] {
            assert_eq!(Backup::parse(text.replacen(from, to, 1).as_bytes()), Err(error), "{from}");
        }
        for cut in [0, 1, 100, file.len() / 2, file.len() - 1] {
            assert!(Backup::parse(&file[..cut]).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Backup::parse(&bytes).is_err());
        }
    }
}

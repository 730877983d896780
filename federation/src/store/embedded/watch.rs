//! A watch is a position in the change log and a wish to be woken.

use async_trait::async_trait;

use super::super::change::{Changes, Revision};
use super::super::contract::{Fault, Watch, WatchEnd};
use super::super::key::Prefix;
use super::read::Reader;

#[derive(Debug)]
pub(super) struct LogWatch {
    reader: Reader,
    prefix: Prefix,
    /// The first revision that has not been told.
    next: Revision,
}

impl LogWatch {
    pub(super) async fn start(reader: Reader, prefix: Prefix, from: Revision) -> Result<Self, WatchEnd> {
        // Every store has lost what was before its first revision: 0 never is a place to begin.
        reader.changes(prefix.clone(), from).await??;
        Ok(Self { reader, prefix, next: from })
    }
}

#[async_trait]
impl Watch for LogWatch {
    async fn next(&mut self) -> Result<Changes, WatchEnd> {
        loop {
            let next = self.next;
            let mut revisions = self.reader.revisions().clone();
            let reached = revisions.wait_for(|revision| *revision >= next).await.map(|revision| *revision);
            if reached.is_err() {
                return Err(Fault::Unavailable("the store is closed".to_owned()).into());
            }
            let told = self.reader.changes(self.prefix.clone(), next).await??;
            self.next = told.revision.next();
            if !told.changes.is_empty() {
                return Ok(told);
            }
        }
    }
}

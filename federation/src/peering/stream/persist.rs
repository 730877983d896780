//! What a peer's messages have changed, made durable and then told to the catalog.

use super::{Session, StreamEnd};
use crate::peering::conversation;
use crate::peering::imports::{Changed, Imports};
use crate::store::CommitError;

impl Session {
    /// Stores changes, and the position that they lead to, before anybody hears of them.
    pub(super) async fn persist(&self, changed: &Changed) -> Result<(), StreamEnd> {
        let relationship = self.peer.record().revision;
        for transaction in conversation::transactions(&self.peer.name, relationship, changed) {
            let committed = self.us.deps.store.commit(transaction).await;
            if let Err(CommitError::Conflict { .. }) = &committed {
                self.peer.doubt();
            }
            committed?;
        }
        Ok(())
    }

    /// Tells the catalog what has become durable.
    pub(super) async fn announce(&self, after: &Imports, changed: Changed) -> Result<(), StreamEnd> {
        for event in conversation::news(&self.peer.name, after, changed) {
            self.tell(event).await?;
        }
        Ok(())
    }
}

//! A listing page by page, each as of the revision of the first (E11).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use etcd_client::{Client, GetOptions, GetResponse};

use super::super::change::{Entry, Revision};
use super::super::contract::{Fault, PageError, Pages};
use super::super::key::Prefix;
use super::fault::Failed;
use super::layout::Range;
use super::members::Repeat;
use super::shared::{Shared, kv};

/// Entries in one page; with the largest values they fit into one answer.
const PAGE_ENTRIES_MAX: usize = 500;

#[derive(Debug)]
pub(super) struct RevisionPages {
    shared: Arc<Shared>,
    revision: Revision,
    /// What is left; `None` after the last page.
    rest: Option<Range>,
    page_entries: usize,
    /// Read with the first call, which sets the revision.
    first: Option<Vec<Entry>>,
}

impl RevisionPages {
    pub(super) async fn start(
        shared: Arc<Shared>,
        prefix: &Prefix,
        page_entries: usize,
    ) -> Result<Self, Fault> {
        let range = shared.layout.range(prefix)?;
        let page_entries = page_entries.clamp(1, PAGE_ENTRIES_MAX);
        let floor = shared.seen.load(Ordering::Relaxed);
        let page = read(&shared, &range, page_entries, None).await.map_err(Failed::into_fault)?;
        let revision = shared.check(page.header(), floor)?;
        let mut pages = Self { shared, revision, rest: Some(range), page_entries, first: None };
        pages.first = Some(pages.take(page));
        Ok(pages)
    }

    /// The entries of a page; what is left begins after its last key.
    fn take(&mut self, mut page: GetResponse) -> Vec<Entry> {
        let found = page.take_kvs();
        let last = found.last().map(|last| String::from_utf8_lossy(last.key()).into_owned());
        self.rest = match (self.rest.take(), last) {
            (Some(range), Some(last)) if page.more() => {
                Some(Range { start: format!("{last}\0"), end: range.end })
            }
            _ => None,
        };
        found.into_iter().filter_map(|found| self.shared.layout.entry(found)).collect()
    }
}

#[async_trait]
impl Pages for RevisionPages {
    fn revision(&self) -> Revision {
        self.revision
    }

    async fn next(&mut self) -> Result<Option<Vec<Entry>>, PageError> {
        loop {
            if let Some(first) = self.first.take().filter(|page| !page.is_empty()) {
                return Ok(Some(first));
            }
            let Some(range) = self.rest.clone() else { return Ok(None) };
            let page = read(&self.shared, &range, self.page_entries, Some(self.revision)).await;
            let page = page.map_err(|failed| match failed.is_compacted() {
                true => PageError::Compacted,
                false => failed.into_fault().into(),
            })?;
            self.shared.check(page.header(), 0)?;
            self.first = Some(self.take(page));
        }
    }
}

async fn read(
    shared: &Shared,
    range: &Range,
    limit: usize,
    at: Option<Revision>,
) -> Result<GetResponse, Failed> {
    let options = GetOptions::new().with_range(range.end.clone()).with_limit(limit as i64);
    let options = match at {
        Some(revision) => options.with_revision(revision.0.cast_signed()),
        None => options,
    };
    let get = |client: Client| {
        let (start, options) = (range.start.clone(), options.clone());
        async move { kv(&client).get(start, Some(options)).await }
    };
    shared.call(Repeat::Always, get).await
}

//! A watch on a stream of its own, resumed on another member when its own is gone (E12-E14).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Client, Event, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Sleep, sleep};
use tracing::debug;

use super::super::change::{Change, Changes, Entry, Revision};
use super::super::contract::{Fault, Watch, WatchEnd};
use super::super::key::Prefix;
use super::fault::{Attempt, Failed};
use super::layout::Range;
use super::members::Repeat;
use super::shared::{ANSWER_BYTES_MAX, Shared};

/// A quiet watch is asked whether it still lives.
const ASKED_AFTER: Duration = Duration::from_secs(10);
/// One that does not answer is given up (E13).
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A watch that ends without having told anything is resumed this often, one after the other.
const RESUMES_MAX: usize = 3;
/// Before the next resumption in a row.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct EtcdWatch {
    shared: Arc<Shared>,
    range: Range,
    /// The first revision that has not been told.
    next: Revision,
    stream: Option<Stream>,
    /// Since something was heard.
    resumed: usize,
}

struct Stream {
    messages: WatchStream,
    ask: Pin<Box<Sleep>>,
    give_up: Pin<Box<Sleep>>,
    asked: bool,
}

/// What happens next on a stream.
enum Next {
    Heard(WatchResponse),
    Quiet,
    Ended(String),
    TooLarge,
    Refused(Fault),
}

impl EtcdWatch {
    pub(super) async fn start(
        shared: Arc<Shared>,
        prefix: &Prefix,
        from: Revision,
    ) -> Result<Self, WatchEnd> {
        if from == Revision::ABSENT {
            // For etcd this would be "from now on"; for the trait it is before all that ever was.
            return Err(WatchEnd::Compacted { oldest: Revision(1) });
        }
        let range = shared.layout.range(prefix)?;
        let mut watch = Self { shared, range, next: from, stream: None, resumed: 0 };
        watch.stream = Some(watch.open().await?);
        Ok(watch)
    }

    async fn open(&self) -> Result<Stream, Fault> {
        // A member of an earlier state would wait silently for a revision that it has yet to reach.
        self.shared.revision().await?;
        let options = WatchOptions::new()
            .with_range(self.range.end.clone())
            .with_start_revision(self.next.0.cast_signed())
            .with_progress_notify();
        let watch = |client: Client| {
            let (start, options) = (self.range.start.clone(), options.clone());
            async move {
                let mut watches = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                watches.watch(start, Some(options)).await
            }
        };
        let messages = self.shared.call(Repeat::Always, watch).await.map_err(Failed::into_fault)?;
        Ok(Stream::new(messages))
    }

    /// What the caller is told of an answer, if anything.
    fn take(&mut self, answer: &WatchResponse) -> Result<Option<Changes>, WatchEnd> {
        let Some(header) = answer.header() else { return Ok(None) };
        self.shared.check_cluster(header)?;
        if answer.compact_revision() > 0 {
            return Err(WatchEnd::Compacted { oldest: Revision(answer.compact_revision().cast_unsigned()) });
        }
        if answer.canceled() {
            self.stream = None;
            return self.cancelled(answer.cancel_reason()).map(|()| None);
        }
        self.resumed = 0;
        let Some(last) = answer.events().last().and_then(Event::kv) else {
            self.progress(answer.created(), header.revision().cast_unsigned());
            return Ok(None);
        };
        let revision = Revision(last.mod_revision().cast_unsigned());
        self.shared.seen.fetch_max(revision.0, Ordering::Relaxed);
        self.next = self.next.max(revision.next());
        let changes: Vec<Change> = answer.events().iter().filter_map(|event| self.change(event)).collect();
        Ok(Some(Changes { revision, changes }).filter(|told| !told.changes.is_empty()))
    }

    /// An idle prefix moves on too, else a compaction would overtake it.
    fn progress(&mut self, created: bool, revision: u64) {
        if !created && self.shared.progress_is_exact {
            self.next = self.next.max(Revision(revision).next());
        }
    }

    fn cancelled(&mut self, reason: &str) -> Result<(), WatchEnd> {
        debug!(reason, "etcd has cancelled a watch");
        if reason.contains("permission denied") {
            return Err(Fault::Denied(reason.to_owned()).into());
        }
        self.count_resumption(reason)
    }

    fn count_resumption(&mut self, reason: &str) -> Result<(), WatchEnd> {
        self.resumed += 1;
        if self.resumed <= RESUMES_MAX {
            return Ok(());
        }
        self.resumed = 0;
        Err(Fault::Unavailable(format!("etcd ends the watch again and again: {reason}")).into())
    }

    fn change(&self, event: &Event) -> Option<Change> {
        let found = event.kv()?;
        match event.event_type() {
            EventType::Put => self
                .shared
                .layout
                .entry(found.clone())
                .map(|entry| Change::Put(Entry { value: Bytes::copy_from_slice(&entry.value), ..entry })),
            EventType::Delete => {
                let revision = Revision(found.mod_revision().cast_unsigned());
                self.shared.layout.read(found.key()).map(|key| Change::Deleted { key, revision })
            }
        }
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Changes, WatchEnd> {
        loop {
            if self.stream.is_none() {
                if self.resumed > 1 {
                    sleep(RESUME_PAUSE).await;
                }
                self.stream = Some(self.open().await?);
            }
            let Some(stream) = &mut self.stream else { continue };
            match stream.next().await {
                Next::Heard(answer) => {
                    if let Some(told) = self.take(&answer)? {
                        return Ok(told);
                    }
                }
                Next::Quiet => {}
                Next::Ended(reason) => {
                    debug!(reason, from = %self.next, "the watch goes on elsewhere");
                    self.stream = None;
                    self.count_resumption(&reason)?;
                }
                // What is missing is listed page by page.
                Next::TooLarge => return Err(WatchEnd::Compacted { oldest: self.next }),
                Next::Refused(fault) => {
                    self.stream = None;
                    return Err(fault.into());
                }
            }
        }
    }
}

impl fmt::Debug for EtcdWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdWatch")
            .field("from", &self.range.start)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Stream {
    fn new(messages: WatchStream) -> Self {
        let (ask, give_up) = (Box::pin(sleep(ASKED_AFTER)), Box::pin(sleep(SILENCE_MAX)));
        Self { messages, ask, give_up, asked: false }
    }

    /// Waits for a message, asks when there is none, gives up when that is not answered.
    ///
    /// The clocks are kept here, so that a caller who waits again and again in short does not stop them.
    async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            message = self.messages.message() => {
                (self.ask, self.give_up, self.asked) = (Box::pin(sleep(ASKED_AFTER)), Box::pin(sleep(SILENCE_MAX)), false);
                heard(message)
            }
            () = &mut self.ask, if !self.asked => {
                self.asked = true;
                match self.messages.request_progress().await {
                    Ok(()) => Next::Quiet,
                    Err(error) => Next::Ended(error.to_string()),
                }
            }
            () = &mut self.give_up => Next::Ended(format!("nothing was heard for {SILENCE_MAX:?}")),
        }
    }
}

fn heard(message: Result<Option<WatchResponse>, etcd_client::Error>) -> Next {
    match message {
        Ok(Some(answer)) => Next::Heard(answer),
        Ok(None) => Next::Ended("the member has closed it".to_owned()),
        Err(error) => match Attempt::judge(&error) {
            Attempt::Unsent(cause) | Attempt::Lost(cause) => Next::Ended(cause),
            Attempt::Refused { code, message } => {
                let failed = Failed::Refused { code, message };
                if failed.is_too_large() { Next::TooLarge } else { Next::Refused(failed.into_fault()) }
            }
        },
    }
}

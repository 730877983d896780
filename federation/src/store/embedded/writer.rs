//! The one writer: a thread that turns a queue of commands into durable group commits.

use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::change::{LeaseId, Revision};
use super::super::contract::{CommitError, Fault, LeaseError};
use super::super::transaction::Transaction;
use super::tables::{self, fault};
use super::{ChangeLog, File, write};

/// Commands that wait for the disk; whoever finds the queue full waits as well.
const COMMANDS_MAX: usize = 256;
/// Commands that share one fsync; more would make the first of them wait too long.
const GROUP_MAX: usize = 64;

/// The sending half; dropping it ends the thread once the queue is done.
pub(super) struct Writer {
    /// `None` only while being dropped.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Command {
    Commit(Transaction, Reply<Result<Revision, CommitError>>),
    Grant { ttl: Duration, now: UnixTime, reply: Reply<Result<LeaseId, Fault>> },
    KeepAlive { lease: LeaseId, now: UnixTime, reply: Reply<Result<(), LeaseError>> },
    Revoke { lease: LeaseId, reply: Reply<Result<(), LeaseError>> },
    Expire { now: UnixTime, reply: Reply<Result<Vec<LeaseId>, Fault>> },
    Compact { up_to: Revision, reply: Reply<Result<(), Fault>> },
}

type Reply<T> = oneshot::Sender<T>;
/// Tells a caller how its command ended, once the whole group is durable or has failed.
type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;

impl Writer {
    pub(super) fn start(file: File, log: ChangeLog, published: watch::Sender<Revision>) -> io::Result<Self> {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let work = move || run(&file, log, &published, queue);
        let thread = thread::Builder::new().name("store-writer".to_owned()).spawn(work)?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
    }

    pub(super) async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        self.ask(|reply| Command::Commit(transaction, reply)).await?
    }

    pub(super) async fn grant(&self, ttl: Duration, now: UnixTime) -> Result<LeaseId, Fault> {
        self.ask(|reply| Command::Grant { ttl, now, reply }).await?
    }

    pub(super) async fn keep_alive(&self, lease: LeaseId, now: UnixTime) -> Result<(), LeaseError> {
        self.ask(|reply| Command::KeepAlive { lease, now, reply }).await?
    }

    pub(super) async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.ask(|reply| Command::Revoke { lease, reply }).await?
    }

    pub(super) async fn expire(&self, now: UnixTime) -> Result<Vec<LeaseId>, Fault> {
        self.ask(|reply| Command::Expire { now, reply }).await?
    }

    pub(super) async fn compact(&self, up_to: Revision) -> Result<(), Fault> {
        self.ask(|reply| Command::Compact { up_to, reply }).await?
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Fault> {
        let stopped = || Fault::Unavailable("the store's writer gave no answer".to_owned());
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(stopped)?;
        commands.send(command(reply)).await.map_err(|_closed| stopped())?;
        answer.await.map_err(|_dropped| stopped())
    }
}

impl Drop for Writer {
    /// Waits for the commits under way, so that the file is free for the next to open it.
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer had panicked");
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("stopped", &self.commands.is_none()).finish_non_exhaustive()
    }
}

fn run(file: &File, log: ChangeLog, published: &watch::Sender<Revision>, mut queue: mpsc::Receiver<Command>) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_MAX
            && let Ok(command) = queue.try_recv()
        {
            group.push(command);
        }
        settle(file, log, published, group);
    }
}

/// Does a group of commands in one redb transaction, then answers all of them.
fn settle(file: &File, log: ChangeLog, published: &watch::Sender<Revision>, group: Vec<Command>) {
    let mut answers = Vec::with_capacity(group.len());
    let outcome = write_group(file, log, group, &mut answers);
    if let Ok(revision) = &outcome {
        published.send_if_modified(|current| std::mem::replace(current, *revision) != *revision);
    }
    for answer in answers {
        answer(outcome.clone().map(|_revision| ()));
    }
}

fn write_group(
    file: &File,
    log: ChangeLog,
    group: Vec<Command>,
    answers: &mut Vec<Answer>,
) -> Result<Revision, Fault> {
    // Without a transaction the commands are dropped, which tells their callers that nothing happened.
    let txn = file.begin_write().map_err(fault)?;
    let mut failed = None;
    for command in group {
        failed = failed.or(apply(&txn, command, answers).err());
    }
    if let Some(error) = failed {
        return Err(fault(error));
    }
    write::trim(&txn, log).map_err(fault)?;
    let revision = tables::revision(&txn).map_err(fault)?;
    txn.commit().map_err(fault)?;
    Ok(revision)
}

/// Applies one command and keeps its answer until the group is durable.
fn apply(
    txn: &redb::WriteTransaction,
    command: Command,
    answers: &mut Vec<Answer>,
) -> Result<(), redb::Error> {
    match command {
        Command::Commit(transaction, reply) => answer(answers, reply, write::commit(txn, &transaction)),
        Command::Grant { ttl, now, reply } => answer(answers, reply, write::grant(txn, ttl, now).map(Ok)),
        Command::KeepAlive { lease, now, reply } => {
            answer(answers, reply, write::keep_alive(txn, lease, now))
        }
        Command::Revoke { lease, reply } => answer(answers, reply, write::revoke(txn, lease)),
        Command::Expire { now, reply } => answer(answers, reply, write::expire(txn, now).map(Ok)),
        Command::Compact { up_to, reply } => answer(answers, reply, write::compact(txn, up_to).map(Ok)),
    }
}

fn answer<T, E>(
    answers: &mut Vec<Answer>,
    reply: Reply<Result<T, E>>,
    applied: Result<Result<T, E>, redb::Error>,
) -> Result<(), redb::Error>
where
    T: Send + 'static,
    E: From<Fault> + Send + 'static,
{
    let (result, broken) = match applied {
        Ok(result) => (Some(result), Ok(())),
        Err(error) => (None, Err(error)),
    };
    answers.push(Box::new(move |durable| {
        let result = durable.map_err(E::from).and_then(|()| match result {
            Some(result) => result,
            None => Err(Fault::Unavailable("the write was given up".to_owned()).into()),
        });
        // A caller that went away has no use for the answer.
        drop(reply.send(result));
    }));
    broken
}

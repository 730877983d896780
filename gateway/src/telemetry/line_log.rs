//! Lines from the data plane to a file or standard output, without the data plane ever waiting.
//!
//! A bounded channel leads to one writer on a thread of its own. When it is full, lines are dropped and
//! counted. The writer takes whatever has gathered in one write and then rests for a moment, so that under
//! load a line costs its senders neither a system call nor a wake-up.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// Lines that may wait: a second of a busy gateway, some 10 MiB.
const LINES_MAX: usize = 16_384;
/// Bytes that are written at once.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Between writes; what a reader of the log may lag behind.
const REST: Duration = Duration::from_millis(2);

/// Where lines go.
#[derive(Debug, Clone, Default)]
pub enum Output {
    #[default]
    Stdout,
    /// Appended to.
    File(PathBuf),
    /// Kept, for tests.
    Memory(Memory),
}

/// The end that the data plane holds.
#[derive(Debug, Clone)]
pub struct LineLog {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// The end that writes; it wants a thread.
#[must_use = "nothing is written until it runs"]
pub struct LineWriter {
    receiver: Receiver<Message>,
    output: Box<dyn Write + Send>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Box<[u8]>),
    Flush(SyncSender<()>),
    Close,
}

/// Lines in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Vec<u8>>>);

impl LineLog {
    pub fn build(output: Output) -> io::Result<(Self, LineWriter)> {
        let output: Box<dyn Write + Send> = match output {
            Output::Stdout => Box::new(io::stdout()),
            Output::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
            Output::Memory(memory) => Box::new(memory),
        };
        let (sender, receiver) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        Ok((Self { sender, dropped: dropped.clone() }, LineWriter { receiver, output, dropped }))
    }

    /// Hands over a line with its end; never waits.
    pub fn write(&self, line: &[u8]) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Line(line.into())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were lost because the writer was slow, or its output failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines before are written. Not for the data plane.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.sender.send(Message::Flush(done)).is_ok() {
            // An error means that the writer ended, having written all it had.
            let _ = wait.recv();
        }
    }

    /// Ends the writer after the lines before.
    pub fn close(&self) {
        // An error means that it ended already.
        let _ = self.sender.send(Message::Close);
    }
}

impl LineWriter {
    /// Writes until the log is closed or nobody holds it any more.
    pub fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_BYTES_MAX);
        while let Ok(first) = self.receiver.recv() {
            let mut next = Some(first);
            let mut lines = 0;
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        batch.extend_from_slice(&line);
                        lines += 1;
                    }
                    Message::Flush(done) => {
                        self.put(&mut batch, &mut lines);
                        let _ = done.send(());
                    }
                    Message::Close => return self.put(&mut batch, &mut lines),
                }
                next = if batch.len() < BATCH_BYTES_MAX { self.receiver.try_recv().ok() } else { None };
            }
            self.put(&mut batch, &mut lines);
            thread::sleep(REST);
        }
    }

    /// A full disk loses lines, not requests.
    fn put(&mut self, batch: &mut Vec<u8>, lines: &mut u64) {
        let written = self.output.write_all(batch).and_then(|()| self.output.flush());
        if written.is_err() {
            self.dropped.fetch_add(*lines, Ordering::Relaxed);
        }
        batch.clear();
        *lines = 0;
    }
}

impl std::fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineWriter").finish_non_exhaustive()
    }
}

impl Memory {
    pub fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.0.lock()).lines().map(str::to_owned).collect()
    }

    /// Lines that are JSON, read.
    pub fn entries(&self) -> Vec<serde_json::Value> {
        self.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_close_ends_the_writer() {
        let memory = Memory::default();
        let (log, writer) = LineLog::build(Output::Memory(memory.clone())).unwrap();
        let thread = thread::spawn(|| writer.run());
        (0..500).for_each(|at| log.write(format!("{at}\n").as_bytes()));
        log.flush();
        let expected: Vec<_> = (0..500).map(|at| at.to_string()).collect();
        assert_eq!(memory.lines(), expected);
        log.write(b"last\n");
        log.close();
        thread.join().unwrap();
        assert_eq!(memory.lines().last().unwrap(), "last");
        log.write(b"too late\n");
        log.flush();
        assert_eq!(memory.lines().len(), 501);
    }

    #[test]
    fn a_stalled_writer_costs_lines_and_never_waits() {
        let (log, writer) = LineLog::build(Output::Memory(Memory::default())).unwrap();
        (0..LINES_MAX + 7).for_each(|_| log.write(b"x\n"));
        assert_eq!(log.dropped(), 7);
        drop(writer);
    }

    #[test]
    fn files_are_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        for line in ["one\n", "two\n"] {
            let (log, writer) = LineLog::build(Output::File(path.clone())).unwrap();
            log.write(line.as_bytes());
            log.close();
            writer.run();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_failing_output_is_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (log, mut writer) = LineLog::build(Output::Stdout).unwrap();
        writer.output = Box::new(Full);
        log.write(b"a\n");
        log.write(b"b\n");
        log.close();
        writer.run();
        assert_eq!(log.dropped(), 2);
    }
}

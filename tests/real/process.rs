//! One process on its machine: started, killed, told to stop, and its log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::clock::{self, Micros};
use crate::network::Machine;

/// A drain of 30 s, and whatever else a busy machine does.
const END_TIME_MAX: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(10);

/// A process that may live many lives; all write into the same log.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) machine: Machine,
    pub(crate) log: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// What a signal does to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Kill,
    Terminate,
    Stop,
    Continue,
}

impl Process {
    pub(crate) fn new(
        name: &str,
        machine: &Machine,
        log: PathBuf,
        program: &Path,
        arguments: &[&str],
    ) -> Self {
        Self {
            name: name.to_owned(),
            machine: machine.clone(),
            log,
            program: program.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            child: None,
        }
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name);
        }
        let mut log = append(&self.log)?;
        writeln!(log, "--- started at {}", clock::of_day(clock::now()))?;
        let mut command = self.machine.command(&self.program);
        let access = append(&self.log.with_extension("access"))?;
        command.args(&self.arguments).stdin(Stdio::null()).stdout(access).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("{} does not start", self.name))?);
        Ok(())
    }

    /// Sends a signal; says when, from just before to just after it took effect.
    pub(crate) fn signal(&mut self, signal: Signal) -> anyhow::Result<(Micros, Micros)> {
        let Some(child) = &mut self.child else { bail!("{} does not run", self.name) };
        let word = match signal {
            Signal::Kill => "KILL",
            Signal::Terminate => "TERM",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        let before = clock::now();
        let sent = Command::new("sh").args(["-c", &format!("kill -{word} {}", child.id())]).status()?;
        if !sent.success() {
            bail!("{}: SIG{word} could not be sent", self.name);
        }
        if signal == Signal::Kill {
            child.wait()?;
            self.child = None;
        }
        let mut log = append(&self.log)?;
        writeln!(log, "--- SIG{word} at {}", clock::of_day(before))?;
        Ok((before, clock::now()))
    }

    /// Waits for the end of a process that was told to stop.
    pub(crate) fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.name) };
        let deadline = clock::now() + END_TIME_MAX.as_micros() as Micros;
        while clock::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(PAUSE);
        }
        self.child = Some(child);
        bail!("{} was told to stop and did not within {END_TIME_MAX:?}", self.name)
    }

    /// The process has ended though nobody told it to.
    pub(crate) fn died(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Runs `isthmus` on the same machine, as its operator would.
    pub(crate) fn operator(&self, arguments: &[&str], input: &str) -> anyhow::Result<Printed> {
        let mut child = self
            .machine
            .command(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("piped")?.write_all(input.as_bytes())?;
        let printed = child.wait_with_output()?;
        Ok(Printed {
            succeeded: printed.status.success(),
            answer: String::from_utf8_lossy(&printed.stdout).into_owned(),
            notes: String::from_utf8_lossy(&printed.stderr).into_owned(),
        })
    }
}

fn append(file: &Path) -> anyhow::Result<File> {
    OpenOptions::new().create(true).append(true).open(file).with_context(|| file.display().to_string())
}

/// What a command of the operator printed.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) succeeded: bool,
    pub(crate) answer: String,
    pub(crate) notes: String,
}

impl Printed {
    pub(crate) fn success(self) -> anyhow::Result<String> {
        if !self.succeeded {
            bail!("{}{}", self.answer, self.notes);
        }
        Ok(self.answer)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

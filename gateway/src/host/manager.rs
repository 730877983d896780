//! What the service manager (systemd) is told: ready, stopping, alive, and which sockets to keep.
//!
//! A thread of its own, since each message may block, and since a data plane that is stuck must not be the
//! one that says that it is well. Without `NOTIFY_SOCKET` there is no thread and nobody is told.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::pulse::{Look, Pulse, stalled};
use super::sockets::StoreCommand;
use crate::clock;

/// How soon a process that became ready says so.
const TICK: Duration = Duration::from_millis(50);
/// Looks in one `WatchdogSec=`; one that fails is followed by others before time is up.
const LOOKS: u32 = 4;
/// While it starts, a process that lives asks for so much more time, again and again.
const START_EXTENSION: Duration = Duration::from_secs(30);
/// Between two looks where nobody asks for signs of life.
const START_LOOK: Duration = Duration::from_secs(5);
/// The admin API answers `/livez` within milliseconds, or not at all.
const ADMIN_TIME_MAX: Duration = Duration::from_secs(2);

/// The parts of a process that say how it is.
#[derive(Debug)]
pub struct Watched {
    /// Traffic may be sent here.
    pub ready: Arc<AtomicBool>,
    /// Beats on the data plane's runtime.
    pub pulse: Pulse,
    pub admin: SocketAddr,
}

/// The thread that talks to the service manager.
#[derive(Debug)]
pub struct ServiceManager {
    commands: mpsc::Sender<Command>,
    store: mpsc::Sender<StoreCommand>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Command {
    Watch(Watched),
    Stopping,
    End,
}

impl ServiceManager {
    /// Starts the thread, if somebody listens.
    #[expect(
        clippy::disallowed_methods,
        reason = "a protocol with the service manager, and no setting of ours"
    )]
    pub fn start() -> io::Result<Option<Self>> {
        if std::env::var("NOTIFY_SOCKET").is_err() {
            return Ok(None);
        }
        let ((commands, told), (store, stored)) = (mpsc::channel(), mpsc::channel());
        let talk = Talk { told, stored, watchdog: sd_notify::watchdog_enabled(), phase: Phase::Building };
        let thread = thread::Builder::new().name("host".to_owned()).spawn(move || talk.run())?;
        Ok(Some(Self { commands, store, thread }))
    }

    /// Where sockets are left for the process after us.
    pub fn store(&self) -> mpsc::Sender<StoreCommand> {
        self.store.clone()
    }

    /// From now on readiness is announced and life is watched.
    pub fn watch(&self, watched: Watched) {
        // The thread lives as long as we do.
        let _ended = self.commands.send(Command::Watch(watched));
    }

    pub fn stopping(&self) {
        let _ended = self.commands.send(Command::Stopping);
    }

    /// Says all that is left to say, and ends.
    pub fn end(self) {
        let _ended = self.commands.send(Command::End);
        let _panicked = self.thread.join();
    }
}

/// The state of the thread.
struct Talk {
    told: mpsc::Receiver<Command>,
    stored: mpsc::Receiver<StoreCommand>,
    /// `WatchdogSec=`, if somebody asks for signs of life.
    watchdog: Option<Duration>,
    phase: Phase,
}

enum Phase {
    Building,
    Running { watched: Watched, told_ready: bool, next_look: Instant, last: Option<Look> },
    Stopping,
}

impl Talk {
    fn run(mut self) {
        loop {
            let command = self.told.recv_timeout(TICK);
            // The sockets first: who ends has left them.
            self.pass_on_sockets();
            match command {
                Ok(Command::Watch(watched)) => {
                    let next_look = clock::now();
                    self.phase = Phase::Running { watched, told_ready: false, next_look, last: None };
                }
                Ok(Command::Stopping) => {
                    notify(&[NotifyState::Stopping, NotifyState::Status("finishing requests in flight")]);
                    self.phase = Phase::Stopping;
                }
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.look(clock::now());
        }
    }

    fn pass_on_sockets(&self) {
        for command in self.stored.try_iter() {
            let told = match &command {
                StoreCommand::Keep { name, socket } => sd_notify::notify_with_fds(
                    &[NotifyState::FdStore, NotifyState::FdName(name)],
                    &[socket.as_fd()],
                ),
                StoreCommand::Forget { name } => {
                    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
                }
            };
            if let Err(error) = told {
                warn!(?command, %error, "the service manager does not take this");
            }
        }
    }

    fn look(&mut self, now: Instant) {
        let Phase::Running { watched, told_ready, next_look, last } = &mut self.phase else { return };
        if !*told_ready && watched.ready.load(Ordering::Relaxed) {
            *told_ready = true;
            // The next look is the first one of a new measure, and has nothing to be compared with.
            (*next_look, *last) = (now, None);
            info!("the service manager is told that we are ready");
            notify(&[NotifyState::Ready, NotifyState::Status("ready")]);
        }
        let every = self.watchdog.map_or(START_LOOK, |watchdog| watchdog / LOOKS);
        if now < *next_look || (*told_ready && self.watchdog.is_none()) {
            return;
        }
        *next_look = now + every;
        let look = Look { beats: watched.pulse.beats(), admin_answers: admin_answers(watched.admin) };
        match stalled(last.replace(look), look) {
            Some(part) => {
                error!(part, "makes no progress; the service manager is not told that we are alive")
            }
            None if *told_ready => notify(&[NotifyState::Watchdog]),
            None => notify(&[
                NotifyState::ExtendTimeoutUsec(START_EXTENSION.as_micros().try_into().unwrap_or(u32::MAX)),
                NotifyState::Status("waiting for the first configuration"),
            ]),
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager cannot be told");
    }
}

fn admin_answers(address: SocketAddr) -> bool {
    ask(address).unwrap_or(false)
}

/// Plain and blocking, so that no part of us but the admin API itself has to work.
fn ask(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, ADMIN_TIME_MAX)?;
    stream.set_read_timeout(Some(ADMIN_TIME_MAX))?;
    stream.set_write_timeout(Some(ADMIN_TIME_MAX))?;
    write!(stream, "GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status)?;
    Ok(&status == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let (mut request, mut piece) = (Vec::new(), [0; 256]);
            // All of it: what is left unread would cut the answer off.
            while !request.ends_with(b"\r\n\r\n") {
                let read = client.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..read]);
            }
            client.write_all(answer).unwrap();
        });
        address
    }

    #[test]
    fn the_admin_api_lives_if_it_says_so() {
        assert!(admin_answers(answering(b"HTTP/1.1 200 OK\r\n\r\n")));
        assert!(!admin_answers(answering(b"HTTP/1.1 503 No\r\n\r\n")));
        assert!(!admin_answers(answering(b"")));
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(!admin_answers(gone));
    }
}

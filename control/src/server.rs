//! An NBD server as a child process: `[ COMMAND ARGS ... ]` of the command line.
//!
//! It has one connection, made before the server starts, and lives as long as the [`Server`]:
//!
//! ```text
//!  ServerCommand ──spawn──► Server ──dialer──► the lane's only connection
//!                             │
//!                             ├─ stderr: handed on line by line, the last lines kept for errors
//!                             └─ end or drop: SIGTERM, a wait with a deadline, SIGKILL
//! ```
//!
//! Without unsafe code: what has to happen between fork and exec is done by programs that every
//! Linux system has. A shell learns its process id and execs (systemd's protocol wants
//! `LISTEN_PID` to be that of the server, which exec keeps), and setpriv(1) of util-linux asks the
//! kernel to end the server with us. `pre_exec` would do the same at the price of code that runs
//! in a forked child of a process with threads.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::Dial;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::program;

/// Time from SIGTERM to SIGKILL: enough for qemu-nbd to close an image whose data was flushed.
pub const END_DEADLINE: Duration = Duration::from_secs(10);
/// How long a server that hung up may take to exit before its status is asked for.
const EXIT_GRACE: Duration = Duration::from_millis(300);
/// Lines of stderr that are kept to explain an early end.
const KEPT_LINES: usize = 8;
/// Bytes of a line of stderr; a longer one is cut in pieces.
const MAX_LINE_BYTES: u64 = 4096;

/// The server as `$@`: its listener arrives as standard input and moves to descriptor 3, the
/// first one of socket activation.
const ACTIVATION_SCRIPT: &str = r#"export LISTEN_PID=$$; exec "$@" 3<&0 </dev/null"#;

/// How the server gets its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTransport {
    /// A listening socket on descriptor 3, by systemd's socket activation (qemu-nbd, nbdkit).
    #[default]
    Activation,
    /// Standard input and output are the connection (`nbdkit -s`).
    Stdio,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Nothing between the brackets.
    #[error("there is no command between [ and ]")]
    NoCommand,
    /// No such program.
    #[error("cannot run {program}: no such command; is the package that has it installed?")]
    NotFound {
        /// Its name.
        program: String,
    },
    /// The system could not do it.
    #[error("cannot run {program}: {what}: {error}")]
    System {
        /// Its name.
        program: String,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A command that runs an NBD server.
#[derive(Clone, Debug)]
pub struct ServerCommand {
    words: Vec<OsString>,
    transport: ServerTransport,
}

impl ServerCommand {
    /// The command and its arguments, as they stand between the brackets.
    #[must_use]
    pub fn new(words: Vec<OsString>) -> Self {
        Self { words, transport: ServerTransport::default() }
    }

    /// Sets how the server gets its connection.
    #[must_use]
    pub fn over(self, transport: ServerTransport) -> Self {
        Self { transport, ..self }
    }

    /// Starts the server. `on_line` gets each line that it writes to stderr, on a thread of its
    /// own. The server ends with the returned value, and with the calling thread: call it from
    /// one that lives as long as the copy.
    ///
    /// # Errors
    /// [`ServerError`] when there is nothing to run, or no socket or process can be had. A server
    /// that starts and then fails shows on its connection.
    pub fn spawn(self, on_line: impl Fn(&str) + Send + 'static) -> Result<Server, ServerError> {
        let name = self.words.first().ok_or(ServerError::NoCommand)?.clone();
        let shown = name.to_string_lossy().into_owned();
        let Some(path) = program::find(&name) else {
            return Err(ServerError::NotFound { program: shown });
        };
        let failed = |what| {
            let program = shown.clone();
            move |error| ServerError::System { program, what, error }
        };

        let mut words: Vec<OsString> = Vec::with_capacity(self.words.len() + 8);
        if let Some(setpriv) = program::find("setpriv".as_ref()) {
            // The server learns of our death whatever the cause. Without setpriv only the end of
            // the connection tells it.
            words.extend([setpriv.into(), "--pdeathsig".into(), "TERM".into()]);
            words.push("--".into());
        }
        words.push(path.into_os_string());
        words.extend(self.words.into_iter().skip(1));

        let (mut command, connection) = match self.transport {
            ServerTransport::Activation => {
                let (listener, connection) =
                    connected_listener().map_err(failed("making its socket"))?;
                let mut command = Command::new("/bin/sh");
                command.args(["-c", ACTIVATION_SCRIPT, "sh"]).args(words);
                command.env("LISTEN_FDS", "1").env_remove("LISTEN_FDNAMES");
                command.stdin(OwnedFd::from(listener));
                (command, connection)
            }
            ServerTransport::Stdio => {
                let (connection, theirs) =
                    UnixStream::pair().map_err(failed("making its socket"))?;
                let copy = theirs.try_clone().map_err(failed("making its socket"))?;
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
                command.stdin(OwnedFd::from(theirs)).stdout(OwnedFd::from(copy));
                (command, connection)
            }
        };
        // A group of its own: Ctrl-C reaches us alone, so that we can drain before it ends.
        command.stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed("starting it"))?;
        // Our copies of the server's descriptors go, so that its end is the end of the connection.
        drop(command);

        let lines = Arc::new(Mutex::new(VecDeque::with_capacity(KEPT_LINES)));
        let (reading, last_words) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            let kept = Arc::clone(&lines);
            thread::Builder::new()
                .name("server-stderr".into())
                .spawn(move || {
                    hand_on(stderr, &kept, on_line);
                    drop(reading);
                })
                .map_err(failed("starting a thread for its stderr"))?;
        }
        Ok(Server {
            shared: Arc::new(Shared {
                program: shown,
                connection: Mutex::new(Some(connection.into())),
                process: Mutex::new(Process { child, status: None }),
                lines,
                last_words: Mutex::new(last_words),
            }),
        })
    }
}

/// A running server. It is ended when this is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// Hands the one connection out once; after that it says why there is no other.
    #[must_use]
    pub fn dialer(&self) -> Arc<dyn Dial> {
        Arc::clone(&self.shared) as Arc<dyn Dial>
    }

    /// What became of a server that exited by itself, with the last line that it wrote; `None`
    /// while it runs. A connection breaks a moment before its server is gone, so this waits for
    /// that moment.
    #[must_use]
    pub fn exit_reason(&self) -> Option<String> {
        self.shared.exit_reason(EXIT_GRACE)
    }

    /// Ends the server: SIGTERM to its process group, which goes on for it if it was stopped; then,
    /// when `deadline` has passed, SIGKILL.
    /// The connection must be closed by then, or some servers wait for it. Returns whether it
    /// ended in time.
    pub fn end(&self, deadline: Duration) -> bool {
        // A connection that was never asked for would keep the server waiting.
        drop(held(&self.shared.connection).take());
        let mut process = held(&self.shared.process);
        if process.wait(Duration::ZERO).is_some() {
            return true;
        }
        process.signal(Signal::TERM);
        // One that is stopped, by itself or by others, takes no signal before it goes on.
        process.signal(Signal::CONT);
        if process.wait(deadline).is_some() {
            return true;
        }
        process.signal(Signal::KILL);
        process.wait(END_DEADLINE);
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(END_DEADLINE);
    }
}

#[derive(Debug)]
struct Shared {
    program: String,
    connection: Mutex<Option<OwnedFd>>,
    process: Mutex<Process>,
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Disconnected when all of the server's stderr was read.
    last_words: Mutex<mpsc::Receiver<Infallible>>,
}

impl Shared {
    fn exit_reason(&self, grace: Duration) -> Option<String> {
        let status = held(&self.process).wait(grace)?;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        let program = &self.program;
        // What it wrote last may still be on its way through the pipe. A child of its own may
        // hold the pipe open for longer: then what is there has to do.
        let _all_or_timeout = held(&self.last_words).recv_timeout(EXIT_GRACE);
        let lines = held(&self.lines);
        Some(match lines.iter().rev().find(|line| !line.is_empty()) {
            Some(line) => format!("{program} {how}: {line}"),
            None => format!("{program} {how}"),
        })
    }
}

impl Dial for Shared {
    fn dial(&self) -> io::Result<OwnedFd> {
        held(&self.connection).take().ok_or_else(|| {
            let ended = self.exit_reason(Duration::ZERO);
            io::Error::new(
                io::ErrorKind::NotConnected,
                ended.unwrap_or_else(|| format!("{} was started for one connection", self.program)),
            )
        })
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// Set once it is reaped; its process id means nothing after that.
    status: Option<ExitStatus>,
}

impl Process {
    /// Its status, if it exits within `deadline`.
    fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + deadline;
        let mut pause = Duration::from_millis(1);
        while self.status.is_none() {
            // An error means that someone else reaped it: it is gone, by an unknown status.
            self.status = self.child.try_wait().unwrap_or(Some(ExitStatus::default()));
            let left = end.saturating_duration_since(Instant::now());
            if self.status.is_some() || left.is_zero() {
                break;
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        self.status
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(group), None) = (group, self.status) {
            // It may be gone already, which is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

/// A socket that listens, and the one connection to it. Both ends are had before the server
/// starts, and the path is gone before anyone else could use it: nothing to clean up later.
fn connected_listener() -> io::Result<(UnixListener, UnixStream)> {
    let folder = tempfile::Builder::new().prefix("blockferry-").tempdir()?;
    let path = folder.path().join("nbd");
    let listener = UnixListener::bind(&path)?;
    let connection = UnixStream::connect(&path)?;
    folder.close()?;
    Ok((listener, connection))
}

fn hand_on(stderr: ChildStderr, kept: &Mutex<VecDeque<String>>, on_line: impl Fn(&str)) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        {
            let mut kept = held(kept);
            if kept.len() == KEPT_LINES {
                kept.pop_front();
            }
            kept.push_back(text.to_owned());
        }
        on_line(text);
    }
}

/// What a mutex guards here is whole after every step, also after a panic.
fn held<T: fmt::Debug>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> ServerCommand {
        ServerCommand::new(words.iter().map(OsString::from).collect())
    }

    fn greeting(server: &Server) -> io::Result<[u8; 8]> {
        let mut connection = UnixStream::from(server.dialer().dial()?);
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut greeting = [0; 8];
        connection.read_exact(&mut greeting)?;
        Ok(greeting)
    }

    #[test]
    fn a_server_greets_over_socket_activation() {
        for words in [
            &["nbdkit", "memory", "1M"][..],
            &["sh", "-c", "exec nbdkit memory 1M"],
            &["qemu-nbd", "-f", "raw", "/proc/self/exe", "-r"],
        ] {
            let server = command(words).spawn(|_| {}).unwrap();
            assert_eq!(&greeting(&server).unwrap(), b"NBDMAGIC", "{words:?}");
            assert!(server.end(END_DEADLINE));
        }
    }

    #[test]
    fn a_server_greets_on_its_standard_streams() {
        let server = command(&["nbdkit", "-s", "memory", "1M"])
            .over(ServerTransport::Stdio)
            .spawn(|_| {})
            .unwrap();
        assert_eq!(&greeting(&server).unwrap(), b"NBDMAGIC");
    }

    #[test]
    fn the_connection_is_handed_out_once() {
        let server = command(&["nbdkit", "memory", "1M"]).spawn(|_| {}).unwrap();
        let _first = server.dialer().dial().unwrap();
        let error = server.dialer().dial().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn a_server_that_dies_tells_its_status_and_last_words() {
        let server = command(&["sh", "-c", "echo first >&2; echo last words >&2; exit 3"])
            .spawn(|_| {})
            .unwrap();
        assert!(greeting(&server).is_err());
        let reason = server.exit_reason().unwrap();
        assert_eq!(reason, "sh exited with status 3: last words");
        assert_eq!(server.dialer().dial().unwrap_err().to_string(), reason);
    }

    #[test]
    fn stderr_is_handed_on_line_by_line() {
        let (sender, lines) = std::sync::mpsc::channel();
        let _server = command(&["sh", "-c", "echo one >&2; printf two >&2"])
            .spawn(move |line| sender.send(line.to_owned()).unwrap())
            .unwrap();
        assert_eq!(lines.iter().collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let error = command(&["no-such-server", "x"]).spawn(|_| {}).unwrap_err();
        assert!(error.to_string().starts_with("cannot run no-such-server: no such command"));
        assert!(matches!(command(&[]).spawn(|_| {}), Err(ServerError::NoCommand)));
    }

    #[test]
    fn a_server_that_ignores_sigterm_is_killed_with_its_children() {
        let server = command(&["sh", "-c", "trap '' TERM; echo up >&2; while :; do sleep 1; done"]);
        let (sender, lines) = std::sync::mpsc::channel();
        let server = server.spawn(move |_| sender.send(()).unwrap_or(())).unwrap();
        lines.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(!server.end(Duration::from_millis(50)));
        // Its stderr is closed only when no process of the group is left.
        assert!(lines.recv_timeout(Duration::from_secs(20)).is_err());
    }

    #[test]
    fn a_server_that_has_stopped_itself_ends_at_once() {
        let server = command(&["sh", "-c", "kill -STOP $$; sleep 60"]).spawn(|_| {}).unwrap();
        let stat = format!("/proc/{}/stat", held(&server.shared.process).child.id());
        let started = Instant::now();
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(started.elapsed() < Duration::from_secs(20), "it does not stop");
            thread::yield_now();
        }
        let asked = Instant::now();
        assert!(server.end(END_DEADLINE));
        assert!(asked.elapsed() < END_DEADLINE / 2, "{:?}", asked.elapsed());
    }

    #[test]
    fn a_server_learns_that_it_gets_exactly_one_socket() {
        let (sender, lines) = std::sync::mpsc::channel();
        let script =
            r#"[ $LISTEN_PID = $$ ] && [ $LISTEN_FDS = 1 ] && [ -S /dev/fd/3 ] && echo yes >&2"#;
        let _server = command(&["sh", "-c", script])
            .spawn(move |line| sender.send(line.to_owned()).unwrap())
            .unwrap();
        assert_eq!(lines.recv().unwrap(), "yes");
    }
}

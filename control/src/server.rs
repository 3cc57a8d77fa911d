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

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blockferry_dataplane::Dial;

use crate::child::{Child, Ending, Launch, LaunchError, Streams, held};

/// Time from SIGTERM to SIGKILL: enough for qemu-nbd to close an image whose data was flushed.
pub const END_DEADLINE: Duration = Duration::from_secs(10);
/// How long a server that hung up may take to exit before its status is asked for.
const EXIT_GRACE: Duration = Duration::from_millis(300);

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

impl From<LaunchError> for ServerError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::NotFound { program } => Self::NotFound { program },
            LaunchError::System { program, what, error } => Self::System { program, what, error },
        }
    }
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
    /// own. The server ends with the returned value, and with this process.
    ///
    /// # Errors
    /// [`ServerError`] when there is nothing to run, or no socket or process can be had. A server
    /// that starts and then fails shows on its connection.
    pub fn spawn(self, on_line: impl Fn(&str) + Send + 'static) -> Result<Server, ServerError> {
        let mut words = self.words.into_iter();
        let name = words.next().ok_or(ServerError::NoCommand)?;
        let program = name.to_string_lossy().into_owned();
        let failed = |error| ServerError::System { program, what: "making its socket", error };
        let (streams, connection) = match self.transport {
            ServerTransport::Activation => connected_listener()
                .map(|(listener, near)| (Streams::Activation(listener.into()), near)),
            ServerTransport::Stdio => {
                UnixStream::pair().map(|(near, far)| (Streams::Connection(far.into()), near))
            }
        }
        .map_err(failed)?;
        let mut launch = Launch::new(name);
        launch.args(words);
        let (child, _none) = launch.start(streams, on_line)?;
        let connection = Mutex::new(Some(connection.into()));
        Ok(Server { shared: Arc::new(Shared { child, connection }) })
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
        self.shared.child.exit_reason(EXIT_GRACE)
    }

    /// Ends the server: SIGTERM to its process group, which goes on for it if it was stopped; then,
    /// when `deadline` has passed, SIGKILL.
    /// The connection must be closed by then, or some servers wait for it. Returns whether it
    /// ended in time.
    pub fn end(&self, deadline: Duration) -> bool {
        // A connection that was never asked for would keep the server waiting.
        drop(held(&self.shared.connection).take());
        matches!(self.shared.child.end(deadline), Ending::Earlier | Ending::InTime)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(END_DEADLINE);
    }
}

#[derive(Debug)]
struct Shared {
    child: Child,
    connection: Mutex<Option<OwnedFd>>,
}

impl Dial for Shared {
    fn dial(&self) -> io::Result<OwnedFd> {
        held(&self.connection).take().ok_or_else(|| {
            let program = self.child.program();
            let ended = self.child.exit_reason(Duration::ZERO);
            let reason =
                ended.unwrap_or_else(|| format!("{program} was started for one connection"));
            io::Error::new(io::ErrorKind::NotConnected, reason)
        })
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;
    use std::time::Instant;

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
        let stat = format!("/proc/{}/stat", server.shared.child.id());
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
    fn a_server_does_not_end_with_the_thread_that_asked_for_it() {
        let started = thread::spawn(|| command(&["nbdkit", "memory", "1M"]).spawn(|_| {}).unwrap());
        let server = started.join().unwrap();
        assert_eq!(&greeting(&server).unwrap(), b"NBDMAGIC");
        assert_eq!(server.exit_reason(), None);
    }

    #[test]
    fn a_server_that_closes_its_stderr_does_not_lose_its_parent() {
        let (sender, lines) = std::sync::mpsc::channel();
        let server = command(&["sh", "-c", "exec 2>&-; exec sleep 60"])
            .spawn(move |line| sender.send(line.to_owned()).unwrap())
            .unwrap();
        assert_eq!(lines.iter().count(), 0, "its stderr is at its end");
        assert_eq!(server.exit_reason(), None);
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

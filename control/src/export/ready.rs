//! Readiness: a whole handshake, to the export under its name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use blockferry_dataplane::nbd::{
    ClientWishes, Command, CommandFlags, Handshake, HandshakeError, HandshakeStatus,
    MAX_REQUEST_LEN, Request, Session, Tls,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::time::Timespec;

use super::listener::Listener;
use crate::child::Child;

/// Bytes that are received at once.
const CHUNK_BYTES: usize = 4096;
/// Longest wait between two looks at the process, where the kernel does not tell of its end.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long a server that hung up may take to exit before it is said to have refused.
const HANG_UP_GRACE: Duration = Duration::from_secs(1);

/// Why an export is not ready.
#[derive(Debug)]
pub(crate) enum NotReady {
    /// Its process is gone.
    Exited,
    /// It was silent for too long.
    TimedOut { waiting_for: &'static str },
    /// It cannot be talked to.
    Handshake(HandshakeError),
    /// The system could not do it.
    System(io::Error),
}

/// Waits until the export answers, and takes leave, so that its connection is free again.
pub(crate) fn wait(
    listener: &Listener,
    name: &str,
    child: &Child,
    deadline: Duration,
) -> Result<Session, NotReady> {
    let end = Instant::now() + deadline;
    let connection = listener.connect(deadline).map_err(NotReady::System)?;
    probe(connection, name, child, end)
}

/// The same over a connection that there is already, by a point in time.
pub(crate) fn probe(
    connection: OwnedFd,
    name: &str,
    child: &Child,
    end: Instant,
) -> Result<Session, NotReady> {
    fcntl_setfl(&connection, OFlags::NONBLOCK).map_err(|error| NotReady::System(error.into()))?;
    let mut probe = Probe { connection: File::from(connection), child, end };
    let mut handshake = Handshake::open(ClientWishes {
        export: name.to_owned(),
        tls: Tls::Never,
        extended_headers: false,
        structured_replies: false,
        contexts: Vec::new(),
    });
    let mut output = Vec::new();
    loop {
        let input = probe.receive(&handshake)?;
        // The server speaks when it is asked, so what was received is consumed.
        let advance = handshake.advance(&input, &mut output).map_err(NotReady::Handshake)?;
        if let HandshakeStatus::Ready(session) = advance.status {
            // It has no reply, and the server closes its end.
            let leave = Request {
                command: Command::Disconnect,
                flags: CommandFlags::NONE,
                cookie: 0,
                offset: 0,
                length: 0,
            };
            let mut head = [0; MAX_REQUEST_LEN];
            let length = leave.encode(session.mode, &mut head);
            probe.send(&head[..length])?;
            return Ok(session);
        }
        probe.send(&output)?;
        output.clear();
    }
}

struct Probe<'a> {
    connection: File,
    child: &'a Child,
    end: Instant,
}

impl Probe<'_> {
    /// What comes next from the server.
    fn receive(&mut self, handshake: &Handshake) -> Result<Vec<u8>, NotReady> {
        let mut bytes = vec![0; CHUNK_BYTES];
        loop {
            match self.connection.read(&mut bytes) {
                Ok(0) => return Err(self.hung_up(handshake)),
                Ok(length) => {
                    bytes.truncate(length);
                    return Ok(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(self.hung_up(handshake));
                }
                Err(error) => return Err(NotReady::System(error)),
            }
            self.await_input(handshake)?;
        }
    }

    /// Waits for bytes or for the end of the process. While somebody else holds the listener too,
    /// a connection outlives a process that never accepted it.
    fn await_input(&self, handshake: &Handshake) -> Result<(), NotReady> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NotReady::TimedOut { waiting_for: handshake.waiting_for() });
        }
        let exit = self.child.exit_descriptor();
        let pause = if exit.is_some() { left } else { left.min(LOOK_PAUSE) };
        let mut polled = vec![PollFd::new(&self.connection, PollFlags::IN)];
        polled.extend(exit.as_deref().map(|exit: &OwnedFd| PollFd::new(exit, PollFlags::IN)));
        // What interrupts it, if anything, leads to another look.
        let _ = poll(&mut polled, Timespec::try_from(pause).ok().as_ref());
        let heard = !polled[0].revents().is_empty();
        if !heard && self.child.wait(Duration::ZERO).is_some() {
            return Err(NotReady::Exited);
        }
        Ok(())
    }

    /// A server hangs up when it ends, which takes it a moment.
    fn hung_up(&self, handshake: &Handshake) -> NotReady {
        let left = self.end.saturating_duration_since(Instant::now());
        match self.child.wait(left.min(HANG_UP_GRACE)) {
            Some(_) => NotReady::Exited,
            None => NotReady::Handshake(handshake.disconnected()),
        }
    }

    /// Sends little into an empty socket, which takes it at once.
    fn send(&mut self, bytes: &[u8]) -> Result<(), NotReady> {
        match self.connection.write_all(bytes) {
            Err(error) if self.child.wait(HANG_UP_GRACE).is_none() => Err(NotReady::System(error)),
            Err(_) => Err(NotReady::Exited),
            Ok(()) => Ok(()),
        }
    }
}

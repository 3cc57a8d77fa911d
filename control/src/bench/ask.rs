//! A client that asks for little, one request at a time: whether a server is there, how large its
//! export is, and how long an answer takes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use blockferry_dataplane::Dial;
use blockferry_dataplane::nbd::{
    ClientWishes, Command, CommandFlags, Handshake, HandshakeStatus, MAX_REQUEST_LEN, Request,
    Session, Tls, wire,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// Bytes that are asked for: what every export can give.
const READ_BYTES: u64 = 512;
/// Bytes that are received at once in a handshake.
const CHUNK_BYTES: usize = 4096;

/// A connection that is asked one thing at a time. It takes its leave when it is dropped.
#[derive(Debug)]
pub(super) struct Asker {
    connection: File,
    session: Session,
    asked: u64,
}

impl Asker {
    /// Connects; each wait for the server is bounded by `deadline`.
    pub(super) fn open(dialer: &dyn Dial, export: &str, deadline: Duration) -> io::Result<Self> {
        let socket = dialer.dial()?;
        fcntl_setfl(&socket, fcntl_getfl(&socket)? - OFlags::NONBLOCK)?;
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, direction, Some(deadline))?;
        }
        let mut connection = File::from(socket);
        let mut handshake = Handshake::open(ClientWishes {
            export: export.to_owned(),
            tls: Tls::Never,
            extended_headers: false,
            structured_replies: false,
            contexts: Vec::new(),
        });
        let (mut input, mut output) = (Vec::new(), Vec::new());
        loop {
            let mut chunk = [0; CHUNK_BYTES];
            let length = connection.read(&mut chunk).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => error,
            })?;
            if length == 0 {
                return Err(io::Error::other(handshake.disconnected().to_string()));
            }
            input.extend_from_slice(&chunk[..length]);
            let advance = handshake
                .advance(&input, &mut output)
                .map_err(|error| io::Error::other(error.to_string()))?;
            input.drain(..advance.consumed.min(input.len()));
            connection.write_all(&output)?;
            output.clear();
            if let HandshakeStatus::Ready(session) = advance.status {
                return Ok(Self { connection, session, asked: 0 });
            }
        }
    }

    /// What the server told of the export.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The time that a small read takes.
    pub(super) fn ask(&mut self) -> io::Result<Duration> {
        self.asked += 1;
        let length = READ_BYTES.min(self.session.size);
        let started = Instant::now();
        self.send(Command::Read, length)?;
        let mut head = [0; wire::SIMPLE_REPLY_LEN];
        self.connection.read_exact(&mut head)?;
        let mut fields = head.as_chunks::<4>().0.iter().map(|field| u32::from_be_bytes(*field));
        if (fields.next(), fields.next()) != (Some(wire::NBD_SIMPLE_REPLY_MAGIC), Some(0)) {
            return Err(io::Error::other("the server refused to read 512 bytes"));
        }
        let payload = (&mut self.connection).take(length);
        if io::copy(&mut { payload }, &mut io::sink())? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(started.elapsed())
    }

    fn send(&mut self, command: Command, length: u64) -> io::Result<()> {
        let request =
            Request { command, flags: CommandFlags::NONE, cookie: self.asked, offset: 0, length };
        let mut head = [0; MAX_REQUEST_LEN];
        let bytes = request.encode(self.session.mode, &mut head);
        self.connection.write_all(&head[..bytes])
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // The end of the connection says the same.
        let _as_well = self.send(Command::Disconnect, 0);
    }
}

/// The one in the middle.
pub(super) fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

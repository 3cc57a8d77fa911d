//! The lane that every contender runs: the same requests, the same window, the same servers.
//!
//! ```text
//!   source ◀─ READ ─ ask      at most WINDOW requests that are not acknowledged yet
//!   source ── data ▶ take     a head of 16 bytes, then the payload
//!   target ◀─ WRITE ─ put     a head of 28 bytes, then the payload
//!   target ── ack  ▶ acks     as many as are there
//! ```
//!
//! Contenders differ in how they carry out these four, and in nothing else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use blockferry_dataplane::nbd::{
    ClientWishes, Command, CommandFlags, Handshake, HandshakeStatus, MAX_REQUEST_LEN, ReplyMode,
    Request, Tls, wire,
};
use rustix::net::{AddressFamily, SocketType};

/// Requests of a lane that are not acknowledged, at most; as many as our own lane has.
pub(crate) const WINDOW: u64 = 16;
/// Bytes of a request's head.
pub(crate) const HEAD: usize = wire::COMPACT_REQUEST_LEN;
/// Bytes of a reply's head, and of an acknowledgement.
pub(crate) const REPLY: usize = wire::SIMPLE_REPLY_LEN;
/// Bytes of acknowledgements that are received at once, at most: 256 of them.
pub(crate) const ACKS: usize = 256 * REPLY;
/// Bytes of a lane's pipe; the most that an ordinary user may have.
pub(crate) const PIPE: usize = 1 << 20;

/// What a contender is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
    pub(crate) lanes: usize,
    /// Bytes of a request.
    pub(crate) request: usize,
    /// Requests of each lane.
    pub(crate) requests: u64,
}

impl Job {
    /// Bytes of each disk.
    pub(crate) fn disk(&self) -> u64 {
        self.requests * self.request as u64
    }

    /// The connections of one lane, with the handshake behind them.
    pub(crate) fn connect(&self) -> io::Result<(TcpStream, TcpStream)> {
        Ok((open(self.source)?, open(self.target)?))
    }
}

/// How far a lane has come, in requests. Both servers answer in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) total: u64,
    pub(crate) asked: u64,
    pub(crate) taken: u64,
    pub(crate) put: u64,
    pub(crate) acked: u64,
    request: usize,
}

impl Progress {
    pub(crate) fn new(job: &Job) -> Self {
        Self { total: job.requests, asked: 0, taken: 0, put: 0, acked: 0, request: job.request }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.acked == self.total
    }

    /// Appends the READ requests that the window allows now.
    pub(crate) fn ask(&mut self, out: &mut Vec<u8>) {
        while self.asked < self.total.min(self.acked + WINDOW) {
            out.extend_from_slice(&self.head(Command::Read, self.asked));
            self.asked += 1;
        }
    }

    /// Checks the head in front of the next payload.
    pub(crate) fn check_reply(&self, head: &[u8]) -> io::Result<()> {
        let mut expected = [0; REPLY];
        expected[..4].copy_from_slice(&wire::NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
        expected[8..].copy_from_slice(&self.taken.to_be_bytes());
        if head == expected {
            return Ok(());
        }
        Err(broken("the source answered something else"))
    }

    /// The head of the WRITE that is put next.
    pub(crate) fn write_head(&self) -> [u8; HEAD] {
        self.head(Command::Write, self.put)
    }

    fn head(&self, command: Command, index: u64) -> [u8; HEAD] {
        let request = Request {
            command,
            flags: CommandFlags::NONE,
            cookie: index,
            offset: index * self.request as u64,
            length: self.request as u64,
        };
        let mut out = [0; MAX_REQUEST_LEN];
        request.encode(ReplyMode::Simple, &mut out);
        let mut head = [0; HEAD];
        head.copy_from_slice(&out[..HEAD]);
        head
    }
}

/// Reads acknowledgements out of a stream that is cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    begun: Vec<u8>,
}

impl Acks {
    /// Counts what `bytes` complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], progress: &mut Progress) -> io::Result<()> {
        if bytes.is_empty() {
            return Err(broken("the target closed the connection"));
        }
        self.begun.extend_from_slice(bytes);
        let (whole, rest) = self.begun.as_chunks::<REPLY>();
        for ack in whole {
            let (magic, fields) = ack.split_at(4);
            let magic_fits = magic == wire::NBD_SIMPLE_REPLY_MAGIC.to_be_bytes();
            let cookie_fits = fields[4..] == progress.acked.to_be_bytes();
            if !magic_fits || fields[..4] != [0; 4] || !cookie_fits {
                return Err(broken("the target did not acknowledge"));
            }
            progress.acked += 1;
        }
        let kept = rest.len();
        let done = self.begun.len() - kept;
        self.begun.drain(..done);
        Ok(())
    }
}

/// A block of memory for one payload, on a page, with room for the head of a WRITE before it:
/// both leave in one send.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Vec<u8>,
    /// Where the payload begins.
    start: usize,
    request: usize,
}

const PAGE: usize = 4096;

impl Block {
    pub(crate) fn new(request: usize) -> Self {
        let bytes = vec![0; request + 2 * PAGE];
        let start = PAGE + bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start, request }
    }

    /// Where the payload lies in [`all`](Self::all).
    pub(crate) fn payload_at(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.request
    }

    /// Where the head and the payload lie in [`all`](Self::all).
    pub(crate) fn message_at(&self) -> std::ops::Range<usize> {
        self.start - HEAD..self.start + self.request
    }

    pub(crate) fn payload_mut(&mut self) -> &mut [u8] {
        let range = self.payload_at();
        &mut self.bytes[range]
    }

    pub(crate) fn message(&self) -> &[u8] {
        &self.bytes[self.message_at()]
    }

    pub(crate) fn put_head(&mut self, head: [u8; HEAD]) {
        let start = self.start - HEAD;
        self.bytes[start..start + HEAD].copy_from_slice(&head);
    }

    /// All of the memory.
    pub(crate) fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, for writing.
    pub(crate) fn all_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

pub(crate) fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    // As our own mover has it over loopback, and before a system's default sets up its timers:
    // what is compared is how bytes are moved.
    rustix::net::sockopt::set_tcp_congestion(&socket, "reno")?;
    rustix::net::connect(&socket, &address)?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    let mut handshake = Handshake::open(ClientWishes {
        export: String::new(),
        tls: Tls::Never,
        extended_headers: false,
        structured_replies: false,
        contexts: Vec::new(),
    });
    let (mut input, mut output) = (Vec::new(), Vec::new());
    loop {
        let advance = handshake.advance(&input, &mut output).map_err(io::Error::other)?;
        stream.write_all(&output)?;
        output.clear();
        input.drain(..advance.consumed);
        if let HandshakeStatus::Ready(_) = advance.status {
            return Ok(stream);
        }
        let mut some = [0; 256];
        let count = stream.read(&mut some)?;
        if count == 0 {
            return Err(broken("the server closed during the handshake"));
        }
        input.extend_from_slice(&some[..count]);
    }
}

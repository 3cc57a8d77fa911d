//! The servers of the engines' bench: a source that always has its data ready, and a sink that
//! checks and forgets. One blocking thread a connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blockferry_dataplane::nbd::wire;

use crate::lane::{HEAD, REPLY, broken};

/// Bytes of the largest payload.
const LARGEST: usize = 32 << 20;
/// Bytes of the pattern that every payload is a beginning of.
const PATTERN: usize = 4 << 20;

/// Both servers, for as long as the process lives.
pub(crate) struct Servers {
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    pattern: Vec<u8>,
    /// Size of the exports in bytes.
    disk: AtomicU64,
    /// Bytes that the sink took and found right.
    written: AtomicU64,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Source,
    Sink,
}

impl Servers {
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            pattern: blockferry_benches::noise(PATTERN),
            disk: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        Ok(Self {
            source: serve(Role::Source, &shared)?,
            target: serve(Role::Sink, &shared)?,
            shared,
        })
    }

    /// Sets the size of the exports, and starts the count of written bytes anew.
    pub(crate) fn prepare(&self, disk: u64) {
        self.shared.disk.store(disk, Ordering::Release);
        self.shared.written.store(0, Ordering::Release);
    }

    pub(crate) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }
}

fn serve(role: Role, shared: &Arc<Shared>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let ended = stream.and_then(|stream| session(stream, role, &shared));
                if let Err(e) = ended
                    && e.kind() != io::ErrorKind::UnexpectedEof
                    && e.kind() != io::ErrorKind::ConnectionReset
                {
                    eprintln!("a server of the bench: {e}");
                }
            });
        }
    });
    Ok(address)
}

fn session(mut stream: TcpStream, role: Role, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if !handshake(&mut stream, shared.disk.load(Ordering::Acquire))? {
        return Ok(());
    }
    let mut scratch = vec![0; if role == Role::Sink { PATTERN } else { 0 }];
    loop {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head)?;
        let command = u16::from_be_bytes([head[6], head[7]]);
        let length = u32::from_be_bytes([head[24], head[25], head[26], head[27]]) as usize;
        if length > LARGEST.min(PATTERN) {
            return Err(broken("a request is too large for this server"));
        }
        let mut reply = [0; REPLY];
        reply[..4].copy_from_slice(&wire::NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
        reply[8..].copy_from_slice(&head[8..16]);
        match (command, role) {
            (wire::NBD_CMD_READ, Role::Source) => {
                send_all(&stream, &reply, true)?;
                send_all(&stream, &shared.pattern[..length], false)?;
            }
            (wire::NBD_CMD_WRITE, Role::Sink) => {
                let payload = &mut scratch[..length];
                stream.read_exact(payload)?;
                check(payload, &shared.pattern[..length])?;
                shared.written.fetch_add(length as u64, Ordering::AcqRel);
                stream.write_all(&reply)?;
            }
            (wire::NBD_CMD_FLUSH, _) => stream.write_all(&reply)?,
            (wire::NBD_CMD_DISC, _) => return Ok(()),
            _ => return Err(broken("a request that this server does not know")),
        }
    }
}

/// Looks at the first word of each page, so that the check costs next to nothing.
fn check(payload: &[u8], pattern: &[u8]) -> io::Result<()> {
    let pages = |bytes| <[u8]>::chunks(bytes, 4096).map(|page| &page[..page.len().min(8)]);
    if pages(payload).eq(pages(pattern)) {
        return Ok(());
    }
    Err(broken("what was written is not what was read"))
}

fn send_all(stream: &TcpStream, mut bytes: &[u8], more: bool) -> io::Result<()> {
    use rustix::net::{SendFlags, send};
    let more = if more { SendFlags::MORE } else { SendFlags::empty() };
    while !bytes.is_empty() {
        let sent = send(stream, bytes, SendFlags::NOSIGNAL | more)?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Fixed newstyle with `NBD_OPT_GO` and nothing else. True when an export was opened.
fn handshake(stream: &mut TcpStream, disk: u64) -> io::Result<bool> {
    let mut greeting = Vec::new();
    greeting.extend(wire::NBDMAGIC.to_be_bytes());
    greeting.extend(wire::IHAVEOPT.to_be_bytes());
    greeting.extend((wire::NBD_FLAG_FIXED_NEWSTYLE | wire::NBD_FLAG_NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting)?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let mut head = [0; wire::OPTION_HEAD_LEN];
        stream.read_exact(&mut head)?;
        let option = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        let length = u32::from_be_bytes([head[12], head[13], head[14], head[15]]) as usize;
        if length > wire::MAX_STRING_LEN {
            return Err(broken("an option is too long for this server"));
        }
        stream.read_exact(&mut vec![0; length])?;
        let mut out = Vec::new();
        match option {
            wire::NBD_OPT_GO => {
                let flags = wire::NBD_FLAG_HAS_FLAGS | wire::NBD_FLAG_SEND_FLUSH;
                let mut info = Vec::new();
                info.extend(wire::NBD_INFO_EXPORT.to_be_bytes());
                info.extend(disk.to_be_bytes());
                info.extend(flags.to_be_bytes());
                answer(&mut out, option, wire::NBD_REP_INFO, &info)?;
                answer(&mut out, option, wire::NBD_REP_ACK, &[])?;
            }
            wire::NBD_OPT_ABORT => answer(&mut out, option, wire::NBD_REP_ACK, &[])?,
            _ => answer(&mut out, option, wire::NBD_REP_ERR_UNSUP, &[])?,
        }
        stream.write_all(&out)?;
        match option {
            wire::NBD_OPT_GO => return Ok(true),
            wire::NBD_OPT_ABORT => return Ok(false),
            _ => {}
        }
    }
}

fn answer(out: &mut Vec<u8>, option: u32, kind: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    out.extend(wire::OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(payload);
    Ok(())
}

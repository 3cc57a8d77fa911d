//! What operations work on.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::fs::OFlags;
use socket2::{Domain, SockAddr, Socket, Type};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Bytes that a socket is asked to collect at most before it is called readable.
const WATERMARK_MAX: usize = 1 << 20;

/// How a connection within this machine is paced: not at all. Nothing gets lost on the way, so
/// there is no congestion to avoid, and a system whose default paces by timers (BBR) pays for them
/// with about half of a lane's CPU and a fifth of its rate
/// (benches/runs/2026-11-24-loopback-congestion.txt). Every kernel has this one, for every user.
const LOOPBACK_CONGESTION_CONTROL: &[u8] = b"reno";

/// Bytes that a Unix socket is asked to hold on their way to a server: a request as a rule. With
/// the kernel's 208 KiB both ends are woken several times for each, and lanes took 5 to 12 % longer
/// (benches/runs/2026-11-27-backup.txt).
const UNIX_SEND_BYTES: usize = 1 << 20;

/// An open descriptor, with counts of the bytes that passed through it: liveness is judged by
/// completed I/O, and an engine sees that even in the middle of an operation.
#[derive(Debug)]
pub(crate) struct Descriptor {
    fd: OwnedFd,
    kind: Kind,
    received: Cell<u64>,
    sent: Cell<u64>,
    takes_watermark: bool,
    is_terminal: bool,
    watermark: Cell<libc::c_int>,
    /// Whether the readiness engine watches it already.
    pub(super) watched: Cell<bool>,
}

/// Decides which system calls fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connected stream socket, non-blocking.
    Socket,
    /// A pipe, terminal or file that is read or written in order (standard input or output).
    /// Its status flags are shared with other processes, so it stays as it is: blocking.
    Stream,
    /// A regular file or a block device, read and written at offsets.
    File,
}

impl Descriptor {
    /// Begins to connect. [`super::Op::Connect`] waits for the end of it.
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        let (domain, to) = match address {
            Address::Tcp(to) => (Domain::for_address(*to), SockAddr::from(*to)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        if matches!(address, Address::Tcp(to) if to.ip().to_canonical().is_loopback()) {
            // Only speed is lost where the kernel refuses.
            let _as_allowed = socket.set_tcp_congestion(LOOPBACK_CONGESTION_CONTROL);
        }
        if domain == Domain::UNIX {
            // As much as `net.core.wmem_max` allows; only speed is lost where that is less.
            let _as_allowed = socket.set_send_buffer_size(UNIX_SEND_BYTES);
        }
        match socket.connect(&to) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
        Ok(Self::new(socket.into(), Kind::Socket))
    }

    /// A connected stream socket that somebody else opened (an SSH channel, a TLS session, a
    /// server's standard input and output). It is made non-blocking.
    pub(crate) fn socket(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self::new(fd, Kind::Socket))
    }

    /// Something that is read or written in order.
    pub(crate) fn stream(fd: OwnedFd) -> Self {
        Self::new(fd, Kind::Stream)
    }

    /// Puts a stream of ours, which nobody shares, into blocking mode.
    pub(crate) fn set_blocking(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.fd)?;
        Ok(rustix::fs::fcntl_setfl(&self.fd, flags - OFlags::NONBLOCK)?)
    }

    /// A regular file or a block device.
    pub(crate) fn file(fd: OwnedFd) -> Self {
        Self::new(fd, Kind::File)
    }

    fn new(fd: OwnedFd, kind: Kind) -> Self {
        let tcp = kind == Kind::Socket
            && rustix::net::sockopt::socket_domain(&fd)
                .is_ok_and(|domain| domain != rustix::net::AddressFamily::UNIX);
        // Of the character devices it is the one that makes its writers wait.
        let is_terminal = kind == Kind::Stream && fd.is_terminal();
        Self {
            fd,
            kind,
            is_terminal,
            received: Cell::new(0),
            sent: Cell::new(0),
            takes_watermark: tcp,
            watermark: Cell::new(1),
            watched: Cell::new(false),
        }
    }

    /// Whether the ring has to leave it to a thread: the kernel would wait for a terminal that
    /// takes or gives nothing at the moment when an operation is submitted.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Ends a connection at once: every operation in flight on it completes.
    pub(crate) fn shutdown(&self) {
        // ENOTCONN: the peer was faster, or the connection was never made; the aim is reached.
        let _already_ended = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// Takes the error of a connection attempt.
    pub(super) fn take_connect_error(&self) -> io::Result<()> {
        match rustix::net::sockopt::socket_error(&self.fd)? {
            Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Bytes received through it so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Bytes that have come and were not received yet: a source may be asked to collect many
    /// before it is called readable, and is alive while it does.
    pub(crate) fn unread(&self) -> u64 {
        // Where the kernel cannot tell, the received bytes alone are judged by.
        rustix::io::ioctl_fionread(&self.fd).unwrap_or(0)
    }

    /// Bytes that were sent and that the peer's machine has not taken; on Unix sockets with the
    /// kernel's own overhead.
    pub(crate) fn undelivered(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        let into = std::ptr::from_mut(&mut bytes);
        // SAFETY: the descriptor is open, and the kernel writes one int, which outlives the call.
        let result = unsafe { libc::ioctl(self.raw(), libc::TIOCOUTQ, into) };
        // Where the kernel cannot tell, the sent bytes alone are judged by.
        if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// Bytes sent through it so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Asks the kernel to call the socket readable only when this many bytes are there, or it
    /// ends. False where the kernel does not do that (Unix sockets).
    pub(super) fn announce(&self, bytes: usize) -> bool {
        if !self.takes_watermark {
            return false;
        }
        // Set even if it is set already: the kernel looks at what is there now, and tells.
        let bytes = libc::c_int::try_from(bytes.min(WATERMARK_MAX)).unwrap_or(1);
        // SAFETY: the descriptor is open, and the option's value is an int that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.raw(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                std::ptr::from_ref(&bytes).cast(),
                libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0),
            )
        };
        self.watermark.set(bytes);
        result == 0
    }

    /// Has any byte announced again.
    pub(super) fn announce_any(&self) {
        if self.watermark.get() != 1 {
            self.announce(1);
        }
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_within_the_machine_is_not_paced() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let descriptor = Descriptor::connect(&address).unwrap();
        let control = socket2::SockRef::from(&descriptor).tcp_congestion().unwrap();
        let name = control.split(|byte| *byte == 0).next().unwrap();
        assert_eq!(name, LOOPBACK_CONGESTION_CONTROL);
    }
}

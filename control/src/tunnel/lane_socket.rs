//! The tunnel's end of a lane's socket, or of another client's.

use std::io::{self, IoSlice};
use std::net::TcpStream as StdTcpStream;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket that no thread serves yet.
#[derive(Debug)]
pub(super) enum NearSocket {
    /// One end of a pair.
    Unix(StdUnixStream),
    /// What a client has connected, within the machine.
    Tcp(StdTcpStream),
}

/// The same, when a reactor knows it.
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Calls the same method of whichever it is.
macro_rules! either {
    ($socket:expr, $inner:ident => $call:expr) => {
        match $socket {
            Socket::Unix($inner) => $call,
            Socket::Tcp($inner) => $call,
        }
    };
}

impl Socket {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.poll_read_ready(context))
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.poll_write_ready(context))
    }

    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        either!(self, socket => socket.try_read_buf(buffer))
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, socket => socket.try_write_vectored(slices))
    }
}

/// Bytes from and for a lane, and word of its leaving, which may be awaited beside them.
pub(super) struct LaneSocket(Arc<Socket>);

impl LaneSocket {
    pub(super) fn of(socket: NearSocket) -> io::Result<Self> {
        let socket = match socket {
            NearSocket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Unix(UnixStream::from_std(socket)?)
            }
            NearSocket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Tcp(TcpStream::from_std(socket)?)
            }
        };
        Ok(Self(Arc::new(socket)))
    }

    /// A pair of sockets: the end that is given away, and ours.
    pub(super) fn pair() -> io::Result<(StdUnixStream, Self)> {
        let (near, far) = StdUnixStream::pair()?;
        Ok((near, Self::of(NearSocket::Unix(far))?))
    }

    /// Ready when the lane has closed its end, also while bytes of it are left that nobody takes:
    /// reading would not tell.
    pub(super) fn left(&self) -> impl Future<Output = ()> + use<> {
        let socket = Arc::clone(&self.0);
        async move {
            // Only a hang-up makes it ready, or the end of what the other end sends, after which
            // NBD has nothing to say either. Without a reactor all is over anyway.
            let _hung_up = either!(&*socket, socket => socket.ready(Interest::PRIORITY).await);
        }
    }

    /// What ends the connection, from both ends' view, while its bytes are being carried.
    pub(super) fn end(&self) -> impl FnOnce() + use<> {
        let socket = Arc::clone(&self.0);
        move || {
            // The other end was quicker.
            let _ended = either!(&*socket, socket => shutdown(socket, Shutdown::Both));
        }
    }

    /// What `attempt` returns once it need not wait.
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        wait: fn(&Socket, &mut Context<'_>) -> Poll<io::Result<()>>,
        mut attempt: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(wait(&self.0, context))?;
            match attempt(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for LaneSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(context, Socket::poll_read_ready, |socket| socket.try_read_buf(buffer).map(drop))
    }
}

impl AsyncWrite for LaneSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, Socket::poll_write_ready, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is closed as a whole, when it is dropped.
        Poll::Ready(Ok(()))
    }
}

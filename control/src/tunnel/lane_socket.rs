//! The tunnel's end of a lane's socket.

use std::io::{self, IoSlice};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Bytes from and for a lane, and word of its leaving, which may be awaited beside them.
pub(super) struct LaneSocket(Arc<UnixStream>);

impl LaneSocket {
    pub(super) fn of(socket: StdUnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket).map(|socket| Self(Arc::new(socket)))
    }

    /// Ready when the lane has closed its end, also while bytes of it are left that nobody takes:
    /// reading would not tell.
    pub(super) fn left(&self) -> impl Future<Output = ()> + use<> {
        let socket = Arc::clone(&self.0);
        async move {
            // Only a hang-up makes it ready: these sockets have no urgent data. Without a reactor
            // all is over anyway.
            let _hung_up = socket.ready(Interest::PRIORITY).await;
        }
    }

    /// What `attempt` returns once it need not wait.
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        wait: fn(&UnixStream, &mut Context<'_>) -> Poll<io::Result<()>>,
        mut attempt: impl FnMut(&UnixStream) -> io::Result<T>,
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
        self.poll(context, UnixStream::poll_read_ready, |socket| {
            socket.try_read_buf(buffer).map(drop)
        })
    }
}

impl AsyncWrite for LaneSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, UnixStream::poll_write_ready, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, UnixStream::poll_write_ready, |socket| socket.try_write_vectored(slices))
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

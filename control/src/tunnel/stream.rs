//! A connection whose bytes are taken from the kernel many packets at a time.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use rustix::net::sockopt::set_tcp_quickack;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::coop::consume_budget;

/// Bytes taken from the kernel at once. SSH has the length of a packet before it, and the library
/// reads one after the other: two calls a packet without this.
const READ_BYTES: usize = 256 << 10;

/// A TCP connection with a buffer in front of its reading half.
pub(super) struct Buffered {
    reader: BufReader<Acknowledging>,
    writer: OwnedWriteHalf,
}

impl From<TcpStream> for Buffered {
    fn from(socket: TcpStream) -> Self {
        let (reader, writer) = socket.into_split();
        Self { reader: BufReader::with_capacity(READ_BYTES, Acknowledging(reader)), writer }
    }
}

/// The reading half, which has the kernel acknowledge what was taken. sshd leaves Nagle's algorithm
/// on for connections without a terminal: it keeps a short packet back while what it sent before is
/// not acknowledged, which the kernel here puts off by 40 ms. Each answer of an export could wait
/// that long.
struct Acknowledging(OwnedReadHalf);

impl AsyncRead for Acknowledging {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, buffer);
        // With more to be read there is no end of a burst yet.
        if buffer.filled().len() > before && buffer.remaining() > 0 {
            // The kernel forgets it by and by. Only time is lost where it refuses.
            let _as_allowed = set_tcp_quickack(self.0.as_ref(), true);
        }
        read
    }
}

impl AsyncRead for Buffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // What is in the buffer is always ready: without this a peer that sends tiny packets could keep
        // the session from its deadlines for as long as it likes.
        ready!(pin!(consume_budget()).poll(cx));
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

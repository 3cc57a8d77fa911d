//! A connection whose bytes are taken from the kernel many packets at a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes taken from the kernel at once. SSH has the length of a packet before it, and the library
/// reads one after the other: two calls a packet without this.
const READ_BYTES: usize = 256 << 10;

/// A TCP connection with a buffer in front of its reading half.
pub(in super::super) struct Buffered {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl From<TcpStream> for Buffered {
    fn from(socket: TcpStream) -> Self {
        let (reader, writer) = socket.into_split();
        Self { reader: BufReader::with_capacity(READ_BYTES, reader), writer }
    }
}

impl AsyncRead for Buffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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

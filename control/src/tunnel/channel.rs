//! One channel: a socket on this side, and whatever the peer has on the other.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::figures::Figures;

/// Bytes that a lane begins to wait for its turn with: a packet.
const FIRST_BYTES: usize = 32 << 10;
/// Bytes after which it is the next one's turn: a good part of a request.
const TURN_BYTES: usize = 512 << 10;
/// Bytes that are taken from a lane with one call while it has its turn.
const READ_BYTES: usize = 256 << 10;

/// Packets that are written with one call at most: 256 KiB.
const BATCH_PACKETS: usize = 8;
/// How long the far end may take to close once the lane has.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// The right to send, which the channels of a session have one after another, and the buffer that
/// goes with it. What one of them has then travels together: of packets of many channels in turns the
/// far end would write each apart, which took sshd twice as long.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<BytesMut>);

/// What a channel is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// All the time that the socket has to take something, whoever waits: until then it holds up all
    /// channels of the connection.
    pub(super) patience: Option<Duration>,
    /// Bytes from the far end before the socket has said anything.
    pub(super) unasked_bytes: u64,
}

impl Allowance {
    pub(super) const NONE: Self = Self { patience: None, unasked_bytes: u64::MAX };

    pub(super) fn patience(patience: Duration) -> Self {
        Self { patience: Some(patience), ..Self::NONE }
    }
}

/// Moves bytes both ways until either end has closed, or the connection is gone, or more is sent than
/// it may be; `figures` are this channel's own where that is limited. The socket is closed then.
/// `left` is ready when nobody waits for the socket's bytes any more: a peer that takes none has a
/// little time to do so then, and is not waited for without end.
pub(super) async fn carry<M, S>(
    channel: Channel<M>,
    socket: S,
    turn: &Turn,
    figures: &Figures,
    left: impl Future<Output = ()>,
    allowance: Allowance,
) where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
    S: AsyncRead + AsyncWrite,
{
    let (from_far, to_far) = channel.split();
    let (from_lane, to_lane) = split(socket);
    let up = async {
        send(from_lane, &to_far, turn, figures).await?;
        to_far.eof().await
    };
    let down = receive(from_far, to_lane, figures, allowance);
    tokio::pin!(down);
    tokio::select! {
        sent = up => if sent.is_ok() {
            // What is late is cut off by the close below.
            let _late = timeout(CLOSE_DEADLINE, down).await;
        },
        // NBD has no use for the other direction alone.
        () = &mut down => {}
        () = async { left.await; sleep(CLOSE_DEADLINE).await } => {}
    }
    // A connection that is gone needs no goodbye.
    let _gone = to_far.close().await;
}

fn add(figure: &AtomicU64, bytes: usize) {
    // A count of bytes fits 64 bits on every machine there is.
    figure.fetch_add(bytes as u64, Ordering::Relaxed);
}

async fn send<M>(
    mut near: impl AsyncRead + Unpin,
    far: &ChannelWriteHalf<M>,
    turn: &Turn,
    figures: &Figures,
) -> Result<(), russh::Error>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    let mut first = BytesMut::new();
    loop {
        first.reserve(FIRST_BYTES);
        let mut open = read(&mut near, &mut first, FIRST_BYTES).await;
        let mut run = first.split().freeze();
        let mut bytes = run.len();
        {
            let mut buffer = turn.0.lock().await;
            send_at_once(far, &mut run).await?;
            // What has come meanwhile goes with it.
            while open && run.is_empty() && bytes < TURN_BYTES {
                buffer.reserve(READ_BYTES);
                let reading = read(&mut near, &mut buffer, READ_BYTES);
                let Some(more) = reading.now_or_never() else { break };
                open = more;
                run = buffer.split().freeze();
                bytes += run.len();
                send_at_once(far, &mut run).await?;
            }
        }
        // The far end of this channel is slow; the others do not wait for it.
        far.data_bytes(run).await?;
        add(&figures.sent, bytes);
        if !open {
            return Ok(());
        }
    }
}

/// Sends as much of `run` as the channel's window has room for. Nobody else sends on the channel.
async fn send_at_once<M>(far: &ChannelWriteHalf<M>, run: &mut Bytes) -> Result<(), russh::Error>
where
    M: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static,
{
    while !run.is_empty() {
        let room = far.writable_packet_size().await;
        if room == 0 {
            break;
        }
        far.data_bytes(run.split_to(room.min(run.len()))).await?;
    }
    Ok(())
}

/// Takes up to `most` bytes, and tells whether more can come.
async fn read(near: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, most: usize) -> bool {
    // An end that was reset is one that has closed.
    !matches!(near.read_buf(&mut buffer.limit(most)).await, Ok(0) | Err(_))
}

async fn receive(
    mut far: ChannelReadHalf,
    mut near: impl AsyncWrite + Unpin,
    figures: &Figures,
    allowance: Allowance,
) {
    let mut batch = Batch::default();
    let mut open = true;
    while open {
        open = batch.take(far.wait().await);
        // What has come meanwhile goes with it, in one call.
        while open && batch.has_room() {
            let Some(message) = far.wait().now_or_never() else { break };
            open = batch.take(message);
        }
        add(&figures.received, batch.bytes());
        if figures.unasked_bytes() > allowance.unasked_bytes
            || batch.write_to(&mut near, allowance.patience).await.is_err()
        {
            return;
        }
    }
}

/// Payloads of packets that are written together.
#[derive(Default)]
struct Batch {
    payloads: VecDeque<Bytes>,
}

impl Batch {
    fn has_room(&self) -> bool {
        self.payloads.len() < BATCH_PACKETS
    }

    fn bytes(&self) -> usize {
        self.payloads.iter().map(Bytes::len).sum()
    }

    /// Takes the payload of a message, if it has one, and tells whether more can come.
    fn take(&mut self, message: Option<ChannelMsg>) -> bool {
        match message {
            Some(ChannelMsg::Data { data }) => {
                self.payloads.push_back(data);
                true
            }
            None | Some(ChannelMsg::Eof | ChannelMsg::Close) => false,
            Some(_) => true,
        }
    }

    /// Writes all of it, each part of it within `patience`.
    async fn write_to(
        &mut self,
        near: &mut (impl AsyncWrite + Unpin),
        patience: Option<Duration>,
    ) -> io::Result<()> {
        while !self.payloads.is_empty() {
            let mut slices = [IoSlice::new(&[]); BATCH_PACKETS];
            for (slice, payload) in slices.iter_mut().zip(&self.payloads) {
                *slice = IoSlice::new(payload);
            }
            let count = self.payloads.len().min(BATCH_PACKETS);
            let writing = near.write_vectored(&slices[..count]);
            let mut written = match patience {
                None => writing.await?,
                Some(patience) => timeout(patience, writing).await??,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            while let Some(first) = self.payloads.front_mut() {
                if written < first.len() {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                self.payloads.pop_front();
            }
        }
        Ok(())
    }
}

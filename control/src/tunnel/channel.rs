//! One channel: a lane's socket on this side, a socket of the far end on the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::figures::Figures;

/// Bytes taken from the lane at once: a good part of a request, and little beside what is in
/// flight.
const READ_BYTES: usize = 256 << 10;

/// How long the far end may take to close once the lane has.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Moves bytes both ways until either end has closed, or the connection is gone. The socket is
/// closed then.
pub(super) async fn carry(channel: Channel<Msg>, socket: UnixStream, figures: &Figures) {
    let (from_far, to_far) = channel.split();
    let (from_lane, to_lane) = socket.into_split();
    let up = async {
        send(from_lane, &to_far, figures).await?;
        to_far.eof().await
    };
    let down = receive(from_far, to_lane, figures);
    tokio::pin!(down);
    tokio::select! {
        sent = up => if sent.is_ok() {
            // What is late is cut off by the close below.
            let _late = timeout(CLOSE_DEADLINE, down).await;
        },
        // NBD has no use for the other direction alone.
        () = &mut down => {}
    }
    // A connection that is gone needs no goodbye.
    let _gone = to_far.close().await;
}

fn add(figure: &AtomicU64, bytes: usize) {
    // A count of bytes fits 64 bits on every machine there is.
    figure.fetch_add(bytes as u64, Ordering::Relaxed);
}

async fn send(
    mut lane: OwnedReadHalf,
    far: &ChannelWriteHalf<Msg>,
    figures: &Figures,
) -> Result<(), russh::Error> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        match lane.read_buf(&mut buffer).await {
            // A lane that has reset its end is one that has closed it.
            Ok(0) | Err(_) => return Ok(()),
            Ok(bytes) => {
                far.data_bytes(buffer.split().freeze()).await?;
                add(&figures.sent, bytes);
            }
        }
    }
}

async fn receive(mut far: ChannelReadHalf, mut lane: OwnedWriteHalf, figures: &Figures) {
    while let Some(message) = far.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                if lane.write_all(&data).await.is_err() {
                    return;
                }
                add(&figures.received, data.len());
            }
            ChannelMsg::Eof | ChannelMsg::Close => return,
            _ => {}
        }
    }
}

//! One channel: a lane's socket on this side, a socket of the far end on the other.

use bytes::BytesMut;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes taken from the lane at once: a good part of a request, and little beside what is in
/// flight.
const READ_BYTES: usize = 256 << 10;

/// Moves bytes both ways until both directions are over, or either is broken. The socket is closed
/// then.
pub(super) async fn carry(channel: Channel<Msg>, socket: UnixStream) {
    let (from_far, to_far) = channel.split();
    let (from_lane, to_lane) = socket.into_split();
    let up = async {
        let result = send(from_lane, &to_far).await;
        if result.is_err() {
            // The connection is gone, and with it the other direction.
            return result;
        }
        to_far.eof().await
    };
    let down = async {
        receive(from_far, to_lane).await;
        // The far end sends nothing more. NBD has no use for the other half alone.
        Err::<(), russh::Error>(russh::Error::Disconnect)
    };
    // Whatever is over first: an end of the lane is followed by that of the far end, which closes.
    let ended = tokio::try_join!(up, down);
    drop(ended);
    // A connection that is gone needs no goodbye.
    let _gone = to_far.close().await;
}

async fn send(mut lane: OwnedReadHalf, far: &ChannelWriteHalf<Msg>) -> Result<(), russh::Error> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        match lane.read_buf(&mut buffer).await {
            // A lane that has reset its end is one that has closed it.
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => far.data_bytes(buffer.split().freeze()).await?,
        }
    }
}

async fn receive(mut far: ChannelReadHalf, mut lane: OwnedWriteHalf) {
    while let Some(message) = far.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                if lane.write_all(&data).await.is_err() {
                    return;
                }
            }
            ChannelMsg::Eof | ChannelMsg::Close => return,
            _ => {}
        }
    }
}

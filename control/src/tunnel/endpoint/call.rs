//! A connection that the hub opens to a node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::ChannelOpenFailure;
use russh::server::Handle;
use tokio::time::timeout;

use super::super::channel::{self, Allowance, Turn};
use super::super::figures::Figures;
use super::super::lane_socket::LaneSocket;
use super::directory::{Call, Unopened};

/// What a node is told of who connects; there is no more to tell.
const FROM: (&str, u32) = ("127.0.0.1", 0);

/// Opens a channel to the node, hands one end of a socket pair to whoever called, and carries what
/// passes through the other.
pub(super) async fn answer(handle: Handle, call: Call, turn: Arc<Turn>, patience: Duration) {
    let Call { host, due, answer } = call;
    let opening = handle.channel_open_forwarded_tcpip(host, 0, FROM.0, FROM.1);
    tokio::pin!(opening);
    let opened = timeout(due.saturating_duration_since(Instant::now()), &mut opening).await;
    let channel = match opened {
        Ok(Ok(channel)) => channel,
        Ok(Err(russh::Error::ChannelOpenFailure(reason))) => {
            // Here and below: who called may have gone.
            let _unheard = answer.send(Err(Unopened::Refused(words(&reason))));
            return;
        }
        // The session is over: that nothing is answered says so.
        Ok(Err(_)) => return,
        Err(_late) => {
            let _unheard = answer.send(Err(Unopened::Late));
            // It would have a place at the node, and nobody at this end.
            if let Ok(channel) = opening.await {
                let _gone = channel.close().await;
            }
            return;
        }
    };
    let (near, far) = match LaneSocket::pair() {
        Ok(pair) => pair,
        Err(error) => {
            let _unheard = answer.send(Err(Unopened::System(error)));
            let _gone = channel.close().await;
            return;
        }
    };
    // What nobody hears is closed by its end being dropped.
    let _unheard = answer.send(Ok(near));
    let left = far.left();
    channel::carry(channel, far, &turn, &Figures::default(), left, Allowance::patience(patience))
        .await;
}

fn words(reason: &ChannelOpenFailure) -> &'static str {
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => "it does not offer any",
        ChannelOpenFailure::ResourceShortage => "it has as many as it takes at once",
        ChannelOpenFailure::ConnectFailed => "nobody is there to take it",
        _ => "it does not know what that is",
    }
}

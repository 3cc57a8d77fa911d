//! One channel that somebody waits for: a lane, or a client of a local port.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use russh::client::{Handle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::time::timeout;

use super::channel::{self, Allowance, Turn};
use super::connection::Shared;
use super::error::TunnelEvent;
use super::far::FarEnd;
use super::figures::Figures;
use super::lane_socket::{LaneSocket, NearSocket};
use super::local_ports::Guest;
use super::session::Client;
use crate::child::held;

/// A lane that wants to be connected.
pub(super) struct Ask {
    pub(super) far: FarEnd,
    /// The tunnel's end of the lane's socket.
    pub(super) socket: NearSocket,
    /// Why the last one of this way was refused.
    pub(super) refusal: Arc<Refusal>,
    /// For a client that is no lane.
    pub(super) guest: Option<Guest>,
    /// Nobody waits for it after this.
    pub(super) due: Instant,
    /// Counts it among the channels of the connection.
    pub(super) load: Load,
}

/// Why the far end did not connect to something when it was asked last.
#[derive(Debug, Default)]
pub(super) struct Refusal(Mutex<Why>);

#[derive(Debug, Default)]
struct Why {
    /// Nothing while it is asked.
    now: Option<String>,
    /// What was told since it was connected last.
    told: Option<String>,
}

impl Refusal {
    /// It is asked again.
    pub(super) fn is_asked(&self) {
        held(&self.0).now = None;
    }

    /// Notes it. Whether that is news.
    fn is_news(&self, why: &str) -> bool {
        let mut known = held(&self.0);
        known.now = Some(why.to_owned());
        known.told.replace(why.to_owned()).is_none_or(|told| told != why)
    }

    /// It was connected.
    fn is_over(&self) {
        *held(&self.0) = Why::default();
    }

    /// Why.
    pub(super) fn why(&self) -> Option<String> {
        held(&self.0).now.clone()
    }
}

/// One of a connection's channels, open or asked for.
pub(super) struct Load(Arc<Figures>);

impl Load {
    pub(super) fn new(figures: &Arc<Figures>) -> Self {
        figures.channels.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(figures))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens the channel that a lane waits for, and carries it to its end.
pub(super) async fn serve(
    ask: Ask,
    handle: Arc<Handle<Client>>,
    shared: Arc<Shared>,
    turn: Arc<Turn>,
    figures: Arc<Figures>,
) {
    let Ask { far, socket, refusal, guest, due, load: _counted } = ask;
    let opening = open(&handle, &far);
    tokio::pin!(opening);
    let opened = timeout(due.saturating_duration_since(Instant::now()), &mut opening).await;
    // Before its socket is closed: who sees that asks why. Told once, until it is connected.
    let refused = |why: String| {
        if refusal.is_news(&why) {
            shared.tell(TunnelEvent::ChannelRefused { far: far.clone(), why });
        }
    };
    match opened {
        Ok(Ok(channel)) => match LaneSocket::of(socket) {
            Ok(socket) => {
                refusal.is_over();
                let (left, end) = (socket.left(), socket.end());
                let allowance = Allowance::NONE;
                let carrying = channel::carry(channel, socket, &turn, &figures, left, allowance);
                until_gone(carrying, guest, end).await;
            }
            Err(error) => {
                refused(error.to_string());
                let _gone = channel.close().await;
            }
        },
        Ok(Err(russh::Error::ChannelOpenFailure(reason))) => {
            refused(reason_of(&reason));
            drop(socket);
        }
        // The session is over, which is told apart.
        Ok(Err(_)) => {}
        Err(_late) => {
            refused("no answer in time".into());
            drop(socket);
            // It would hold an export, and nobody at this end.
            if let Ok(channel) = opening.await {
                let _gone = channel.close().await;
            }
        }
    }
}

/// Waits for the end of `carrying`, which `end` brings about when the guest is to go.
async fn until_gone(carrying: impl Future<Output = ()>, guest: Option<Guest>, end: impl FnOnce()) {
    let Some(mut guest) = guest else { return carrying.await };
    tokio::pin!(carrying);
    tokio::select! {
        () = &mut carrying => return,
        () = guest.is_to_go() => end(),
    }
    // It keeps its place until it has gone.
    carrying.await;
}

fn reason_of(reason: &ChannelOpenFailure) -> String {
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => {
            "it may not (a hub: the port is not leased for this node; sshd: PermitOpen, \
             AllowTcpForwarding, or permitopen of the key)"
                .into()
        }
        ChannelOpenFailure::ConnectFailed => "nobody listens there".into(),
        ChannelOpenFailure::ResourceShortage => "it has no resources left for a channel".into(),
        ChannelOpenFailure::UnknownChannelType => "it does not know this kind of channel".into(),
        other => format!("{other:?}"),
    }
}

async fn open(handle: &Handle<Client>, far: &FarEnd) -> Result<Channel<Msg>, russh::Error> {
    match far {
        FarEnd::Tcp { host, port } => {
            let port = u32::from(*port);
            handle.channel_open_direct_tcpip(host.as_str(), port, "127.0.0.1", 0).await
        }
        FarEnd::Unix { path } => handle.channel_open_direct_streamlocal(path.as_str()).await,
    }
}

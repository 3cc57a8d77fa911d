//! What this side offers to the far end: connections that are opened from there.
//!
//! ```text
//!  accept ◄── socket pair ── channel ── connection 1 ── TCP ── hub: Directory::dial, or a port of sshd
//! ```
//!
//! The first connection of a tunnel asks for it (`tcpip-forward`) after each login, again and again
//! until the far end agrees: an sshd does not while the port belongs to a session that it does not
//! yet know to be dead.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use russh::client::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::time::{sleep, timeout};

use super::ask::Load;
use super::backoff::Backoff;
use super::channel::{self, Allowance, Turn};
use super::connection::Shared;
use super::error::TunnelEvent;
use super::figures::Figures;
use super::lane_socket::LaneSocket;
use super::session::Client;

/// The address at the far end, of which nobody beyond that machine can make use.
const HOST: &str = "127.0.0.1";
/// Connections at once: a hub asks a few things at a time, and follows some.
const CONNECTIONS: usize = 64;
/// Longest wait between two requests on one session. Behind an sshd each of them is a line of its
/// log, and data is to flow again within three seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A service that the far end can connect to.
pub struct TunnelService {
    /// Where sshd is to listen, on its 127.0.0.1. With 0 the far end chooses: sshd a port, a hub
    /// none at all, for it knows the node by its name.
    pub port: u16,
    /// Connections at once at most; more are refused.
    pub connections: usize,
    /// Takes each connection. It is called by the thread that moves the bytes, so it must not wait
    /// for anything. The socket is closed with the tunnel's connection; and when it takes nothing
    /// for seconds (half the time of the keepalives), since it holds up lanes meanwhile.
    pub accept: Box<dyn Fn(UnixStream) + Send + Sync>,
}

impl TunnelService {
    /// A service with as many connections as suit most.
    #[must_use]
    pub fn new(port: u16, accept: impl Fn(UnixStream) + Send + Sync + 'static) -> Self {
        Self { port, connections: CONNECTIONS, accept: Box::new(accept) }
    }
}

impl std::fmt::Debug for TunnelService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelService")
            .field("port", &self.port)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// A service, and what of it is in use.
pub(super) struct Offer {
    service: TunnelService,
    /// Beside those of lanes, so that lanes are spread by lanes alone.
    figures: Arc<Figures>,
}

/// A channel that the far end opens.
pub(super) struct Arrival {
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    load: Load,
}

impl Offer {
    pub(super) fn new(service: TunnelService) -> Self {
        Self { service, figures: Arc::default() }
    }

    /// Takes a channel to `host` and `port`, or says why not.
    pub(super) fn admit(
        &self,
        (host, port): (&str, u32),
    ) -> Result<Load, (ChannelOpenFailure, &'static str)> {
        let asked = u32::from(self.service.port);
        // Which one the far end has chosen does not matter: there is one service.
        if host != HOST || (asked != 0 && port != asked) {
            let why = "a connection to an address that was not asked for";
            return Err((ChannelOpenFailure::AdministrativelyProhibited, why));
        }
        if self.figures.channels.load(Ordering::Relaxed) >= self.service.connections {
            let why = "more connections than the service has";
            return Err((ChannelOpenFailure::ResourceShortage, why));
        }
        Ok(Load::new(&self.figures))
    }

    /// Asks the far end to open connections, until it agrees or the session is over.
    pub(super) async fn make(
        self: Arc<Self>,
        shared: Arc<Shared>,
        connection: usize,
        handle: Arc<Handle<Client>>,
    ) {
        let mut backoff = Backoff::new(shared.settings.backoff, LONGEST_WAIT);
        let mut told = "";
        loop {
            let asked = handle.tcpip_forward(HOST, u32::from(self.service.port));
            let why = match timeout(shared.settings.deadline, asked).await {
                Ok(Ok(chosen)) => {
                    let chosen = u16::try_from(chosen).unwrap_or_default();
                    let port = if chosen == 0 { self.service.port } else { chosen };
                    return shared.tell(TunnelEvent::Served { connection, port });
                }
                Ok(Err(russh::Error::RequestDenied)) => {
                    "it may not, or the port is taken (sshd: permitlisten of the key, \
                     AllowTcpForwarding, or a session that is not yet known to be dead)"
                }
                // The session is over, which is told apart.
                Ok(Err(_)) => return,
                Err(_late) => "no answer in time",
            };
            if why != told {
                shared.tell(TunnelEvent::NotServed { connection, why: why.into() });
                told = why;
            }
            sleep(backoff.wait()).await;
        }
    }

    /// Hands one end of a socket pair to the service, and carries what passes through the other.
    pub(super) async fn carry(
        self: Arc<Self>,
        arrival: Arrival,
        turn: Arc<Turn>,
        patience: Duration,
    ) {
        let Arrival { channel, reply, load: _counted } = arrival;
        let Ok((near, far)) = LaneSocket::pair() else {
            return reply.reject(ChannelOpenFailure::ResourceShortage).await;
        };
        reply.accept().await;
        (self.service.accept)(near);
        let left = far.left();
        channel::carry(channel, far, &turn, &self.figures, left, Allowance::patience(patience))
            .await;
    }
}

impl Arrival {
    pub(super) fn new(channel: Channel<Msg>, reply: ChannelOpenHandle, load: Load) -> Self {
        Self { channel, reply, load }
    }
}

//! The hub's own end of tunnels: an SSH server that forwards to leased exports, lets the hub connect
//! to what nodes offer, and does nothing else.
//!
//! ```text
//!  Endpoint ── a thread that accepts ── a thread each connection: Door ── channel ── 127.0.0.1:port
//!                                                               │ │
//!                            Gatekeeper: whose key is it, what may that node reach
//!                                                                 │
//!          Directory: which nodes are here ── dial ── channel to a node that offers something
//! ```
//!
//! No shell, no command, no subsystem, no agent, no X11, no listening on behalf of a node: what is
//! not `direct-tcpip` is refused by the library's defaults, which reject everything, and by tests.
//! A node may ask for `tcpip-forward` without a port, which listens nowhere: from then on the hub
//! reaches it by its name, if there is a [`Directory`].
//! A node that is taken away is refused from its next channel on, and its connections are closed.

mod call;
mod directory;
mod door;
mod gatekeeper;
mod news;
mod places;
mod sieve;
mod strangers;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::watch;
use tokio::time::interval;

use super::own_key::OwnKey;

use news::News;
use places::NodePlaces;
use strangers::Strangers;

pub use directory::{ConnectedNode, DialError, Directory};
pub use gatekeeper::{Gatekeeper, Reached};

/// How the endpoint treats its connections.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// SSH connections of nodes at most, of which one node never has more than three quarters; a node
    /// beyond them is hung up on when it has logged in.
    pub connections: usize,
    /// Connections at most that have said nothing yet, and as many that are logging in. Where there
    /// are more, the oldest are hung up on.
    pub strangers: usize,
    /// Channels of a connection at most; more are refused.
    pub channels: usize,
    /// How long a connection may take until its key is accepted.
    pub login_deadline: Duration,
    /// How long a leased port may take to accept a connection.
    pub connect_deadline: Duration,
    /// How often a node is asked for a sign of life.
    pub keepalive: Duration,
    /// That many unanswered questions end the connection.
    pub keepalive_limit: usize,
    /// Bytes that a node may send on a channel before it has to wait for us: what is under way on a
    /// link of 1 Gbit/s with a round trip of 130 ms.
    pub window_bytes: u32,
    /// Bytes that are sent, or received, under one key at most; 1 GiB at most.
    pub rekey_bytes: usize,
    /// Where nodes are entered, to be reached. Without one, they may offer nothing.
    pub directory: Option<Arc<Directory>>,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            connections: 64,
            strangers: 64,
            channels: 256,
            login_deadline: Duration::from_secs(20),
            connect_deadline: Duration::from_secs(5),
            keepalive: Duration::from_secs(5),
            keepalive_limit: 3,
            window_bytes: 16 << 20,
            rekey_bytes: 1 << 30,
            directory: None,
        }
    }
}

/// What happens at the endpoint, to be logged. None of it has a secret in it.
#[derive(Debug)]
#[non_exhaustive]
pub enum EndpointEvent {
    /// A node is connected.
    Connected {
        /// Which.
        node: String,
        /// From where.
        peer: SocketAddr,
    },
    /// A node can be reached over a connection.
    Serves {
        /// Which.
        node: String,
        /// From where it is connected.
        peer: SocketAddr,
    },
    /// A connection is over. Of those that have not logged in it is told once a minute, for reasons
    /// of their own and for those whose place was wanted by another one.
    Closed {
        /// Whose, if that was known.
        node: Option<String>,
        /// From where.
        peer: SocketAddr,
        /// Why.
        why: String,
        /// How many have gone since it was told last; more than one only where none had logged in.
        times: u64,
    },
    /// Something that a peer asked for was refused. Told once for each connection and reason; of
    /// those that have not logged in 16 times a minute.
    Refused {
        /// Whose connection, if that is known.
        node: Option<String>,
        /// From where.
        peer: SocketAddr,
        /// What, and why.
        what: String,
        /// How many were refused since it was told last; more than one only where none had logged
        /// in.
        times: u64,
    },
}

impl fmt::Display for EndpointEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Words of a peer are data: they neither break the line nor go on for ever.
        let peer_of = |node: &Option<String>, peer: &SocketAddr| match node {
            Some(node) => format!("node {node} ({peer})"),
            None => format!("{peer}"),
        };
        let others = |times: &u64| match times {
            0 | 1 => String::new(),
            times => format!(" (the last of {times} that had not logged in)"),
        };
        match self {
            Self::Connected { node, peer } => write!(f, "node {node} is connected from {peer}"),
            Self::Serves { node, peer } => write!(f, "node {node} ({peer}) can be reached"),
            Self::Closed { node, peer, why, times } => {
                let others = others(times);
                write!(f, "the tunnel of {} is closed: {why}{others}", peer_of(node, peer))
            }
            Self::Refused { node, peer, what, times } => {
                write!(f, "refused to {}: {what}{}", peer_of(node, peer), others(times))
            }
        }
    }
}

/// A running endpoint. It closes its connections when it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Endpoint {
    /// Serves connections that `listener` accepts.
    ///
    /// # Errors
    /// No thread or reactor can be had.
    pub fn start(
        listener: TcpListener,
        key: OwnKey,
        gatekeeper: Arc<dyn Gatekeeper>,
        settings: EndpointSettings,
        on_event: impl Fn(EndpointEvent) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let config = Arc::new(door::config(&key, &settings));
        let news = News::new(Box::new(on_event));
        let strangers = Strangers::new(settings.strangers);
        let places = NodePlaces::new(settings.connections);
        let shared =
            Arc::new(door::Shared { gatekeeper, settings, config, news, strangers, places });
        thread::Builder::new().name("endpoint".into()).spawn(move || {
            runtime.block_on(accept(listener, shared, stopped));
        })?;
        Ok(Self { address, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Nobody listens where all threads have ended.
        let _over = self.stop.send(true);
    }
}

/// How long accepting pauses when the system has no descriptors left for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

async fn accept(
    listener: TcpListener,
    shared: Arc<door::Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        // The socket was made by this process and listens: there is no other reactor.
        Err(_) => return,
    };
    let mut news = interval(sieve::PERIOD);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = news.tick() => {
                shared.news.tell_what_was_kept();
                continue;
            }
            _ = stopped.changed() => return,
        };
        let Ok((socket, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::select! {
            () = shared.strangers.room() => {}
            _ = stopped.changed() => return,
        }
        // A connection is one cipher, which wants one processor: a thread for each.
        let Ok(socket) = socket.into_std() else { continue };
        let place = shared.strangers.arrive();
        let (shared_too, stopped) = (Arc::clone(&shared), stopped.clone());
        let started =
            runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                thread::Builder::new().name("endpoint-node".into()).spawn(move || {
                    runtime.block_on(door::serve(socket, peer, shared_too, place, stopped));
                })
            });
        if let Err(error) = started {
            shared.news.stranger_refused(peer, format!("no thread for it: {error}"));
        }
    }
}

/// One of those that are allowed.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Unless there are `limit` already.
    fn below(limit: usize, count: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |now: usize| (now < limit).then_some(now + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

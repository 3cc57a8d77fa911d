//! The nodes that are connected, and how the hub reaches what they offer.
//!
//! ```text
//!  any thread: dial ── Call ──► the connection's thread ── forwarded-tcpip ──► the node
//!       ▲                                 │
//!       └────── end of a socket pair ─────┘
//! ```
//!
//! A connection is entered at its login, and leaves with its [`Presence`]. Nothing listens for it:
//! who has no `Directory` reaches no node.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::UnboundedSender;

/// Why a node could not be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// It has no connection on which it offers anything.
    #[error("node {0} is not connected: does `blockferry node serve` run there?")]
    NotConnected(String),
    /// It did not take this connection.
    #[error("node {node} refuses a connection: {why}")]
    Refused {
        /// Which.
        node: String,
        /// Why.
        why: &'static str,
    },
    /// No answer in time.
    #[error("node {node} did not take a connection within {deadline:?}")]
    Late {
        /// Which.
        node: String,
        /// For how long it was waited.
        deadline: Duration,
    },
    /// The system could not do it.
    #[error("connecting to node {node}: {error}")]
    System {
        /// Which.
        node: String,
        /// What the system said.
        error: io::Error,
    },
}

/// A node that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedNode {
    /// Its name.
    pub node: String,
    /// Where the connection comes from on which it is reached.
    pub peer: SocketAddr,
    /// When that was made.
    pub since: SystemTime,
    /// All its SSH connections, those that only carry lanes too.
    pub connections: usize,
}

/// The nodes of one hub's endpoint. Its calls may wait; none is for the threads of connections.
#[derive(Default)]
pub struct Directory {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Counts logins and offers, so that later ones are told from earlier ones.
    count: u64,
    entries: Vec<Entry>,
    /// Counts what was changed.
    changes: u64,
}

/// A connection of a node.
#[derive(Clone)]
struct Entry {
    id: u64,
    node: String,
    peer: SocketAddr,
    since: SystemTime,
    /// Whether the node still is one.
    stays: Arc<dyn Fn() -> bool + Send + Sync>,
    calls: UnboundedSender<Call>,
    offer: Option<Offer>,
}

/// That the node takes connections.
#[derive(Clone, Copy)]
struct Offer {
    /// The higher, the newer.
    number: u64,
    /// The name of loopback that it asked for, and wants to hear again.
    host: &'static str,
}

/// Somebody wants a connection to the node.
pub(super) struct Call {
    pub(super) host: &'static str,
    /// Nobody waits for it after this.
    pub(super) due: Instant,
    pub(super) answer: SyncSender<Result<UnixStream, Unopened>>,
}

/// Why a connection was not opened. A session that is over answers nothing.
pub(super) enum Unopened {
    Refused(&'static str),
    Late,
    System(io::Error),
}

impl Entry {
    fn is_alive(&self) -> bool {
        !self.calls.is_closed() && (self.stays)()
    }

    /// `None` when the connection is over.
    fn call(&self, due: Instant) -> Option<Result<UnixStream, Unopened>> {
        let host = self.offer?.host;
        let (answer, answered) = sync_channel(1);
        self.calls.send(Call { host, due, answer }).ok()?;
        match answered.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(result) => Some(result),
            Err(RecvTimeoutError::Timeout) => Some(Err(Unopened::Late)),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}

impl Directory {
    /// One in which nobody is, to be given to an endpoint by its settings.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A connection to what the node offers, over its newest SSH connection that offers anything.
    /// It waits for the node's answer, for `deadline` at most. The socket closes when either end
    /// closes it or the SSH connection is lost; and when it is not read for seconds (half the time
    /// of the keepalives) though there is more than it holds, since that holds up the node's lanes.
    ///
    /// # Errors
    /// [`DialError`].
    pub fn dial(&self, node: &str, deadline: Duration) -> Result<UnixStream, DialError> {
        let due = Instant::now() + deadline;
        let mut over = Vec::new();
        while let Some(entry) = self.newest(node, &over) {
            let node = || node.to_owned();
            match entry.call(due) {
                Some(Ok(socket)) => return Ok(socket),
                Some(Err(Unopened::Refused(why))) => {
                    return Err(DialError::Refused { node: node(), why });
                }
                Some(Err(Unopened::Late)) => {
                    return Err(DialError::Late { node: node(), deadline });
                }
                Some(Err(Unopened::System(error))) => {
                    return Err(DialError::System { node: node(), error });
                }
                // An older one may live.
                None => over.push(entry.id),
            }
        }
        Err(DialError::NotConnected(node.to_owned()))
    }

    /// The nodes that can be reached, by name.
    #[must_use]
    pub fn connected(&self) -> Vec<ConnectedNode> {
        let mut entries = self.lock().entries.clone();
        entries.retain(Entry::is_alive);
        let mut nodes: Vec<&str> = entries.iter().map(|entry| entry.node.as_str()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let of = |node: &str| {
            let ours = || entries.iter().filter(|entry| entry.node == node);
            let newest = ours().filter(|entry| entry.offer.is_some()).max_by_key(|e| e.number())?;
            let (peer, since) = (newest.peer, newest.since);
            Some(ConnectedNode { node: node.into(), peer, since, connections: ours().count() })
        };
        nodes.into_iter().filter_map(of).collect()
    }

    /// Waits until the node can be reached; false when `deadline` passes before.
    #[must_use]
    pub fn wait_for(&self, node: &str, deadline: Duration) -> bool {
        let due = Instant::now() + deadline;
        loop {
            let seen = self.lock().changes;
            if self.newest(node, &[]).is_some() {
                return true;
            }
            let left = due.saturating_duration_since(Instant::now());
            let waiting =
                self.changed.wait_timeout_while(self.lock(), left, |state| state.changes == seen);
            let (_state, timed_out) = waiting.unwrap_or_else(PoisonError::into_inner);
            if timed_out.timed_out() {
                return false;
            }
        }
    }

    /// Enters a connection that has logged in.
    pub(super) fn enter(
        self: &Arc<Self>,
        node: &str,
        peer: SocketAddr,
        stays: impl Fn() -> bool + Send + Sync + 'static,
        calls: UnboundedSender<Call>,
    ) -> Presence {
        let mut id = 0;
        self.change(|state| {
            state.count += 1;
            id = state.count;
            state.entries.push(Entry {
                id,
                node: node.to_owned(),
                peer,
                since: SystemTime::now(),
                stays: Arc::new(stays),
                calls,
                offer: None,
            });
        });
        Presence { directory: Arc::clone(self), id }
    }

    /// The connection that is to be used, if there is one that is not `over`.
    fn newest(&self, node: &str, over: &[u64]) -> Option<Entry> {
        let wanted = |entry: &&Entry| {
            entry.node == node && entry.offer.is_some() && !over.contains(&entry.id)
        };
        // The gatekeeper is asked outside of the lock, for it has locks of its own.
        let mut entries: Vec<_> = self.lock().entries.iter().filter(wanted).cloned().collect();
        entries.sort_unstable_by_key(Entry::number);
        entries.into_iter().rev().find(Entry::is_alive)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.changes += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // An entry is added or taken out whole or not at all.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn number(&self) -> u64 {
        self.offer.map_or(0, |offer| offer.number)
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory")
            .field("connections", &self.lock().entries.len())
            .finish_non_exhaustive()
    }
}

/// That a connection is in the directory; it leaves when this is dropped.
pub(super) struct Presence {
    directory: Arc<Directory>,
    id: u64,
}

impl Presence {
    /// The node takes connections now, for which it wants to hear the name `host`.
    pub(super) fn offer(&self, host: &'static str) {
        self.directory.change(|state| {
            state.count += 1;
            let number = state.count;
            if let Some(entry) = state.entries.iter_mut().find(|entry| entry.id == self.id) {
                entry.offer = Some(Offer { number, host });
            }
        });
    }

    /// The node takes none any more. Whether it did until now, by that name.
    pub(super) fn withdraw(&self, host: &str) -> bool {
        let mut withdrawn = false;
        self.directory.change(|state| {
            let ours = state.entries.iter_mut().find(|entry| entry.id == self.id);
            if let Some(entry) = ours {
                withdrawn = entry.offer.take_if(|offer| offer.host == host).is_some();
            }
        });
        withdrawn
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.directory.change(|state| state.entries.retain(|entry| entry.id != self.id));
    }
}

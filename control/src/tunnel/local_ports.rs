//! Ports of this machine that lead to the same ports of the far end, for clients that know no
//! tunnels.
//!
//! ```text
//!  client ── TCP 127.0.0.1:PORT ── accepted socket ── channel ── 127.0.0.1:PORT of the far end
//! ```
//!
//! The accepted socket itself is what a connection of the tunnel carries; there is no copy between.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::dialer::Lines;
use super::error::TunnelEvent;
use super::far::FarEnd;
use super::lane_socket::NearSocket;
use super::link;

/// The ports of a hub.
const PORTS: RangeInclusive<u16> = 10_100..=10_200;
/// Connections at once: nbdcopy makes four, to each of the 101 ports.
const CONNECTIONS: usize = 404;
/// How long accepting pauses when the system has no descriptors left for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Which ports, and for how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPortSettings {
    /// The ports, here and at the far end.
    pub ports: RangeInclusive<u16>,
    /// Where they lead, as the far end sees it: its 127.0.0.1, as a hub's exports want it.
    pub host: String,
    /// Connections at once at most, of all ports together; more are closed.
    pub connections: usize,
}

impl Default for LocalPortSettings {
    fn default() -> Self {
        Self { ports: PORTS, host: Ipv4Addr::LOCALHOST.to_string(), connections: CONNECTIONS }
    }
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalPortError {
    /// Somebody else listens there. Without those ports it would be as bad: clients that are told to
    /// use them would read and write what is not theirs.
    #[error(
        "something else listens on 127.0.0.1, {}: clients would talk to that instead of the hub; \
         end it, or choose other ports",
        Ports(.0)
    )]
    Taken(Vec<u16>),
    /// The system does not allow it.
    #[error("cannot listen on 127.0.0.1, port {port}: {error}")]
    NotBound {
        /// The first such port.
        port: u16,
        /// What the system said.
        error: io::Error,
    },
    /// The system could not do it.
    #[error("listening on 127.0.0.1: {0}")]
    System(#[from] io::Error),
}

/// Ports as people write them.
struct Ports<'a>(&'a [u16]);

impl fmt::Display for Ports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "port " } else { "ports " })?;
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        for (index, run) in runs.enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            match run {
                [first, .., last] => write!(f, "{first} to {last}")?,
                _ => write!(f, "{}", run[0])?,
            }
        }
        Ok(())
    }
}

/// Ports that lead through a tunnel. When this is dropped nothing listens there any more, and the
/// connections that were made are closed.
#[derive(Debug)]
pub struct LocalPorts {
    ports: RangeInclusive<u16>,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A client from outside, for as long as its connection is there.
#[derive(Debug)]
pub(super) struct Guest {
    _place: OwnedSemaphorePermit,
    stopped: watch::Receiver<()>,
}

impl Guest {
    /// Ready when nothing is to be carried for it any more.
    pub(super) async fn is_to_go(&mut self) {
        // Nothing is ever sent: it ends with the sender.
        while self.stopped.changed().await.is_ok() {}
    }
}

impl LocalPorts {
    pub(super) fn listen(
        lines: Arc<Lines>,
        settings: LocalPortSettings,
    ) -> Result<Self, LocalPortError> {
        let LocalPortSettings { ports, host, connections } = settings;
        let listeners = bind(ports.clone())?;
        let served = ports.clone();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listeners = {
            let _reactor = runtime.enter();
            let listeners = listeners.into_iter().map(tokio::net::TcpListener::from_std);
            listeners.collect::<io::Result<Vec<_>>>()?
        };
        let (stop, stopped) = watch::channel(());
        let places = Arc::new(Semaphore::new(connections));
        let shared =
            Arc::new(Shared { lines, host, places, connections, stopped: stopped.clone() });
        let thread = thread::Builder::new().name("tunnel-ports".into()).spawn(move || {
            let accepting = async {
                let mut all = JoinSet::new();
                for (port, listener) in served.zip(listeners) {
                    all.spawn(accept(Arc::clone(&shared), port, listener));
                }
                let mut stopped = stopped;
                while stopped.changed().await.is_ok() {}
            };
            runtime.block_on(accepting);
        })?;
        Ok(Self { ports, stop: Some(stop), thread: Some(thread) })
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone()
    }
}

impl Drop for LocalPorts {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It waits for nobody. If it has panicked, nothing listens either.
            let _ended = thread.join();
        }
    }
}

/// Listens on all ports, or on none.
fn bind(ports: RangeInclusive<u16>) -> Result<Vec<TcpListener>, LocalPortError> {
    let (mut listeners, mut taken) = (Vec::new(), Vec::new());
    for port in ports {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                listeners.push(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken.push(port),
            Err(error) => return Err(LocalPortError::NotBound { port, error }),
        }
    }
    match taken.is_empty() {
        true => Ok(listeners),
        false => Err(LocalPortError::Taken(taken)),
    }
}

/// What all ports share.
struct Shared {
    lines: Arc<Lines>,
    host: String,
    places: Arc<Semaphore>,
    connections: usize,
    stopped: watch::Receiver<()>,
}

/// Hands what is accepted to the tunnel.
async fn accept(shared: Arc<Shared>, port: u16, listener: tokio::net::TcpListener) {
    let far = FarEnd::Tcp { host: shared.host.clone(), port };
    let (refusal, mut told) = (Arc::default(), false);
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Only speed is lost where the system refuses.
        let _as_allowed = link::tune_local(&socket);
        let handed = match Arc::clone(&shared.places).try_acquire_owned() {
            Ok(place) => {
                let guest = Guest { _place: place, stopped: shared.stopped.clone() };
                socket.into_std().and_then(|socket| {
                    shared.lines.ask(&far, NearSocket::Tcp(socket), &refusal, Some(guest))
                })
            }
            Err(_) => {
                let why = format!("there are {} connections already", shared.connections);
                Err(io::Error::other(why))
            }
        };
        if let (Err(error), false) = (&handed, told) {
            let why = error.to_string();
            shared.lines.tell(TunnelEvent::LocalRefused { port, why });
        }
        // Once, until it goes again.
        told = handed.is_err();
    }
}

//! The proxy as a test sees it, and its connections.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::flow::{Direction, Flow};
use crate::server::Transport;
use crate::socket::{Address, Listener, Stream};

/// Builds a [`Proxy`].
#[derive(Clone, Debug)]
pub struct Line {
    server: Address,
    transport: Transport,
    up: Direction,
    down: Direction,
}

/// A running proxy. It ends with this value, with all its connections.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    address: Address,
    accepting: Option<JoinHandle<()>>,
    _dir: Option<TempDir>,
}

#[derive(Debug)]
pub(super) struct Shared {
    line: Line,
    state: Mutex<State>,
    pub(super) changed: Condvar,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    connections: Vec<Connection>,
    accepted: u64,
    frozen: bool,
    refusing: bool,
    stopped: bool,
    /// Where new connections lead, if not to the first server.
    server: Option<Address>,
}

/// Both ends of a connection, to cut it.
#[derive(Debug)]
struct Connection {
    id: u64,
    client: Stream,
    /// Not there yet while it is being connected to.
    server: Option<Stream>,
}

impl Line {
    /// How long each byte takes from the client to the server.
    #[must_use]
    pub fn delay_up(mut self, delay: Duration) -> Self {
        self.up.delay = delay;
        self
    }

    /// How long each byte takes from the server to the client.
    #[must_use]
    pub fn delay_down(mut self, delay: Duration) -> Self {
        self.down.delay = delay;
        self
    }

    /// This delay both ways: the round trip takes twice as long.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.delay_up(delay).delay_down(delay)
    }

    /// At most this much in each direction of each connection.
    #[must_use]
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.up.bytes_per_second = Some(bytes);
        self.down.bytes_per_second = Some(bytes);
        self
    }

    /// Listens on a Unix socket instead of a free port of 127.0.0.1.
    #[must_use]
    pub fn unix(mut self) -> Self {
        self.transport = Transport::Unix;
        self
    }

    /// Starts it.
    pub fn start(self) -> io::Result<Proxy> {
        let (address, dir) = self.transport.prepare()?;
        let listener = Arc::new(address.listen()?);
        let address = listener.address()?;
        let shared = Arc::new(Shared {
            line: self,
            state: Mutex::default(),
            changed: Condvar::new(),
            up_bytes: AtomicU64::new(0),
            down_bytes: AtomicU64::new(0),
        });
        let accepting = thread::spawn({
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            move || accept(&shared, &listener)
        });
        Ok(Proxy { shared, listener, address, accepting: Some(accepting), _dir: dir })
    }
}

impl Proxy {
    /// A line to `server`, as good as the machine allows unless told otherwise.
    pub fn to(server: &Address) -> Line {
        Line {
            server: server.clone(),
            transport: Transport::Tcp,
            up: Direction::default(),
            down: Direction::default(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The NBD URI of an export behind it.
    pub fn uri(&self, export: &str) -> String {
        self.address.uri(export)
    }

    /// Cuts all connections, with a reset over TCP; what is on its way is lost. New ones are
    /// taken.
    pub fn cut(&self) {
        self.shared.state().cut();
        self.shared.changed.notify_all();
    }

    /// Cuts all connections; new ones lead to another server.
    pub fn lead_to(&self, server: &Address) {
        self.shared.state().server = Some(server.clone());
        self.cut();
    }

    /// Moves nothing any more, and keeps all connections open. New ones are taken, and freeze.
    pub fn freeze(&self) {
        self.shared.state().frozen = true;
    }

    /// Ends [`Proxy::freeze`].
    pub fn thaw(&self) {
        self.shared.state().frozen = false;
        self.shared.changed.notify_all();
    }

    /// Cuts new connections as soon as they are there, as a tunnel does whose far end is gone,
    /// or takes them again. Those that exist stay.
    pub fn refuse(&self, refuse: bool) {
        self.shared.state().refusing = refuse;
    }

    /// How many bytes have reached the server.
    pub fn up_bytes(&self) -> u64 {
        self.shared.up_bytes.load(Ordering::Relaxed)
    }

    /// How many bytes have reached clients.
    pub fn down_bytes(&self) -> u64 {
        self.shared.down_bytes.load(Ordering::Relaxed)
    }

    /// How many connections have been taken, those that were refused too.
    pub fn accepted(&self) -> u64 {
        self.shared.state().accepted
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shared.state().connections.len()
    }

    /// Waits until this much has reached the server, and clients, since the start; false when
    /// `deadline` passes before.
    pub fn wait_for_bytes(&self, up: u64, down: u64, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        let mut state = self.shared.state();
        while self.up_bytes() < up || self.down_bytes() < down {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
        true
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopped = true;
        state.cut();
        drop(state);
        self.shared.changed.notify_all();
        self.listener.close();
        if let Some(accepting) = self.accepting.take() {
            let ended = accepting.join();
            assert!(ended.is_ok() || thread::panicking(), "a line has panicked, see above");
        }
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits out a freeze; an error when the connection was cut.
    pub(super) fn pass(&self, id: u64) -> io::Result<()> {
        let mut state = self.state();
        loop {
            if !state.connections.iter().any(|connection| connection.id == id) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if !state.frozen {
                return Ok(());
            }
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Takes a client in; from now on it can be cut.
    fn admit(&self, client: &Stream) -> io::Result<u64> {
        let mut state = self.state();
        state.accepted += 1;
        if state.refusing || state.stopped {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let id = state.accepted;
        state.connections.push(Connection { id, client: client.try_clone()?, server: None });
        Ok(id)
    }

    /// Finds the client's way to the server.
    fn connect(&self, id: u64, client: &Stream) -> io::Result<Stream> {
        let other = self.state().server.clone();
        let server = other.as_ref().unwrap_or(&self.line.server).connect()?;
        for stream in [client, &server] {
            rustix::io::ioctl_fionbio(stream, true)?;
        }
        let second = server.try_clone()?;
        let mut state = self.state();
        match state.connections.iter_mut().find(|c| c.id == id) {
            Some(connection) => connection.server = Some(second),
            None => {
                server.reset();
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(server)
    }

    /// Forgets a connection.
    fn dismiss(&self, id: u64) {
        self.state().connections.retain(|c| c.id != id);
    }
}

impl State {
    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            connection.client.reset();
            if let Some(server) = connection.server {
                server.reset();
            }
        }
    }
}

/// Accepts until the listener is closed, then waits for all connections.
fn accept(shared: &Arc<Shared>, listener: &Listener) {
    thread::scope(|scope| {
        while let Ok(client) = listener.accept() {
            let Ok(id) = shared.admit(&client) else {
                client.reset();
                continue;
            };
            scope.spawn(move || {
                match shared.connect(id, &client) {
                    Ok(server) => carry(shared, id, &client, &server),
                    Err(_) => client.reset(),
                }
                shared.dismiss(id);
            });
        }
    });
}

/// Moves bytes both ways until both have ended.
fn carry(shared: &Shared, id: u64, client: &Stream, server: &Stream) {
    thread::scope(|scope| {
        let up = Flow::new(shared, id, shared.line.up, &shared.up_bytes);
        let down = Flow::new(shared, id, shared.line.down, &shared.down_bytes);
        scope.spawn(|| up.run(client, server));
        down.run(server, client);
    });
}

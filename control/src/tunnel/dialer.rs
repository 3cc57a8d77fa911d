//! The tunnel as the rest of the program has it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use blockferry_dataplane::Dial;
use tokio::runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::ask::{Ask, Load, Refusal};
use super::connection::{Connection, Effort, Shared};
use super::error::{TunnelError, TunnelEvent};
use super::far::FarEnd;
use super::figures::{ConnectionFigures, Figures};
use super::identity;
use super::lane_socket::NearSocket;
use super::local_ports::{Guest, LocalPortError, LocalPortSettings, LocalPorts};
use super::service::{Offer, TunnelService};
use super::session::connect;
use super::settings::TunnelSettings;
use super::trust::Trust;
use crate::child::held;

/// Channels of a connection that another one is made for. Two keep a cipher busy while one of them
/// waits for its window, and cost less than two connections.
const SHARE: usize = 2;

/// SSH connections to one server. They are closed when this, all its dialers and
/// its [`LocalPorts`] are dropped.
pub struct Tunnel {
    lines: Arc<Lines>,
}

/// The connections, in the order in which they were made.
pub(super) struct Lines {
    shared: Arc<Shared>,
    lines: Mutex<Vec<Line>>,
}

/// A connection, as whoever dials sees it.
struct Line {
    asks: UnboundedSender<Ask>,
    figures: Arc<Figures>,
}

impl Line {
    fn channels(&self) -> usize {
        self.figures.channels.load(Ordering::Relaxed)
    }
}

impl Tunnel {
    /// Connects once, so that what is wrong shows at once; `on_event` is told what happens later,
    /// from the tunnel's own threads.
    ///
    /// # Errors
    /// The key or the file of known hosts cannot be used, the server is not there, not who it should
    /// be, or does not take the key. At the latest after `deadline`.
    pub fn open(
        settings: TunnelSettings,
        on_event: impl Fn(TunnelEvent) + Send + Sync + 'static,
    ) -> Result<Self, TunnelError> {
        Self::start(settings, None, Box::new(on_event))
    }

    /// A tunnel whose first connection is kept up, and lets the far end connect to `service`. What
    /// is wrong with the key, or with who is there, shows at once, as with [`Self::open`]. That
    /// nobody is there is told as an event, as whatever happens later, and tried again for as long
    /// as this or a dialer is there, once a second or more often, in waits of the settings.
    ///
    /// # Errors
    /// The key or the file of known hosts cannot be used, the server is not who it should be, or
    /// does not take the key.
    pub fn serve(
        settings: TunnelSettings,
        service: TunnelService,
        on_event: impl Fn(TunnelEvent) + Send + Sync + 'static,
    ) -> Result<Self, TunnelError> {
        Self::start(settings, Some(service), Box::new(on_event))
    }

    fn start(
        settings: TunnelSettings,
        service: Option<TunnelService>,
        on_event: Box<dyn Fn(TunnelEvent) + Send + Sync>,
    ) -> Result<Self, TunnelError> {
        let key = Arc::new(identity::load(&settings.identity)?);
        let trust = Trust::load(&settings.known_hosts, &settings.address)?;
        let states = Mutex::default();
        let shared = Arc::new(Shared { settings, key, trust, on_event, states });
        let (told, connected) = mpsc::sync_channel(1);
        let offer = service.map(|service| Arc::new(Offer::new(service)));
        let first = start(&shared, 1, |connection| first(Connection { offer, ..connection }, told))
            .map_err(|error| TunnelError::System { what: "starting a thread", error })?;
        match connected.recv() {
            Ok(result) => result?,
            Err(_) => {
                let error = io::Error::other("it ended before it was connected");
                return Err(TunnelError::System { what: "connecting a tunnel", error });
            }
        }
        Ok(Self { lines: Arc::new(Lines { shared, lines: Mutex::new(vec![first]) }) })
    }

    /// What each connection has carried, in their order.
    #[must_use]
    pub fn figures(&self) -> Vec<ConnectionFigures> {
        self.lines.lock().iter().map(|line| line.figures.read()).collect()
    }

    /// Listens on ports of 127.0.0.1, and leads those who connect to the same ports of 127.0.0.1 at
    /// the far end, over the connections of this tunnel, spread as lanes are. One whose channel is
    /// refused is closed, and that is told once, until the port is connected again.
    ///
    /// # Errors
    /// [`LocalPortError`]; it listens on all of the ports or on none.
    pub fn listen(&self, settings: LocalPortSettings) -> Result<LocalPorts, LocalPortError> {
        LocalPorts::listen(Arc::clone(&self.lines), settings)
    }

    /// Connects lanes to one socket of the far end.
    #[must_use]
    pub fn dialer(&self, far: FarEnd) -> TunnelDialer {
        TunnelDialer { lines: Arc::clone(&self.lines), far, refusal: Arc::default() }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("address", &self.lines.shared.settings.address).finish()
    }
}

/// The way to one socket of the far end.
pub struct TunnelDialer {
    lines: Arc<Lines>,
    far: FarEnd,
    refusal: Arc<Refusal>,
}

impl fmt::Debug for TunnelDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelDialer").field("far", &self.far).finish_non_exhaustive()
    }
}

impl Dial for TunnelDialer {
    fn dial(&self) -> io::Result<OwnedFd> {
        let (near, socket) = UnixStream::pair()?;
        self.lines.ask(&self.far, NearSocket::Unix(socket), &self.refusal, None)?;
        Ok(near.into())
    }

    fn down(&self) -> Option<String> {
        self.lines.down().or_else(|| {
            let why = self.refusal.why()?;
            Some(TunnelEvent::ChannelRefused { far: self.far.clone(), why }.to_string())
        })
    }
}

impl Lines {
    pub(super) fn tell(&self, event: TunnelEvent) {
        self.shared.tell(event);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        // A line is added whole or not at all.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when there is no connection, if there is none, and why the one is down that was down first.
    fn down(&self) -> Option<String> {
        let states = held(&self.shared.states);
        // Others may be in the making, of which nothing is known.
        if !states.up.is_empty() {
            return None;
        }
        let first = states.down.values().min_by_key(|down| down.since)?;
        let (since, why) = (first.since.elapsed().as_secs(), &first.why);
        let address = &self.shared.settings.address;
        Some(format!("the tunnel to {address} has been down for {since} s: {why}"))
    }

    /// Hands a lane's socket to the connection that has the fewest channels, or to a new one while
    /// there may be more and all have their share.
    pub(super) fn ask(
        &self,
        far: &FarEnd,
        socket: NearSocket,
        refusal: &Arc<Refusal>,
        guest: Option<Guest>,
    ) -> io::Result<()> {
        let settings = &self.shared.settings;
        let mut lines = self.lock();
        let busy = lines.iter().all(|line| line.channels() >= SHARE);
        if busy && lines.len() < settings.connections.max(1) {
            let number = lines.len() + 1;
            lines.push(start(&self.shared, number, |connection| connection.serve(None))?);
        }
        let line = lines
            .iter()
            .min_by_key(|line| line.channels())
            .ok_or_else(|| io::Error::other("the tunnel has no connection"))?;
        let load = Load::new(&line.figures);
        let due = Instant::now() + settings.deadline;
        refusal.is_asked();
        let (far, refusal) = (far.clone(), Arc::clone(refusal));
        line.asks
            .send(Ask { far, socket, refusal, guest, due, load })
            .map_err(|_| io::Error::other("a thread of the tunnel has ended"))
    }
}

/// Starts the thread of a connection, which does what `run` says.
fn start<F: Future<Output = ()>>(
    shared: &Arc<Shared>,
    number: usize,
    run: impl FnOnce(Connection) -> F + Send + 'static,
) -> io::Result<Line> {
    // A thread and a runtime for each: a connection is one cipher, which wants one processor, and
    // what it does is not handed from one thread to another.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (asks, receiver) = unbounded_channel();
    let figures = Arc::new(Figures::default());
    let connection = Connection {
        shared: Arc::clone(shared),
        number,
        asks: receiver,
        waiting: Vec::new(),
        figures: Arc::clone(&figures),
        offer: None,
    };
    thread::Builder::new().name(format!("tunnel-{number}")).spawn(move || {
        runtime.block_on(run(connection));
    })?;
    Ok(Line { asks, figures })
}

/// Connects at once, and tells how that went. What may pass fails nothing where the connection is
/// kept up.
async fn first(connection: Connection, told: mpsc::SyncSender<Result<(), TunnelError>>) {
    let (shared, number) = (Arc::clone(&connection.shared), connection.number);
    let mut effort = Effort::new(&shared.settings);
    let kept = connection.offer.is_some();
    let limit = if kept { effort.limit } else { shared.settings.deadline };
    let session = match connect(&shared, number, connection.offer.as_ref(), limit).await {
        Ok(session) => Some(session),
        Err(error) if kept && error.may_pass() => {
            effort.tell(&shared, number, error);
            None
        }
        Err(error) => {
            // Whoever started the tunnel waits for this.
            let _unheard = told.send(Err(error));
            return;
        }
    };
    if told.send(Ok(())).is_err() {
        return;
    }
    match kept {
        true => connection.keep_up(session, effort).await,
        false => connection.serve(session).await,
    }
}

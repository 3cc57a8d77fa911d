//! One SSH connection: a thread that makes it, serves it, and makes it anew.

use std::collections::HashSet;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use russh::client::{Handle, Msg};
use russh::keys::PrivateKey;
use russh::{Channel, ChannelOpenFailure, Disconnect};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::channel;
use super::error::{TunnelError, TunnelEvent};
use super::far::FarEnd;
use super::figures::Figures;
use super::lane_socket::LaneSocket;
use super::link;
use super::service::Offer;
use super::session::{Client, Session, connect};
use super::settings::TunnelSettings;
use super::trust::Trust;

/// Longest wait between two attempts of a connection that is kept up: data is to flow again within
/// three seconds after the link is back.
const KEPT_WAIT: Duration = Duration::from_secs(2);
/// Time for an attempt of such a connection: one that the link was lost under is not waited for.
/// Where a handshake takes longer it is doubled, up to the deadline.
const KEPT_ATTEMPT: Duration = Duration::from_secs(3);
/// A session that was over sooner than this is made again only after a wait, as one that could not
/// be made.
const STEADY: Duration = Duration::from_secs(5);
/// Different reasons of one outage that are told.
const TOLD: usize = 16;

/// What all connections of a tunnel share.
pub(super) struct Shared {
    pub(super) settings: TunnelSettings,
    pub(super) key: Arc<PrivateKey>,
    pub(super) trust: Trust,
    pub(super) on_event: Box<dyn Fn(TunnelEvent) + Send + Sync>,
}

/// A lane that wants to be connected.
pub(super) struct Ask {
    pub(super) far: FarEnd,
    /// The tunnel's end of the lane's socket.
    pub(super) socket: StdUnixStream,
    /// Nobody waits for it after this.
    pub(super) due: Instant,
    /// Counts it among the channels of the connection.
    pub(super) load: Load,
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

/// A connection, as its thread sees it.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    /// From 1.
    pub(super) number: usize,
    pub(super) asks: UnboundedReceiver<Ask>,
    pub(super) figures: Arc<Figures>,
    /// What the far end may open; such a connection is kept up.
    pub(super) offer: Option<Arc<Offer>>,
}

impl Connection {
    /// Serves until nobody can ask any more. `session` is there already for the first connection.
    pub(super) async fn serve(mut self, mut session: Option<Session>) {
        let mut waiting: Option<Ask> = None;
        loop {
            if let Some(session) = session.take() {
                let first = waiting.take().into_iter().collect();
                let Some(why) = self.use_session(session, first).await else { return };
                self.lose(why);
            }
            // Nothing is connected again that nobody asks for.
            let Some(ask) = self.asks.recv().await else { return };
            session = self.connect_for(&ask).await;
            waiting = session.is_some().then_some(ask);
        }
    }

    /// Serves, and connects again whether anybody asks or not, until nobody can ask any more.
    pub(super) async fn keep_up(mut self, mut session: Option<Session>, mut effort: Effort) {
        let mut pause = if session.is_some() { Duration::ZERO } else { effort.backoff.wait() };
        let mut waiting = Vec::new();
        loop {
            if session.is_none() {
                session = self.connect_again(pause, &mut effort, &mut waiting).await;
            }
            let Some(made) = session.take() else { return };
            let since = Instant::now();
            let Some(why) = self.use_session(made, std::mem::take(&mut waiting)).await else {
                return;
            };
            self.lose(why);
            effort.told.clear();
            pause = effort.pause_after(since.elapsed());
        }
    }

    fn lose(&self, why: String) {
        self.figures.lost.fetch_add(1, Ordering::Relaxed);
        self.shared.tell(TunnelEvent::Lost { connection: self.number, why });
    }

    /// Opens channels until the session is over, and tells why it is; `None` when nobody can ask any
    /// more.
    async fn use_session(&mut self, mut session: Session, first: Vec<Ask>) -> Option<String> {
        // Dropped with the session, and all sockets of lanes and of the service with them.
        let mut tasks = JoinSet::new();
        let TunnelSettings { keepalive, keepalive_limit, .. } = self.shared.settings;
        let patience = link::patience(keepalive, keepalive_limit);
        if let Some(offer) = self.offer.clone() {
            let (handle, shared) = (Arc::clone(&session.handle), Arc::clone(&self.shared));
            tasks.spawn(offer.make(shared, self.number, handle));
        }
        let lane = |ask| {
            let (handle, shared) = (Arc::clone(&session.handle), Arc::clone(&self.shared));
            serve_ask(handle, shared, Arc::clone(&self.figures), ask)
        };
        for ask in first {
            tasks.spawn(lane(ask));
        }
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => {
                        tasks.spawn(lane(ask));
                    }
                    None => {
                        // Who has gone already hears no goodbye.
                        let _gone =
                            session.handle.disconnect(Disconnect::ByApplication, "", "en").await;
                        return None;
                    }
                },
                Some(arrival) = session.arrivals.recv() => if let Some(offer) = self.offer.clone() {
                    tasks.spawn(offer.carry(arrival, patience));
                },
                Some(_done) = tasks.join_next() => {}
                why = &mut session.over => {
                    return Some(why.unwrap_or_else(|_| "its task has ended".into()));
                }
            }
        }
    }

    /// Connects, again and again until the lane gives up.
    async fn connect_for(&self, ask: &Ask) -> Option<Session> {
        let mut backoff =
            Backoff::new(self.shared.settings.backoff, self.shared.settings.backoff_limit);
        let mut told = String::new();
        while Instant::now() < ask.due {
            let left = ask.due.saturating_duration_since(Instant::now());
            match connect(&self.shared, self.number, None, left).await {
                Ok(session) => return Some(session),
                Err(error) => {
                    let text = error.to_string();
                    let hopeless = !error.may_pass();
                    if text != told {
                        self.shared.tell(TunnelEvent::NotUp { connection: self.number, error });
                        told = text;
                    }
                    if hopeless {
                        return None;
                    }
                }
            }
            sleep(backoff.wait()).await;
        }
        None
    }

    /// Connects, again and again, first after `pause`. Lanes that ask meanwhile are put to those
    /// that are `waiting`, as long as they are. `None` when nobody can ask any more.
    async fn connect_again(
        &mut self,
        mut pause: Duration,
        effort: &mut Effort,
        waiting: &mut Vec<Ask>,
    ) -> Option<Session> {
        loop {
            let (shared, number, offer) = (&self.shared, self.number, self.offer.as_ref());
            let limit = effort.limit;
            let attempt = async move {
                sleep(pause).await;
                connect(shared, number, offer, limit).await
            };
            tokio::pin!(attempt);
            let result = loop {
                tokio::select! {
                    result = &mut attempt => break result,
                    ask = self.asks.recv() => waiting.push(ask?),
                }
            };
            match result {
                Ok(session) => return Some(session),
                Err(error) => {
                    let hopeless = !error.may_pass();
                    pause = effort.pause_after_error(&error);
                    effort.tell(&self.shared, self.number, error);
                    // What is dropped is closed, which its lane sees.
                    waiting.retain(|ask| !hopeless && Instant::now() < ask.due);
                }
            }
        }
    }
}

/// How a connection that is kept up is tried for.
pub(super) struct Effort {
    backoff: Backoff,
    /// For one attempt.
    pub(super) limit: Duration,
    deadline: Duration,
    /// What was told of this outage.
    told: HashSet<String>,
}

impl Effort {
    pub(super) fn new(settings: &TunnelSettings) -> Self {
        Self {
            backoff: Backoff::new(settings.backoff, settings.backoff_limit.min(KEPT_WAIT)),
            limit: KEPT_ATTEMPT.min(settings.deadline),
            deadline: settings.deadline,
            told: HashSet::new(),
        }
    }

    /// Tells why there is no connection, once for each reason.
    pub(super) fn tell(&mut self, shared: &Shared, connection: usize, error: TunnelError) {
        if self.told.len() < TOLD && self.told.insert(error.to_string()) {
            shared.tell(TunnelEvent::NotUp { connection, error });
        }
    }

    fn pause_after_error(&mut self, error: &TunnelError) -> Duration {
        if error.is_slow() {
            self.limit = (self.limit * 2).min(self.deadline);
        }
        match error.may_pass() {
            true => self.backoff.wait(),
            false => self.backoff.longest(),
        }
    }

    fn pause_after(&mut self, lived: Duration) -> Duration {
        if lived < STEADY {
            return self.backoff.wait();
        }
        self.backoff.reset();
        Duration::ZERO
    }
}

impl Shared {
    pub(super) fn tell(&self, event: TunnelEvent) {
        (self.on_event)(event);
    }
}

/// Opens the channel that a lane waits for, and carries it to its end.
async fn serve_ask(
    handle: Arc<Handle<Client>>,
    shared: Arc<Shared>,
    figures: Arc<Figures>,
    ask: Ask,
) {
    let Ask { far, socket, due, load: _counted } = ask;
    let opened = timeout(due.saturating_duration_since(Instant::now()), open(&handle, &far)).await;
    let why = match opened {
        Ok(Ok(channel)) => match LaneSocket::of(socket) {
            Ok(socket) => {
                let left = socket.left();
                return channel::carry(channel, socket, &figures, left, None).await;
            }
            Err(error) => error.to_string(),
        },
        Ok(Err(russh::Error::ChannelOpenFailure(reason))) => refusal(&reason),
        // The session is over, which is told apart.
        Ok(Err(_)) => return,
        Err(_late) => "no answer in time".into(),
    };
    shared.tell(TunnelEvent::ChannelRefused { far, why });
}

fn refusal(reason: &ChannelOpenFailure) -> String {
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

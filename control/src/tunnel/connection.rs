//! One SSH connection: a thread that makes it, serves it, and makes it anew.

use std::borrow::Cow;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use russh::client::{self, DisconnectReason, Handle, Msg};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelOpenFailure, Disconnect, Limits, Preferred, cipher, compression};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::address::TunnelAddress;
use super::channel;
use super::error::{TunnelError, TunnelEvent};
use super::far::FarEnd;
use super::figures::Figures;
use super::lane_socket::LaneSocket;
use super::link;
use super::settings::TunnelSettings;
use super::trust::{Trust, fingerprint};

/// An attempt to connect starts over after this: a SYN that was lost is sent again only after a
/// second, then two, then four, and the link may be back in between.
const CONNECT_ATTEMPT: Duration = Duration::from_secs(2);
/// Bytes of an SSH packet: OpenSSH sends and takes no more than this on a channel.
const PACKET_BYTES: u32 = 32 << 10;
/// Packets that wait for the connection at most, of all channels together: 3 MiB.
const WAITING_PACKETS: usize = 100;

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

/// A session that can be used.
pub(super) struct Session {
    handle: Arc<Handle<Client>>,
    /// Why it is over, once it is.
    over: oneshot::Receiver<String>,
}

/// A connection, as its thread sees it.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    /// From 1.
    pub(super) number: usize,
    pub(super) asks: UnboundedReceiver<Ask>,
    pub(super) figures: Arc<Figures>,
}

impl Connection {
    /// Serves until nobody can ask any more. `session` is there already for the first connection.
    pub(super) async fn serve(mut self, mut session: Option<Session>) {
        let mut waiting: Option<Ask> = None;
        loop {
            if let Some(session) = session.take() {
                let Some(why) = self.use_session(session, waiting.take()).await else { return };
                self.figures.lost.fetch_add(1, Ordering::Relaxed);
                self.shared.tell(TunnelEvent::Lost { connection: self.number, why });
            }
            // Nothing is connected again that nobody asks for.
            let Some(ask) = self.asks.recv().await else { return };
            session = self.connect_for(&ask).await;
            waiting = session.is_some().then_some(ask);
        }
    }

    /// Opens channels until the session is over, and tells why it is; `None` when nobody can ask any
    /// more.
    async fn use_session(&mut self, mut session: Session, first: Option<Ask>) -> Option<String> {
        // Dropped with the session, and all sockets of lanes with them.
        let mut channels = JoinSet::new();
        let mut next = first;
        loop {
            if let Some(ask) = next.take() {
                let (handle, shared) = (Arc::clone(&session.handle), Arc::clone(&self.shared));
                channels.spawn(serve_ask(handle, shared, Arc::clone(&self.figures), ask));
            }
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => next = Some(ask),
                    None => {
                        // Who has gone already hears no goodbye.
                        let _gone =
                            session.handle.disconnect(Disconnect::ByApplication, "", "en").await;
                        return None;
                    }
                },
                Some(_done) = channels.join_next() => {}
                why = &mut session.over => {
                    return Some(why.unwrap_or_else(|_| "its task has ended".into()));
                }
            }
        }
    }

    /// Connects, again and again until the lane gives up.
    async fn connect_for(&self, ask: &Ask) -> Option<Session> {
        let mut wait = self.shared.settings.backoff;
        let mut told = String::new();
        while Instant::now() < ask.due {
            let left = ask.due.saturating_duration_since(Instant::now());
            match connect(&self.shared, self.number, left).await {
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
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(self.shared.settings.backoff_limit);
        }
        None
    }
}

impl Shared {
    fn tell(&self, event: TunnelEvent) {
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
                return channel::carry(channel, socket, &figures, left).await;
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

/// Makes a session within `limit`: TCP, key exchange, the host's key, ours.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    number: usize,
    limit: Duration,
) -> Result<Session, TunnelError> {
    let TunnelSettings { address, identity, .. } = &shared.settings;
    let due = Instant::now() + limit;
    let left = || due.saturating_duration_since(Instant::now());
    let socket = reach(address, limit).await?;
    link::tune(&socket, shared.settings.keepalive, shared.settings.keepalive_limit).map_err(
        |error| TunnelError::System { what: "setting up the socket of a tunnel", error },
    )?;
    let (ended, over) = oneshot::channel();
    let seen = Arc::default();
    let client = Client { shared: Arc::clone(shared), seen: Arc::clone(&seen), ended: Some(ended) };
    let protocol = |error: russh::Error| match seen.lock() {
        Ok(seen) if seen.is_some() => {
            let (fingerprint, what) = seen.clone().unwrap_or_default();
            TunnelError::HostKey { address: address.clone(), fingerprint, what }
        }
        _ => TunnelError::Protocol { address: address.clone(), what: error.to_string() },
    };
    let late = |what| move |_| TunnelError::Late { address: address.clone(), what };
    let config = Arc::new(config(shared));
    let mut handle = timeout(left(), client::connect_stream(config, socket, client))
        .await
        .map_err(late("the key exchange"))?
        .map_err(protocol)?;
    let key = PrivateKeyWithHashAlg::new(Arc::clone(&shared.key), None);
    let user = shared.settings.user();
    let answer = timeout(left(), handle.authenticate_publickey(user, key))
        .await
        .map_err(late("the authentication"))?
        .map_err(|error| TunnelError::Protocol {
            address: address.clone(),
            what: error.to_string(),
        })?;
    if !answer.success() {
        return Err(TunnelError::Refused {
            address: address.clone(),
            user: user.to_owned(),
            identity: identity.clone(),
        });
    }
    shared.tell(TunnelEvent::Up { connection: number, what: format!("{address} is connected") });
    Ok(Session { handle: Arc::new(handle), over })
}

/// A TCP connection to whichever of the host's addresses answers first, in their order.
async fn reach(address: &TunnelAddress, limit: Duration) -> Result<TcpStream, TunnelError> {
    let attempt = async {
        loop {
            let connecting = TcpStream::connect((address.host.as_str(), address.port));
            match timeout(CONNECT_ATTEMPT, connecting).await {
                Ok(result) => return result,
                Err(_late) => {}
            }
        }
    };
    match timeout(limit, attempt).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => Err(TunnelError::Connect { address: address.clone(), error }),
        Err(_late) => Err(TunnelError::Late { address: address.clone(), what: "connecting" }),
    }
}

fn config(shared: &Shared) -> client::Config {
    let TunnelSettings { keepalive, keepalive_limit, window_bytes, rekey_bytes, .. } =
        shared.settings;
    client::Config {
        limits: Limits::new(rekey_bytes, rekey_bytes, link::REKEY_TIME),
        window_size: window_bytes,
        maximum_packet_size: PACKET_BYTES,
        channel_buffer_size: WAITING_PACKETS,
        preferred: Preferred {
            // The server is asked for a key that it can be known by.
            key: Cow::Owned(shared.trust.algorithms()),
            cipher: Cow::Borrowed(&[
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
            ]),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        inactivity_timeout: None,
        keepalive_interval: Some(keepalive),
        keepalive_max: keepalive_limit,
        ..client::Config::default()
    }
}

/// A time between half of `wait` and all of it, so that many who lost the same server do not come
/// back together.
pub(super) fn jittered(wait: Duration) -> Duration {
    let mut byte = [0_u8];
    // Without randomness it is the whole time, which is as right.
    let _none = getrandom(&mut byte, GetRandomFlags::NONBLOCK);
    wait - wait.mul_f64(f64::from(byte[0]) / 512.0)
}

/// What the library calls back.
pub(super) struct Client {
    shared: Arc<Shared>,
    /// The key that was not accepted, and why.
    seen: Arc<Mutex<Option<(String, String)>>>,
    ended: Option<oneshot::Sender<String>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        let Some(objection) = self.shared.trust.objection(key) else { return Ok(true) };
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Some((fingerprint(key).to_string(), objection.to_owned()));
        }
        Ok(false)
    }

    async fn disconnected(
        &mut self,
        reason: DisconnectReason<russh::Error>,
    ) -> Result<(), russh::Error> {
        let why = match &reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                format!("the server said goodbye: {}", info.message)
            }
            DisconnectReason::Error(error) => error.to_string(),
        };
        if let Some(ended) = self.ended.take() {
            // Nobody listens any more where the tunnel itself is given up.
            let _unheard = ended.send(why);
        }
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

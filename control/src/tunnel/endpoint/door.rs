//! One connection: who it is, and what of its channels is opened, in both directions.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use russh::server::{self, Auth, ChannelOpenHandle, Handle, Msg, Session, VerifiedPublicKey};
use russh::{
    Channel, ChannelOpenFailure, Disconnect, Limits, MethodKind, MethodSet, Preferred, cipher,
    compression,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::time::{interval, timeout};

use super::super::channel::{self, Allowance, Turn};
use super::super::figures::Figures;
use super::super::key::SshKey;
use super::super::link;
use super::super::own_key::OwnKey;
use super::super::stream::Buffered;
use super::call;
use super::directory::{Call, Presence};
use super::gatekeeper::{Gatekeeper, Reached};
use super::news::News;
use super::places::{Full, NodePlace, NodePlaces};
use super::strangers::{Place, Strangers};
use super::{Counted, EndpointEvent, EndpointSettings};

/// Bytes of a channel's packet at most.
const PACKET_BYTES: u32 = 32 << 10;
/// Packets of a channel that wait for its socket at most: 3 MiB.
const WAITING_PACKETS: usize = 100;
/// Bytes of a node to a server that has not greeted: clients of NBD speak after that. One that nobody
/// takes anything of would fill its window in the memory of this process.
const UNASKED_BYTES: u64 = 256 << 10;
/// Attempts to log in before a peer is hung up on.
const LOGIN_ATTEMPTS: usize = 6;
/// Wrong keys are answered after this time, whatever was wrong.
const REJECTION_TIME: Duration = Duration::from_millis(500);
/// How often it is looked whether a node is still one.
const REVIEW_PERIOD: Duration = Duration::from_secs(1);
/// Names of this machine, as a node writes them.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "::1"];
/// What is said to those who are hung up on.
const STOPS: &str = "the hub stops";
/// Refusals of a connection that are told: words in them are the peer's, and so is their number.
const TOLD: usize = 64;

/// What all connections share.
pub(super) struct Shared {
    pub(super) gatekeeper: Arc<dyn Gatekeeper>,
    pub(super) settings: EndpointSettings,
    pub(super) config: Arc<server::Config>,
    pub(super) news: News,
    pub(super) strangers: Arc<Strangers>,
    pub(super) places: Arc<NodePlaces>,
}

/// What is known of a connection from its login on.
struct Login {
    node: String,
    key: SshKey,
    /// Its place among those of nodes.
    place: Result<NodePlace, Full>,
}

/// The settings of the library; none is left to its own defaults that matters.
pub(super) fn config(key: &OwnKey, settings: &EndpointSettings) -> server::Config {
    server::Config {
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        auth_rejection_time: REJECTION_TIME,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key.0.clone()],
        limits: Limits::new(settings.rekey_bytes, settings.rekey_bytes, link::REKEY_TIME),
        window_size: settings.window_bytes,
        maximum_packet_size: PACKET_BYTES,
        channel_buffer_size: WAITING_PACKETS,
        preferred: Preferred {
            cipher: Cow::Borrowed(&[
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
            ]),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        max_auth_attempts: LOGIN_ATTEMPTS,
        inactivity_timeout: None,
        keepalive_interval: Some(settings.keepalive),
        keepalive_max: settings.keepalive_limit,
        ..server::Config::default()
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(
    socket: std::net::TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    place: Place,
    mut stopped: watch::Receiver<bool>,
) {
    let settings = &shared.settings;
    let gone = |why: String| shared.news.stranger_gone(peer, why);
    let (admitted, login) = oneshot::channel();
    let (calls, mut called) = unbounded_channel();
    let turn = Arc::<Turn>::default();
    let door = Door {
        shared: Arc::clone(&shared),
        peer,
        admitted: Some(admitted),
        node: None,
        calls,
        presence: None,
        offered: false,
        open: Arc::default(),
        turn: Arc::clone(&turn),
        unasked: Arc::default(),
        told: HashSet::new(),
    };
    let greeted = tokio::select! {
        greeted = greet(socket, door) => greeted,
        () = place.sent_away() => return shared.news.stranger_sent_away(peer),
        _ = stopped.changed() => return gone(STOPS.into()),
    };
    let mut session = match greeted {
        Ok(session) => session,
        Err(why) => return gone(why),
    };
    place.talks();
    let handle = session.handle();
    let known = tokio::select! {
        known = login_of(&mut session, login, settings.login_deadline) => known,
        () = place.sent_away() => return shared.news.stranger_sent_away(peer),
        _ = stopped.changed() => Err(STOPS.to_owned()),
    };
    let login = match known {
        Ok(login) => login,
        Err(why) => {
            tokio::select! {
                () = hang_up(&handle, why.clone()) => {}
                // Nobody waits for the place until a goodbye is heard.
                () = place.sent_away() => {}
            }
            return gone(why);
        }
    };
    drop(place);
    let Login { node, key, place } = login;
    let _place = match place {
        Ok(place) => place,
        Err(full) => {
            shared.news.node_refused(node, peer, full);
            hang_up(&handle, full.goodbye().into()).await;
            // The word is out when its task has ended.
            let _unheard = timeout(REVIEW_PERIOD, &mut session).await;
            return;
        }
    };
    shared.news.node_connected(node.clone(), peer);
    let patience = link::patience(settings.keepalive, settings.keepalive_limit);
    let answered = |call| {
        tokio::spawn(call::answer(handle.clone(), call, Arc::clone(&turn), patience));
    };
    let why = tokio::select! {
        ended = &mut session => end_of(ended),
        () = no_node_any_more(&*shared.gatekeeper, &node, &key) => "it is no node any more".into(),
        // The door is gone, and with it the session.
        () = each_of(&mut called, answered) => "it has closed".into(),
        _ = stopped.changed() => STOPS.to_owned(),
    };
    // Nobody reaches the node over this one any more.
    called.close();
    hang_up(&handle, why.clone()).await;
    shared.news.tell(EndpointEvent::Closed { node: Some(node), peer, why, times: 1 });
}

/// Waits for what SSH begins with; or says why it did not come.
async fn greet(
    socket: std::net::TcpStream,
    door: Door,
) -> Result<server::RunningSession<Door>, String> {
    let (config, settings) = (Arc::clone(&door.shared.config), door.shared.settings.clone());
    let socket = TcpStream::from_std(socket).and_then(|socket| {
        link::tune(&socket, settings.keepalive, settings.keepalive_limit)?;
        Ok(socket)
    });
    let socket = socket.map_err(|error| error.to_string())?;
    let running = server::run_stream(config, Buffered::from(socket), door);
    match timeout(settings.login_deadline, running).await {
        Ok(greeted) => greeted.map_err(|error| error.to_string()),
        Err(_late) => Err("it said nothing that SSH begins with".into()),
    }
}

/// Waits until the peer is known to be a node; or says why it will not be one.
async fn login_of(
    session: &mut server::RunningSession<Door>,
    login: oneshot::Receiver<Login>,
    deadline: Duration,
) -> Result<Login, String> {
    tokio::select! {
        ended = session => Err(end_of(ended)),
        login = timeout(deadline, login) => match login {
            Ok(Ok(login)) => Ok(login),
            Ok(Err(_)) => Err("it has not logged in".into()),
            Err(_late) => Err("it did not log in in time".into()),
        },
    }
}

/// Why a session is over.
fn end_of(ended: Result<(), russh::Error>) -> String {
    match ended {
        Ok(()) => "it has closed".into(),
        Err(russh::Error::IO(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it has closed".into()
        }
        Err(error) => error.to_string(),
    }
}

/// Returns when a node is none any more, or not with this key.
async fn no_node_any_more(gatekeeper: &dyn Gatekeeper, node: &str, key: &SshKey) {
    let mut review = interval(REVIEW_PERIOD);
    loop {
        review.tick().await;
        if !gatekeeper.may_stay(node, key) {
            return;
        }
    }
}

/// Has each of those answered who want to reach the node, until nobody can.
async fn each_of(called: &mut UnboundedReceiver<Call>, answered: impl Fn(Call)) {
    while let Some(call) = called.recv().await {
        answered(call);
    }
}

/// Says goodbye. Who has gone already does not hear it; who takes nothing is not waited for.
async fn hang_up(handle: &Handle, why: String) {
    let goodbye = handle.disconnect(Disconnect::ByApplication, why, "en".into());
    let _unheard = timeout(REVIEW_PERIOD, goodbye).await;
}

/// What the library calls back for one connection.
struct Door {
    shared: Arc<Shared>,
    peer: SocketAddr,
    /// Told once, when the connection is known to be a node's.
    admitted: Option<oneshot::Sender<Login>>,
    node: Option<String>,
    /// To this connection's thread, from those who want to reach the node.
    calls: UnboundedSender<Call>,
    /// In the directory, from the login on.
    presence: Option<Presence>,
    /// Whether it was told that the node can be reached.
    offered: bool,
    /// Channels that the node has opened.
    open: Arc<AtomicUsize>,
    turn: Arc<Turn>,
    /// Whether it was told that the node sends to servers that have not greeted.
    unasked: Arc<AtomicBool>,
    /// What was refused already, so that a flood does not fill the log.
    told: HashSet<String>,
}

impl Door {
    fn refuse(&mut self, what: String) {
        if self.told.len() < TOLD && self.told.insert(what.clone()) {
            let (news, peer) = (&self.shared.news, self.peer);
            match self.node.clone() {
                Some(node) => {
                    let node = Some(node);
                    news.tell(EndpointEvent::Refused { node, peer, what, times: 1 });
                }
                None => news.stranger_refused(peer, what),
            }
        }
    }
}

impl Door {
    /// Puts the connection into the directory, from where it is taken when the node is none any
    /// more.
    fn enter(&mut self, node: &str, key: &SshKey) {
        let Some(directory) = &self.shared.settings.directory else { return };
        let (gatekeeper, name) = (Arc::clone(&self.shared.gatekeeper), node.to_owned());
        let key = key.clone();
        let stays = move || gatekeeper.may_stay(&name, &key);
        self.presence = Some(directory.enter(node, self.peer, stays, self.calls.clone()));
    }
}

impl server::Handler for Door {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let key = SshKey::new(key.public_key.clone());
        match self.shared.gatekeeper.admit(user, &key) {
            Ok(node) => {
                let place = self.shared.places.take(&node);
                // Who has none is let in to be told why it has to go, and can do nothing else.
                if place.is_ok() {
                    self.enter(&node, &key);
                    self.node = Some(node.clone());
                }
                if let Some(admitted) = self.admitted.take() {
                    // The connection is over already.
                    let _late = admitted.send(Login { node, key, place });
                }
                Ok(Auth::Accept)
            }
            Err(why) => {
                self.refuse(format!("the key {}: {why}", key.fingerprint()));
                Ok(Auth::reject())
            }
        }
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.refuse("a session: there is no shell and no command here".into());
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(node) = self.node.clone() else { return Ok(()) };
        let limit = self.shared.settings.channels;
        let Some(open) = Counted::below(limit, &self.open) else {
            self.refuse(format!("more than {limit} channels"));
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let reached = u16::try_from(port)
            .map_err(|_| "no such port".to_owned())
            .and_then(|port| self.shared.gatekeeper.reach(&node, host, port));
        let Reached { address, greets } = match reached {
            Ok(reached) => reached,
            Err(why) => {
                let host: String = host.chars().take(64).collect();
                self.refuse(format!("{host:?} port {port}: {why}"));
                reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
                return Ok(());
            }
        };
        let deadline = self.shared.settings.connect_deadline;
        let (turn, unasked) = (Arc::clone(&self.turn), Arc::clone(&self.unasked));
        let (shared, peer) = (Arc::clone(&self.shared), self.peer);
        tokio::spawn(async move {
            let _open = open;
            let connecting = timeout(deadline, TcpStream::connect(address));
            let Ok(Ok(socket)) = connecting.await else {
                return reply.reject(ChannelOpenFailure::ConnectFailed).await;
            };
            // Only speed is lost where the system refuses.
            let _as_allowed = link::tune_local(&socket);
            reply.accept().await;
            let never = std::future::pending();
            let figures = Figures::default();
            let unasked_bytes = if greets { UNASKED_BYTES } else { u64::MAX };
            let allowance = Allowance { unasked_bytes, ..Allowance::NONE };
            channel::carry(channel, socket, &turn, &figures, never, allowance).await;
            if figures.unasked_bytes() > unasked_bytes && !unasked.swap(true, Ordering::Relaxed) {
                let what = format!("port {port}: bytes for a server that has not greeted");
                shared.news.tell(EndpointEvent::Refused { node: Some(node), peer, what, times: 1 });
            }
        });
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        host: &str,
        port: &mut u32,
        _session: &mut Session,
    ) -> Result<bool, russh::Error> {
        if self.node.is_none() {
            return Ok(false);
        }
        let ours = LOOPBACK.into_iter().find(|name| *name == host);
        let (Some(presence), Some(ours), 0) = (&self.presence, ours, *port) else {
            self.refuse("a port to listen on: nothing listens here for a node".into());
            return Ok(false);
        };
        presence.offer(ours);
        if let (Some(node), false) = (self.node.clone(), self.offered) {
            self.offered = true;
            self.shared.news.tell(EndpointEvent::Serves { node, peer: self.peer });
        }
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        host: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, russh::Error> {
        Ok(port == 0 && self.presence.as_ref().is_some_and(|presence| presence.withdraw(host)))
    }
}

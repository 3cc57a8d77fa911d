//! One session: how it is made, and what the library calls back for it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use russh::client::{self, ChannelOpenHandle, DisconnectReason, Handle, Msg};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelOpenFailure, Limits, Preferred, cipher, compression};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::address::TunnelAddress;
use super::connection::Shared;
use super::error::{CONNECTING, TunnelError, TunnelEvent};
use super::link;
use super::service::{Arrival, Offer};
use super::settings::TunnelSettings;
use super::stream::Buffered;
use super::trust::fingerprint;

/// An attempt to connect starts over after this: a SYN that was lost is sent again only after a
/// second, then two, then four, and the link may be back in between.
const CONNECT_ATTEMPT: Duration = Duration::from_secs(2);
/// Bytes of an SSH packet: OpenSSH sends and takes no more than this on a channel.
const PACKET_BYTES: u32 = 32 << 10;
/// Packets that wait for the connection at most, of all channels together: 3 MiB.
const WAITING_PACKETS: usize = 100;

/// A session that can be used.
pub(super) struct Session {
    pub(super) handle: Arc<Handle<Client>>,
    /// Why it is over, once it is.
    pub(super) over: oneshot::Receiver<String>,
    /// Channels that the far end opens; none where nothing is offered.
    pub(super) arrivals: UnboundedReceiver<Arrival>,
}

/// Makes a session within `limit`: TCP, key exchange, the host's key, ours. The far end may open
/// the channels of the `offer`.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    number: usize,
    offer: Option<&Arc<Offer>>,
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
    let (arrived, arrivals) = unbounded_channel();
    let client = Client {
        shared: Arc::clone(shared),
        number,
        offer: offer.map(|offer| (Arc::clone(offer), arrived)),
        refused: HashSet::new(),
        seen: Arc::clone(&seen),
        ended: Some(ended),
    };
    let protocol = |error: russh::Error| match seen.lock() {
        Ok(seen) if seen.is_some() => {
            let (fingerprint, what) = seen.clone().unwrap_or_default();
            TunnelError::HostKey { address: address.clone(), fingerprint, what }
        }
        _ => TunnelError::Protocol { address: address.clone(), what: error.to_string() },
    };
    let late = |what| move |_| TunnelError::Late { address: address.clone(), what };
    let config = Arc::new(config(shared));
    let mut handle =
        timeout(left(), client::connect_stream(config, Buffered::from(socket), client))
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
    Ok(Session { handle: Arc::new(handle), over, arrivals })
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
        Err(_late) => Err(TunnelError::Late { address: address.clone(), what: CONNECTING }),
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

/// What the library calls back.
pub(super) struct Client {
    shared: Arc<Shared>,
    number: usize,
    /// What the far end may open, and where that goes.
    offer: Option<(Arc<Offer>, UnboundedSender<Arrival>)>,
    /// What was refused to it already, so that a flood does not fill the log.
    refused: HashSet<&'static str>,
    /// The key that was not accepted, and why.
    seen: Arc<Mutex<Option<(String, String)>>>,
    ended: Option<oneshot::Sender<String>>,
}

impl Client {
    async fn refuse(
        &mut self,
        reply: ChannelOpenHandle,
        reason: ChannelOpenFailure,
        what: &'static str,
    ) {
        reply.reject(reason).await;
        if self.refused.insert(what) {
            let what = what.to_owned();
            self.shared.tell(TunnelEvent::Refused { connection: self.number, what });
        }
    }

    /// For what nobody here ever offers; the library would accept it.
    async fn never(&mut self, reply: ChannelOpenHandle, what: &'static str) {
        self.refuse(reply, ChannelOpenFailure::AdministrativelyProhibited, what).await;
    }
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

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        let Some((offer, arrived)) = &self.offer else {
            self.never(reply, "a connection, where nothing is offered").await;
            return Ok(());
        };
        match offer.admit((host, port)) {
            Ok(load) => {
                // The connection is given up: what is dropped is rejected.
                let _over = arrived.send(Arrival::new(channel, reply, load));
            }
            Err((reason, what)) => self.refuse(reply, reason, what).await,
        }
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _path: &str,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        self.never(reply, "a connection to a Unix socket").await;
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        self.never(reply, "the agent of keys").await;
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        self.never(reply, "a session").await;
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        self.never(reply, "a connection to a place of its own choice").await;
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _path: &str,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        self.never(reply, "a connection to a Unix socket of its own choice").await;
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        self.never(reply, "the display").await;
        Ok(())
    }
}

//! A node at work: its tunnel, and what it does for the hub.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::nbd::{Address, NbdUri};

use super::folder::{NodeError, NodeFolder};
use super::service::{MAX_CONNECTIONS, NodeService, NodeSettings};
use crate::tunnel::{
    FarEnd, LocalPortError, LocalPortSettings, LocalPorts, Tunnel, TunnelError, TunnelEvent,
    TunnelService, TunnelSettings,
};

/// Why a node does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Its folder.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Its hub, or its key.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The system could not do it.
    #[error("the node cannot work: {0}")]
    System(io::Error),
}

/// A node that its hub can reach, as long as it is not dropped.
#[derive(Debug)]
pub struct Node {
    // First: nothing new comes in, then jobs end.
    tunnel: Arc<OnceLock<Tunnel>>,
    service: Arc<NodeService>,
    /// The folder is this node's alone until its process is gone.
    _lock: File,
}

impl Node {
    /// Takes the folder, dials the hub, and answers what it asks for. A hub that is not there is
    /// tried again and again, which `on_event` hears of; what concerns jobs goes to `log`. With
    /// `api_port` an sshd is asked to listen there for the hub; a hub's own end takes 0.
    ///
    /// # Errors
    /// [`ServeError`]: another node has the folder, or the hub is not who it should be, or does not
    /// take the key.
    pub fn serve(
        folder: &NodeFolder,
        tunnel: TunnelSettings,
        api_port: u16,
        settings: NodeSettings,
        on_event: impl Fn(TunnelEvent) + Send + Sync + 'static,
        log: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, ServeError> {
        let lock = folder.take()?;
        let up: Arc<OnceLock<Tunnel>> = Arc::default();
        // Weak, for the tunnel keeps what answers its calls.
        let reached = Arc::downgrade(&up);
        let reach = move |uri: &NbdUri| {
            let up = reached.upgrade().ok_or("the node stops")?;
            lane_end(up.wait(), uri)
        };
        let service = NodeService::start(folder.jobs(), settings, reach, log);
        let service = Arc::new(service.map_err(ServeError::System)?);
        let ours = Arc::clone(&service);
        let offer = TunnelService::new(api_port, move |socket| ours.accept(socket));
        let offer = TunnelService { connections: MAX_CONNECTIONS, ..offer };
        let tunnel = Tunnel::serve(tunnel, offer, on_event)?;
        // Nobody else sets it.
        let _first = up.set(tunnel);
        Ok(Self { tunnel: up, service, _lock: lock })
    }

    /// Leads ports of 127.0.0.1 to the same ports of the hub, for other NBD clients.
    ///
    /// # Errors
    /// [`LocalPortError`]; it listens on all of them or on none.
    pub fn listen(&self, ports: RangeInclusive<u16>) -> Result<LocalPorts, LocalPortError> {
        self.tunnel.wait().listen(LocalPortSettings { ports, ..LocalPortSettings::default() })
    }

    /// Calls off all jobs, and waits for their ends.
    pub fn stop(&self) {
        self.service.stop();
    }
}

/// An export of the hub as the end of a lane.
fn lane_end(tunnel: &Tunnel, uri: &NbdUri) -> Result<Endpoint, String> {
    match &uri.address {
        Address::Tcp { .. } => {
            let far = FarEnd::of(&uri.address)?;
            Ok(Endpoint::nbd_over(uri.clone(), Arc::new(tunnel.dialer(far))))
        }
        Address::Unix { .. } => Err(format!("{uri} is on a socket of the hub, and on no port")),
    }
}

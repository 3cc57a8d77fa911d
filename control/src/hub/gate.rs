//! What nodes may reach through a hub's own end of tunnels.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::nodes::{NodeCheck, NodeName};
use super::ports::Ports;
use crate::tunnel::endpoint::{Gatekeeper, Reached};
use crate::tunnel::{EnrollmentCode, SshKey};

/// Names of this machine, as a node writes them.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "::1"];

/// Lets nodes reach the ports that are leased for them, and the API; nothing else of the machine
/// and nothing of others.
#[derive(Debug)]
pub struct Gate {
    nodes: NodeCheck,
    ports: Arc<Ports>,
    /// The API, where it listens on loopback.
    api: SocketAddr,
}

impl Gate {
    /// For the nodes of a hub.
    #[must_use]
    pub fn new(nodes: NodeCheck, ports: Arc<Ports>, api: SocketAddr) -> Self {
        Self { nodes, ports, api }
    }

    fn known(&self, name: &str, key: &SshKey) -> Result<NodeName, String> {
        let name: NodeName = name.parse().map_err(|_| "there is no such node".to_owned())?;
        match self.nodes.knows(&name, key) {
            Ok(true) => Ok(name),
            Ok(false) => Err(format!("node {name} has another key, or there is no such node")),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Gatekeeper for Gate {
    fn admit(&self, user: &str, key: &SshKey) -> Result<String, String> {
        let Some((name, secret)) = EnrollmentCode::split_user(user) else {
            return self.known(user, key).map(String::from);
        };
        let name: NodeName = name.parse().map_err(|_| "there is no such node".to_owned())?;
        self.nodes.enroll(&name, secret, key).map_err(|error| error.to_string())?;
        Ok(name.into())
    }

    fn reach(&self, node: &str, host: &str, port: u16) -> Result<Reached, String> {
        if !LOOPBACK.contains(&host) {
            return Err("nodes reach nothing beyond this machine".into());
        }
        if port == self.api.port() {
            return Ok(Reached { address: self.api, greets: false });
        }
        let node: NodeName = node.parse()?;
        if self.ports.is_leased_for(port, &node) {
            let address = (Ipv4Addr::LOCALHOST, port).into();
            return Ok(Reached { address, greets: true });
        }
        Err(format!("it is not leased for node {node}"))
    }

    fn may_stay(&self, node: &str, key: &SshKey) -> bool {
        self.known(node, key).is_ok()
    }
}

//! Who may come in, and what they may reach.

use std::net::SocketAddr;

use super::super::key::SshKey;

/// Where a channel leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Who is connected.
    pub address: SocketAddr,
    /// Whether that one speaks first, as NBD servers do; HTTP servers do not.
    pub greets: bool,
}

/// Decides; called from the threads of connections, at login and for each channel, so that what
/// was taken away is gone at once. It must not wait for long.
pub trait Gatekeeper: Send + Sync + 'static {
    /// The node that comes as `user` with this key, which it has shown to be its own.
    ///
    /// # Errors
    /// Why not, for the log; the peer is told nothing.
    fn admit(&self, user: &str, key: &SshKey) -> Result<String, String>;

    /// Where a channel of the node to `host` and `port` leads.
    ///
    /// # Errors
    /// Why it may not be opened, for the log; the peer is told that it may not.
    fn reach(&self, node: &str, host: &str, port: u16) -> Result<Reached, String>;

    /// Whether the node, with the key that it came with, may stay.
    fn may_stay(&self, node: &str, key: &SshKey) -> bool;
}

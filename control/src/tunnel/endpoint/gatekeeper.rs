//! Who may come in, and what they may reach.

use std::net::SocketAddr;

use russh::keys::ssh_key::HashAlg;
use russh::keys::{PublicKey, PublicKeyBase64};

/// A key that somebody has shown to be theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeKey(PublicKey);

impl NodeKey {
    pub(super) fn new(key: PublicKey) -> Self {
        Self(key)
    }

    /// A key in the format of `authorized_keys`: its kind and its bytes; a comment is left out.
    ///
    /// # Errors
    /// Not such a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        PublicKey::from_openssh(text)
            .map(|key| Self(PublicKey::from(key.key_data().clone())))
            .map_err(|_| "it is no public key in the format of OpenSSH".to_owned())
    }

    /// As it stands in `authorized_keys`, without a comment.
    #[must_use]
    pub fn openssh(&self) -> String {
        format!("{} {}", self.0.algorithm(), self.0.public_key_base64())
    }

    /// As people compare it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

/// Decides; called from the threads of connections, at login and for each channel, so that what
/// was taken away is gone at once. It must not wait for long.
pub trait Gatekeeper: Send + Sync + 'static {
    /// The node that comes as `user` with this key, which it has shown to be its own.
    ///
    /// # Errors
    /// Why not, for the log; the peer is told nothing.
    fn admit(&self, user: &str, key: &NodeKey) -> Result<String, String>;

    /// Where a channel of the node to `host` and `port` leads.
    ///
    /// # Errors
    /// Why it may not be opened, for the log; the peer is told that it may not.
    fn reach(&self, node: &str, host: &str, port: u16) -> Result<SocketAddr, String>;

    /// Whether the node, with the key that it came with, may stay.
    fn may_stay(&self, node: &str, key: &NodeKey) -> bool;
}

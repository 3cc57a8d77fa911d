//! What a tunnel can be told. Nothing of the library's own defaults is left to it.

use std::path::PathBuf;
use std::time::Duration;

use super::address::TunnelAddress;

/// What is silent for longer is asked, however much time lanes have.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(5);

/// How a tunnel is made and kept.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    /// The SSH server.
    pub address: TunnelAddress,
    /// The user there, where the address names none.
    pub user: String,
    /// Private key without a passphrase, which nobody but its owner may read.
    pub identity: PathBuf,
    /// Where the server's key has to stand already; the format is that of OpenSSH.
    pub known_hosts: PathBuf,
    /// SSH connections at most; more than the first are made when there are lanes for them.
    pub connections: usize,
    /// How long a connection may take until it can be used, and how long a lane that has dialled
    /// waits for a channel, with a connection that has to be made for it.
    pub deadline: Duration,
    /// How often the server is asked for a sign of life.
    pub keepalive: Duration,
    /// That many unanswered questions end the connection.
    pub keepalive_limit: usize,
    /// Wait before the second attempt to connect; it doubles up to [`Self::backoff_limit`], and
    /// each wait is shortened by up to half at random.
    pub backoff: Duration,
    /// Longest wait between two attempts.
    pub backoff_limit: Duration,
    /// Bytes that the far end may send on a channel before it has to wait for us.
    pub window_bytes: u32,
    /// Bytes that are sent, or received, under one key at most; 1 GiB at most.
    pub rekey_bytes: usize,
}

impl TunnelSettings {
    /// Settings that suit most, for a server and a key.
    #[must_use]
    pub fn new(
        address: TunnelAddress,
        user: String,
        identity: PathBuf,
        known_hosts: PathBuf,
    ) -> Self {
        Self {
            address,
            user,
            identity,
            known_hosts,
            connections: 4,
            deadline: Duration::from_secs(30),
            keepalive: LONGEST_KEEPALIVE,
            keepalive_limit: 3,
            backoff: Duration::from_millis(250),
            // Data is to flow again within three seconds after the link is back.
            backoff_limit: Duration::from_secs(1),
            window_bytes: 16 << 20,
            rekey_bytes: 1 << 30,
        }
    }

    /// These for lanes that give up a silent side after `deadline`: two thirds into it, a
    /// connection without a sign of life is over, and the rest is there to connect again.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, keepalive: LONGEST_KEEPALIVE.min(deadline / 6), ..self }
    }

    /// The user at the far end.
    #[must_use]
    pub fn user(&self) -> &str {
        self.address.user.as_deref().unwrap_or(&self.user)
    }
}

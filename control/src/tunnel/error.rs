//! Why there is no tunnel, and what happens to one.

use std::io;
use std::path::PathBuf;

use super::address::TunnelAddress;
use super::far::FarEnd;

/// One line that says what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The private key cannot be used.
    #[error("the private key {}: {what}", path.display())]
    Identity {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file of known hosts cannot be used.
    #[error("the known hosts in {}: {what}", path.display())]
    KnownHosts {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Nobody there.
    #[error("no connection to {address}: {error}; does sshd run there, and can it be reached?")]
    Connect {
        /// Where.
        address: TunnelAddress,
        /// What the system said.
        error: io::Error,
    },
    /// There, and not who it should be.
    #[error("{address} shows another host key than it should ({fingerprint}): {what}")]
    HostKey {
        /// Where.
        address: TunnelAddress,
        /// What it showed.
        fingerprint: String,
        /// What was expected, and what to do.
        what: String,
    },
    /// The key is not taken.
    #[error(
        "{address} does not take the key {} for {user}: is its public half in authorized_keys there, \
         or the node still enrolled?",
        identity.display()
    )]
    Refused {
        /// Where.
        address: TunnelAddress,
        /// The user.
        user: String,
        /// The key.
        identity: PathBuf,
    },
    /// No answer in time.
    #[error("{address} did not finish {what} in time (--deadline sets the limit)")]
    Late {
        /// Where.
        address: TunnelAddress,
        /// What was awaited.
        what: &'static str,
    },
    /// SSH itself went wrong.
    #[error("{address} does not speak SSH as this program does: {what}; is it an SSH server?")]
    Protocol {
        /// Where.
        address: TunnelAddress,
        /// What the library said.
        what: String,
    },
    /// The system could not do it.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// What is awaited while nobody has answered yet.
pub(super) const CONNECTING: &str = "connecting";

impl TunnelError {
    /// Whether the command has to be changed, rather than the world.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Identity { .. } | Self::KnownHosts { .. })
    }

    /// Whether somebody is there, who would perhaps have needed more time.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self, Self::Late { what, .. } if *what != CONNECTING)
    }

    /// Whether it may be different the next time that somebody tries.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Late { .. } | Self::Protocol { .. } | Self::System { .. }
        )
    }
}

/// What happens to a tunnel while it is used.
#[derive(Debug)]
#[non_exhaustive]
pub enum TunnelEvent {
    /// A connection can be used.
    Up {
        /// Which one, from 1.
        connection: usize,
        /// The cipher, and the server's name of itself.
        what: String,
    },
    /// A connection that was in use is gone; lanes that go on connect again.
    Lost {
        /// Which one, from 1.
        connection: usize,
        /// Why.
        why: String,
    },
    /// An attempt to connect failed.
    NotUp {
        /// Which one, from 1.
        connection: usize,
        /// Why.
        error: TunnelError,
    },
    /// The far end did not open a channel. Told once for each reason, until one is opened.
    ChannelRefused {
        /// To what.
        far: FarEnd,
        /// Why.
        why: String,
    },
    /// The far end can connect to the service of this side.
    Served {
        /// Over which one.
        connection: usize,
        /// Where it listens for that, on its 127.0.0.1; 0 where it does not.
        port: u16,
    },
    /// The far end does not let this side serve; it is asked again.
    NotServed {
        /// Over which one.
        connection: usize,
        /// Why.
        why: String,
    },
    /// Somebody who connected to a port here was not led on. Told once, until somebody is again.
    LocalRefused {
        /// The port.
        port: u16,
        /// Why.
        why: String,
    },
    /// The far end wanted to open what it may not. Told once for each session and reason.
    Refused {
        /// Over which one.
        connection: usize,
        /// What.
        what: String,
    },
}

impl std::fmt::Display for TunnelEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Up { connection, what } => write!(f, "tunnel connection {connection}: {what}"),
            Self::Lost { connection, why } => {
                write!(f, "tunnel connection {connection} is lost: {why}")
            }
            Self::NotUp { connection, error } => {
                write!(f, "tunnel connection {connection}: {error}")
            }
            Self::ChannelRefused { far, why } => {
                write!(f, "the far end of the tunnel does not connect to {far}: {why}")
            }
            Self::Served { connection, port: 0 } => {
                write!(f, "tunnel connection {connection}: the far end can connect to this one")
            }
            Self::Served { connection, port } => write!(
                f,
                "tunnel connection {connection}: 127.0.0.1:{port} of the far end leads to this one"
            ),
            Self::NotServed { connection, why } => write!(
                f,
                "tunnel connection {connection}: the far end does not connect to this one: {why}"
            ),
            Self::LocalRefused { port, why } => {
                write!(f, "refused to a client at 127.0.0.1:{port} here: {why}")
            }
            Self::Refused { connection, what } => {
                write!(f, "tunnel connection {connection}: refused to the far end: {what}")
            }
        }
    }
}

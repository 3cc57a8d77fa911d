//! What a channel leads to.

use std::fmt;

use blockferry_dataplane::nbd::Address;

/// A socket as the far end of a tunnel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FarEnd {
    /// TCP: `direct-tcpip`.
    Tcp {
        /// Name or address, resolved by the far end.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket: `direct-streamlocal@openssh.com`.
    Unix {
        /// Its path there.
        path: String,
    },
}

impl FarEnd {
    /// The socket of an NBD URI.
    ///
    /// # Errors
    /// A path that is not text, which SSH cannot carry.
    pub fn of(address: &Address) -> Result<Self, String> {
        match address {
            Address::Tcp { host, port } => Ok(Self::Tcp { host: host.clone(), port: *port }),
            Address::Unix { path } => match path.to_str() {
                Some(path) => Ok(Self::Unix { path: path.to_owned() }),
                None => Err(format!("{}: SSH carries paths that are UTF-8 only", path.display())),
            },
        }
    }
}

impl fmt::Display for FarEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

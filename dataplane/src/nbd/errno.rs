//! The error numbers of the transmission phase.

use std::fmt;

use super::wire::{
    NBD_EINVAL, NBD_EIO, NBD_ENOMEM, NBD_ENOSPC, NBD_ENOTSUP, NBD_EOVERFLOW, NBD_EPERM,
    NBD_ESHUTDOWN,
};

/// Why a server refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NbdError {
    /// `NBD_EPERM`: not permitted, as a write to a read-only export.
    Perm,
    /// `NBD_EIO`: input/output error.
    Io,
    /// `NBD_ENOMEM`: the server had no memory, often because the request was too large.
    NoMem,
    /// `NBD_EINVAL`: invalid request, as one past the end of the export.
    Inval,
    /// `NBD_ENOSPC`: no space left.
    NoSpc,
    /// `NBD_EOVERFLOW`: too large to be answered in one chunk.
    Overflow,
    /// `NBD_ENOTSUP`: not supported, as zeroing that would not be fast.
    NotSup,
    /// `NBD_ESHUTDOWN`: the server is shutting down.
    Shutdown,
    /// A number that the protocol does not define. It counts as `NBD_EINVAL`.
    Other(u32),
}

impl NbdError {
    /// The error of a number from the wire, or none if the number is zero.
    pub fn from_wire(number: u32) -> Option<Self> {
        Some(match number {
            0 => return None,
            NBD_EPERM => Self::Perm,
            NBD_EIO => Self::Io,
            NBD_ENOMEM => Self::NoMem,
            NBD_EINVAL => Self::Inval,
            NBD_ENOSPC => Self::NoSpc,
            NBD_EOVERFLOW => Self::Overflow,
            NBD_ENOTSUP => Self::NotSup,
            NBD_ESHUTDOWN => Self::Shutdown,
            other => Self::Other(other),
        })
    }

    /// The number as the server sent it.
    pub fn number(self) -> u32 {
        match self {
            Self::Perm => NBD_EPERM,
            Self::Io => NBD_EIO,
            Self::NoMem => NBD_ENOMEM,
            Self::Inval => NBD_EINVAL,
            Self::NoSpc => NBD_ENOSPC,
            Self::Overflow => NBD_EOVERFLOW,
            Self::NotSup => NBD_ENOTSUP,
            Self::Shutdown => NBD_ESHUTDOWN,
            Self::Other(number) => number,
        }
    }

    /// What a client must take the error for: itself, or `Inval` for an unknown number.
    pub fn effective(self) -> Self {
        match self {
            Self::Other(_) => Self::Inval,
            known => known,
        }
    }

    /// Whether the server is going away: end the connection softly, and reconnect.
    pub fn is_shutdown(self) -> bool {
        self == Self::Shutdown
    }

    /// A few words for a person.
    pub fn description(self) -> &'static str {
        match self.effective() {
            Self::Perm => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "the server is out of memory",
            Self::NoSpc => "no space left on the server",
            Self::Overflow => "too large for one reply",
            Self::NotSup => "operation not supported",
            Self::Shutdown => "the server is shutting down",
            Self::Inval | Self::Other(_) => "invalid request",
        }
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::NoMem => "ENOMEM",
            Self::Inval => "EINVAL",
            Self::NoSpc => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSup => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
            Self::Other(number) => {
                return write!(f, "{} (unknown error {number})", self.description());
            }
        };
        write!(f, "{} ({name})", self.description())
    }
}

impl std::error::Error for NbdError {}

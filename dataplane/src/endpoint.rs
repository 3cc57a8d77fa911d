//! What a lane reads from and writes to.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::nbd::NbdUri;

/// One end of a lane.
///
/// A new kind of endpoint is a variant here, its side of a strand in `lane/source.rs` or
/// `lane/target.rs`, and nothing else.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Endpoint {
    /// An export of an NBD server.
    Nbd(NbdEndpoint),
    /// A regular file or a block device. As a target, a regular file is created and has the size
    /// of the source at the end, also where only changed areas of it are written; a block device
    /// has to be large enough. A named pipe is read or written in order; as a source, its first
    /// bytes have to come within the deadline.
    File(PathBuf),
    /// Read or written in order to its end, of unknown size: a pipe, a terminal, standard input.
    Stream(Arc<OwnedFd>),
    /// As a target: takes everything, keeps nothing.
    Null,
}

/// An export, and the way to it.
#[derive(Clone, Debug)]
pub struct NbdEndpoint {
    /// The export, its address and TLS settings. Its `Display` names the endpoint in messages.
    pub uri: NbdUri,
    /// Opens connections in place of the address in `uri`, for whoever carries NBD over
    /// something of their own (an SSH channel).
    pub dialer: Option<Arc<dyn Dial>>,
}

/// Opens connections to one NBD server.
pub trait Dial: Send + Sync + fmt::Debug {
    /// A connected stream socket, as far as the caller can tell: the far end may still be in the
    /// making. Must return at once; the data plane calls it from the threads that move data, once
    /// for each connection and again after a connection broke.
    ///
    /// # Errors
    /// When no further connection can be had; the lane then fails or tries again later, as its
    /// settings say.
    fn dial(&self) -> io::Result<OwnedFd>;

    /// What the server behind it said of its last error, for whoever sees its stderr: NBD has a
    /// number for an error, and most servers send no words with it. Asked once, when a lane fails;
    /// it may wait for a moment, for the words can come after the reply.
    fn said(&self) -> Option<String> {
        None
    }

    /// Why there is no way to the server now, down as it is or refused, for people: a lane whose connection is silent
    /// or lost cannot tell that from a server that is stopped. Asked once, when a lane fails.
    fn down(&self) -> Option<String> {
        None
    }
}

impl Endpoint {
    /// An export named by a URI.
    #[must_use]
    pub fn nbd(uri: NbdUri) -> Self {
        Self::Nbd(NbdEndpoint { uri, dialer: None })
    }

    /// An export reached through connections that `dialer` opens.
    #[must_use]
    pub fn nbd_over(uri: NbdUri, dialer: Arc<dyn Dial>) -> Self {
        Self::Nbd(NbdEndpoint { uri, dialer: Some(dialer) })
    }

    /// Why the way to its server is down.
    pub(crate) fn down(&self) -> Option<String> {
        match self {
            Self::Nbd(NbdEndpoint { dialer: Some(dialer), .. }) => dialer.down(),
            _ => None,
        }
    }

    /// What its server said of its last error.
    pub(crate) fn said(&self) -> Option<String> {
        match self {
            Self::Nbd(NbdEndpoint { dialer: Some(dialer), .. }) => dialer.said(),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nbd(nbd) => nbd.uri.fmt(f),
            Self::File(path) => path.display().fmt(f),
            Self::Stream(_) => f.write_str("-"),
            Self::Null => f.write_str("null:"),
        }
    }
}

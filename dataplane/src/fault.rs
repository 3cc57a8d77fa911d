//! Why a lane failed, in words for people and in kinds for programs.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::nbd::{HandshakeError, NbdError, ReplyError};

/// The side of a lane that something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The export that is read.
    Source,
    /// The export that is written.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Why a lane could not do its work. One line, with the side, the endpoint and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A side failed.
    #[error("{side} {endpoint}: {cause}")]
    Side {
        /// Which.
        side: Side,
        /// Its name, as in its URI or path.
        endpoint: String,
        /// What happened.
        cause: Cause,
    },
    /// The lane was asked for something that cannot be done.
    #[error("{0}")]
    Request(String),
    /// Something of this machine failed that belongs to neither side: a journal, a manifest, memory.
    #[error("{what}: {error}")]
    Local {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// The lane was cancelled. What was acknowledged is flushed, and in the journal if there is one.
    #[error("interrupted")]
    Interrupted,
}

impl Fault {
    /// The side at fault, if it is one.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::Side { side, .. } => Some(*side),
            Self::Request(_) | Self::Local { .. } | Self::Interrupted => None,
        }
    }
}

/// What happened on a side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The server and we did not come to terms.
    #[error("{0}")]
    Handshake(HandshakeError),
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// Nothing came for too long.
    #[error("no answer within {} while waiting for {waiting_for}{beside}{hint}", duration(*deadline))]
    Deadline {
        /// The deadline that passed.
        deadline: Duration,
        /// What is outstanding.
        waiting_for: String,
        /// How far a second connection came; empty or with a leading separator.
        beside: String,
        /// What may help; empty or with a leading separator.
        hint: &'static str,
    },
    /// The connection ended.
    #[error("the connection was lost ({how}) while waiting for {waiting_for}")]
    Lost {
        /// What the system said.
        how: String,
        /// What was outstanding.
        waiting_for: String,
    },
    /// The server answered something that the protocol forbids.
    #[error("the server broke the NBD protocol: {0}")]
    Reply(#[from] ReplyError),
    /// The server answered something that fits no request.
    #[error("the server broke the NBD protocol: {0}")]
    Protocol(String),
    /// The server refused a request.
    #[error("{request} failed: {} ({error:?}){}", error.description(), said(message))]
    Refused {
        /// The request, with its range.
        request: String,
        /// The server's error.
        error: NbdError,
        /// The server's words; often empty.
        message: String,
    },
    /// Reading or writing a file or stream failed.
    #[error("{what}: {error}")]
    File {
        /// The operation, with its range.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// The source has no such dirty bitmap.
    #[error(
        "it offers no dirty bitmap {name} (is the export started with that bitmap, as by qemu-nbd --bitmap?)"
    )]
    NoBitmap {
        /// The metadata context that was asked for.
        name: String,
    },
    /// The endpoint cannot do what is asked of it.
    #[error("{0}")]
    Unfit(String),
    /// It was lost, and what it may have forgotten is nowhere to be had again.
    #[error(
        "{cause}; what it had not made durable would have to be sent again, and a source that is a \
         stream cannot be read again: start the copy anew, or from a file, which can go on"
    )]
    Unrepeatable {
        /// The loss.
        cause: Box<Cause>,
    },
    /// The way to the server is down, whatever the lane itself saw of that.
    #[error("{why}; {cause}")]
    Away {
        /// Which way, since when, and why.
        why: String,
        /// What the lane saw.
        cause: Box<Cause>,
    },
    /// All attempts to connect again failed.
    #[error("gave up after {attempts} {} to connect again; the last one: {last}", tries(*attempts))]
    GaveUp {
        /// How many.
        attempts: u32,
        /// The last failure.
        last: Box<Cause>,
    },
}

impl Cause {
    /// Takes the server's own words, where it sent none, from whoever has heard them.
    pub(crate) fn hear(&mut self, said: impl FnOnce() -> Option<String>) {
        match self {
            Self::Refused { message, .. } if message.is_empty() => {
                *message = said().unwrap_or_default();
            }
            // So nbdkit answers when its plugin cannot open what it serves.
            Self::Handshake(HandshakeError::UnknownExport { message, .. })
                if message.is_empty() =>
            {
                if let Some(words) = said() {
                    *self = Self::Connect(io::Error::other(words));
                }
            }
            Self::GaveUp { last: cause, .. } | Self::Unrepeatable { cause } => cause.hear(said),
            _ => {}
        }
    }

    /// Takes why the way to the server is down, where that is what a connection was lost by. What may
    /// be the matter with the server itself is left out then.
    pub(crate) fn with_way(mut self, down: impl FnOnce() -> Option<String>) -> Self {
        if self.loss().is_none() {
            return self;
        }
        let Some(why) = down() else { return self };
        match self.loss() {
            // What it saw is only that nobody was there.
            Some(
                seen @ (Self::Connect(_) | Self::Handshake(HandshakeError::Disconnected { .. })),
            ) => {
                *seen = Self::Connect(io::Error::other(why));
                return self;
            }
            Some(Self::Deadline { hint, .. }) => *hint = "",
            _ => {}
        }
        Self::Away { why, cause: Box::new(self) }
    }

    /// What a connection was lost by, or did not come about.
    fn loss(&mut self) -> Option<&mut Self> {
        match self {
            Self::GaveUp { last: cause, .. } | Self::Unrepeatable { cause } => cause.loss(),
            Self::Connect(_) | Self::Handshake(_) | Self::Deadline { .. } | Self::Lost { .. } => {
                Some(self)
            }
            _ => None,
        }
    }
}

/// Whether an error of the system says that a path is wrong, rather than that something broke.
pub(crate) fn is_about_the_path(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!("; the server says: {message}") }
}

fn tries(attempts: u32) -> &'static str {
    if attempts == 1 { "attempt" } else { "attempts" }
}

/// A duration as people write it.
pub(crate) fn duration(time: Duration) -> String {
    if time.subsec_millis() != 0 {
        format!("{} ms", time.as_millis())
    } else {
        format!("{} s", time.as_secs())
    }
}

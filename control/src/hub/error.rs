//! Why a hub did not start.

use std::io;
use std::path::PathBuf;

use super::ports::PortError;
use crate::catalog::StorageError;

/// One line that says what went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Two hubs would hand out the same ports.
    #[error(
        "another hub{} runs on {}; end that one, or choose another folder for this one",
        pid.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default(), path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who has it, if it said so.
        pid: Option<String>,
    },
    /// The folder cannot be made or written.
    #[error("the state folder {} cannot be used: {error}; choose one that this user can write", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No port to hand out.
    #[error(
        "there is no port from {first} to {last}; the first one must be above 0, and not above the last one"
    )]
    NoPorts {
        /// The lowest one.
        first: u16,
        /// The highest one.
        last: u16,
    },
    /// A catalog.
    #[error(transparent)]
    Catalog(#[from] StorageError),
    /// Leases of an earlier run could be neither adopted nor undone.
    #[error("ports that were leased before: {0}")]
    Ports(#[from] PortError),
}

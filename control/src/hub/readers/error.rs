//! Why a point is not read.

use std::io;
use std::path::PathBuf;

use crate::catalog::{CatalogError, JobId};
use crate::hub::{PortError, SubmitError};
use crate::reading::ReadError;
use crate::repository::RepositoryError;

/// One line that says what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReaderError {
    /// As many as there may be.
    #[error("{running} {what} run already, and no more do at once")]
    TooMany {
        /// How many.
        running: usize,
        /// Of what.
        what: &'static str,
    },
    /// More disks than there are ports.
    #[error("point has {disks} disks, and this hub has {ports} ports, one for each disk")]
    TooManyDisks {
        /// Of the point.
        disks: usize,
        /// Of the hub.
        ports: usize,
    },
    /// No export has this job.
    #[error("no export of a point has the job {0}")]
    NoSuchExport(JobId),
    /// The repository that was named, or none.
    #[error(transparent)]
    Repository(#[from] SubmitError),
    /// The point could not be opened.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A folder for it, or a thread.
    #[error("{}: {what}: {error}", path.display())]
    System {
        /// What it is about.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl From<CatalogError> for ReaderError {
    fn from(error: CatalogError) -> Self {
        Self::Read(error.into())
    }
}

impl From<RepositoryError> for ReaderError {
    fn from(error: RepositoryError) -> Self {
        Self::Read(error.into())
    }
}

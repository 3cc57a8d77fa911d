//! Why a backup is not taken in, or not called off.

use super::repositories::RepositoryName;
use crate::backup::BackupError;
use crate::catalog::{CatalogError, JobId, JobState, PointId};
use crate::hub::{NodeError, NodeName};
use crate::repository::RepositoryError;

/// One line that says what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// No repository at all.
    #[error("this hub has no repository; start it with --repository DIR")]
    NoRepository,
    /// None of that name.
    #[error("this hub has no repository \"{asked}\"; it has {}", list(known))]
    UnknownRepository {
        /// What was asked for.
        asked: RepositoryName,
        /// What there is.
        known: Vec<RepositoryName>,
    },
    /// Several, and none was named.
    #[error("this hub has several repositories; name one of {}", list(known))]
    WhichRepository {
        /// What there is.
        known: Vec<RepositoryName>,
    },
    /// Several have the point, and none was named.
    #[error("point {point} is in several repositories of this hub; name one of {}", list(having))]
    WhichCopy {
        /// The point.
        point: PointId,
        /// The repositories that have it.
        having: Vec<RepositoryName>,
    },
    /// A node was named, and there are none.
    #[error("this hub takes no nodes by itself; start it with --tunnel ADDR")]
    NoNodes,
    /// None of that name.
    #[error("there is no node {0}; `blockferry hub enroll` makes one")]
    UnknownNode(NodeName),
    /// Which nodes there are cannot be told.
    #[error(transparent)]
    Nodes(#[from] NodeError),
    /// A VM that the node cannot find.
    #[error("{0}")]
    NoVm(BackupError),
    /// The node cannot be asked for its VMs, or its vCenter not.
    #[error("{0}")]
    VmsAway(BackupError),
    /// Whoever asked did not wait for the answer.
    #[error("it was called off before there was a job")]
    HungUp,
    /// More disks than could ever start together.
    #[error(
        "the VM has {disks} disks, and this hub has {ports} ports, one for each disk; give it a wider range"
    )]
    TooManyDisks {
        /// Of the VM.
        disks: usize,
        /// Of the hub.
        ports: usize,
    },
    /// More than are kept.
    #[error("{waiting} jobs wait already, and no more are kept; ask again when some have run")]
    QueueFull {
        /// Jobs that wait.
        waiting: usize,
    },
    /// The hub stops.
    #[error("the hub is being stopped; ask again when it runs")]
    Stopping,
    /// What is asked for cannot become a point.
    #[error(transparent)]
    Request(#[from] BackupError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Nothing is left to be called off.
    #[error("job {job} is {state} already; there is nothing to call off")]
    Over {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
}

fn list(names: &[RepositoryName]) -> String {
    let words: Vec<&str> = names.iter().map(RepositoryName::as_str).collect();
    words.join(", ")
}

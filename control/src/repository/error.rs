//! Why a repository did not do what it was asked for.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::catalog::{
    CatalogError, DiskName, FailureKind, JobId, Layer, LayerId, PointId, RelativePath,
    StorageError, VmName,
};

/// One line that says what went wrong, and what to do. Published points are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// No repository there.
    #[error("{} is no repository: it has no catalog.db; a first backup makes one", root.display())]
    Missing {
        /// The folder.
        root: PathBuf,
    },
    /// A folder that is used for something else.
    #[error("{} is no repository, and not empty (it has {what}); name an empty folder, or a new one", root.display())]
    NotEmpty {
        /// The folder.
        root: PathBuf,
        /// Something in it.
        what: String,
    },
    /// Points without the catalog that knows them.
    #[error(
        "{} has points, and no catalog.db that knows them; put a copy of catalog.db back, or move the folder points away to begin anew", root.display()
    )]
    CatalogLost {
        /// The repository.
        root: PathBuf,
    },
    /// Its folders are on two file systems.
    #[error(
        "the folders work and points of {} are on different file systems, and a point is published by a rename; put both on one", root.display()
    )]
    Apart {
        /// The repository.
        root: PathBuf,
    },
    /// Its catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Others did not get on.
    #[error("{} was held by another blockferry for {deadline:?}; is one stuck? `fuser -v` of that folder shows which", folder.display())]
    Busy {
        /// The folder that the lock is on.
        folder: PathBuf,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// A hub has it.
    #[error("another hub works in {}; one hub has a repository at a time", root.display())]
    OtherHub {
        /// The repository.
        root: PathBuf,
    },
    /// A hub was told of it under two names.
    #[error("{first} and {second} are the same folder, {}; a hub has a repository once", root.display())]
    TwoNames {
        /// The repository.
        root: PathBuf,
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// No folder was named.
    #[error("the name of the repository is empty; name a folder")]
    Nowhere,
    /// A batch works in it.
    #[error("another batch is at work in {}; wait until it has ended", root.display())]
    OtherBatch {
        /// The repository.
        root: PathBuf,
    },
    /// Two backups of a VM at once.
    #[error("VM \"{vm}\" is being backed up by job {job}; wait until that has ended")]
    AtWork {
        /// The VM.
        vm: VmName,
        /// The other job.
        job: JobId,
    },
    /// A point that is being read, or that a delta is made on.
    #[error(
        "point {point} is in use by a backup, a restore, a verification or an export; wait for it, or end that first"
    )]
    InUse {
        /// The point.
        point: PointId,
    },
    /// A folder of a point, and no point in the catalog.
    #[error(
        "points/{point} is there, and the catalog does not know the point; put a copy of catalog.db in its place that does (verify tells what else is wrong)"
    )]
    PointUnknown {
        /// The point.
        point: PointId,
    },
    /// A disk that the point does not have.
    #[error("point {point} has no disk \"{disk}\"; it has {}", names(has))]
    NoSuchDisk {
        /// The point.
        point: PointId,
        /// What was asked for.
        disk: DiskName,
        /// What it has.
        has: Vec<DiskName>,
    },
    /// A file of a point that is not there.
    #[error(
        "{path} of point {point} is missing; points that stand on it cannot be read: {} (bring the file back from a copy of the repository)",
        list(touched)
    )]
    LayerMissing {
        /// The point that the file belongs to.
        point: PointId,
        /// The layer.
        layer: LayerId,
        /// Where its image should be.
        path: RelativePath,
        /// All points that stand on it, its own too.
        touched: Vec<PointId>,
    },
    /// A file of a point that was cut, or another one in its place.
    #[error(
        "{path} of point {point} is damaged: {why}; points that stand on it cannot be restored: {} (bring the file back from a copy of the repository)",
        list(touched)
    )]
    LayerCut {
        /// The point that the file belongs to.
        point: PointId,
        /// Its image.
        path: RelativePath,
        /// What is wrong.
        why: String,
        /// All points that stand on it, its own too.
        touched: Vec<PointId>,
    },
    /// Digests of a layer that are not there, or not those that were published with it.
    #[error(
        "the digests of layer {} (point {}) cannot be had: {why}; points that stand on it: {} \
         (bring the file back from a copy of the repository)",
        layer.facts.id, layer.point, list(touched)
    )]
    NoDigests {
        /// The layer. Boxed: it is many times as large as the others.
        layer: Box<Layer>,
        /// What is wrong with them.
        why: String,
        /// All points that stand on it, its own too.
        touched: Vec<PointId>,
    },
    /// The system could not do it.
    #[error("{}: {what}: {error}{}", path.display(), advice(error))]
    System {
        /// What it is about.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl RepositoryError {
    /// Whose fault it is for a job that writes. The repository is its target.
    #[must_use]
    pub fn failure(&self) -> FailureKind {
        match self {
            Self::Missing { .. }
            | Self::NotEmpty { .. }
            | Self::TwoNames { .. }
            | Self::Nowhere
            | Self::NoSuchDisk { .. }
            | Self::Catalog(CatalogError::NoSuchPoint(_)) => FailureKind::Request,
            Self::System { .. } | Self::Catalog(CatalogError::Storage(_)) => FailureKind::Target,
            _ => FailureKind::Other,
        }
    }

    pub(crate) fn system(path: &Path, what: &'static str, error: io::Error) -> Self {
        Self::System { path: path.to_owned(), what, error }
    }
}

impl From<StorageError> for RepositoryError {
    fn from(error: StorageError) -> Self {
        Self::Catalog(error.into())
    }
}

/// Points, as they stand in a sentence.
pub(crate) fn list(points: &[PointId]) -> String {
    let words: Vec<&str> = points.iter().map(PointId::as_str).collect();
    words.join(", ")
}

/// Disks, as they stand in a sentence.
pub(crate) fn names(disks: &[DiskName]) -> String {
    let words: Vec<&str> = disks.iter().map(DiskName::as_str).collect();
    words.join(", ")
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room: what is published is whole"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; this user has to be able to write there"
        }
        _ => "",
    }
}

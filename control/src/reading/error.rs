//! Why something that was kept could not be read, or not written where it was wanted.

use std::io;
use std::path::{Path, PathBuf};

use blockferry_dataplane::manifest::ManifestError;
use blockferry_dataplane::plan::Area;
use blockferry_dataplane::{Fault, Side};

use crate::catalog::{CatalogError, DiskName, FailureKind, LayerId, PointId};
use crate::export::ExportError;
use crate::image::ImageError;
use crate::repository::{RepositoryError, disk_names, point_list};

/// One line that says what went wrong, and what to do. The repository is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// There is room for one disk, and there are more.
    #[error(
        "{target} takes one disk, and point {point} has {}: {}; name the one that is meant",
        disks.len(),
        disk_names(disks)
    )]
    NotOneDisk {
        /// The point.
        point: PointId,
        /// Its disks, or those that were asked for.
        disks: Vec<DiskName>,
        /// Where they were to go.
        target: String,
    },
    /// Something is there already.
    #[error("{} exists already; it is left as it is, unless --force replaces it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else writes the same file.
    #[error("{} is being written by another restore; wait until that has ended", path.display())]
    Busy {
        /// The file in the making.
        path: PathBuf,
    },
    /// A file in the making that others have too.
    #[error(
        "{} is there and cannot be written: {why}; remove it, or name a folder that nobody else may write", path.display()
    )]
    NotOurs {
        /// The file in the making.
        path: PathBuf,
        /// Whose it is.
        why: &'static str,
    },
    /// Somebody put another file in the place of the one that was written.
    #[error(
        "another file was put at {} while it was written, which is not what was restored; name a folder that nobody else may write", path.display()
    )]
    Swapped {
        /// Where.
        path: PathBuf,
    },
    /// Nobody can say whether the content is right.
    #[error(
        "disk {disk}: the digests of layer {layer} (point {point}) cannot be had, so its content \
         cannot be vouched for: {why}; points that stand on it: {} (export serves it as it is)",
        point_list(touched)
    )]
    Digests {
        /// The disk.
        disk: DiskName,
        /// The layer.
        layer: LayerId,
        /// The point that it belongs to.
        point: PointId,
        /// What is wrong with them.
        why: String,
        /// All points that stand on the layer, its own too.
        touched: Vec<PointId>,
    },
    /// What was read is not what was written.
    #[error(
        "disk {disk}: the content differs from what was backed up, first at bytes {} to {} \
         ({}{bytes} bytes in all); verify tells which points that touches",
        first.start,
        first.end(),
        at.map(|(layer, point)| format!("layer {layer} of point {point}; ")).unwrap_or_default()
    )]
    Differs {
        /// The disk.
        disk: DiskName,
        /// The layer that has the first range, and the point that it belongs to, if that is known.
        at: Option<(LayerId, PointId)>,
        /// The first range.
        first: Area,
        /// All that differs, in blocks of 64 KiB.
        bytes: u64,
    },
    /// An export of the repository.
    #[error("disk {disk}: {error}")]
    Export {
        /// The disk.
        disk: DiskName,
        /// Why not.
        error: Box<ExportError>,
    },
    /// An image of the repository that could not be looked at.
    #[error("disk {disk}: {error}")]
    Image {
        /// The disk.
        disk: DiskName,
        /// Why not.
        error: Box<ImageError>,
    },
    /// A new image, and what serves it meanwhile.
    #[error("disk {disk}: {what}")]
    NewImage {
        /// The disk.
        disk: DiskName,
        /// What is wrong.
        what: String,
    },
    /// A disk that cannot be read or written.
    #[error("disk {disk}: {}", told(fault, said))]
    Lane {
        /// The disk.
        disk: DiskName,
        /// What happened.
        fault: Box<Fault>,
        /// The last words of the export of the repository.
        said: String,
    },
    /// An export that is gone for good.
    #[error("disk {disk} is served no more, for {exited}")]
    Lost {
        /// The disk.
        disk: DiskName,
        /// What became of its server.
        exited: String,
    },
    /// What somebody else said who reads the point for us: a hub.
    #[error("{words}")]
    Remote {
        /// Its words.
        words: String,
        /// Whose fault it is.
        failure: FailureKind,
    },
    /// Ports for the exports.
    #[error("{error}")]
    Listen {
        /// Why not.
        error: Box<ExportError>,
    },
    /// All ports are taken.
    #[error("there are not {wanted} free ports from {first} to {last} on 127.0.0.1; choose others")]
    NoPorts {
        /// How many it takes.
        wanted: usize,
        /// The first that was tried.
        first: u16,
        /// The last.
        last: u16,
    },
    /// A file that is written, or one that is needed meanwhile.
    #[error("{}: {what}: {error}", path.display())]
    System {
        /// What it is about.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The digests of what was read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A thread or an engine that cannot be had.
    #[error(transparent)]
    Mover(Fault),
    /// Somebody called it off.
    #[error("interrupted")]
    Cancelled,
}

impl From<CatalogError> for ReadError {
    fn from(error: CatalogError) -> Self {
        Self::Repository(error.into())
    }
}

impl ReadError {
    pub(crate) fn system(path: &Path, what: &'static str, error: io::Error) -> Self {
        Self::System { path: path.to_owned(), what, error }
    }

    /// Whose fault it is. The repository is the source.
    #[must_use]
    pub fn failure(&self) -> FailureKind {
        match self {
            Self::NotOneDisk { .. }
            | Self::Exists { .. }
            | Self::NoPorts { .. }
            | Self::Repository(
                RepositoryError::NoSuchDisk { .. }
                | RepositoryError::Missing { .. }
                | RepositoryError::Catalog(CatalogError::NoSuchPoint(_)),
            ) => FailureKind::Request,
            Self::Lane { fault, .. } if matches!(**fault, Fault::Request(_)) => {
                FailureKind::Request
            }
            Self::Remote { failure, .. } => *failure,
            other => match other.side() {
                Some(Side::Source) => FailureKind::Source,
                Some(Side::Target) => FailureKind::Target,
                None => FailureKind::Other,
            },
        }
    }

    /// The side that is to blame, if it is one. The repository is the source.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::Lane { fault, .. } => fault.side(),
            Self::Repository(_) | Self::Digests { .. } => Some(Side::Source),
            Self::Export { .. } | Self::Image { .. } | Self::Lost { .. } => Some(Side::Source),
            Self::NewImage { .. }
            | Self::System { .. }
            | Self::NotOurs { .. }
            | Self::Swapped { .. } => Some(Side::Target),
            _ => None,
        }
    }
}

/// The source is named by what it is, and not by the address of its export.
fn told(fault: &Fault, export: &str) -> String {
    match fault {
        Fault::Side { side: Side::Source, cause, .. } => {
            let said =
                if export.is_empty() { String::new() } else { format!("; qemu-nbd: {export}") };
            format!("the repository: {cause}{said}")
        }
        other => other.to_string(),
    }
}

//! Why something that was kept could not be read, or not written where it was wanted.

use std::io;
use std::path::{Path, PathBuf};

use blockferry_dataplane::manifest::ManifestError;
use blockferry_dataplane::plan::Area;
use blockferry_dataplane::{Fault, Side};

use crate::budgets::BudgetError;
use crate::catalog::{CatalogError, DiskName, FailureKind, LayerId, PointId};
use crate::export::ExportError;
use crate::image::ImageError;
use crate::repository::{RepositoryError, disk_names, point_list};
use crate::snapshots::{HypervisorError, LedgerError};
use crate::sources::vddk::SourceError;
use crate::vsphere::PasswordError;

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
    /// What was written is not what was read back.
    #[error(
        "disk {disk}: {target} gives back something else than was written to it, first at bytes {} to \
         {} ({bytes} bytes in all); look at what it lies on",
        first.start,
        first.end()
    )]
    ReadBack {
        /// The disk.
        disk: DiskName,
        /// What was written.
        target: String,
        /// The first range.
        first: Area,
        /// All that differs, in blocks of 64 KiB.
        bytes: u64,
    },
    /// A disk of a VM was begun to be written, and is not what it was, nor what it should be.
    #[error(
        "{cause}; {target} is now partly overwritten: restore it again before the VM is started"
    )]
    Overwritten {
        /// What is overwritten.
        target: String,
        /// Why it is not whole.
        cause: Box<ReadError>,
    },
    /// A disk that was right, and went with the new VM that it was in.
    #[error("disk {disk} is removed again with the new VM {vm}, for another disk failed")]
    NotKept {
        /// The disk.
        disk: DiskName,
        /// Where the VM stood.
        vm: String,
    },
    /// A VM that cannot be restored into as it is.
    #[error("VM {vm} is not restored into: {why}")]
    UnfitVm {
        /// Where it stands.
        vm: String,
        /// Why not, and what to do.
        why: String,
    },
    /// Disks of a point and of a VM that do not go together.
    #[error("disk {disk} has no place in VM {vm}: {why}; the VM has {has}")]
    NoMatch {
        /// The disk of the point.
        disk: DiskName,
        /// Where the VM stands.
        vm: String,
        /// Why not.
        why: String,
        /// The disks of the VM.
        has: String,
    },
    /// What the hypervisor said.
    #[error(transparent)]
    Hypervisor(Box<HypervisorError>),
    /// Where it is written down who works with a VM.
    #[error(transparent)]
    Ledger(Box<LedgerError>),
    /// What other jobs take of hosts, which it has to wait for.
    #[error(transparent)]
    Budget(Box<BudgetError>),
    /// The password of the hypervisor.
    #[error(transparent)]
    Password(Box<PasswordError>),
    /// A disk of a VM that cannot be opened for writing.
    #[error(transparent)]
    Vddk(Box<SourceError>),
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

impl From<HypervisorError> for ReadError {
    fn from(error: HypervisorError) -> Self {
        match error {
            HypervisorError::CalledOff => Self::Cancelled,
            error => Self::Hypervisor(Box::new(error)),
        }
    }
}

impl From<BudgetError> for ReadError {
    fn from(error: BudgetError) -> Self {
        match error {
            BudgetError::CalledOff => Self::Cancelled,
            error => Self::Budget(Box::new(error)),
        }
    }
}

impl From<LedgerError> for ReadError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(Box::new(error))
    }
}

impl From<SourceError> for ReadError {
    fn from(error: SourceError) -> Self {
        Self::Vddk(Box::new(error))
    }
}

impl ReadError {
    /// What is behind it, without what came of it.
    #[must_use]
    pub fn root(&self) -> &Self {
        match self {
            Self::Overwritten { cause, .. } => cause.root(),
            other => other,
        }
    }

    pub(crate) fn system(path: &Path, what: &'static str, error: io::Error) -> Self {
        Self::System { path: path.to_owned(), what, error }
    }

    /// Whose fault it is. The repository is the source.
    #[must_use]
    pub fn failure(&self) -> FailureKind {
        match self.root() {
            Self::NotOneDisk { .. }
            | Self::NoMatch { .. }
            | Self::Password(_)
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
            Self::Hypervisor(error) if error.is_wrong_request() => FailureKind::Request,
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
        match self.root() {
            Self::Lane { fault, .. } => fault.side(),
            Self::Repository(_) | Self::Digests { .. } => Some(Side::Source),
            Self::Export { .. } | Self::Image { .. } | Self::Lost { .. } => Some(Side::Source),
            Self::NewImage { .. }
            | Self::ReadBack { .. }
            | Self::UnfitVm { .. }
            | Self::Hypervisor(_)
            | Self::Vddk(_)
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

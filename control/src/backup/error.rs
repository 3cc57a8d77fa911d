//! Why there is no new point.

use std::fmt;

use blockferry_dataplane::manifest::ManifestError;
use blockferry_dataplane::nbd::NbdError;
use blockferry_dataplane::{Cause, Fault, Side};

use crate::budgets::BudgetError;
use crate::catalog::{CatalogError, DiskName, FailureKind, VmName, VmUuid};
use crate::export::ExportError;
use crate::image::ImageError;
use crate::repository::RepositoryError;
use crate::snapshots::{HypervisorError, LedgerError};
use crate::sources::vddk::SourceError;
use crate::vsphere::PasswordError;

/// One line that says what went wrong, and what to do. No point was made, and those that were
/// there stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// No disk.
    #[error("VM \"{0}\" has no disk to back up; name one at least")]
    NoDisk(VmName),
    /// Two of one name.
    #[error("two disks of VM \"{vm}\" are called \"{disk}\"; give each a name of its own")]
    NameTwice {
        /// The VM.
        vm: VmName,
        /// The name.
        disk: DiskName,
    },
    /// Deltas were asked for, and cannot be made.
    #[error(
        "{disk}: no incremental backup is possible: {why}; leave the mode to auto, or take full"
    )]
    NotIncremental {
        /// The disk.
        disk: WhichDisk,
        /// Why not.
        why: String,
    },
    /// A source without content.
    #[error(
        "{disk}: its source has a size of 0 bytes; is it the right one, and is its medium there?"
    )]
    Empty {
        /// The disk.
        disk: WhichDisk,
    },
    /// A disk that cannot be read or written.
    #[error("{disk}: {}", told(fault, exports))]
    Disk {
        /// The disk.
        disk: WhichDisk,
        /// What happened.
        fault: Box<Fault>,
        /// Whether its target is an export of the repository, and its last words.
        exports: String,
    },
    /// A disk that a node cannot read or write.
    #[error("{disk}: {}", at_node(*side, said, exports))]
    DiskAtNode {
        /// The disk.
        disk: WhichDisk,
        /// The side at fault, if it is one.
        side: Option<Side>,
        /// Whose fault it is.
        failure: FailureKind,
        /// What happened, in the words of the node.
        said: String,
        /// The last words of its export.
        exports: String,
    },
    /// What the hypervisor said.
    #[error(transparent)]
    Hypervisor(Box<HypervisorError>),
    /// A VM that cannot be backed up as it is.
    #[error("VM {vm}: {why}")]
    Unready {
        /// Where it stands.
        vm: String,
        /// Why not.
        why: String,
    },
    /// Another VM of that name has points here.
    #[error(
        "the repository has points of another VM that is called \"{vm}\" (its UUID is {has}, and this \
         one's {is}); give this one another name with --as"
    )]
    OtherVm {
        /// The name.
        vm: VmName,
        /// The UUID of the VM that has points.
        has: VmUuid,
        /// That of the one to back up.
        is: VmUuid,
    },
    /// Where snapshots are written down.
    #[error(transparent)]
    Ledger(Box<LedgerError>),
    /// Where jobs agree on what they take of hosts.
    #[error(transparent)]
    Budget(Box<BudgetError>),
    /// The password of the hypervisor.
    #[error(transparent)]
    Password(Box<PasswordError>),
    /// A disk that cannot be served.
    #[error(transparent)]
    Source(Box<SourceError>),
    /// A source that is not what its snapshot has.
    #[error("{disk}: what is served has {has} bytes, and its snapshot {size}")]
    OtherSize {
        /// The disk.
        disk: WhichDisk,
        /// Bytes of what is served.
        has: u64,
        /// Bytes of the snapshot's disk.
        size: u64,
    },
    /// What a node says of the VM, with its name before it.
    #[error("{said}")]
    VmAtNode {
        /// Whose fault it is.
        failure: FailureKind,
        /// What happened.
        said: String,
    },
    /// The node that was to read the disks.
    #[error("{0}")]
    Node(String),
    /// An image that is not as it should be after the copy.
    #[error("{disk}: the new image is not whole: {what}; look at the storage of the repository")]
    NotWhole {
        /// The disk.
        disk: WhichDisk,
        /// What is wrong.
        what: String,
    },
    /// Digests of another disk.
    #[error(
        "{disk}: its digests are of a disk of {has} bytes, and it has {size}: the source changed, or \
         whoever read it is not to be trusted"
    )]
    Digests {
        /// The disk.
        disk: WhichDisk,
        /// Bytes of the disk that the digests are of.
        has: u64,
        /// Bytes of the disk.
        size: u64,
    },
    /// The repository.
    #[error(transparent)]
    Repository(Box<RepositoryError>),
    /// An image.
    #[error(transparent)]
    Image(Box<ImageError>),
    /// An export.
    #[error(transparent)]
    Export(Box<ExportError>),
    /// A manifest of an earlier point.
    #[error(transparent)]
    Manifest(Box<ManifestError>),
    /// A thread or an engine that cannot be had.
    #[error(transparent)]
    Mover(Box<Fault>),
    /// Somebody called it off.
    #[error("interrupted")]
    Cancelled,
    /// Somebody called it off, and what was waited for all the same failed then.
    #[error("interrupted; what was waited for until then failed: {0}")]
    CancelledAmid(Box<HypervisorError>),
}

/// A disk in the words of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhichDisk(pub DiskName);

impl fmt::Display for WhichDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {}", self.0)
    }
}

/// Boxed, for most results are no errors and should be small.
macro_rules! from {
    ($($error:ident => $variant:ident),+ $(,)?) => {$(
        impl From<$error> for BackupError {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error.into()))
            }
        }
    )+};
}

from! {
    RepositoryError => Repository,
    CatalogError => Repository,
    ImageError => Image,
    ExportError => Export,
    ManifestError => Manifest,
    LedgerError => Ledger,
    SourceError => Source,
}

impl BackupError {
    /// Whether it ended because somebody called it off.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::CancelledAmid(_))
    }

    /// Whose fault it is.
    #[must_use]
    pub fn failure(&self) -> FailureKind {
        match self {
            Self::NoDisk(_)
            | Self::NameTwice { .. }
            | Self::NotIncremental { .. }
            | Self::OtherVm { .. }
            | Self::Password(_) => FailureKind::Request,
            Self::Hypervisor(error) if error.is_wrong_request() => FailureKind::Request,
            // Areas that lie outside of the disk.
            Self::Disk { fault, .. } if matches!(**fault, Fault::Request(_)) => {
                FailureKind::Request
            }
            Self::DiskAtNode { failure, .. } | Self::VmAtNode { failure, .. } => *failure,
            Self::Repository(error) => error.failure(),
            other => match other.side() {
                Some(Side::Source) => FailureKind::Source,
                Some(Side::Target) => FailureKind::Target,
                None => FailureKind::Other,
            },
        }
    }

    /// The side that is to blame, if it is one. The repository is the target's side.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::Disk { fault, .. } => fault.side(),
            Self::DiskAtNode { side, .. } => *side,
            Self::Empty { .. }
            | Self::Digests { .. }
            | Self::Hypervisor(_)
            | Self::CancelledAmid(_)
            | Self::Unready { .. }
            | Self::Source(_)
            | Self::OtherSize { .. } => Some(Side::Source),
            Self::NotWhole { .. } | Self::Image(_) | Self::Export(_) => Some(Side::Target),
            Self::Repository(error) if matches!(**error, RepositoryError::System { .. }) => {
                Some(Side::Target)
            }
            _ => None,
        }
    }
}

/// A target is named by what it is for, and not by the address of its export.
fn told(fault: &Fault, export: &str) -> String {
    match fault {
        Fault::Side { side: Side::Target, .. } => {
            format!("the repository: {}", target_words(fault, export))
        }
        other => other.to_string(),
    }
}

/// What happened to the lane of a node.
fn at_node(side: Option<Side>, said: &str, export: &str) -> String {
    match side {
        Some(Side::Target) => {
            format!("the repository, from the node: {said}{}", last_words(export))
        }
        _ => format!("at the node: {said}"),
    }
}

fn last_words(export: &str) -> String {
    if export.is_empty() { String::new() } else { format!("; qemu-nbd: {export}") }
}

/// What a fault of the target is, without saying which target; with what its export said.
pub(crate) fn target_words(fault: &Fault, export: &str) -> String {
    let Fault::Side { cause, .. } = fault else { return fault.to_string() };
    let advice = if is_full(cause) { "; make room in the repository" } else { "" };
    format!("{cause}{}{advice}", last_words(export))
}

fn is_full(cause: &Cause) -> bool {
    match cause {
        Cause::Refused { error, .. } => *error == NbdError::NoSpc,
        Cause::GaveUp { last, .. } => is_full(last),
        _ => false,
    }
}

//! Why an image could not be made or looked at.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One line that says what went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No qemu-img.
    #[error(
        "cannot run {program}: no such command; install qemu-utils (qemu-img), or set its path"
    )]
    ToolMissing {
        /// The name that was looked for.
        program: String,
    },
    /// There is something at the path already; nothing is ever written over.
    #[error("{} exists already; it is left as it is, choose another name", path.display())]
    Exists {
        /// The image.
        path: PathBuf,
    },
    /// No such image.
    #[error("there is no image {}", path.display())]
    Missing {
        /// The image.
        path: PathBuf,
    },
    /// A file below the image is not there.
    #[error("a backing file of {} is missing: {said}; bring it back, the image is of no use without", path.display())]
    BackingMissing {
        /// The image.
        path: PathBuf,
        /// qemu's words.
        said: String,
    },
    /// Another process has it open.
    #[error("{} is in use by another process (an export, a virtual machine, qemu-img): {said}; end that one first", path.display())]
    Locked {
        /// The image.
        path: PathBuf,
        /// qemu's words.
        said: String,
    },
    /// The file system is full.
    #[error("no space left for {}: {said}; make room there, or choose another folder", path.display())]
    NoSpace {
        /// The image.
        path: PathBuf,
        /// The words of qemu or of the system.
        said: String,
    },
    /// The system forbids it.
    #[error("{} may not be opened or made: {said}; check owner, mode, and whether the file system is read-only", path.display())]
    Forbidden {
        /// The image.
        path: PathBuf,
        /// The words of qemu or of the system.
        said: String,
    },
    /// A size that no qcow2 image of this cluster size can have.
    #[error("an image of {size_bytes} bytes cannot be made; {hint}")]
    Size {
        /// What was wanted, in bytes.
        size_bytes: u64,
        /// What can be.
        hint: &'static str,
    },
    /// A cluster size that qcow2 does not have.
    #[error(
        "clusters of {cluster_bytes} bytes are not possible; a power of two from 512 to 2097152 is"
    )]
    ClusterSize {
        /// What was wanted, in bytes.
        cluster_bytes: u32,
    },
    /// A path that a qcow2 header cannot hold.
    #[error("the backing file {} cannot be named in an image: {reason}", path.display())]
    BackingName {
        /// The parent.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// It took too long, and was ended.
    #[error("{program} {action} {} did not end within {deadline:?} and was ended: {said}; look at the storage below it", path.display())]
    TimedOut {
        /// Its name.
        program: String,
        /// Its subcommand.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// The deadline.
        deadline: Duration,
        /// Its words.
        said: String,
    },
    /// Somebody ended it: the kernel where memory is short, or an administrator. That says nothing
    /// about the image.
    #[error("{program} {action} {} {how}: {said}; look at the memory of the machine, and run it again", path.display())]
    Killed {
        /// Its name.
        program: String,
        /// Its subcommand.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// By which signal, in words.
        how: String,
        /// Its words.
        said: String,
    },
    /// It failed for a reason of its own.
    #[error("{program} {action} {} {how}: {said}", path.display())]
    Failed {
        /// Its name.
        program: String,
        /// Its subcommand.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// Its exit status in words.
        how: String,
        /// Its words.
        said: String,
    },
    /// Its answer is not what qemu-img answers.
    #[error("{program} {action} {} answered what cannot be understood ({error}); is it qemu-img?", path.display())]
    Answer {
        /// Its name.
        program: String,
        /// Its subcommand.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The system could not do it.
    #[error("{}: {what}: {error}", path.display())]
    System {
        /// The image.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl ImageError {
    /// Whether it says something about the image, or one below it. The others are the machine's:
    /// no program, one that was killed or is stuck, no rights, an image in use.
    #[must_use]
    pub fn is_of_image(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. }
                | Self::Answer { .. }
                | Self::Missing { .. }
                | Self::BackingMissing { .. }
        )
    }

    /// An error of the system at a file.
    pub(super) fn file(path: &Path, what: &'static str, error: io::Error) -> Self {
        let path = path.to_owned();
        let said = error.to_string();
        match error.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, said }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Forbidden { path, said }
            }
            _ => Self::System { path, what, error },
        }
    }
}

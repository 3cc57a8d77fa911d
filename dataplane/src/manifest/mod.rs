//! The digest manifest: one digest per 64 KiB of a disk, in a file with random access.
//!
//! ```text
//! 0       header, 4096 bytes: magic, version, algorithm, sizes, trailer's place, checksums
//! 4096    one entry per block, all of one length: a tag byte and the digest
//! ...     trailer: runs of zero blocks, 16 bytes a run
//! ```
//!
//! All numbers are little endian. A block that was never recorded has a tag of 0, which is also
//! what a hole of a sparse file reads as. Zeros are kept as runs, because a large disk is mostly
//! zeros: a run of the trailer counts before the entries that it covers. No more than
//! [`MAX_ZERO_RUNS`] are kept; where there are more, the shortest become entries.
//!
//! The file has its final name only when it is complete: until [`ManifestWriter::finish`] it is
//! `NAME.partial`. Nothing but an older manifest, or an empty file, is ever replaced. The writer owns
//! that file and removes it when it is dropped before, unless a
//! [checkpoint](ManifestWriter::checkpoint) was made, with which a later run goes on.

#![forbid(unsafe_code)]

mod format;
mod identity;
mod lookup;
mod mark;
mod overlay;
mod partial;
mod place;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::PathBuf;

pub(crate) use lookup::Lookup;
pub use mark::ManifestMark;
pub use overlay::Overlaid;
pub use read::{Compare, Entries, Manifest, Verdict};
pub use write::ManifestWriter;

use crate::digest::{Digest, DigestAlgorithm};

/// Runs of zeros that a writer or a reader holds at most: 65,536 * 16 bytes = 1 MiB.
pub const MAX_ZERO_RUNS: usize = 65_536;

/// What a manifest says of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing: the block was not moved.
    Absent,
    /// The block is zeros.
    Zero,
    /// The block has this digest.
    Data(Digest),
}

/// Why a manifest cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The operating system refused.
    #[error("cannot {action} the manifest {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file does not begin as a manifest does.
    #[error("{} is not a digest manifest; name the file that --manifest wrote", path.display())]
    NotAManifest {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by another version.
    #[error(
        "the manifest {} has version {version}, and this program reads version {supported}; \
         make it again with this program",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The version that is read here.
        supported: u32,
    },
    /// The content contradicts itself.
    #[error("the manifest {} is damaged: {problem}; make it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is something where the manifest would be written, and it is not ours to replace.
    #[error("{} is {what}, no digest manifest, and is left alone; name another file", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// A manifest in the making that does not go with the journal of its copy.
    #[error("the manifest {} does not go with the journal: {problem}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why it does not.
        problem: String,
    },
    /// A block that the disk does not have.
    #[error("block {index} is behind the end of a disk of {blocks} blocks")]
    NoSuchBlock {
        /// The block.
        index: u64,
        /// Number of blocks of the disk.
        blocks: u64,
    },
    /// A digest of another length than those of the manifest's algorithm.
    #[error("a digest of {length} bytes cannot be one of {algorithm}")]
    ForeignDigest {
        /// Its length in bytes.
        length: usize,
        /// The algorithm of the manifest.
        algorithm: DigestAlgorithm,
    },
    /// A disk whose manifest would not fit into a file.
    #[error("a disk of {disk_size} bytes is too large for a manifest")]
    DiskTooLarge {
        /// Its size in bytes.
        disk_size: u64,
    },
    /// A chain of no layers.
    #[error("there is no manifest to be laid over others: a chain has at least one layer")]
    NoLayers,
    /// Two manifests that have nothing to compare.
    #[error("{} and {} cannot be compared: {field} is {one} in one and {other} in the other", path.display(), other_path.display())]
    Incomparable {
        /// The one manifest.
        path: PathBuf,
        /// The other.
        other_path: PathBuf,
        /// What differs.
        field: &'static str,
        /// Its value in the one.
        one: String,
        /// Its value in the other.
        other: String,
    },
}

impl ManifestError {
    /// Whether another path or another manifest would have to be asked for; all else is a failure
    /// of this machine, as that of a file system that is full.
    #[must_use]
    pub fn is_wrong_request(&self) -> bool {
        match self {
            Self::Io { source, .. } => crate::fault::is_about_the_path(source),
            _ => true,
        }
    }
}

//! What is kept on disk: jobs, leases, and the restore points of a repository.
//!
//! ```text
//!   Jobs  queued ▸ planning ▸ copying ▸ publishing ▸ done │ failed │ cancelled
//!     │      each step with time and reason
//!     ├─ Leases  a claim on a port, export, image, snapshot: one owner, released once, by it
//!     └─ Points  one transaction for all disks of a VM            ┌───────────────┐
//!          point ── layer of disk "root" ──parent──▶ layer ──▶ …  │ full, no      │
//!                ── layer of disk "data" ──parent──▶ … ─────────▶ │ parent        │
//!                                                                 └───────────────┘
//!   SqliteCatalog   one file: a repository's `catalog.db`, or a hub's own
//! ```
//!
//! A repository's catalog goes with the repository: its points and layers are there, whichever
//! hub wrote them. A hub has a catalog of its own for jobs and leases. Both have the same tables;
//! where no hub is, the repository's has all of it.
//!
//! Calls block for as long as the disk takes, and are durable when they return. From asynchronous
//! code they are called on a thread that may block.

mod error;
mod id;
mod job;
mod lease;
mod name;
mod path;
mod point;
mod sqlite;
#[cfg(test)]
mod tests;
mod time;
mod word;

use std::path::Path;

pub use error::{CatalogError, PublishRule, StorageError};
pub use id::{DiskId, JobId, LayerId, LeaseId, PointId};
pub use job::{
    Admission, BackupMode, FailureKind, Job, JobFilter, JobKind, JobState, JobStep, Jobs, NewJob,
};
pub use lease::{Claim, ClaimKind, Lease, Leases};
pub use name::{
    ChangeId, DiskName, DiskUuid, IdempotencyKey, ManifestId, RequestHash, ValueError, VmName,
    VmUuid,
};
pub use path::RelativePath;
pub use point::{
    ByteCounts, CheckedFile, Disk, FoundDamage, Layer, LayerFacts, LayerKind, ManifestFacts,
    NewPoint, NoteWeight, Point, PointFilter, PointNote, Points,
};
pub use sqlite::{BUSY_DEADLINE, CATALOG_FILE, SqliteCatalog};
pub use time::UnixMillis;

/// All that is kept on disk, behind one trait: many hubs can share another database one day.
pub trait Catalog: Jobs + Leases + Points + Send + Sync {
    /// Writes a copy of one instant to `path`, also while others read and write. The copy is a
    /// single file, complete and durable when this returns, and readable by its owner only.
    ///
    /// # Errors
    /// [`StorageError::Exists`] where something stands at `path`, which is left alone; another
    /// [`StorageError`] when it cannot be written, which leaves nothing at `path`.
    fn copy_to(&self, path: &Path) -> Result<(), CatalogError>;
}

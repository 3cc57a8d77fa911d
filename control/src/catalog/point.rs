//! Restore points: all disks of a VM at one instant, each as a layer of its disk's chain.

use blockferry_dataplane::digest::DigestAlgorithm;

use super::error::CatalogError;
use super::id::{DiskId, JobId, LayerId, PointId};
use super::job::BackupMode;
use super::name::{ChangeId, DiskName, DiskUuid, ManifestId, VmName, VmUuid};
use super::path::RelativePath;
use super::time::UnixMillis;
use super::word::words;

/// A disk: that of its UUID, or where a source has none, that of its name.
///
/// In doubt it is another disk, which costs a full and never a wrong chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its id in this catalog.
    pub id: DiskId,
    /// Whose it is.
    pub vm: VmName,
    /// What it was called last.
    pub name: DiskName,
    /// What it is known by.
    pub uuid: Option<DiskUuid>,
}

words! {
    /// What a layer holds.
    LayerKind, "kind of layer" {
        /// The whole disk, on nothing.
        Full = "full",
        /// What differs from the layer below.
        Delta = "delta",
    }
}

impl LayerKind {
    /// The mode that asks for it.
    #[must_use]
    pub fn mode(self) -> BackupMode {
        match self {
            Self::Full => BackupMode::Full,
            Self::Delta => BackupMode::Incremental,
        }
    }
}

/// Bytes of a copy, apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCounts {
    /// Read from the source.
    pub read: u64,
    /// Found to be zero, by word of the source or by reading them.
    pub zero: u64,
    /// Sent to the target.
    pub sent: u64,
    /// Left alone, for they are in the layer below.
    pub skipped: u64,
}

/// The digests of a disk's content at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFacts {
    /// How they are made.
    pub algorithm: DigestAlgorithm,
    /// The file that has them.
    pub path: RelativePath,
    /// What was in it when the layer was published: no other file is taken for it. Unknown of
    /// layers that an older program published.
    pub id: Option<ManifestId>,
}

/// A file as it was when it was looked at. One that is the same in all of this has not been written
/// since then, as far as a file system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedFile {
    /// Its number in its file system.
    pub inode: u64,
    /// When it was written last: nanoseconds since 1970.
    pub modified_ns: i64,
    /// Its length.
    pub bytes: u64,
}

/// A layer, as it is handed in and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// Its id.
    pub id: LayerId,
    /// Of which disk.
    pub disk: DiskId,
    /// Full or delta.
    pub kind: LayerKind,
    /// Why it is that.
    pub reason: String,
    /// The layer below: none of a full, the newest published one of the disk of a delta.
    pub parent: Option<LayerId>,
    /// Its image.
    pub path: RelativePath,
    /// Exact size of the disk, in bytes.
    pub size_bytes: u64,
    /// Bytes that the image takes on disk.
    pub stored_bytes: u64,
    /// Length of the image's file, which never changes: one of another length is damaged. Unknown
    /// of layers that an older program published.
    pub file_bytes: Option<u64>,
    /// Which file it was when its tables were found right last.
    pub checked: Option<CheckedFile>,
    /// From where on the source can tell what changes. It is a base only through this layer.
    pub change: Option<ChangeId>,
    /// Its digests.
    pub manifest: Option<ManifestFacts>,
    /// What its copy moved.
    pub counts: ByteCounts,
}

/// A layer of a published point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Whose it is.
    pub point: PointId,
    /// What its disk was called then.
    pub disk_name: DiskName,
    /// What a verification or a restore found wrong with it, if anything.
    pub damage: Option<FoundDamage>,
    /// The rest of it.
    pub facts: LayerFacts,
}

/// Damage of a layer that a verification or a restore found, and no verification since then mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDamage {
    /// What is wrong, in words.
    pub says: String,
    /// When that was found first.
    pub found: UnixMillis,
}

words! {
    /// How much something weighs that is noted of a point.
    NoteWeight, "weight of a note" {
        /// How it was made.
        Note = "note",
        /// Something that it lacks.
        Warning = "warning",
        /// Something that was found wrong, and that it does not suffer from.
        Alarm = "alarm",
    }
}

/// Something that whoever restores a point should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointNote {
    /// How much it weighs.
    pub weight: NoteWeight,
    /// What, in one line.
    pub says: String,
}

/// A point that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPoint {
    /// Its id.
    pub id: PointId,
    /// Of which VM.
    pub vm: VmName,
    /// What that VM is known by, if it is known.
    pub vm_uuid: Option<VmUuid>,
    /// The instant that it shows: that of the snapshot.
    pub created: UnixMillis,
    /// What was asked for.
    pub mode: BackupMode,
    /// The job that made it. It may be kept in another catalog, the hub's.
    pub job: JobId,
    /// What there is to know of it.
    pub notes: Vec<PointNote>,
    /// A layer for each disk.
    pub layers: Vec<LayerFacts>,
}

/// A published point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its id.
    pub id: PointId,
    /// Of which VM.
    pub vm: VmName,
    /// What that VM is known by, if it was known.
    pub vm_uuid: Option<VmUuid>,
    /// The instant that it shows.
    pub created: UnixMillis,
    /// When it was published.
    pub published: UnixMillis,
    /// What was asked for.
    pub mode: BackupMode,
    /// The job that made it.
    pub job: JobId,
}

/// Which points; all where nothing is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointFilter {
    /// Of this VM.
    pub vm: Option<VmName>,
    /// No more than so many, the newest ones.
    pub newest: Option<u32>,
    /// Published before this one.
    pub before: Option<PointId>,
}

/// The points of a catalog, and what they are made of.
pub trait Points {
    /// The disk of a VM with this UUID, or without one of this name; it is added where it is not
    /// known. A name that changed is noted.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn disk(
        &self,
        vm: &VmName,
        name: &DiskName,
        uuid: Option<&DiskUuid>,
    ) -> Result<Disk, CatalogError>;

    /// The disks of a VM, first known first.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn disks(&self, vm: &VmName) -> Result<Vec<Disk>, CatalogError>;

    /// Publishes a point with all its layers, or nothing of it.
    ///
    /// A job of this catalog has to be in [`Publishing`](super::JobState::Publishing), and is
    /// done by the same transaction. One that is kept elsewhere is up to its keeper, who finds
    /// out by [`point_of`](Self::point_of) what became of it.
    ///
    /// # Errors
    /// [`CatalogError::Unpublishable`] with the rule that the point breaks, and
    /// [`CatalogError::Published`] when its job has published one before.
    fn publish(&self, point: NewPoint) -> Result<Point, CatalogError>;

    /// One point.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchPoint`].
    fn point(&self, point: PointId) -> Result<Point, CatalogError>;

    /// What was noted of a point, in the order in which it was.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchPoint`].
    fn notes(&self, point: PointId) -> Result<Vec<PointNote>, CatalogError>;

    /// Points in the order in which they were published.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchPoint`] when the one that they were to come before is not there.
    fn points(&self, filter: &PointFilter) -> Result<Vec<Point>, CatalogError>;

    /// The point that a job published, if it did.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn point_of(&self, job: JobId) -> Result<Option<Point>, CatalogError>;

    /// The layers of a point, by the names of their disks.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchPoint`].
    fn layers(&self, point: PointId) -> Result<Vec<Layer>, CatalogError>;

    /// A layer and all below it: the full comes last.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchLayer`].
    fn chain(&self, layer: LayerId) -> Result<Vec<Layer>, CatalogError>;

    /// The layer of a disk that was published last: the only one that can be a parent.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchDisk`].
    fn newest_layer(&self, disk: DiskId) -> Result<Option<Layer>, CatalogError>;

    /// The points with a layer that stands on this one, at any height, and its own: what a
    /// damaged image touches, in the order in which they were published.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchLayer`].
    fn points_on(&self, layer: LayerId) -> Result<Vec<PointId>, CatalogError>;

    /// Notes what a verification or a restore found: the layers that are damaged, with how, and those that are
    /// right, whose marks go. Layers whose points were deleted meanwhile are passed over.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn note_verified(
        &self,
        damaged: &[(LayerId, String)],
        right: &[LayerId],
    ) -> Result<(), CatalogError>;

    /// Notes that the tables of these images were found right, and which files they were.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn note_checked(&self, checked: &[(LayerId, CheckedFile)]) -> Result<(), CatalogError>;

    /// Takes a point out. Its files are [`leftovers`](Self::leftovers) from then on, for the
    /// caller to remove; they are given back.
    ///
    /// # Errors
    /// [`CatalogError::StoodOn`] while a layer of another point stands on one of its layers.
    fn delete_point(&self, point: PointId) -> Result<Vec<RelativePath>, CatalogError>;

    /// Files of deleted points that nobody has said to be gone.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn leftovers(&self) -> Result<Vec<RelativePath>, CatalogError>;

    /// Notes that a leftover was removed from the disk. Saying so twice is no error: the first
    /// time may have been cut off.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn forget_leftover(&self, path: &RelativePath) -> Result<(), CatalogError>;
}

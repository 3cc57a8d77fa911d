//! What a verification found.

use std::fmt;
use std::time::Duration;

use blockferry_dataplane::plan::AreaSet;
use blockferry_dataplane::{Counts, Fault};

use crate::catalog::{DiskName, Layer, LayerId, Point, PointId, RelativePath};

/// What was looked at, and what is wrong with it.
#[derive(Debug)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The points, in the order in which they were looked at.
    pub points: Vec<VerifiedPoint>,
    /// All damage, by layer and file.
    pub damage: Vec<Damage>,
    /// What is wrong with the catalog, or with what it says beside what is there.
    pub catalog: Vec<CatalogFault>,
    /// The comparisons with live sources.
    pub against: Vec<Against>,
    /// Time that it took.
    pub elapsed: Duration,
}

/// A point.
#[derive(Debug)]
#[non_exhaustive]
pub struct VerifiedPoint {
    /// It.
    pub point: Point,
    /// Its disks that were looked at, by their names.
    pub disks: Vec<VerifiedDisk>,
}

/// A disk of a point.
#[derive(Debug)]
#[non_exhaustive]
pub struct VerifiedDisk {
    /// Its layer, and those below: the full comes last.
    pub chain: Vec<Layer>,
    /// What was read.
    pub counts: Counts,
    /// How its content is.
    pub content: Content,
}

/// How the content of a disk is, as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// What was backed up.
    Same,
    /// Something else.
    Differs,
    /// It could not be found out, and why.
    Unknown(String),
}

/// Something that is wrong with a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The layer, with its point and disk.
    pub layer: Layer,
    /// The file that is damaged.
    pub path: RelativePath,
    /// How.
    pub kind: DamageKind,
    /// All points with a layer that stands on it, and its own, in the order in which they were
    /// published.
    pub touched: Vec<PointId>,
}

/// How something is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// The image is not there.
    ImageMissing,
    /// The image cannot be opened, or is not the one that it should be.
    ImageUnfit(String),
    /// qemu-img check finds faults in its tables.
    ImageCorrupt {
        /// How many.
        faults: u64,
    },
    /// Its content cannot be read.
    Unreadable(String),
    /// There are no digests that it could be compared with.
    NoDigests(String),
    /// The content is not what was backed up.
    Content(AreaSet),
}

impl DamageKind {
    /// Its word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::ImageMissing => "image_missing",
            Self::ImageUnfit(_) => "image_unfit",
            Self::ImageCorrupt { .. } => "image_corrupt",
            Self::Unreadable(_) => "unreadable",
            Self::NoDigests(_) => "no_digests",
            Self::Content(_) => "content",
        }
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ImageMissing => f.write_str("the image is missing"),
            Self::ImageUnfit(why) => write!(f, "the image cannot be used: {why}"),
            Self::ImageCorrupt { faults } => {
                let plural = if *faults == 1 { "" } else { "s" };
                write!(f, "qemu-img check finds {faults} fault{plural} in the image")
            }
            Self::Unreadable(why) => write!(f, "the content cannot be read: {why}"),
            Self::NoDigests(why) => write!(f, "the digests cannot be had: {why}"),
            Self::Content(ranges) => {
                let (count, bytes) = (ranges.len(), ranges.total());
                let plural = if count == 1 { "" } else { "s" };
                write!(f, "the content differs, {bytes} bytes in {count} range{plural}")?;
                match ranges.as_slice().first() {
                    Some(first) => write!(f, ", first at bytes {} to {}", first.start, first.end()),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Something that is wrong with the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatalogFault {
    /// The file is damaged.
    File(String),
    /// The folder of a point that the catalog does not know.
    FolderWithoutPoint(PointId),
    /// A point that has no folder.
    PointWithoutFolder(PointId),
    /// A point with a layer that stands on one that is not in the catalog.
    Chain {
        /// The point.
        point: PointId,
        /// The layer that is not there.
        layer: LayerId,
    },
}

impl CatalogFault {
    /// Its word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::File(_) => "catalog_damaged",
            Self::FolderWithoutPoint(_) => "folder_without_point",
            Self::PointWithoutFolder(_) => "point_without_folder",
            Self::Chain { .. } => "chain_broken",
        }
    }

    /// The point that it is about, if it is about one.
    #[must_use]
    pub fn point(&self) -> Option<PointId> {
        match self {
            Self::File(_) => None,
            Self::FolderWithoutPoint(point)
            | Self::PointWithoutFolder(point)
            | Self::Chain { point, .. } => Some(*point),
        }
    }
}

impl fmt::Display for CatalogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(what) => write!(f, "catalog.db is damaged: {what}"),
            Self::FolderWithoutPoint(point) => {
                write!(f, "points/{point} is there, and the catalog does not know the point")
            }
            Self::PointWithoutFolder(point) => {
                write!(f, "the catalog knows point {point}, and points/{point} is not there")
            }
            Self::Chain { point, layer } => {
                write!(f, "point {point} stands on layer {layer}, which the catalog does not know")
            }
        }
    }
}

/// A disk and a live source that should hold the same.
#[derive(Debug)]
#[non_exhaustive]
pub struct Against {
    /// The point.
    pub point: PointId,
    /// The disk.
    pub disk: DiskName,
    /// The source, in words.
    pub source: String,
    /// What came out.
    pub outcome: AgainstOutcome,
}

/// What a comparison with a live source came to.
#[derive(Debug)]
pub enum AgainstOutcome {
    /// They hold the same.
    Same,
    /// They do not, in these ranges of whole blocks of 64 KiB.
    Differs(AreaSet),
    /// They are not even of one size.
    Size {
        /// Size of the disk in the point.
        disk_bytes: u64,
        /// Size of the live source.
        live_bytes: u64,
    },
    /// The disk of the point could not be read, so there was nothing to compare with.
    Unread,
    /// The live source could not be read.
    Failed(Fault),
}

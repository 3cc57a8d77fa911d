//! Full or delta, on which layer, and why: for each disk, here and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blockferry_dataplane::Extent;
use blockferry_dataplane::manifest::{Manifest, ManifestError};

use super::error::{BackupError, WhichDisk};
use super::look::Looked;
use super::request::{BackupRequest, Changes, DIGEST, DiskRequest};
use super::standing::stands;
use crate::catalog::{BackupMode, Disk, DiskName, LayerId, LayerKind, PointId, Points};
use crate::image::ImageTool;
use crate::repository::{HeldLayer, HeldPoint, Repository, Work};

/// What is to become of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskPlan {
    /// What it is called.
    pub name: DiskName,
    /// The layer that is made.
    pub layer: LayerId,
    /// Full or delta.
    pub kind: LayerKind,
    /// Why that.
    pub reason: String,
    /// The layer below; none of a full.
    pub parent: Option<Parent>,
    /// Exact size of the disk in bytes.
    pub size_bytes: u64,
}

/// What a delta stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parent {
    /// The layer.
    pub layer: LayerId,
    /// The point that it belongs to.
    pub point: PointId,
}

/// A plan, and what only those need who carry it out.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: DiskPlan,
    pub(super) disk: Disk,
    pub(super) parent_image: Option<PathBuf>,
    pub(super) extent: Extent,
    /// The digests of what the chain below holds, if it is compared with them.
    pub(super) base: Option<Arc<Manifest>>,
    /// The points that it stands on stay while this does.
    pub(super) _held: Option<HeldPoint>,
}

/// How a delta would be made.
struct Delta {
    below: HeldLayer,
    held: HeldPoint,
    extent: Extent,
    base: Option<Arc<Manifest>>,
    reason: String,
}

/// Decides for one disk.
pub(super) fn plan(
    request: &BackupRequest,
    disk: &DiskRequest,
    looked: Looked,
    repository: &Repository,
    work: &Work,
    tool: &ImageTool,
) -> Result<Planned, BackupError> {
    let known = repository.catalog().disk(&request.vm, &disk.name, disk.uuid.as_ref())?;
    let layer = LayerId::new();
    let full = |reason: String| Planned {
        plan: DiskPlan {
            name: disk.name.clone(),
            layer,
            kind: LayerKind::Full,
            reason,
            parent: None,
            size_bytes: looked.size,
        },
        disk: known.clone(),
        parent_image: None,
        extent: Extent::Whole,
        base: None,
        _held: None,
    };
    if request.mode == BackupMode::Full {
        return Ok(full("a full was asked for".into()));
    }
    match delta(disk, looked, &known, layer, repository, work, tool)? {
        Ok(delta) => Ok(Planned {
            plan: DiskPlan {
                name: disk.name.clone(),
                layer,
                kind: LayerKind::Delta,
                reason: delta.reason,
                parent: Some(Parent {
                    layer: delta.below.layer().facts.id,
                    point: delta.below.layer().point,
                }),
                size_bytes: looked.size,
            },
            disk: known,
            parent_image: Some(delta.below.image),
            extent: delta.extent,
            base: delta.base,
            _held: Some(delta.held),
        }),
        Err(why) if request.mode == BackupMode::Incremental => {
            Err(BackupError::NotIncremental { disk: WhichDisk(disk.name.clone()), why })
        }
        Err(why) => Ok(full(why)),
    }
}

/// How a delta can be made, or why none can be.
fn delta(
    disk: &DiskRequest,
    looked: Looked,
    known: &Disk,
    layer: LayerId,
    repository: &Repository,
    work: &Work,
    tool: &ImageTool,
) -> Result<Result<Delta, String>, BackupError> {
    let Some(newest) = repository.catalog().newest_layer(known.id)? else {
        return Ok(Err("it is the first backup of this disk here".into()));
    };
    let point = newest.point;
    let had = newest.facts.size_bytes;
    if had != looked.size {
        let has = looked.size;
        return Ok(Err(format!("the disk has {has} bytes, and had {had} in point {point}")));
    }
    let held = match repository.hold(point) {
        Ok(held) => held,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let below = held.layers.iter().find(|held| held.layer().facts.id == newest.facts.id);
    let Some(below) = below.cloned() else {
        return Ok(Err(format!("point {point} does not have its layer any more")));
    };
    if let Err(why) = stands(&below, repository, tool) {
        return Ok(Err(format!("point {point} cannot be stood on: {why}")));
    }
    let (extent, base, reason) = match &disk.changes {
        Changes::Areas(areas) => {
            let (count, bytes) = (areas.len(), areas.total());
            let plural = if count == 1 { "" } else { "s" };
            let reason = format!("its changes were given: {bytes} bytes in {count} area{plural}");
            (Extent::Areas(areas.clone()), None, reason)
        }
        Changes::Bitmap(name) if looked.has_bitmap => {
            let reason = format!("dirty bitmap {name} of the source says what changed");
            (Extent::Bitmap(name.clone()), None, reason)
        }
        // Else all of it is read and compared, which needs nobody to say what changed.
        Changes::Bitmap(_) | Changes::Compared => {
            let lacks = match &disk.changes {
                Changes::Bitmap(name) => format!("the source has no dirty bitmap {name}, "),
                _ => String::new(),
            };
            match digests(&below, repository, &work.base(layer)) {
                Ok(base) => {
                    let so = if lacks.is_empty() { "" } else { "so " };
                    let reason = format!(
                        "{lacks}{so}all of it is compared with the digests of point {point}"
                    );
                    (Extent::Whole, Some(Arc::new(base)), reason)
                }
                Err(why) => {
                    let and = if lacks.is_empty() { "" } else { "and " };
                    return Ok(Err(format!(
                        "{lacks}{and}point {point} cannot be compared with: {why}"
                    )));
                }
            }
        }
    };
    Ok(Ok(Delta { below, held, extent, base, reason }))
}

/// The digests of all that a chain holds. They are laid over each other in the file `at`, which
/// has no name any more when this returns.
fn digests(below: &HeldLayer, repository: &Repository, at: &Path) -> Result<Manifest, String> {
    let manifests = below.chain.iter().map(|layer| repository.manifest(layer));
    let manifests = manifests.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let overlaid = || {
        Manifest::overlay(&manifests, at)?;
        Manifest::open(at)
    };
    let base = overlaid().map_err(|error: ManifestError| error.to_string())?;
    fs::remove_file(at).map_err(|error| format!("{}: {error}", at.display()))?;
    match base.algorithm() {
        DIGEST => Ok(base),
        other => Err(format!("its digests are {other}")),
    }
}

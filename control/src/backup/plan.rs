//! Full or delta, on which layer, and why: for each disk, here and nowhere else.

use std::path::{Path, PathBuf};

use blockferry_dataplane::Extent;
use blockferry_dataplane::manifest::Manifest;

use super::error::{BackupError, WhichDisk};
use super::look::Looked;
use super::request::{BackupRequest, Changes, DIGEST, DiskRequest};
use crate::catalog::{BackupMode, Disk, DiskName, LayerId, LayerKind, PointId, Points};
use crate::image::{Image, ImageTool};
use crate::repository::{HeldLayer, HeldPoint, Repository};

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
    /// Manifests of the chain below, newest first, if it is compared with them.
    pub(super) base: Vec<PathBuf>,
    /// The points that it stands on stay while this does.
    pub(super) _held: Option<HeldPoint>,
}

/// How a delta would be made.
struct Delta {
    below: HeldLayer,
    held: HeldPoint,
    extent: Extent,
    base: Vec<PathBuf>,
    reason: String,
}

/// Decides for one disk.
pub(super) fn plan(
    request: &BackupRequest,
    disk: &DiskRequest,
    looked: Looked,
    repository: &Repository,
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
        base: Vec::new(),
        _held: None,
    };
    if request.mode == BackupMode::Full {
        return Ok(full("a full was asked for".into()));
    }
    match delta(disk, looked, &known, repository, tool)? {
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
    repository: &Repository,
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
    if let Err(why) = usable(&below, tool) {
        return Ok(Err(format!("the newest layer, of point {point}, cannot be stood on: {why}")));
    }
    let (extent, base, reason) = match &disk.changes {
        Changes::Areas(areas) => {
            let (count, bytes) = (areas.len(), areas.total());
            let plural = if count == 1 { "" } else { "s" };
            let reason = format!("its changes were given: {bytes} bytes in {count} area{plural}");
            (Extent::Areas(areas.clone()), Vec::new(), reason)
        }
        Changes::Bitmap(name) if looked.has_bitmap => {
            let reason = format!("dirty bitmap {name} of the source says what changed");
            (Extent::Bitmap(name.clone()), Vec::new(), reason)
        }
        Changes::Bitmap(name) => {
            return Ok(Err(format!("the source has no dirty bitmap {name}")));
        }
        Changes::Compared => match comparable(&below) {
            Ok(()) => {
                let reason = format!("compared with the digests of point {point}");
                (Extent::Whole, below.manifests.clone(), reason)
            }
            Err(why) => {
                return Ok(Err(format!("point {point} cannot be compared with: {why}")));
            }
        },
    };
    Ok(Ok(Delta { below, held, extent, base, reason }))
}

/// Whether the image of a layer can be opened, with all below it.
fn usable(below: &HeldLayer, tool: &ImageTool) -> Result<(), String> {
    let info = Image::at(&below.image, tool.clone()).and_then(|image| image.info());
    match info {
        Ok(info) if info.corrupt => Err("qemu has marked it as corrupt".into()),
        Ok(info) if info.virtual_bytes < below.layer().facts.size_bytes => {
            Err("it is smaller than its disk".into())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the manifests of a chain tell all of a disk's digests.
fn comparable(below: &HeldLayer) -> Result<(), String> {
    if below.manifests.len() < below.chain.len() {
        return Err("a layer has no manifest".into());
    }
    let whole = |path: &Path| match Manifest::open(path) {
        Ok(manifest) if manifest.algorithm() == DIGEST => Ok(()),
        Ok(manifest) => Err(format!("its digests are {}", manifest.algorithm())),
        Err(error) => Err(error.to_string()),
    };
    below.manifests.iter().try_for_each(|path| whole(path))
}

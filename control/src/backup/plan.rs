//! Full or delta, on which layer, and why: for each disk, here and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blockferry_dataplane::manifest::{Manifest, ManifestError};
use blockferry_dataplane::plan::AreaSet;
use blockferry_dataplane::{Extent, Fault};

use super::audit::sample;
use super::cancel::Cancellation;
use super::error::{BackupError, WhichDisk};
use super::look::Looked;
use super::origin::ChangeTracker;
use super::request::{BackupRequest, Changes, DIGEST, DiskRequest};
use super::run::Watch;
use super::standing::stands;
use crate::catalog::{
    BackupMode, ChangeId, Disk, DiskName, LayerId, LayerKind, PointId, Points, UnixMillis,
};
use crate::image::ImageTool;
use crate::repository::{HeldLayer, HeldPoint, Repository, Work};
use crate::snapshots::Base;

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
    /// What did not change, by what is said, and is read all the same.
    pub(super) audited: AreaSet,
    /// Up to where its changes are in the layer.
    pub(super) change: Option<ChangeId>,
    /// The points that it stands on stay while this does.
    pub(super) _held: Option<HeldPoint>,
}

/// How a delta would be made.
struct Delta {
    below: HeldLayer,
    held: HeldPoint,
    extent: Extent,
    base: Option<Arc<Manifest>>,
    audited: AreaSet,
    reason: String,
}

/// What a plan is made with.
pub(super) struct Planning<'a> {
    pub(super) request: &'a BackupRequest,
    pub(super) repository: &'a Repository,
    pub(super) work: &'a Work,
    pub(super) tool: &'a ImageTool,
    pub(super) watch: &'a dyn Watch,
    pub(super) cancellation: &'a Cancellation,
}

impl Planning<'_> {
    /// Decides for one disk.
    pub(super) fn plan(&self, disk: &DiskRequest, looked: Looked) -> Result<Planned, BackupError> {
        let catalog = self.repository.catalog();
        let known = catalog.disk(&self.request.vm, &disk.name, disk.uuid.as_ref())?;
        let layer = LayerId::new();
        let change = match &disk.changes {
            Changes::Tracked { tracker, .. } => tracker.now().cloned(),
            _ => None,
        };
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
            audited: AreaSet::new(),
            change: change.clone(),
            _held: None,
        };
        if self.request.mode == BackupMode::Full {
            return Ok(full("a full was asked for".into()));
        }
        match self.delta(disk, looked, &known, layer)? {
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
                audited: delta.audited,
                change,
                _held: Some(delta.held),
            }),
            Err(why) if self.request.mode == BackupMode::Incremental => {
                Err(BackupError::NotIncremental { disk: WhichDisk(disk.name.clone()), why })
            }
            Err(why) => Ok(full(why)),
        }
    }

    /// How a delta can be made, or why none can be.
    fn delta(
        &self,
        disk: &DiskRequest,
        looked: Looked,
        known: &Disk,
        layer: LayerId,
    ) -> Result<Result<Delta, String>, BackupError> {
        let repository = self.repository;
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
        if let Err(why) = stands(&below, repository, self.tool) {
            return Ok(Err(format!("point {point} cannot be stood on: {why}")));
        }
        let moved = match &disk.changes {
            Changes::Areas(areas) => Ok(Moved {
                reason: format!("its changes were given: {}", how_much(areas)),
                extent: Extent::Areas(areas.clone()),
                base: None,
                audited: AreaSet::new(),
            }),
            Changes::Bitmap(name) if looked.has_bitmap => Ok(Moved {
                reason: format!("dirty bitmap {name} of the source says what changed"),
                extent: Extent::Bitmap(name.clone()),
                base: None,
                audited: AreaSet::new(),
            }),
            Changes::Tracked { tracker, audit_percent } => {
                let vm = repository.catalog().point(point)?.vm_uuid;
                let base = Base {
                    vm: vm.map(|uuid| uuid.to_string()),
                    uuid: known.uuid.clone(),
                    size_bytes: had,
                    change: newest.facts.change.clone(),
                };
                let digests = || digests(&below, repository, &self.work.base(layer));
                self.tracked(&**tracker, *audit_percent, &base, point, digests)?
            }
            // Else all of it is read and compared, which needs nobody to say what changed.
            Changes::Bitmap(_) | Changes::Compared => {
                self.compared(&disk.changes, point, &below, layer)
            }
        };
        Ok(moved.map(|Moved { extent, base, audited, reason }| Delta {
            below,
            held,
            extent,
            base,
            audited,
            reason,
        }))
    }

    /// What a tracker says. What it calls changed and is not is found by its digest and not sent.
    fn tracked(
        &self,
        tracker: &dyn ChangeTracker,
        audit_percent: u8,
        base: &Base,
        point: PointId,
        digests: impl Fn() -> Result<Manifest, String>,
    ) -> Result<Result<Moved, String>, BackupError> {
        let changed = match tracker.changed_since(base, self.watch, self.cancellation)? {
            Ok(changed) => changed,
            Err(why) => return Ok(Err(why)),
        };
        let mut reason =
            format!("what changed since point {point} was tracked: {}", how_much(&changed));
        let digests = match digests() {
            Ok(digests) => Some(Arc::new(digests)),
            Err(why) if audit_percent > 0 => {
                return Ok(Err(format!("point {point} cannot be compared with: {why}")));
            }
            Err(_) => None,
        };
        let mut audited = AreaSet::new();
        if audit_percent > 0 {
            let seed = UnixMillis::now().get();
            audited = sample(&changed, base.size_bytes, audit_percent, seed)
                .map_err(|error| BackupError::Mover(Box::new(Fault::Request(error.to_string()))))?;
            reason.push_str(&format!("; of the rest, {} bytes are compared", audited.total()));
        }
        let extent = Extent::Areas(changed.union(&audited));
        Ok(Ok(Moved { extent, base: digests, audited, reason }))
    }

    fn compared(
        &self,
        changes: &Changes,
        point: PointId,
        below: &HeldLayer,
        layer: LayerId,
    ) -> Result<Moved, String> {
        let lacks = match changes {
            Changes::Bitmap(name) => format!("the source has no dirty bitmap {name}, "),
            _ => String::new(),
        };
        match digests(below, self.repository, &self.work.base(layer)) {
            Ok(base) => {
                let so = if lacks.is_empty() { "" } else { "so " };
                Ok(Moved {
                    reason: format!(
                        "{lacks}{so}all of it is compared with the digests of point {point}"
                    ),
                    extent: Extent::Whole,
                    base: Some(Arc::new(base)),
                    audited: AreaSet::new(),
                })
            }
            Err(why) => {
                let and = if lacks.is_empty() { "" } else { "and " };
                Err(format!("{lacks}{and}point {point} cannot be compared with: {why}"))
            }
        }
    }
}

/// What a delta moves.
struct Moved {
    extent: Extent,
    base: Option<Arc<Manifest>>,
    audited: AreaSet,
    reason: String,
}

fn how_much(areas: &AreaSet) -> String {
    let (count, bytes) = (areas.len(), areas.total());
    let plural = if count == 1 { "" } else { "s" };
    format!("{bytes} bytes in {count} area{plural}")
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

//! Publishing: a point with all its layers, in one transaction, or nothing of it.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::failure::{Failure, Outcome};
use super::jobs::advance;
use super::rows::{self, Ask, JOB, POINT};
use crate::catalog::error::{CatalogError, PublishRule};
use crate::catalog::id::LayerId;
use crate::catalog::job::JobState;
use crate::catalog::name::{DiskName, ManifestId};
use crate::catalog::point::{LayerFacts, LayerKind, NewPoint, Point};
use crate::catalog::time::UnixMillis;

pub(super) fn publish(tables: &Connection, new: NewPoint) -> Outcome<Point> {
    let unpublishable = |rule| Failure::from(CatalogError::Unpublishable { point: new.id, rule });

    let by_job = format!("SELECT {POINT} FROM points WHERE job = ?1");
    if let Some(before) = tables.one(&by_job, [new.job.as_str()], rows::point)? {
        return Err(CatalogError::Published { job: new.job, point: before.id }.into());
    }
    let sql = format!("SELECT {JOB} FROM jobs WHERE id = ?1");
    let job = tables.one(&sql, [new.job.as_str()], rows::job)?;
    if let Some(job) = &job
        && job.state != JobState::Publishing
    {
        return Err(unpublishable(PublishRule::JobElsewhere { job: job.id, state: job.state }));
    }

    let names = check(tables, &new)?.map_err(unpublishable)?;
    let point = Point {
        id: new.id,
        vm: new.vm,
        vm_uuid: new.vm_uuid,
        created: new.created,
        published: UnixMillis::now(),
        mode: new.mode,
        job: new.job,
    };
    let number: i64 = insert_point(tables, &point).map_err(|failure| {
        if failure.is_duplicate() { unpublishable(PublishRule::PointTwice) } else { failure }
    })?;
    for (layer, name) in new.layers.iter().zip(&names) {
        insert_layer(tables, number, layer, name).map_err(|failure| match failure {
            Failure::Refused(CatalogError::Unpublishable { .. }) => failure,
            _ if failure.is_duplicate() => unpublishable(PublishRule::LayerTwice(layer.id)),
            _ => failure,
        })?;
    }
    for note in &new.notes {
        tables.change(
            "INSERT INTO point_notes (point, weight, says) VALUES (?1, ?2, ?3)",
            params![number, note.weight.as_str(), note.says],
        )?;
    }
    if let Some(job) = job {
        advance(tables, job.id, JobState::Done, format!("published point {}", point.id))?;
    }
    Ok(point)
}

/// The names of the layers' disks, or the rule that is broken.
fn check(tables: &Connection, new: &NewPoint) -> Outcome<Result<Vec<DiskName>, PublishRule>> {
    if new.layers.is_empty() {
        return Ok(Err(PublishRule::Empty));
    }
    let mut disks = HashSet::new();
    let mut names = Vec::with_capacity(new.layers.len());
    for layer in &new.layers {
        let disk = tables.known_disk(layer.disk)?;
        if disk.vm != new.vm {
            return Ok(Err(PublishRule::OtherVm { disk: disk.id, vm: disk.vm }));
        }
        if !disks.insert(disk.id) {
            return Ok(Err(PublishRule::DiskTwice(disk.id)));
        }
        if names.contains(&disk.name) {
            return Ok(Err(PublishRule::NameTwice(disk.name)));
        }
        names.push(disk.name);
        if let Err(rule) = stands(tables, layer)? {
            return Ok(Err(rule));
        }
        if sizes(layer).is_none() {
            return Ok(Err(PublishRule::TooLarge(layer.id)));
        }
        if is_leftover(tables, layer)? {
            return Ok(Err(PublishRule::LayerTwice(layer.id)));
        }
    }
    Ok(Ok(names))
}

/// Whether a layer stands on what it may stand on.
fn stands(tables: &Connection, layer: &LayerFacts) -> Outcome<Result<(), PublishRule>> {
    let id = layer.id;
    Ok(match (layer.kind, layer.parent) {
        (LayerKind::Full, None) => Ok(()),
        (LayerKind::Full, Some(parent)) => Err(PublishRule::FullWithParent { layer: id, parent }),
        (LayerKind::Delta, None) => Err(PublishRule::DeltaWithoutParent(id)),
        (LayerKind::Delta, Some(parent)) => {
            let newest = tables.newest(layer.disk)?.map(|newest| newest.facts.id);
            if newest == Some(parent) {
                Ok(())
            } else {
                Err(PublishRule::NotOnNewest { layer: id, disk: layer.disk, parent, newest })
            }
        }
    })
}

/// A file that is about to be removed cannot be published.
fn is_leftover(tables: &Connection, layer: &LayerFacts) -> Outcome<bool> {
    let manifest = layer.manifest.as_ref().map(|manifest| manifest.path.as_str());
    let found = tables.one(
        "SELECT 1 FROM leftovers WHERE path IN (?1, ?2)",
        params![layer.path.as_str(), manifest],
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// The sizes and counts of a layer as they are kept; `None` where one has 64 bits.
fn sizes(layer: &LayerFacts) -> Option<[i64; 7]> {
    let counts = &layer.counts;
    let all = [
        layer.size_bytes,
        layer.stored_bytes,
        counts.read,
        counts.zero,
        counts.sent,
        counts.skipped,
        layer.file_bytes.unwrap_or(0),
    ];
    let mut kept = [0; 7];
    for (kept, bytes) in kept.iter_mut().zip(all) {
        *kept = i64::try_from(bytes).ok()?;
    }
    Some(kept)
}

fn insert_point(tables: &Connection, point: &Point) -> Outcome<i64> {
    let number = tables.one(
        "INSERT INTO points (id, vm, created_ms, published_ms, mode, job, vm_uuid)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING number",
        params![
            point.id.as_str(),
            point.vm.as_str(),
            rows::millis(point.created),
            rows::millis(point.published),
            point.mode.as_str(),
            point.job.as_str(),
            point.vm_uuid.as_ref().map(|uuid| uuid.as_str()),
        ],
        |row| row.get(0),
    )?;
    Ok(number.expect("an insertion that succeeds returns its row"))
}

fn insert_layer(
    tables: &Connection,
    point: i64,
    layer: &LayerFacts,
    disk_name: &DiskName,
) -> Outcome<()> {
    let [size, stored, read, zero, sent, skipped, file] =
        sizes(layer).expect("a point is checked before its layers are inserted");
    let manifest = layer.manifest.as_ref();
    tables.change(
        "INSERT INTO layers (id, point, disk, disk_name, kind, reason, parent, path, size_bytes,
             stored_bytes, change_id, digest, manifest_path, read_bytes, zero_bytes, sent_bytes,
             skipped_bytes, manifest_id, file_bytes, checked_inode,
             checked_modified_ns, checked_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19, ?20, ?21, ?22)",
        params![
            layer.id.as_str(),
            point,
            layer.disk.get(),
            disk_name.as_str(),
            layer.kind.as_str(),
            layer.reason,
            layer.parent.as_ref().map(LayerId::as_str),
            layer.path.as_str(),
            size,
            stored,
            layer.change.as_ref().map(|change| change.as_str()),
            manifest.map(|manifest| manifest.algorithm.name()),
            manifest.map(|manifest| manifest.path.as_str()),
            read,
            zero,
            sent,
            skipped,
            manifest.and_then(|manifest| manifest.id.as_ref()).map(ManifestId::as_str),
            layer.file_bytes.map(|_| file),
            layer.checked.map(|checked| checked.inode.cast_signed()),
            layer.checked.map(|checked| checked.modified_ns),
            layer.checked.map(|checked| checked.bytes.cast_signed()),
        ],
    )?;
    Ok(())
}

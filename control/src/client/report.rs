//! What a hub tells of a backup, as the report that one makes which is made here.

use std::time::Duration;

use blockferry_dataplane::Counts;

use super::backup::Submission;
use crate::backup::{BackupReport, DiskPlan, DiskReport, Parent};
use crate::catalog::{JobId, LayerKind, Point, UnixMillis, ValueError};
use crate::record::{DiskRecord, JobRecord, MovedRecord, PointRecord};

/// What standalone makes of its lanes, made of the point and its layers.
pub(super) fn report(
    submission: &Submission,
    point: &PointRecord,
    job: &JobRecord,
    moved: Option<(f64, Vec<MovedRecord>)>,
) -> Result<BackupReport, ValueError> {
    let time = |millis| UnixMillis::new(millis).unwrap_or(UnixMillis::MAX);
    let (elapsed, moved) = match moved {
        Some((seconds, disks)) => (Duration::try_from_secs_f64(seconds).ok(), disks),
        None => (None, Vec::new()),
    };
    let elapsed = elapsed.unwrap_or_else(|| between(job, "planning", "done"));
    let copying = between(job, "copying", "publishing");
    let mut disks = Vec::with_capacity(point.disks.len());
    for disk in in_order(submission, point) {
        let moved = moved.iter().find(|moved| moved.disk == disk.name);
        disks.push(disk_report(disk, moved, copying)?);
    }
    let point = Point {
        id: point.id.parse()?,
        vm: point.vm.parse()?,
        vm_uuid: point.vm_uuid.as_deref().map(str::parse).transpose()?,
        created: time(point.created_ms),
        published: time(point.published_ms),
        mode: point.asked.parse()?,
        job: point.job.parse::<JobId>()?,
    };
    Ok(BackupReport { point, disks, elapsed })
}

/// The disks in the order in which they were asked for, if they were.
fn in_order<'a>(submission: &Submission, point: &'a PointRecord) -> Vec<&'a DiskRecord> {
    if submission.disks.is_empty() {
        return point.disks.iter().collect();
    }
    let asked = submission.disks.iter();
    asked
        .filter_map(|asked| point.disks.iter().find(|disk| disk.name == asked.name.as_str()))
        .collect()
}

/// Time between two states of a job; no time where it is not known.
fn between(job: &JobRecord, from: &str, to: &str) -> Duration {
    let at = |state: &str| job.steps.iter().find(|step| step.state == state).map(|step| step.at_ms);
    let millis = at(to).zip(at(from)).map_or(0, |(to, from)| to.saturating_sub(from));
    Duration::from_millis(millis)
}

fn disk_report(
    disk: &DiskRecord,
    moved: Option<&MovedRecord>,
    copying: Duration,
) -> Result<DiskReport, ValueError> {
    let parent = match (&disk.parent, disk.chain.get(1)) {
        (Some(point), Some(below)) => {
            Some(Parent { layer: below.layer.parse()?, point: point.parse()? })
        }
        _ => None,
    };
    let kind = if parent.is_some() { LayerKind::Delta } else { LayerKind::Full };
    let counts = match moved {
        Some(moved) => moved.bytes.into(),
        // What is kept with the layer: nobody was there when the rest was told.
        None => {
            let mut counts = Counts::default();
            counts.read = disk.bytes.read;
            counts.zero = disk.bytes.zero;
            counts.sent = disk.bytes.sent;
            counts.skipped = disk.bytes.skipped;
            counts
        }
    };
    let elapsed = moved.and_then(|moved| Duration::try_from_secs_f64(moved.seconds).ok());
    Ok(DiskReport {
        plan: DiskPlan {
            name: disk.name.parse()?,
            layer: disk.layer.parse()?,
            kind,
            reason: disk.reason.clone(),
            parent,
            size_bytes: disk.size,
        },
        counts,
        elapsed: elapsed.unwrap_or(copying),
        stored_bytes: disk.stored,
    })
}

//! What a restore says of its end.

use blockferry_control::reading::{RestoreReport, RestoredDisk};
use blockferry_control::record::BytesRecord;
use blockferry_dataplane::Counts;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{cpu_seconds, escaped, table};

/// The restored disks, for people.
pub(super) fn summary(report: &RestoreReport) -> String {
    let rows = report.disks.iter().map(|disk| {
        let bytes = [disk.size_bytes, disk.counts.read, disk.counts.zero];
        let mut row = vec![disk.name.to_string()];
        row.extend(bytes.map(|bytes| BinaryBytes(bytes).to_string()));
        row.push(match &disk.outcome {
            Ok(place) => place.clone(),
            Err(_) => "not restored".into(),
        });
        row
    });
    let restored = report.disks.iter().filter(|disk| disk.outcome.is_ok()).count();
    let into = report.into.as_ref().map_or_else(String::new, |into| {
        let kind = if into.is_new { "new VM" } else { "VM" };
        format!(" into {kind} {} ({})", escaped(&into.path), into.vm)
    });
    format!(
        "{restored} of {} disks of point {} of VM {} restored{into}, after {:.1} s\n{}",
        report.disks.len(),
        report.point,
        report.vm,
        report.elapsed.as_secs_f64(),
        table(&["disk", "size", "read", "zero", "to"], rows)
    )
}

/// The end of a restore, for programs. Fields are added, never taken away.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    /// The exit code in a word.
    outcome: &'static str,
    exit_code: u8,
    /// What kept it from starting, or what happened to the first disk that failed.
    error: Option<String>,
    point: &'a str,
    vm: Option<&'a str>,
    /// The VM of a vCenter that they are disks of now.
    into: Option<Into<'a>>,
    seconds: f64,
    cpu_seconds: f64,
    bytes: BytesRecord,
    disks: Vec<Disk<'a>>,
}

#[derive(Debug, Serialize)]
struct Into<'a> {
    id: &'a str,
    path: &'a str,
    /// It was made for this.
    new: bool,
}

#[derive(Debug, Serialize)]
struct Disk<'a> {
    name: &'a str,
    layer: &'a str,
    size: u64,
    /// The exit code of this disk alone, in a word.
    outcome: &'static str,
    error: Option<String>,
    /// Where it is.
    to: Option<&'a str>,
    seconds: f64,
    bytes: BytesRecord,
}

impl<'a> Json<'a> {
    pub(super) fn of(exit: Exit, report: &'a RestoreReport) -> Self {
        let counts = report.disks.iter().map(|disk| &disk.counts);
        let totals = counts.fold(Counts::default(), |sum, counts| sum.plus(counts));
        let mut errors = report.disks.iter().filter_map(|disk| disk.outcome.as_ref().err());
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: errors.next().map(ToString::to_string),
            point: report.point.as_str(),
            vm: Some(report.vm.as_str()),
            into: report.into.as_ref().map(|into| Into {
                id: into.vm.as_str(),
                path: &into.path,
                new: into.is_new,
            }),
            seconds: report.elapsed.as_secs_f64(),
            cpu_seconds: cpu_seconds(),
            bytes: totals.into(),
            disks: report.disks.iter().map(Disk::of).collect(),
        }
    }

    pub(super) fn of_failure(exit: Exit, error: String, point: &'a str) -> Self {
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: Some(error),
            point,
            vm: None,
            into: None,
            seconds: 0.0,
            cpu_seconds: cpu_seconds(),
            bytes: BytesRecord::default(),
            disks: Vec::new(),
        }
    }
}

impl<'a> Disk<'a> {
    fn of(disk: &'a RestoredDisk) -> Self {
        let exit = disk.outcome.as_ref().err().map_or(Exit::Done, Exit::of_read);
        Self {
            name: disk.name.as_str(),
            layer: disk.layer.as_str(),
            size: disk.size_bytes,
            outcome: exit.word(),
            error: disk.outcome.as_ref().err().map(ToString::to_string),
            to: disk.outcome.as_ref().ok().map(String::as_str),
            seconds: disk.elapsed.as_secs_f64(),
            bytes: disk.counts.into(),
        }
    }
}

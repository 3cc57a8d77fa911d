//! What is served, for people and programs.

use blockferry_control::client::HubExport;
use blockferry_control::reading::Offered;
use blockferry_control::record::ExportedDiskRecord;
use serde::Serialize;

use crate::exit::Exit;

/// A point that is served.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) point: String,
    pub(super) vm: String,
    pub(super) exports: Vec<Served>,
}

/// A disk of it.
#[derive(Debug, Serialize)]
pub(super) struct Served {
    disk: String,
    uri: String,
    /// Exact size of the disk; what is served is rounded up to 512 bytes.
    size: u64,
    /// The process that serves it.
    pid: u32,
}

impl From<&Offered> for Served {
    fn from(offered: &Offered) -> Self {
        Self {
            disk: offered.layer.disk_name.to_string(),
            uri: offered.uri.clone(),
            size: offered.layer.facts.size_bytes,
            pid: offered.pid,
        }
    }
}

impl From<&ExportedDiskRecord> for Served {
    fn from(record: &ExportedDiskRecord) -> Self {
        Self {
            disk: record.disk.clone(),
            uri: HubExport::uri(record).to_string(),
            size: record.size,
            pid: record.pid,
        }
    }
}

/// A URI a line, in the order of the disks' names. Each names its disk, as its export's name, or
/// behind the job of the hub that serves it.
pub(super) fn uris(told: &Told) -> String {
    told.exports.iter().map(|disk| format!("{}\n", disk.uri)).collect()
}

/// What is served, or why nothing is, for programs. Fields are added, never taken away.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    /// `ready`, or the exit code in a word.
    outcome: &'static str,
    exit_code: u8,
    error: Option<String>,
    point: &'a str,
    vm: Option<&'a str>,
    exports: &'a [Served],
}

impl<'a> Json<'a> {
    pub(super) fn of(told: &'a Told) -> Self {
        Self {
            outcome: "ready",
            exit_code: Exit::Done.code(),
            error: None,
            point: &told.point,
            vm: Some(&told.vm),
            exports: &told.exports,
        }
    }

    pub(super) fn of_failure(exit: Exit, error: String, point: &'a str) -> Self {
        let (outcome, exit_code) = (exit.word(), exit.code());
        Self { outcome, exit_code, error: Some(error), point, vm: None, exports: &[] }
    }
}

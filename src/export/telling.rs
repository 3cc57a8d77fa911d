//! What is served, for people and programs.

use blockferry_control::catalog::Point;
use blockferry_control::reading::Offered;
use serde::Serialize;

use crate::exit::Exit;

/// A URI a line. Each names its disk, as its export's name.
pub(super) fn uris(disks: &[Offered]) -> String {
    disks.iter().map(|disk| format!("{}\n", disk.uri)).collect()
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
    exports: Vec<Served<'a>>,
}

#[derive(Debug, Serialize)]
struct Served<'a> {
    disk: &'a str,
    uri: &'a str,
    /// Exact size of the disk; what is served is rounded up to 512 bytes.
    size: u64,
    /// The process that serves it.
    pid: u32,
}

impl<'a> Json<'a> {
    pub(super) fn of(point: &'a Point, disks: &'a [Offered]) -> Self {
        let exports = disks.iter().map(|disk| Served {
            disk: disk.layer.disk_name.as_str(),
            uri: &disk.uri,
            size: disk.layer.facts.size_bytes,
            pid: disk.pid,
        });
        Self {
            outcome: "ready",
            exit_code: Exit::Done.code(),
            error: None,
            point: point.id.as_str(),
            vm: Some(point.vm.as_str()),
            exports: exports.collect(),
        }
    }

    pub(super) fn of_failure(exit: Exit, error: String, point: &'a str) -> Self {
        let (outcome, exit_code) = (exit.word(), exit.code());
        Self { outcome, exit_code, error: Some(error), point, vm: None, exports: Vec::new() }
    }
}

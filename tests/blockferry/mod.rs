//! The program under test, as a person or a script runs it.

// Each test file uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

mod hub;
mod kept;
mod node;
mod reading;
mod secrets;
mod tunnel;
mod vm;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

#[allow(unused_imports)]
pub(crate) use hub::{Hub, place};
#[allow(unused_imports)]
pub(crate) use kept::{Kept, signal};
#[allow(unused_imports)]
pub(crate) use node::{Node, NodePlace, seen_by, tunnel_of};
#[allow(unused_imports)]
pub(crate) use reading::{HubPlace, by, wait_until};
#[allow(unused_imports)]
pub(crate) use secrets::{Secret, cores, processes_below, with_cores};
#[allow(unused_imports)]
pub(crate) use tunnel::{Ended, Fleet, Pair, Running, Way};
#[allow(unused_imports)]
pub(crate) use vm::{Backed, VmPlace, processes_of, write_secret};

/// The program in a folder, with these words.
pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockferry"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
}

pub(crate) fn run(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

/// Runs `copy` with the words of a line.
pub(crate) fn copy(folder: &Path, line: &str) -> Output {
    let args: Vec<&str> = ["copy"].into_iter().chain(line.split_whitespace()).collect();
    run(folder, &args)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The report of a backup that failed in its middle says which job it was, and what was copied.
pub(crate) fn assert_told_how_far(report: &serde_json::Value) {
    assert!(report["job"].is_string(), "{report}");
    assert!(report["created_ms"].as_u64().unwrap() > 1_700_000_000_000, "{report}");
    assert!(report["bytes"]["acknowledged"].as_u64().unwrap() > 0, "{report}");
    assert!(report["seconds"].as_f64().unwrap() > 0.0, "{report}");
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A folder with a file `a` of 1 MiB.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    fs::write(folder.path().join("a"), content).unwrap();
    folder
}

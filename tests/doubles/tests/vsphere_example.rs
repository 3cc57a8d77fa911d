//! The example serves until SIGTERM, with a guest at work: what scripts/demo does with it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use blockferry_doubles::Child;
use blockferry_doubles::vsphere::Steps;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(30);

/// Cargo builds examples beside tests, and names only binaries to them.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().find(|folder| folder.join("examples").is_dir()).unwrap();
    folder.join("examples/vsphere")
}

fn counter(state: &Path, machine: &str, key: i32) -> u64 {
    let disks = std::fs::read_dir(state.join("disks")).unwrap().map(|entry| entry.unwrap().path());
    let name = format!("disks/{machine}-{key}-");
    let mut disks = disks.filter(|path| path.to_str().unwrap().contains(&name));
    Steps::counter(&disks.next().unwrap()).unwrap()
}

#[test]
fn the_example_tells_where_it_is_and_ends_in_order_while_its_guest_writes() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(example());
    command.arg("--state").arg(folder.path());
    command.args(["--vm", "web:root=8M,data=4M", "--vm", "off:root=1M", "--off", "off"]);
    command.args(["--guest", "1", "--tracked", "--esxi", "--drawn", "3"]);
    let mut child = Child::spawn(command).unwrap();
    let line: Value = serde_json::from_str(&child.first_line(DEADLINE).unwrap()).unwrap();
    assert!(line["url"].as_str().unwrap().starts_with("https://127.0.0.1:"), "{line}");
    assert_eq!(line["thumbprint"].as_str().unwrap().len(), 59, "{line}");
    assert!(Path::new(line["certificate"].as_str().unwrap()).exists(), "{line}");
    assert_eq!(line["vms"].as_object().unwrap().len(), 2, "{line}");
    let web = line["vms"]["web"].as_str().unwrap();
    let (started, first) = (Instant::now(), counter(folder.path(), web, 2000));
    while counter(folder.path(), web, 2000) < first + 10 {
        assert!(started.elapsed() < DEADLINE, "the guest does not write");
        std::thread::yield_now();
    }
    let status = child.term_and_wait(DEADLINE).unwrap();
    assert!(status.success(), "{status}: {}", child.stderr());
    // It was ended between two steps.
    assert_eq!(counter(folder.path(), web, 2000), counter(folder.path(), web, 2001));
}

#[test]
fn words_that_it_does_not_know_end_it_with_its_usage() {
    let mut command = Command::new(example());
    command.arg("--nonsense");
    let output = Child::spawn(command).unwrap().output(DEADLINE).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.starts_with("usage: vsphere --state DIR"), "{}", output.stderr);
}

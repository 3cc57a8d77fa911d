//! Backups into a repository whose file system is full or read-only.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use blockferry::{code, stderr};
use blockferry_doubles::TestDisk;

const MIB: u64 = 1 << 20;

/// Runs a script with the program as `$0` in a folder whose `r` is a file system of 12 MiB, in a
/// namespace of its own. Nothing where this user may mount nothing.
fn with_small_file_system(folder: &Path, script: &str) -> Option<Output> {
    const MAY_NOT: i32 = 99;
    fs::create_dir(folder.join("r")).unwrap();
    let script = format!("mount -t tmpfs -o size=12m none r || exit {MAY_NOT}\n{script}");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    let output = command.arg(env!("CARGO_BIN_EXE_blockferry")).current_dir(folder).output();
    let output = output.unwrap();
    let may = !stderr(&output).contains("unshare:") && code(&output) != MAY_NOT;
    if !may {
        eprintln!("skipped: {}", stderr(&output));
    }
    may.then_some(output)
}

/// A folder with the disks `small` and `big`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, size) in [("small", 2 * MIB), ("big", 24 * MIB)] {
        let disk = TestDisk::random(folder.path(), size, 0.9, size).unwrap();
        fs::rename(disk.path, folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn a_backup_that_finds_no_room_says_so_and_costs_no_point() {
    let folder = folder();
    let script = "
        \"$0\" backup --vm small --disk d=small --repository r/x || exit 98
        \"$0\" backup --vm big --disk d=big --repository r/x; full=$?
        test -z \"$(ls r/x/work)\" || exit 97
        \"$0\" verify --all --repository r/x || exit 96
        \"$0\" backup --vm small --disk d=small --repository r/x --mode incremental || exit 95
        exit $full";
    let Some(output) = with_small_file_system(folder.path(), script) else { return };
    let said = stderr(&output);
    assert_eq!(code(&output), 5, "{said}");
    let said: Vec<&str> = said.lines().filter(|line| line.starts_with("blockferry: ")).collect();
    let [said] = said.as_slice() else { panic!("{said:?}") };
    assert!(said.contains("disk d: the repository: "), "{said}");
    assert!(said.to_lowercase().contains("no space"), "{said}");
}

#[test]
fn a_backup_into_a_read_only_file_system_says_so_and_costs_no_point() {
    let folder = folder();
    let script = "
        \"$0\" backup --vm small --disk d=small --repository r/x || exit 98
        mount -o remount,ro r || exit 97
        \"$0\" backup --vm small --disk d=small --repository r/x; read_only=$?
        mount -o remount,rw r || exit 97
        \"$0\" verify --all --repository r/x || exit 96
        \"$0\" backup --vm small --disk d=small --repository r/x --mode incremental || exit 95
        exit $read_only";
    let Some(output) = with_small_file_system(folder.path(), script) else { return };
    let said = stderr(&output);
    assert_eq!(code(&output), 5, "{said}");
    let said: Vec<&str> = said.lines().filter(|line| line.starts_with("blockferry: ")).collect();
    let [said] = said.as_slice() else { panic!("{said:?}") };
    assert!(said.contains("its file system is read-only; make its folder"), "{said}");
}

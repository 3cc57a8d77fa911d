//! nbdkit, and what it reads.

use std::time::{Duration, Instant};

use super::{DISK, MIB, Stage};
use crate::blockferry::{code, stderr};

#[test]
fn an_nbdkit_that_is_killed_in_the_middle_ends_the_job_at_once() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("die_after_bytes", MIB.into());
    let began = Instant::now();
    let words = ["disk-200", "nbdkit", "signal 9"];
    stage.fails("--mode full", 4, &words);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(stage.points(), 1);
    stage.recovers();
}

#[test]
fn a_place_that_cannot_be_read_is_told_with_its_disk() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("fail_reads_at", (2 * MIB + 512).into());
    stage.fails("--mode full --retries 1", 4, &["disk-2000", "2097152", "VixDiskLib_Read"]);
    assert_eq!(stage.points(), 1);
    stage.recovers();
}

#[test]
fn a_disk_that_does_not_tell_what_is_allocated_is_read_all_the_same() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("fail_extents", true.into());
    let backed = stage.succeeds("--mode full", &[]);
    assert_eq!(backed.mode(DISK), "full");
    stage.assert_tidy();
    let backed = stage.succeeds("", &[]);
    assert_eq!(backed.mode(DISK), "incremental");
    stage.assert_tidy();
}

#[test]
fn a_disk_that_never_answers_ends_the_job_in_time() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("read_delay_ms", 600_000.into());
    let began = Instant::now();
    stage.fails("--mode full --deadline 1s --retries 0", 4, &["disk-200", "1 s"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stage.recovers();
}

/// The program in a repository that has only so much room, in a namespace of its own; nothing where
/// this user may mount nothing.
fn with_little_room(stage: &Stage) -> Option<std::process::Output> {
    const MAY_NOT: i32 = 99;
    // The points move in there, so that they can be looked at afterwards.
    let script = format!(
        "mkdir small && mount -t tmpfs -o size=14m none small || exit {MAY_NOT}
         cp -a repository small/repository || exit 98
         cd small || exit 98
         free=$(($(stat -f -c %a .) * $(stat -f -c %S .)))
         head -c $((free - (2 << 20))) /dev/zero > filling || exit 98
         \"$0\" {} ; ended=$?
         test -z \"$(ls repository/work repository/snapshots | grep -v :)\" || exit 97
         \"$0\" verify --all --repository repository || exit 96
         exit $ended",
        stage
            .place
            .backup("web", "--mode full")
            .replace("vc.password", "../vc.password")
            .replace("--vddk-libdir vsphere", "--vddk-libdir ../vsphere")
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    command.arg(env!("CARGO_BIN_EXE_blockferry")).current_dir(stage.place.kept.folder());
    let output = command.output().unwrap();
    let may = !stderr(&output).contains("unshare:") && code(&output) != MAY_NOT;
    if !may {
        eprintln!("skipped: {}", stderr(&output));
    }
    may.then_some(output)
}

#[test]
fn a_repository_without_room_ends_the_job_and_the_snapshot_goes() {
    let stage = Stage::new();
    let Some(output) = with_little_room(&stage) else { return };
    let said = stderr(&output);
    assert_eq!(code(&output), 5, "{said}");
    assert!(said.to_lowercase().contains("no space"), "{said}");
    assert!(said.contains("make room in the repository"), "{said}");
    stage.assert_tidy();
    stage.recovers();
}

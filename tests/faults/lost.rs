//! Snapshots that somebody else removes while they are read.

use std::time::Duration;

use blockferry_doubles::vsphere::Trouble;

use super::{DISK, Stage};
use crate::blockferry::{stderr, wait_until};

#[test]
fn a_snapshot_that_is_removed_while_it_is_read_makes_no_point() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("read_delay_ms", 300.into());
    let child = stage.start("--mode full");
    // By then all disks are open.
    wait_until("no data comes", || stage.has_data());
    for snapshot in stage.web.snapshots().unwrap() {
        stage.web.remove_snapshot(&snapshot.id).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let words = ["VM dc/web", "is gone, and was not removed by this backup", "there is no point"];
    Stage::has_failed(&output, 4, &words);
    assert!(stderr(&output).contains("was gone already"), "{}", stderr(&output));
    assert_eq!(stage.points(), 1);
    stage.assert_tidy();
    // Its change id is no base either.
    let next = stage.recovers();
    assert_eq!(next.mode(DISK), "incremental", "{}", next.report);
}

#[test]
fn a_server_that_does_not_tell_whether_the_snapshot_was_there_to_the_end_makes_no_point_and_says_why()
 {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("read_delay_ms", 300.into());
    let child = stage.start("--mode full --vcenter-deadline 1s");
    wait_until("no data comes", || stage.has_data());
    // More than are asked within the deadline.
    for _ in 0..4 {
        let by = Duration::from_secs(20);
        stage.place.vsphere.trouble(Trouble::CallSlow { method: "FindAllByUuid", by });
    }
    let output = child.wait_with_output().unwrap();
    let words =
        ["VM dc/web", "all of it was read", "there is no point", "did not answer FindAllByUuid"];
    Stage::has_failed(&output, 4, &words);
    stage.place.vsphere.clear_troubles();
    assert_eq!(stage.points(), 1);
    stage.recovers();
}

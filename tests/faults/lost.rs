//! Snapshots that somebody else removes while they are read, and whether they are there is looked for.

use std::time::Duration;

use blockferry_doubles::vsphere::{Failure, Trouble};

use super::{DISK, Stage};
use crate::blockferry::{assert_told_how_far, code, stderr};

const LOOK: &str = "RetrievePropertiesEx";

#[test]
fn a_snapshot_that_is_removed_while_it_is_read_makes_no_point() {
    let stage = Stage::new();
    let child = stage.in_the_middle("");
    for snapshot in stage.web.snapshots().unwrap() {
        stage.web.remove_snapshot(&snapshot.id).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let words = ["VM dc/web", "is gone, and was not removed by this backup", "there is no point"];
    Stage::has_failed(&output, 4, &words);
    assert!(stderr(&output).contains("was gone already"), "{}", stderr(&output));
    assert_told_how_far(&serde_json::from_slice(&output.stdout).unwrap());
    assert_eq!(stage.points(), 1);
    stage.assert_tidy();
    // Its change id is no base either.
    let next = stage.recovers();
    assert_eq!(next.mode(DISK), "incremental", "{}", next.report);
}

impl Stage {
    /// The server is away for so many looks. In the middle of a copy, whether the snapshot is still
    /// there is the next thing that it is asked.
    fn is_away(&self, looks: usize) {
        for _ in 0..looks {
            let failure = Failure::new("HostNotConnected", "The host is not connected.");
            self.place.vsphere.trouble(Trouble::CallFails { method: LOOK, failure });
        }
    }
}

#[test]
fn a_server_that_is_away_when_its_snapshot_is_looked_for_is_waited_for_and_that_is_told() {
    let stage = Stage::new();
    let child = stage.in_the_middle("");
    // Twice as many as are made in a row.
    stage.is_away(6);
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(code(&output), 0, "{said}");
    let told = said.lines().find(|line| line.contains("is still there cannot be seen: "));
    let told = told.unwrap_or_else(|| panic!("{said}"));
    assert!(told.contains("HostNotConnected") && told.contains("for 300 s at most"), "{told}");
    assert_eq!(stage.points(), 2);
    stage.recovers();
}

#[test]
fn a_snapshot_that_cannot_be_looked_for_in_time_makes_no_point() {
    let stage = Stage::new();
    let child = stage.in_the_middle("--vcenter-deadline 2s");
    stage.is_away(15);
    let output = child.wait_with_output().unwrap();
    Stage::has_failed(&output, 4, &["HostNotConnected", LOOK]);
    assert!(stderr(&output).contains("for 2 s at most"), "{}", stderr(&output));
    assert_eq!(stage.points(), 1);
    stage.place.vsphere.clear_troubles();
    stage.recovers();
}

#[test]
fn a_vm_that_is_registered_anew_while_it_is_read_has_its_point() {
    let mut stage = Stage::new();
    let child = stage.in_the_middle("");
    stage.is_registered_anew();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stage.points(), 2);
    stage.assert_tidy();
    stage.recovers();
}

#[test]
fn a_server_that_does_not_tell_whether_the_snapshot_was_there_to_the_end_makes_no_point_and_says_why()
 {
    let stage = Stage::new();
    let child = stage.in_the_middle("--vcenter-deadline 1s");
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

//! Snapshots that are not made, or half, or not removed.

use std::time::{Duration, Instant};

use blockferry_doubles::vsphere::{Failure, Trouble};

use super::{PATIENCE, Stage};
use crate::blockferry::{code, stderr};

const CREATE: &str = "CreateSnapshot_Task";
const REMOVE: &str = "RemoveSnapshot_Task";

/// What a point says of its snapshot.
fn notes(stage: &Stage, point: &crate::blockferry::Backed) -> String {
    stage.place.point(point)["notes"].to_string()
}

#[test]
fn a_snapshot_that_is_refused_is_told_with_the_servers_words() {
    let stage = Stage::new();
    let failure = Failure::new("NoDiskSpace", "Insufficient disk space on datastore1");
    stage.place.vsphere.trouble(Trouble::TaskFails { method: CREATE, failure });
    stage.fails("", 4, &[CREATE, "NoDiskSpace", "Insufficient disk space", "make room"]);
    stage.recovers();
}

#[test]
fn a_snapshot_that_is_there_although_its_task_failed_is_removed() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::SnapshotHalfway);
    stage.fails("", 4, &[CREATE, "Timedout", "did not answer in time"]);
    assert_eq!(stage.place.vsphere.count(REMOVE), 1);
    stage.recovers();
}

#[test]
fn a_quiesced_snapshot_that_is_there_although_its_task_failed_is_removed_before_another_is_made() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::SnapshotHalfway);
    let backed = stage.succeeds("--quiesce try", &["could not put its data in order"]);
    assert!(notes(&stage, &backed).contains("Timedout"), "{}", notes(&stage, &backed));
    assert_eq!(stage.place.vsphere.count(REMOVE), 2);
    stage.assert_tidy();
}

#[test]
fn a_guest_that_cannot_be_quiesced_is_backed_up_all_the_same_and_the_point_says_so() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::QuiesceFails);
    let backed = stage.succeeds("--quiesce try", &["as after a power cut"]);
    let notes = notes(&stage, &backed);
    assert!(notes.contains("ApplicationQuiesceFault") && notes.contains("warning"), "{notes}");
    stage.assert_tidy();
}

#[test]
fn a_guest_that_has_to_be_quiesced_and_cannot_be_has_no_point() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::QuiesceFails);
    stage.fails(
        "--quiesce require",
        4,
        &["cannot put its data in order", "ApplicationQuiesceFault"],
    );
    assert_eq!(stage.points(), 1);
    stage.recovers();
}

#[test]
fn a_snapshot_that_takes_too_long_is_cancelled_and_is_not_there() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::TaskSticks { method: CREATE, cancelable: true });
    let began = Instant::now();
    stage.fails("--vcenter-deadline 1s", 4, &[CREATE, "was not done within 1 s", "cancelled"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stage.recovers();
}

#[test]
fn a_snapshot_whose_task_sticks_is_told_stays_in_the_ledger_and_goes_with_the_next_backup() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::TaskSticks { method: CREATE, cancelable: false });
    let began = Instant::now();
    let failed = stage.fails_and_leaves("--vcenter-deadline 1s", 4, &[CREATE, "sticks"]);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(failed.said.contains("is not removed"), "{}", failed.said);
    assert_eq!(stage.place.left().len(), 1, "{:?}", stage.place.left());
    // It is made after all, when nobody waits for it any more.
    let task = stage.place.vsphere.tasks().into_iter().find(|task| task.ended.is_none()).unwrap();
    stage.place.vsphere.release_task(&task.id);
    let made = |_: &_| !stage.web.snapshots().unwrap().is_empty();
    assert!(stage.place.vsphere.wait_until(PATIENCE, made));
    stage.recovers();
}

#[test]
fn a_removal_that_fails_costs_no_point_and_is_done_by_a_sweep() {
    let stage = Stage::new();
    let failure = Failure::new("InvalidState", "The host says no");
    stage.place.vsphere.trouble(Trouble::TaskFails { method: REMOVE, failure });
    stage.succeeds_but_leaves_its_snapshot("", "The host says no");
    let swept = stage.place.ask("node sweep --repository repository");
    assert_eq!(code(&swept), 0, "{}", stderr(&swept));
    assert!(stderr(&swept).contains("is removed: its job is dead"), "{}", stderr(&swept));
    stage.assert_tidy();
    stage.recovers();
}

#[test]
fn a_removal_that_sticks_is_given_up_in_time_and_done_by_the_next_backup() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::TaskSticks { method: REMOVE, cancelable: false });
    stage.succeeds_but_leaves_its_snapshot("--vcenter-deadline 1s", "sticks");
    let task = stage.place.vsphere.tasks().into_iter().find(|task| task.ended.is_none()).unwrap();
    stage.place.vsphere.release_task(&task.id);
    stage.recovers();
}

#[test]
fn a_removal_is_asked_for_again_while_the_vm_is_busy() {
    let stage = Stage::new();
    let failure = Failure::new("TaskInProgress", "Another task is already in progress.");
    stage.place.vsphere.trouble(Trouble::TaskFails { method: REMOVE, failure });
    stage.succeeds("", &[]);
    assert_eq!(stage.place.vsphere.count(REMOVE), 2);
    stage.assert_tidy();
}

#[test]
fn no_snapshot_is_made_beside_one_of_a_dead_job_that_cannot_be_removed() {
    let stage = Stage::new();
    let refused = || {
        let failure = Failure::new("NoPermission", "Permission to perform this was denied.");
        stage.place.vsphere.trouble(Trouble::CallFails { method: REMOVE, failure });
    };
    refused();
    stage.succeeds_but_leaves_its_snapshot("", "NoPermission");
    stage.place.vsphere.clear_calls();
    for _ in 0..2 {
        refused();
        let words = ["VM dc/web", "of a dead job is not removed", "NoPermission", "by hand"];
        stage.fails_and_leaves("", 4, &words);
    }
    assert_eq!(stage.place.vsphere.count(CREATE), 0);
    assert_eq!(stage.web.snapshots().unwrap().len(), 1);
    stage.recovers();
}

#[test]
fn a_server_that_refuses_for_a_while_is_waited_for_and_that_is_told_with_the_point() {
    let stage = Stage::new();
    stage.refuses_removals(3);
    let words =
        ["is not removed yet: ", "HostNotConnected", "is made; its snapshot is being removed"];
    stage.succeeds("", &words);
    assert_eq!(stage.place.vsphere.count(REMOVE), 4);
    stage.assert_tidy();
}

#[test]
fn a_server_that_is_away_when_a_removal_is_looked_up_is_waited_for() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::CallHeld { method: REMOVE });
    let child = stage.start("");
    assert!(stage.place.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held(REMOVE) == 1));
    // As if it was done, and the answer to that lost: it is not there by this id any more.
    for snapshot in stage.web.snapshots().unwrap() {
        stage.web.remove_snapshot(&snapshot.id).unwrap();
    }
    for method in ["FindAllByUuid", "RetrievePropertiesEx"] {
        // Three calls to a look, and half a second and more between looks.
        for _ in 0..8 {
            stage.place.vsphere.trouble(Trouble::Cut { method, bytes: 0 });
        }
    }
    stage.place.vsphere.release_call(REMOVE);
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(code(&output), 0, "{said}");
    assert!(said.contains("it is tried again, for 300 s at most"), "{said}");
    assert!(said.contains("was gone already") && !said.contains("is not removed: "), "{said}");
    stage.assert_tidy();
    stage.recovers();
}

#[test]
fn a_server_that_goes_on_refusing_is_asked_ever_more_rarely_and_left_to_a_sweep() {
    let stage = Stage::new();
    stage.refuses_removals(40);
    stage.succeeds_but_leaves_its_snapshot("--vcenter-deadline 4s", "is not removed: ");
    // After 0, 0.5, 1.5 and 3.5 s.
    assert!(stage.place.vsphere.count(REMOVE) <= 4, "{}", stage.place.vsphere.count(REMOVE));
    stage.place.vsphere.clear_troubles();
    stage.recovers();
}

impl Stage {
    /// The host is out of reach for so many removals.
    pub(crate) fn refuses_removals(&self, count: usize) {
        for _ in 0..count {
            let failure = Failure::new("HostNotConnected", "The host is not connected.");
            self.place.vsphere.trouble(Trouble::CallFails { method: REMOVE, failure });
        }
    }

    fn succeeds_but_leaves_its_snapshot(&self, extra: &str, why: &str) {
        let before = self.points();
        let output = self.place.kept.run(&self.place.backup("web", extra));
        let said = stderr(&output);
        assert_eq!(code(&output), 0, "{said}");
        let [line] = said.lines().filter(|line| line.contains(why)).collect::<Vec<_>>()[..] else {
            panic!("{said}");
        };
        assert!(line.contains("is not removed") && line.contains("node sweep"), "{line}");
        assert_eq!(self.points(), before + 1);
        let left: Vec<String> = self.place.left().into_iter().collect();
        let [snapshot, ledger] = &left[..] else { panic!("{left:?}") };
        assert!(snapshot.starts_with("snapshot ") && ledger.starts_with("snapshots/"), "{left:?}");
    }
}

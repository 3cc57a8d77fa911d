//! Snapshots that are asked for, and nobody hears what became of it.

use std::time::{Duration, Instant};

use blockferry_doubles::vsphere::Trouble;
use rustix::process::Signal;

use super::{PATIENCE, Stage};
use crate::blockferry::{code, signal, stderr};

const CREATE: &str = "CreateSnapshot_Task";
/// A second of patience with a server that does not answer.
const IMPATIENT: &str = "--vcenter-deadline 1s";

impl Stage {
    /// Sweeps, which succeeds. Returns what it says.
    pub(crate) fn sweeps(&self) -> String {
        let swept = self.place.ask("node sweep --repository repository");
        assert_eq!(code(&swept), 0, "{}", stderr(&swept));
        stderr(&swept)
    }

    /// Snapshots, and lines of the ledger, that are left. A kill leaves folders besides, which go
    /// with the next backup.
    fn left_of_snapshots(&self) -> Vec<String> {
        self.place.left().into_iter().filter(|left| left.starts_with("snapshot")).collect()
    }

    /// A snapshot is written down, and is not there.
    pub(crate) fn assert_written_down_alone(&self) {
        let left = self.left_of_snapshots();
        assert!(matches!(&left[..], [line] if line.starts_with("snapshots/")), "{left:?}");
    }

    pub(crate) fn assert_no_snapshot_left(&self) {
        assert_eq!(self.left_of_snapshots(), Vec::<String>::new());
    }

    /// The server carries out what it was asked for long ago.
    fn comes_after_all(&self) {
        self.place.vsphere.release_call(CREATE);
        let made = |_: &_| !self.web.snapshots().unwrap().is_empty();
        assert!(self.place.vsphere.wait_until(PATIENCE, made), "no snapshot was made");
    }

    /// A sweep looks in vain, and another one when the snapshot is there after all.
    fn assert_removed_when_it_comes(&self) {
        let said = self.sweeps();
        assert!(said.contains("is not there, and may still come"), "{said}");
        self.assert_written_down_alone();
        self.comes_after_all();
        let said = self.sweeps();
        assert!(said.contains("is removed: its job is dead"), "{said}");
        self.assert_no_snapshot_left();
    }
}

#[test]
fn a_snapshot_that_comes_when_its_backup_has_given_up_waiting_is_removed_by_a_later_sweep() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::CallHeld { method: CREATE });
    let began = Instant::now();
    let words = ["did not answer", CREATE, "within 1 s"];
    let failed = stage.fails_and_leaves(IMPATIENT, 4, &words);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let told = failed.said.lines().find(|line| line.contains("may still come"));
    assert!(told.is_some_and(|line| line.contains("node sweep")), "{}", failed.said);
    stage.assert_written_down_alone();
    stage.assert_removed_when_it_comes();
    stage.recovers();
}

#[test]
fn a_backup_that_is_called_off_while_its_snapshot_is_waited_for_in_vain_is_interrupted() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::CallHeld { method: CREATE });
    // Longer than it takes to be called off.
    let child = stage.start("--vcenter-deadline 3s");
    assert!(stage.place.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held(CREATE) == 1));
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    let words = ["interrupted", "did not answer", CREATE, "within 3 s"];
    let failed = Stage::has_failed(&output, 7, &words);
    assert!(failed.said.contains("may still come"), "{}", failed.said);
    stage.assert_removed_when_it_comes();
    stage.recovers();
}

#[test]
fn a_snapshot_that_comes_when_its_backup_was_killed_is_removed_by_a_later_sweep() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::CallHeld { method: CREATE });
    let mut child = stage.start("");
    assert!(stage.place.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held(CREATE) == 1));
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    stage.place.vsphere.expire_sessions();
    stage.assert_removed_when_it_comes();
    stage.recovers();
}

#[test]
fn a_snapshot_that_comes_beside_that_of_the_next_backup_is_removed_by_the_one_after() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::CallHeld { method: CREATE });
    stage.fails_and_leaves(IMPATIENT, 4, &["did not answer"]);
    stage.succeeds("", &["is not there, and may still come"]);
    stage.assert_written_down_alone();
    stage.comes_after_all();
    stage.recovers();
}

#[test]
fn a_snapshot_that_has_not_come_for_an_hour_is_awaited_no_more() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::CallHeld { method: CREATE });
    stage.fails_and_leaves(IMPATIENT, 4, &["did not answer"]);
    let [name] = &stage.place.kept.names("repository/snapshots")[..] else { panic!() };
    let path = stage.place.kept.path("repository/snapshots").join(name);
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let asked = record["asked_ms"].as_u64().unwrap();
    record["asked_ms"] = (asked - 3_600_000).into();
    std::fs::write(&path, record.to_string()).unwrap();
    let said = stage.sweeps();
    assert!(said.contains("was gone already"), "{said}");
    stage.assert_tidy();
}

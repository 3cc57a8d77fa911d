//! Sweeps that are at work with what a dead job has left of the VM, for as long as a removal takes.

use std::fs::{self, File};
use std::process::{Child, Output, Stdio};

use blockferry_doubles::vsphere::Trouble;
use rustix::process::Signal;

use super::{PATIENCE, Stage};
use crate::blockferry::{code, signal, stderr, wait_until};

const REMOVE: &str = "RemoveSnapshot_Task";
/// What a backup says that waits.
const WAITS: &str = "a sweep is at work with what job ";

/// A stage with the snapshot of a dead backup, and a sweep that removes it and does not come to an end.
struct Sweeping {
    stage: Stage,
    sweep: Child,
}

impl Sweeping {
    fn new() -> Self {
        let stage = Stage::new();
        stage.place.vsphere.plugin_fault("read_delay_ms", 300.into());
        let mut dead = stage.start("--mode full");
        stage.wait_for_snapshot();
        signal(&dead, Signal::KILL);
        dead.wait().unwrap();
        stage.place.vsphere.clear_plugin_faults();
        stage.place.vsphere.expire_sessions();
        stage.place.vsphere.trouble(Trouble::TaskSticks { method: REMOVE, cancelable: false });
        let sweep = stage.start_sweep();
        let begun = |_: &_| stage.task().is_some();
        assert!(stage.place.vsphere.wait_until(PATIENCE, begun), "nobody sweeps");
        Self { stage, sweep }
    }

    /// A backup that waits for the sweep.
    fn waiting(&self, extra: &str) -> Child {
        let errors = self.stage.place.kept.path("errors");
        let mut command = self.stage.place.backup_command("web", extra);
        command.stdout(Stdio::piped()).stderr(File::create(&errors).unwrap());
        let child = command.spawn().unwrap();
        wait_until("it does not wait", || self.says().contains(WAITS));
        child
    }

    fn says(&self) -> String {
        fs::read_to_string(self.stage.place.kept.path("errors")).unwrap()
    }

    /// The sweep comes to its end.
    fn ends(self) -> (Stage, Output) {
        self.stage.place.vsphere.release_task(&self.stage.task().unwrap());
        let swept = self.sweep.wait_with_output().unwrap();
        assert_eq!(code(&swept), 0, "{}", stderr(&swept));
        assert!(stderr(&swept).contains("is removed: its job is dead"), "{}", stderr(&swept));
        (self.stage, swept)
    }
}

impl Stage {
    fn start_sweep(&self) -> Child {
        let line = format!("node sweep --repository repository {}", self.place.server());
        let mut command = self.place.kept.command(&line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The removal that goes on.
    fn task(&self) -> Option<String> {
        let mut tasks = self.place.vsphere.tasks().into_iter();
        tasks.find(|task| task.method == REMOVE && task.ended.is_none()).map(|task| task.id)
    }
}

#[test]
fn a_backup_that_meets_a_sweep_of_its_vm_waits_for_it_and_says_so_once() {
    let sweeping = Sweeping::new();
    let backup = sweeping.waiting("");
    let errors = sweeping.stage.place.kept.path("errors");
    let (stage, _) = sweeping.ends();
    let output = backup.wait_with_output().unwrap();
    let said = fs::read_to_string(errors).unwrap();
    assert_eq!(code(&output), 0, "{said}");
    assert_eq!(said.matches(WAITS).count(), 1, "{said}");
    assert!(!said.contains("is being backed up"), "{said}");
    assert_eq!(stage.points(), 2);
    stage.recovers();
}

#[test]
fn a_backup_that_waits_for_a_sweep_can_be_called_off_and_gives_up_after_the_deadline_of_a_removal()
{
    let sweeping = Sweeping::new();
    let backup = sweeping.waiting("");
    signal(&backup, Signal::TERM);
    let output = backup.wait_with_output().unwrap();
    assert_eq!(code(&output), 7, "{}", sweeping.says());

    let words = ["a sweep is at work with what job", "did not end within 1 s"];
    let failed = sweeping.stage.fails_and_leaves("--vcenter-deadline 1s", 4, &words);
    assert!(failed.said.contains("for 1 s at most"), "{}", failed.said);
    let (stage, _) = sweeping.ends();
    assert_eq!(stage.points(), 1);
    stage.recovers();
}

#[test]
fn a_second_sweep_leaves_what_the_first_removes_and_says_so() {
    let sweeping = Sweeping::new();
    let second = sweeping.stage.place.ask("node sweep --repository repository");
    let said = stderr(&second);
    assert_eq!(code(&second), 0, "{said}");
    assert!(said.contains("is left alone: another sweep removes it"), "{said}");
    assert!(!said.contains("its job is at work"), "{said}");
    let (stage, _) = sweeping.ends();
    stage.recovers();
}

#[test]
fn a_sweep_that_is_killed_is_waited_for_no_more() {
    let mut sweeping = Sweeping::new();
    let backup = sweeping.waiting("");
    let removal = sweeping.stage.task().unwrap();
    signal(&sweeping.sweep, Signal::KILL);
    sweeping.sweep.wait().unwrap();
    // The backup sweeps itself, and finds the VM busy with the removal of the dead sweep.
    wait_until("the backup does not sweep", || sweeping.stage.place.vsphere.count(REMOVE) > 1);
    sweeping.stage.place.vsphere.release_task(&removal);
    let output = backup.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", sweeping.says());
    sweeping.stage.place.vsphere.expire_sessions();
    sweeping.stage.recovers();
}

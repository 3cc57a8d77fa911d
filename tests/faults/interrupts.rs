//! Ctrl-C, as a terminal has it: a signal to each process of the foreground group.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use blockferry_doubles::vsphere::Trouble;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{PATIENCE, Stage};
use crate::blockferry::{processes_of, wait_until};

const REMOVE: &str = "RemoveSnapshot_Task";
const INTERRUPTED: i32 = 7;
/// What a second signal, or the end after the first one, may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A backup in the foreground of a terminal, so to say.
struct Foreground<'a> {
    stage: &'a Stage,
    child: Child,
}

impl<'a> Foreground<'a> {
    fn start(stage: &'a Stage, extra: &str) -> Self {
        let mut command = stage.place.backup_command("web", extra);
        let errors = File::create(stage.place.kept.path("errors")).unwrap();
        command.stdout(Stdio::null()).stderr(errors).process_group(0);
        Self { stage, child: command.spawn().unwrap() }
    }

    fn interrupt(&self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process_group(group, Signal::INT).unwrap();
    }

    fn says(&self) -> String {
        fs::read_to_string(self.stage.place.kept.path("errors")).unwrap()
    }

    /// Waits until the first signal was heard.
    fn is_heard(&self) {
        wait_until("nothing is said of the signal", || self.says().contains("once more to stop"));
    }

    fn ends(self) -> String {
        self.ends_with(INTERRUPTED)
    }

    fn ends_with(mut self, code: i32) -> String {
        let mut ended = None;
        wait_until("it does not end", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(code), "{}", self.says());
        self.says()
    }
}

impl Drop for Foreground<'_> {
    fn drop(&mut self) {
        // It has ended, unless its test has failed.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn ctrl_c_removes_the_snapshot_while_disks_are_opened_and_while_they_are_copied() {
    let stage = Stage::new();
    // nbdkit would end at once with the signal, and be told as a source that failed.
    for (fault, program) in [("open_delay_ms", "nbdkit"), ("read_delay_ms", "qemu-nbd")] {
        stage.place.vsphere.plugin_fault(fault, 1000.into());
        let backup = Foreground::start(&stage, "--mode full");
        stage.wait_for_snapshot();
        stage.wait_for(program);
        backup.interrupt();
        let said = backup.ends();
        assert!(said.ends_with("blockferry: interrupted\n"), "{fault}: {said}");
        assert!(!said.contains("is not removed"), "{fault}: {said}");
        stage.assert_tidy();
        assert_eq!(stage.points(), 1);
        stage.place.vsphere.clear_plugin_faults();
    }
    stage.recovers();
}

#[test]
fn a_second_ctrl_c_in_the_copy_ends_at_once_and_leaves_the_snapshot_to_the_next_backup() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("read_delay_ms", 1500.into());
    let backup = Foreground::start(&stage, "--mode full");
    // What is in flight is waited for, and there is something from then on.
    wait_until("no data comes", || stage.has_data());
    backup.interrupt();
    backup.is_heard();
    let asked = Instant::now();
    backup.interrupt();
    let said = backup.ends();
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    let left = stage.web.snapshots().unwrap();
    assert_eq!(left.len(), 1);
    let left = &left[0].name;
    let told = format!("snapshot {left} of VM dc/web is left; `blockferry node sweep` removes it");
    assert_eq!(said.matches(&told).count(), 1, "{said}");
    let folder = stage.place.kept.folder().to_str().unwrap();
    wait_until("a process outlives it", || processes_of(folder).is_empty());
    stage.place.vsphere.clear_plugin_faults();
    stage.succeeds("", &["is removed: its job is dead"]);
    assert_eq!(stage.web.snapshots().unwrap(), []);
    stage.place.assert_nothing_left();
    stage.verifies();
}

#[test]
fn a_second_ctrl_c_while_the_snapshot_is_removed_leaves_that_to_the_server() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::TaskSticks { method: REMOVE, cancelable: false });
    stage.place.vsphere.plugin_fault("read_delay_ms", 300.into());
    let backup = Foreground::start(&stage, "--mode full");
    stage.wait_for_snapshot();
    stage.wait_for("qemu-nbd");
    backup.interrupt();
    wait_until("its removal is not asked for", || stage.place.vsphere.count(REMOVE) == 1);
    let asked = Instant::now();
    backup.interrupt();
    backup.ends();
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    // The next start cleans up, and knows of the snapshot; no process has stayed.
    let left = stage.place.left();
    assert!(left.iter().any(|word| word.starts_with("snapshots/")), "{left:?}");
    assert!(!left.iter().any(|word| word.starts_with("process ")), "{left:?}");
    let task = stage.place.vsphere.tasks().into_iter().find(|task| task.ended.is_none()).unwrap();
    stage.place.vsphere.release_task(&task.id);
    let gone = |_: &_| stage.web.snapshots().unwrap().is_empty();
    assert!(stage.place.vsphere.wait_until(PATIENCE, gone));
    stage.place.vsphere.clear_plugin_faults();
    stage.succeeds("", &[]);
    stage.place.assert_nothing_left();
    stage.verifies();
}

#[test]
fn ctrl_c_ends_the_wait_for_a_removal_that_is_refused_and_the_point_is_told() {
    let stage = Stage::new();
    stage.refuses_removals(40);
    let backup = Foreground::start(&stage, "");
    wait_until("the point is not told", || backup.says().contains("its snapshot is being removed"));
    backup.interrupt();
    let said = backup.ends_with(0);
    assert!(said.contains("is not removed: ") && said.contains("node sweep"), "{said}");
    assert_eq!(stage.points(), 2);
    stage.place.vsphere.clear_troubles();
    stage.recovers();
}

#[test]
fn a_second_ctrl_c_while_a_removal_is_refused_tells_of_the_point_and_of_its_snapshot() {
    let stage = Stage::new();
    stage.refuses_removals(40);
    let backup = Foreground::start(&stage, "");
    wait_until("the point is not told", || backup.says().contains("its snapshot is being removed"));
    backup.interrupt();
    backup.is_heard();
    backup.interrupt();
    let said = backup.ends();
    let told = said.lines().find(|line| line.contains("its snapshot may be left"));
    let told = told.unwrap_or_else(|| panic!("{said}"));
    assert!(told.contains("is made") && told.contains("node sweep"), "{said}");
    assert_eq!(stage.points(), 2);
    stage.place.vsphere.clear_troubles();
    stage.place.vsphere.expire_sessions();
    stage.recovers();
}

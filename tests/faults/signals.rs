//! The program is called off, or killed, with its snapshot open.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blockferry_control::catalog::JobId;
use blockferry_doubles::disk::Random;
use blockferry_doubles::vsphere::Trouble;
use rustix::process::Signal;

use super::{PATIENCE, Stage};
use crate::blockferry::{code, processes_of, signal, stderr, wait_until};

/// Kills of a run.
const KILLS: u64 = 10;
/// Takes the same moments again, as far as the machine does.
const SEED_VARIABLE: &str = "BLOCKFERRY_SEED";

impl Stage {
    pub(crate) fn start(&self, extra: &str) -> Child {
        let mut command = self.place.backup_command("web", extra);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn wait_for_snapshot(&self) {
        let made = |_: &_| !self.web.snapshots().unwrap().is_empty();
        assert!(self.place.vsphere.wait_until(PATIENCE, made), "no snapshot was made");
    }

    /// Waits for a process of the backup.
    pub(crate) fn wait_for(&self, program: &str) {
        let folder = self.place.kept.folder().to_str().unwrap();
        wait_until("it does not run", || {
            processes_of(folder)
                .iter()
                .any(|line| line.split(' ').next().unwrap().ends_with(program))
        });
    }

    fn is_called_off(&self, child: Child) {
        let asked = Instant::now();
        signal(&child, Signal::TERM);
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 7, "{}", stderr(&output));
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert!(stderr(&output).ends_with("blockferry: interrupted\n"), "{}", stderr(&output));
        self.place.vsphere.clear_troubles();
        self.assert_tidy();
    }
}

#[test]
fn a_backup_that_is_called_off_removes_its_snapshot_whatever_it_is_at() {
    let stage = Stage::new();
    // The snapshot is being made.
    let method = "CreateSnapshot_Task";
    stage.place.vsphere.trouble(Trouble::TaskSticks { method, cancelable: true });
    let child = stage.start("");
    let begun = |it: &blockferry_doubles::vsphere::Vsphere| {
        it.tasks().iter().any(|task| task.method == method && task.ended.is_none())
    };
    assert!(stage.place.vsphere.wait_until(PATIENCE, begun));
    stage.is_called_off(child);

    // A disk is being opened.
    stage.place.vsphere.plugin_fault("open_delay_ms", 600_000.into());
    let child = stage.start("");
    stage.wait_for("nbdkit");
    stage.is_called_off(child);
    stage.place.vsphere.clear_plugin_faults();

    // It is asked what changed, and the host is out of reach.
    for _ in 0..12 {
        let failure = blockferry_doubles::vsphere::Failure::new("HostNotConnected", "no answer");
        let method = "QueryChangedDiskAreas";
        stage.place.vsphere.trouble(Trouble::CallFails { method, failure });
    }
    let child = stage.start("");
    wait_until("nobody asks", || stage.place.vsphere.count("QueryChangedDiskAreas") >= 3);
    stage.is_called_off(child);

    // It is asked what changed, and nothing is answered.
    let method = "QueryChangedDiskAreas";
    stage.place.vsphere.trouble(Trouble::CallHeld { method });
    let child = stage.start("");
    assert!(stage.place.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held(method) == 1));
    stage.is_called_off(child);

    // Data is on its way.
    stage.place.vsphere.plugin_fault("read_delay_ms", 300.into());
    let child = stage.start("--mode full");
    stage.wait_for("qemu-nbd");
    stage.is_called_off(child);
    assert_eq!(stage.points(), 1);
    stage.recovers();
}

#[test]
fn a_kill_at_any_moment_leaves_a_snapshot_that_the_next_backup_removes_and_whole_points() {
    let seed =
        std::env::var(SEED_VARIABLE).map(|text| text.parse().unwrap()).unwrap_or_else(|_| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::try_from(since.as_nanos()).unwrap()
        });
    println!("{SEED_VARIABLE}={seed}");
    let mut random = Random::new(seed);
    let mut stage = Stage::new();
    let folder = stage.place.kept.folder().to_str().unwrap().to_owned();
    let mut swept = 0;
    for round in 0..KILLS {
        // The copy takes half a second then, at least.
        stage.place.vsphere.plugin_fault("read_delay_ms", 50.into());
        let mut child = stage.start(if round % 2 == 0 { "--mode full" } else { "" });
        stage.wait_for_snapshot();
        thread::sleep(Duration::from_millis(random.below(700)));
        signal(&child, Signal::KILL);
        let was_killed = child.wait().unwrap().signal().is_some();
        wait_until("a process outlives it", || processes_of(&folder).is_empty());
        let left = stage.web.snapshots().unwrap();
        stage.place.vsphere.clear_plugin_faults();
        stage.write();

        let next = stage.succeeds("", &[]);
        if let Some(snapshot) = left.first() {
            assert!(was_killed, "{snapshot:?} is left by a backup that ended by itself");
            swept += 1;
        }
        assert_eq!(stage.web.snapshots().unwrap(), [], "after {left:?}");
        stage.place.assert_nothing_left();
        drop(next);
        stage.write();
    }
    println!("{swept} of {KILLS} left a snapshot");
    assert!(swept > 0, "all were done before they were killed");
    stage.place.assert_equal(&stage.first);
    stage.verifies();
}

#[test]
fn a_sweep_removes_the_snapshot_of_a_dead_job_and_nobody_elses() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("read_delay_ms", 300.into());
    stage.web.take_snapshot("before update").unwrap();
    let mut child = stage.start("--mode full");
    let taken = |_: &_| stage.web.snapshots().unwrap().len() == 2;
    assert!(stage.place.vsphere.wait_until(PATIENCE, taken));
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    stage.place.vsphere.clear_plugin_faults();
    let others = format!("blockferry-{}", JobId::new());
    let other = stage.web.take_snapshot(&others).unwrap();

    let swept = stage.place.ask("node sweep --repository repository");
    assert_eq!(code(&swept), 0, "{}", stderr(&swept));
    assert_eq!(stderr(&swept).matches("is removed").count(), 1, "{}", stderr(&swept));
    let names = || -> Vec<String> {
        stage.web.snapshots().unwrap().into_iter().map(|snapshot| snapshot.name).collect()
    };
    assert_eq!(names(), ["before update", &others]);

    // Whose it is nobody here can tell, so that it may be of a backup at work.
    stage.fails_and_leaves("", 4, &["another backup has a snapshot of it", &others]);
    assert_eq!(names(), ["before update", &others]);
    stage.web.remove_snapshot(&other).unwrap();
    stage.succeeds("", &["it has snapshots already: \"before update\""]);
    assert_eq!(names(), ["before update"]);
    stage.place.assert_nothing_left();
}

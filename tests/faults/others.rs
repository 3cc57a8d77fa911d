//! What is left of other VMs, and at a server by another name.

use blockferry_doubles::vsphere::{NewMachine, Trouble, Vsphere};

use super::{MIB, Stage};
use crate::blockferry::{code, stderr, wait_until};

const REMOVE: &str = "RemoveSnapshot_Task";

#[test]
fn a_backup_removes_what_is_left_of_its_vm_and_leaves_other_vms_to_theirs() {
    let stage = Stage::with(Vsphere::builder().machine(NewMachine::new("db").disk(MIB).tracked()));
    stage.leaves_a_snapshot();
    stage.place.vsphere.clear_calls();
    stage.place.back_up("db", "");
    // That is its own.
    assert_eq!(stage.place.vsphere.count(REMOVE), 1);
    assert_eq!(stage.web.snapshots().unwrap().len(), 1);
    assert_eq!(stage.place.kept.names("repository/snapshots").len(), 1);
    stage.succeeds("", &["of VM dc/web is removed: its job is dead"]);
    stage.assert_no_snapshot_left();
}

#[test]
fn a_snapshot_of_a_dead_job_is_swept_by_any_name_of_its_server() {
    let stage = Stage::new();
    stage.leaves_a_snapshot();
    let renamed = stage.place.server().replace("127.0.0.1:", "localhost:");
    let swept = stage.place.kept.run(&format!("node sweep --repository repository {renamed}"));
    let said = stderr(&swept);
    assert_eq!(code(&swept), 0, "{said}");
    assert!(said.contains("is removed: its job is dead"), "{said}");
    stage.assert_no_snapshot_left();
    stage.recovers();
}

#[test]
fn a_host_without_a_uuid_is_known_by_its_name_alone() {
    let stage = Stage::with(Vsphere::builder().esxi());
    stage.leaves_a_snapshot();
    let renamed = stage.place.server().replace("127.0.0.1:", "localhost:");
    let swept = stage.place.kept.run(&format!("node sweep --repository repository {renamed}"));
    let said = stderr(&swept);
    assert_eq!(code(&swept), 0, "{said}");
    assert!(said.contains("whose job is dead, is at 127.0.0.1:"), "{said}");
    let said = stage.sweeps();
    assert!(said.contains("is removed: its job is dead"), "{said}");
    stage.recovers();
}

#[test]
fn what_a_backup_left_at_a_host_by_another_name_goes_before_the_next_one() {
    let stage = Stage::with(Vsphere::builder().esxi());
    stage.leaves_a_snapshot();
    let line = stage.place.backup("web", "").replace("127.0.0.1:", "localhost:");
    let (code, report) = stage.place.kept.json(&line);
    assert_eq!(code, 0, "{report}");
    stage.assert_no_snapshot_left();
}

#[test]
fn a_sweep_that_sticks_at_one_vm_keeps_no_other_from_its_backup() {
    let stage = Stage::with(Vsphere::builder().machine(NewMachine::new("db").disk(MIB).tracked()));
    stage.leaves_a_snapshot();
    stage.leaves_a_snapshot_of("db");
    stage.place.vsphere.clear_calls();
    stage.place.vsphere.trouble(Trouble::TaskSticks { method: REMOVE, cancelable: false });
    let line = format!("node sweep --repository repository {}", stage.place.server());
    let mut sweep = stage.place.kept.command(&line).spawn().unwrap();
    wait_until("no removal was asked for", || stage.place.vsphere.count(REMOVE) == 1);
    // The one of them waits for the sweep, for as long as a removal may take.
    let back_up = |vm| stage.place.try_back_up(vm, "--vcenter-deadline 3s").0;
    let mut codes = ["web", "db"].map(back_up);
    codes.sort_unstable();
    assert_eq!(codes, [0, 4]);
    let stuck = stage.place.vsphere.tasks().into_iter().find(|task| task.ended.is_none()).unwrap();
    stage.place.vsphere.release_task(&stuck.id);
    assert!(sweep.wait().unwrap().success());
    stage.assert_no_snapshot_left();
}

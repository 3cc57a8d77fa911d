//! What is lost in the middle: the snapshot, the vCenter, the hub, the node, nbdkit.

use std::fs::{self, File};
use std::process::Stdio;

use blockferry_doubles::vsphere::{Failure, TaskRun, Trouble};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{MIB, Place, READ, SLOW, two_disks};
use crate::blockferry::{assert_told_how_far, by, code, signal, wait_until};

#[test]
fn a_snapshot_that_is_removed_while_a_node_reads_it_makes_no_point() {
    let place = Place::new(two_disks());
    let _node = place.node(SLOW);
    let job = place.at_work("web");
    let machine = place.vms.machine("web");
    for snapshot in machine.snapshots().unwrap() {
        machine.remove_snapshot(&snapshot.id).unwrap();
    }
    let failed = place.hubs.hub.wait_over(&place.hubs.token, &job);
    assert_eq!(failed["state"], "failed", "{failed}");
    let why = failed["reason"].as_str().unwrap();
    assert!(why.contains("is gone, and was not removed by this backup"), "{failed}");
    assert_eq!(failed["failure"], "source_fault", "{failed}");
    assert_eq!(place.hubs.points(), 0);
    place.assert_nothing_left();
}

#[test]
fn a_vcenter_that_is_away_once_all_is_read_is_told_of_and_not_waited_for_after_a_signal() {
    let place = Place::new(two_disks());
    let _node = place.node(SLOW);
    place.vms.machine("web").write(2000, 0, &vec![7; 20 << 20]).unwrap();
    let said = place.hubs.kept.path("said");
    let line = format!("backup --vm web {} --node n1 -v", by(&place.hubs.hub));
    let mut command = place.hubs.kept.command(&line);
    let child = command.stdout(Stdio::null()).stderr(File::create(&said).unwrap()).spawn().unwrap();
    let told = || fs::read_to_string(&said).unwrap();
    wait_until("nothing is copied", || told().contains(" is copying: "));
    // For longer than this test takes.
    for _ in 0..10_000 {
        let failure = Failure::new("HostNotConnected", "The host is not connected.");
        place.vms.vsphere.trouble(Trouble::CallFails { method: "RetrievePropertiesEx", failure });
    }
    wait_until("nothing is told", || told().contains("cannot be seen: "));
    signal(&child, Signal::TERM);
    // The removal is waited for all the same, and goes on when the vCenter is back.
    wait_until("it is still looked for", || told().contains("is being removed, and waited for"));
    place.vms.vsphere.clear_troubles();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 7, "{}", told());
    assert_eq!(place.hubs.points(), 0);
    place.assert_nothing_left();
}

#[test]
fn a_snapshot_that_cannot_be_removed_is_not_waited_for_once_its_job_is_called_off() {
    let place = Place::new(two_disks());
    let node = place.node(SLOW);
    place.vms.machine("web").write(2000, 0, &vec![7; 20 << 20]).unwrap();
    let remove = "RemoveSnapshot_Task";
    place.vms.vsphere.trouble(Trouble::TaskSticks { method: remove, cancelable: false });
    let said = place.hubs.kept.path("said");
    let line = format!("backup --vm web {} --node n1 -v --json", by(&place.hubs.hub));
    let mut command = place.hubs.kept.command(&line);
    command.stdout(Stdio::piped()).stderr(File::create(&said).unwrap());
    let child = command.spawn().unwrap();
    let told = || fs::read_to_string(&said).unwrap();
    let jobs = || place.hubs.hub.get(&place.hubs.token, "/backups")["backups"].clone();
    wait_until("there is no job", || jobs()[0].is_object());
    place.hubs.wait_at_work(jobs()[0]["id"].as_str().unwrap());
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    let said = told();
    assert_eq!(code(&output), 7, "{said}");
    assert!(said.contains("is not removed yet: node n1 goes on with that"), "{said}");
    assert_told_how_far(&serde_json::from_slice(&output.stdout).unwrap());
    assert_eq!(place.snapshots(), 1);
    // Nobody else takes the VM meanwhile.
    let (exit, refused) = place.try_back_up("web");
    assert_eq!(exit, 1, "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("is being backed up"), "{refused}");
    let is_open = |task: &TaskRun| task.method == remove && task.ended.is_none();
    let task = place.vms.vsphere.tasks().into_iter().find(is_open).unwrap();
    place.vms.vsphere.release_task(&task.id);
    place.assert_nothing_left();
    node.wait_for("of VM dc/web is removed, after ");
    place.assert_equal(&place.back_up("web"));
}

#[test]
fn a_snapshot_is_removed_when_its_job_is_called_off_and_when_its_node_stops() {
    let place = Place::with(two_disks(), "--node-deadline 4s");
    let mut node = place.node(SLOW);
    let job = place.at_work("web");
    let (status, _) = place.hubs.hub.ask(
        &place.hubs.token,
        "POST",
        &format!("/backups/{job}/cancel"),
        &json!({}),
    );
    assert_eq!(status, 200);
    assert_eq!(place.hubs.end_of(&job)["state"], "cancelled");
    place.assert_nothing_left();

    let job = place.at_work("web");
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0), "{}", node.says());
    assert_eq!(place.snapshots(), 0, "{}", node.says());
    place.hubs.reason_of(&job);
    let _node = place.start_again("");
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn a_node_that_was_killed_removes_its_snapshot_when_it_starts_again_and_no_other() {
    let place = Place::with(two_disks(), "--node-deadline 4s");
    let mut node = place.node(SLOW);
    let job = place.at_work("web");
    node.kill();
    place.hubs.reason_of(&job);
    assert_eq!(place.snapshots(), 1);
    let is_socket = |name: &String| name.starts_with("blockferry-vddk-");
    let sockets = || place.vms.kept.names("run").into_iter().any(|name| is_socket(&name));
    assert!(sockets(), "the kill left none");
    let node = place.start_again("");
    assert!(!sockets(), "the dead node's are there");
    wait_until("the snapshot of the dead job is there", || place.snapshots() == 0);
    node.wait_for("of VM dc/web is removed: its job is dead");
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn a_node_that_does_not_hear_of_its_hub_any_more_lets_the_vm_go() {
    let mut place = Place::new(two_disks());
    let node = place.node(&format!("{SLOW} --forget 2s"));
    let job = place.at_work("web");
    place.hubs.hub.signal(Signal::KILL);
    wait_until("the snapshot is there", || place.snapshots() == 0);
    place.hubs.restart_hub();
    assert_eq!(place.hubs.end_of(&job)["state"], "failed");
    drop(node);
    let _node = place.start_again("");
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn a_hub_that_was_killed_has_its_nodes_let_go_of_vms_when_it_starts_again() {
    let mut place = Place::new(two_disks());
    // It would wait for a quarter of an hour by itself.
    let _node = place.node(SLOW);
    let job = place.at_work("web");
    place.hubs.hub.signal(Signal::KILL);
    place.hubs.restart_hub();
    assert_eq!(place.hubs.end_of(&job)["state"], "failed");
    wait_until("the snapshot is there", || place.snapshots() == 0);
    let written = || place.hubs.kept.names("n1/snapshots");
    wait_until("it is written down", || written().is_empty());
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn what_a_node_cannot_remove_while_no_job_is_there_to_be_told_is_in_its_own_log() {
    let mut place = Place::new(two_disks());
    let node = place.node(SLOW);
    place.at_work("web");
    let failure = Failure::new("NoPermission", "Permission to perform this operation was denied.");
    place.vms.vsphere.trouble(Trouble::CallFails { method: "RemoveSnapshot_Task", failure });
    place.hubs.hub.signal(Signal::KILL);
    place.hubs.restart_hub();
    node.wait_for("of VM dc/web is not removed: ");
    assert_eq!(place.snapshots(), 1);
    drop(node);
    let _node = place.start_again("");
    place.assert_nothing_left();
}

#[test]
fn an_nbdkit_that_dies_and_a_host_in_maintenance_end_the_job_of_a_node_and_leave_nothing() {
    let place = Place::new(two_disks());
    let _node = place.node(SLOW);
    let vsphere = &place.vms.vsphere;
    place.vms.machine("web").write(2000, 0, &vec![7; 20 << 20]).unwrap();
    vsphere.plugin_fault("die_after_bytes", MIB.into());
    let (code, report) = place.try_back_up("web");
    let error = report["error"].as_str().unwrap();
    assert_eq!(code, 4, "{report}");
    assert!(error.contains("nbdkit") && error.contains("signal 9"), "{error}");
    place.assert_nothing_left();
    vsphere.clear_plugin_faults();

    let job = place.at_work("web");
    vsphere.set_maintenance("esx1", true);
    let reason = place.hubs.reason_of(&job);
    assert!(reason.contains("disk-200") && reason.contains(READ), "{reason}");
    assert!(reason.contains("entering maintenance mode"), "{reason}");
    place.assert_nothing_left();
    assert_eq!(place.hubs.points(), 0);
    // The VM is on the other host now.
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn what_a_node_cannot_do_for_a_vm_is_told_in_one_line() {
    let place = Place::new(two_disks());
    let node = place.node("");
    let told = |(code, report): (i32, Value)| (code, report["error"].as_str().unwrap().to_owned());
    let (code, said) = told(place.try_back_up("nope"));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("node n1: ") && said.contains("has no VM \"nope\""), "{said}");
    place.vms.vsphere.trouble(Trouble::SnapshotHalfway);
    let (code, said) = told(place.try_back_up("web"));
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("node n1: "), "{said}");
    place.assert_nothing_left();
    drop(node);
    let mut node = place.hubs.start_node("n1", "");
    node.wait_until_served();
    let (_, said) = told(place.try_back_up("web"));
    assert!(said.contains("start it with --vcenter"), "{said}");
    assert_eq!(place.hubs.points(), 0);
}

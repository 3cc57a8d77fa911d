//! VMs that are registered anew, and so known by another id, while a snapshot of them is open.

use std::process::Stdio;

use rustix::process::Signal;

use super::{PATIENCE, Stage};
use crate::blockferry::{code, signal, stderr};

impl Stage {
    /// A backup is killed with its snapshot open.
    pub(crate) fn leaves_a_snapshot(&self) {
        self.leaves_a_snapshot_of("web");
    }

    pub(crate) fn leaves_a_snapshot_of(&self, vm: &str) {
        self.place.vsphere.plugin_fault("read_delay_ms", 300.into());
        let mut command = self.place.backup_command(vm, "--mode full");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let machine = self.place.machine(vm);
        let made = |_: &_| !machine.snapshots().unwrap().is_empty();
        assert!(self.place.vsphere.wait_until(PATIENCE, made));
        // Until then it does not know that it is made.
        self.wait_for("qemu-nbd");
        signal(&child, Signal::KILL);
        child.wait().unwrap();
        self.place.vsphere.clear_plugin_faults();
        self.place.vsphere.expire_sessions();
    }

    pub(crate) fn is_registered_anew(&mut self) {
        let before = self.web.id().to_owned();
        self.web = self.web.unregister().unwrap().register().unwrap();
        assert_ne!(self.web.id(), before);
        assert_eq!(self.web.snapshots().unwrap().len(), 1);
    }
}

#[test]
fn a_snapshot_of_a_dead_job_is_found_when_its_vm_is_registered_anew() {
    let mut stage = Stage::new();
    stage.leaves_a_snapshot();
    stage.is_registered_anew();
    let said = stage.sweeps();
    assert!(said.contains("is removed: its job is dead"), "{said}");
    stage.assert_no_snapshot_left();
    stage.leaves_a_snapshot();
    stage.is_registered_anew();
    stage.succeeds("", &["is removed: its job is dead"]);
    stage.recovers();
}

#[test]
fn a_snapshot_of_a_vm_that_is_in_no_inventory_stays_written_down_until_it_is_back() {
    let mut stage = Stage::new();
    stage.leaves_a_snapshot();
    let out = stage.web.unregister().unwrap();
    let said = stage.sweeps();
    assert!(said.contains("does not have this VM now"), "{said}");
    stage.assert_written_down_alone();
    stage.web = out.register().unwrap();
    let said = stage.sweeps();
    assert!(said.contains("is removed: its job is dead"), "{said}");
    stage.recovers();
}

#[test]
fn a_backup_finds_its_own_snapshot_when_the_vm_was_registered_anew_meanwhile() {
    let mut stage = Stage::new();
    let child = stage.in_the_middle("");
    stage.is_registered_anew();
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 7, "{}", stderr(&output));
    stage.assert_tidy();
    stage.recovers();
}

#[test]
fn a_record_without_the_uuid_of_its_vm_is_swept_by_its_id() {
    let stage = Stage::new();
    stage.leaves_a_snapshot();
    let [name] = &stage.place.kept.names("repository/snapshots")[..] else { panic!() };
    let path = stage.place.kept.path("repository/snapshots").join(name);
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for new in ["vm_uuid", "server_uuid", "kind"] {
        record.as_object_mut().unwrap().remove(new);
    }
    std::fs::write(&path, record.to_string()).unwrap();
    let said = stage.sweeps();
    assert!(said.contains("is removed: its job is dead"), "{said}");
    stage.recovers();
}

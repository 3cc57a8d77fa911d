//! The VM's host goes into maintenance while its disks are read: it ends the connections that it has,
//! and takes no others for what it keeps.

use std::process::Child;

use blockferry_doubles::vsphere::{Failure, Trouble};

use super::{Failed, Stage};

/// As the double of the plugin has it.
const ENDED: &str = "The connection was ended: the host is entering maintenance mode";

impl Stage {
    fn ends(child: Child, words: &[&str]) -> Failed {
        Self::has_failed(&child.wait_with_output().unwrap(), 4, words)
    }

    fn maintenance(&self, hosts: &[&str], on: bool) {
        hosts.iter().for_each(|host| self.place.vsphere.set_maintenance(host, on));
    }
}

#[test]
fn a_vm_that_moves_off_its_host_in_the_middle_has_no_point_and_its_next_one_from_the_other_host() {
    let mut stage = Stage::new();
    let child = stage.in_the_middle("");
    stage.maintenance(&["esx1"], true);
    Stage::ends(child, &["disk-200", "READ", ENDED]);
    stage.assert_tidy();
    assert_eq!(stage.points(), 1);
    stage.place.vsphere.clear_plugin_faults();
    stage.write();
    // The first host is in maintenance still.
    let backed = stage.succeeds("", &[]);
    assert_eq!(backed.mode(super::DISK), "incremental");
    stage.maintenance(&["esx1"], false);
    stage.recovers();
}

#[test]
fn a_vm_that_stays_on_its_host_has_its_next_point_when_the_host_is_back() {
    let mut stage = Stage::new();
    stage.web.power(false).unwrap();
    let child = stage.in_the_middle("");
    stage.maintenance(&["esx1"], true);
    Stage::ends(child, &["disk-200", ENDED]);
    stage.assert_tidy();
    let failed = stage.fails("", 4, &["CreateSnapshot_Task", "InvalidState", "state of the host"]);
    assert!(failed.said.contains("is in maintenance"), "{}", failed.said);
    assert_eq!(stage.points(), 1);
    stage.maintenance(&["esx1"], false);
    stage.web.power(true).unwrap();
    stage.write();
    let next = stage.recovers();
    assert_eq!(next.mode(super::DISK), "incremental");
}

#[test]
fn a_disk_that_is_not_opened_any_more_costs_no_snapshot() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("open_delay_ms", 1000.into());
    let child = stage.start("");
    stage.wait_for("nbdkit");
    stage.maintenance(&["esx1", "esx2"], true);
    Stage::ends(
        child,
        &["[datastore1] web/web", "The host is in maintenance mode", "start the job again"],
    );
    stage.assert_tidy();
    stage.maintenance(&["esx1", "esx2"], false);
    stage.recovers();
}

#[test]
fn a_snapshot_that_a_host_in_maintenance_does_not_remove_goes_when_it_is_back() {
    let stage = Stage::new();
    let child = stage.in_the_middle("");
    let failure = Failure::new(
        "InvalidState",
        "The operation is not allowed in the current state of the host",
    );
    stage.place.vsphere.trouble(Trouble::TaskFails { method: "RemoveSnapshot_Task", failure });
    stage.maintenance(&["esx1", "esx2"], true);
    let failed = Stage::ends(child, &[ENDED]);
    assert!(failed.said.contains("is not removed"), "{}", failed.said);
    let left: Vec<String> = stage.place.left().into_iter().collect();
    let [snapshot, ledger] = &left[..] else { panic!("{left:?}") };
    assert!(snapshot.starts_with("snapshot ") && ledger.starts_with("snapshots/"), "{left:?}");
    stage.maintenance(&["esx1", "esx2"], false);
    stage.recovers();
}

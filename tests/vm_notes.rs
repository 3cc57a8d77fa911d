//! What is noted of a VM's point: how its snapshot was made, what it lacks, and what was turned on.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeMap;

use blockferry::VmPlace;
use blockferry_doubles::vsphere::{Backing, NewDisk, NewMachine, Trouble, Vsphere};
use serde_json::json;

const MIB: u64 = 1 << 20;

fn note(says: &str) -> (String, String) {
    ("note".to_owned(), says.to_owned())
}

fn warning(says: &str) -> (String, String) {
    ("warning".to_owned(), says.to_owned())
}

fn tracked() -> NewMachine {
    NewMachine::new("web").disk(MIB).tracked()
}

/// How snapshots were asked for, and whether that made one.
fn snapshot_calls(place: &VmPlace) -> Vec<(&'static str, bool)> {
    let tasks = place.vsphere.tasks().into_iter();
    let made = tasks.filter(|task| task.method.starts_with("CreateSnapshot"));
    made.map(|task| (task.method, task.fault.is_none())).collect()
}

#[test]
fn a_point_says_whether_the_data_of_its_guest_was_put_in_order() {
    let place = VmPlace::new(tracked());
    let web = place.machine("web");
    let in_order = note("the guest's data was put in order");
    let not_asked = note("the snapshot is as after a power cut, as asked");
    for (policy, said) in [("try", &in_order), ("require", &in_order), ("none", &not_asked)] {
        let backed = place.back_up("web", &format!("--quiesce {policy}"));
        assert_eq!(place.notes(&backed), std::slice::from_ref(said), "{policy}");
    }
    web.power(false).unwrap();
    for policy in ["try", "require"] {
        let backed = place.back_up("web", &format!("--quiesce {policy}"));
        assert_eq!(place.notes(&backed), [note("the VM was off")], "{policy}");
    }
}

#[test]
fn a_guest_that_cannot_put_its_data_in_order_is_a_warning_where_that_was_only_tried() {
    let place = VmPlace::new(tracked());
    place.vsphere.trouble(Trouble::QuiesceFails);
    let backed = place.back_up("web", "--quiesce try");
    let notes = place.notes(&backed);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!(notes[0].0, "warning");
    assert!(notes[0].1.contains("the snapshot is as after a power cut: "), "{notes:?}");
    assert!(notes[0].1.contains("ApplicationQuiesceFault"), "{notes:?}");
    place.assert_equal(&backed);
    assert!(place.vsphere.troubles().is_empty());
    let made = snapshot_calls(&place);
    assert_eq!(made.iter().map(|(_, done)| *done).collect::<Vec<_>>(), [false, true], "{made:?}");
}

#[test]
fn a_guest_that_cannot_put_its_data_in_order_stops_a_backup_that_requires_it() {
    let place = VmPlace::new(tracked().without_tools());
    let (code, report) = place.try_back_up("web", "--quiesce require");
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.starts_with("the guest cannot put its data in order: "), "{error}");
    assert!(error.contains("quiesce try"), "{error}");
    assert_eq!(place.points(), Vec::<serde_json::Value>::new());
    place.assert_nothing_left();
}

#[test]
fn disks_that_no_snapshot_holds_are_left_out_and_noted() {
    let machine = tracked()
        .with_disk(NewDisk::new(MIB).independent())
        .with_disk(NewDisk::new(MIB).backing(Backing::PhysicalRdm))
        .with_disk(NewDisk::new(MIB).multi_writer())
        .with_disk(NewDisk::new(MIB).backing(Backing::VirtualRdm))
        .with_disk(NewDisk::new(MIB).backing(Backing::Sparse));
    let place = VmPlace::new(machine);
    let web = place.machine("web");
    for key in web.disks().unwrap().into_keys() {
        web.write(key, 1000, &key.to_le_bytes()).unwrap();
    }
    let backed = place.back_up("web", "");
    let restored = place.assert_equal(&backed);
    let names: Vec<&String> = restored.keys().collect();
    assert_eq!(names, ["disk-2000", "disk-2004", "disk-2005"]);
    assert_eq!(
        place.notes(&backed),
        [
            warning("Hard disk 2 is left out: it is independent, and so in no snapshot"),
            warning(
                "Hard disk 3 is left out: it is a raw device in physical mode, and so in no snapshot"
            ),
            warning(
                "Hard disk 4 is left out: several VMs can write it (multi-writer), and so it is in \
                 no snapshot"
            ),
            note("the snapshot is as after a power cut, as asked"),
        ]
    );
    let listed = place.kept.run("points --repository repository");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.trim_end().ends_with("whole, 3 warnings"), "{listed}");
}

#[test]
fn a_vm_without_a_disk_that_a_snapshot_holds_is_refused_before_there_is_one() {
    let disk = NewDisk::new(MIB).independent();
    let place = VmPlace::new(NewMachine::new("web").with_disk(disk).tracked());
    let (code, report) = place.try_back_up("web", "");
    assert_eq!(code, 4, "{report}");
    assert_eq!(report["error"], "VM dc/web: it has no disk that a snapshot would hold");
    assert_eq!(place.vsphere.count("CreateSnapshot_Task"), 0);
    place.assert_nothing_left();
}

#[test]
fn tracking_is_turned_on_only_when_asked() {
    let place = VmPlace::new(NewMachine::new("web").disk(MIB));
    let web = place.machine("web");
    let backed = place.back_up("web", "");
    assert!(!web.is_tracked().unwrap());
    assert_eq!(place.vsphere.count("ReconfigVM_Task"), 0);
    let off = "change tracking (CBT) is off: each backup reads it whole until it is turned on";
    assert_eq!(place.notes(&backed)[0], warning(off));
    let backed = place.back_up("web", "--enable-cbt");
    assert!(web.is_tracked().unwrap());
    assert_eq!(place.notes(&backed)[0], note("change tracking (CBT) was turned on"));
    assert_eq!(place.notes(&backed).len(), 2);
    assert_eq!(backed.reason("disk-2000"), "the last point was made without a change id");
    // It is on from then on, and needs no second snapshot.
    let before = snapshot_calls(&place).len();
    web.write(2000, 0, b"new").unwrap();
    let backed = place.back_up("web", "--enable-cbt");
    assert_eq!(snapshot_calls(&place).len(), before + 1);
    assert_eq!(backed.mode("disk-2000"), "incremental");
    assert_eq!(backed.bytes("disk-2000", "read"), 64 << 10);
    place.assert_equal(&backed);
    place.assert_nothing_left();
}

#[test]
fn tracking_is_not_turned_on_over_snapshots_of_others_which_stay() {
    let place = VmPlace::new(NewMachine::new("web").disk(MIB));
    let web = place.machine("web");
    let theirs = web.take_snapshot("before the upgrade").unwrap();
    web.write(2000, 0, b"after it").unwrap();
    let backed = place.back_up("web", "--enable-cbt");
    assert!(!web.is_tracked().unwrap());
    let notes: BTreeMap<String, String> =
        place.notes(&backed).into_iter().map(|(weight, says)| (says, weight)).collect();
    let off = "change tracking (CBT) is off, and not turned on while there are snapshots: each \
               backup reads it whole until then";
    assert_eq!(notes[off], "warning");
    assert_eq!(notes["it has snapshots already: \"before the upgrade\""], "warning");
    assert_eq!(web.snapshots().unwrap().len(), 1);
    assert_eq!(web.snapshots().unwrap()[0].id, theirs);
    place.assert_equal(&backed);
    place.assert_nothing_left();
}

#[test]
fn hardware_that_is_too_old_for_tracking_is_read_in_full_each_time() {
    let place = VmPlace::new(NewMachine::new("web").disk(MIB).hardware(4));
    for _ in 0..2 {
        let backed = place.back_up("web", "--enable-cbt");
        assert_eq!(backed.mode("disk-2000"), "full");
        let notes = place.notes(&backed);
        assert_eq!(notes[0].0, "warning");
        assert!(notes[0].1.starts_with("its hardware has version 4"), "{notes:?}");
    }
}

#[test]
fn an_esxi_host_is_asked_as_a_vcenter_is() {
    let builder = Vsphere::builder().esxi().seed(3).drawn_spelling();
    let place = VmPlace::with(builder.machine(tracked().disk(MIB)));
    let web = place.machine("web");
    for (mode, byte) in [("full", 1), ("incremental", 2)] {
        web.write_all(&[(2000, 5000, &[byte; 99]), (2001, 0, &[byte; 512])]).unwrap();
        let backed = place.back_up("web", "");
        assert_eq!(backed.report["disks"][0]["mode"], json!(mode));
        place.assert_equal(&backed);
    }
    place.assert_nothing_left();
}

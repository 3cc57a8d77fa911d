//! A VM that is there gets its disks back.

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::vsphere::NewMachine;
use serde_json::json;

use super::{
    DATA, MIB, ROOT, assert_at_rest, assert_holds, backed_up_twice, contents, line, restore,
    scribble,
};
use crate::blockferry::{VmPlace, code, stderr};

#[test]
fn a_vm_gets_its_disks_back_and_its_next_backup_is_a_full_that_is_right() {
    let (place, first, second) = backed_up_twice();
    let machine = place.machine("web");
    let before = machine.disks().unwrap();
    for backed in [&second, &first] {
        let (code, report) = restore(&place, backed, "--vm web");
        assert_eq!(code, 0, "{report}");
        let into = json!({"id": machine.id(), "path": "dc/prod/linux/web", "new": false});
        assert_eq!(report["into"], into, "{report}");
        let to = format!("{} of VM dc/prod/linux/web", machine.file(ROOT).unwrap());
        assert_eq!(report["disks"][0]["to"], to.as_str(), "{report}");
        assert_holds(&machine, backed);
        assert_at_rest(&place, &machine);
        assert_eq!(machine.disks().unwrap(), before);
        assert_eq!(machine.annotation().unwrap(), "");
    }
    // Tracking was on before, and is again; what it knew is of another content.
    let full = place.back_up("web", "");
    for disk in ["disk-2000", "disk-2001"] {
        assert_eq!(full.mode(disk), "full", "{}", full.report);
        assert!(full.reason(disk).contains("change"), "{}", full.report);
    }
    place.assert_equal(&full);
    machine.power(true).unwrap();
    scribble(&machine, 4);
    // The snapshot of the one before was what tracking began with.
    let started = place.back_up("web", "");
    assert_eq!(started.mode("disk-2000"), "full", "{}", started.report);
    place.assert_equal(&started);
    scribble(&machine, 5);
    let delta = place.back_up("web", "");
    assert_eq!(delta.mode("disk-2000"), "incremental", "{}", delta.report);
    place.assert_equal(&delta);
}

#[test]
fn a_vm_that_is_started_after_its_restore_is_read_whole_once() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let output = place.kept.run(&line(&place, &first, "--vm web"));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("if the VM is not started before, so does the one after it"), "{said}");
    machine.power(true).unwrap();
    let full = place.back_up("web", "");
    assert_eq!(full.mode("disk-2000"), "full", "{}", full.report);
    scribble(&machine, 4);
    let delta = place.back_up("web", "");
    assert_eq!(delta.mode("disk-2000"), "incremental", "{}", delta.report);
    place.assert_equal(&delta);
}

#[test]
fn a_vm_that_was_not_tracked_is_not_tracked_afterwards() {
    let place = VmPlace::new(NewMachine::new("web").disk(4 * MIB));
    let machine = place.machine("web");
    machine.write(ROOT, MIB, &[7; 100_000]).unwrap();
    let backed = place.back_up("web", "");
    machine.write(ROOT, MIB, &[8; 100_000]).unwrap();
    machine.power(false).unwrap();
    let (code, report) = restore(&place, &backed, "--vm web");
    assert_eq!(code, 0, "{report}");
    assert_holds(&machine, &backed);
    assert!(!machine.is_tracked().unwrap());
    assert_eq!(place.vsphere.count("ReconfigVM_Task"), 2, "marked, and no more");
    assert_eq!(machine.annotation().unwrap(), "");
}

#[test]
fn one_disk_is_restored_and_the_other_stays() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let before = contents(&machine);
    let output =
        place.kept.run(&line(&place, &first, &format!("--vm {} --disk disk-2001", machine.id())));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("1 of its disks stay as they are"), "{}", stderr(&output));
    compare_raw(&first.copies["disk-2001"], &machine.path(DATA).unwrap()).unwrap();
    assert!(contents(&machine)[0] == before[0]);
    assert_at_rest(&place, &machine);
}

#[test]
fn a_disk_is_found_by_its_uuid_when_it_hangs_elsewhere() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let moved = machine.move_to_unit(DATA, 5).unwrap();
    let (code, report) = restore(&place, &first, "--vm path=dc/prod/linux/web");
    assert_eq!(code, 0, "{report}");
    compare_raw(&first.copies["disk-2000"], &machine.path(ROOT).unwrap()).unwrap();
    compare_raw(&first.copies["disk-2001"], &machine.path(moved).unwrap()).unwrap();
}

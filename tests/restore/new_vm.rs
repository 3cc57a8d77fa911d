//! A VM that is made for a restore.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use blockferry_doubles::vsphere::{Failure, NewMachine, Trouble, Vsphere};
use serde_json::{Value, json};

use super::{
    DATA, MAKE, MIB, ODD, ROOT, assert_at_rest, assert_holds, backed_up_twice, contents, line,
    restore,
};
use crate::blockferry::VmPlace;

#[test]
fn a_new_vm_is_made_beside_the_old_one_and_can_be_backed_up() {
    let (place, first, _) = backed_up_twice();
    let (old, before) = (place.machine("web"), contents(&place.machine("web")));
    let (code, report) = restore(&place, &first, "--new-vm web-restored");
    assert_eq!(code, 0, "{report}");
    let new = place.machine("web-restored");
    let into = json!({"id": new.id(), "path": "dc/prod/linux/web-restored", "new": true});
    assert_eq!(report["into"], into, "{report}");
    assert_holds(&new, &first);
    assert_eq!(new.disks().unwrap(), BTreeMap::from([(ROOT, 16 * MIB), (DATA, ODD)]));
    assert_at_rest(&place, &new);
    assert!(contents(&old) == before);
    assert!(old.is_tracked().unwrap());
    assert_eq!(place.vsphere.count("Destroy_Task"), 0);
    // Zeros were not written to what is zero.
    let thin = fs::metadata(new.path(ROOT).unwrap()).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&thin) * 512 < 8 * MIB);

    let backed = place.back_up("web-restored", "--enable-cbt");
    assert_eq!(backed.mode("disk-2000"), "full", "{}", backed.report);
    place.assert_equal(&backed);
    assert_holds(&new, &backed);
}

#[test]
fn a_new_vm_is_made_at_a_server_that_knows_nothing_of_the_old_one() {
    let (place, first, _) = backed_up_twice();
    let other = Vsphere::builder().user("backup", "secret").datacenter(
        "far",
        &["esx7", "esx8"],
        &["slow", "fast"],
    );
    let other = other.start(&place.kept.path("other")).unwrap();
    let place = VmPlace { kept: place.kept, vsphere: other };
    let line = |extra: &str| {
        line(&place, &first, extra).replace("--vddk-libdir vsphere", "--vddk-libdir other")
    };
    // Whatever there is more than one of has to be named.
    for (extra, says) in [
        ("", "a new VM needs one host; name it: there is esx7, esx8"),
        ("--host esx9", "\"esx9\" is none or several: there is esx7, esx8"),
        ("--host esx8", "a new VM needs one datastore; name it: there is slow, fast"),
        ("--host esx8 --datastore fast --folder x", "one folder, and \"x\" is none or several"),
        ("--host esx8 --datastore fast --resource-pool x", "one resource pool, and \"x\""),
    ] {
        let (code, report) = place.kept.json(&line(&format!("--new-vm web {extra}")));
        let error = report["error"].as_str().unwrap();
        assert_eq!(code, 2, "{report}");
        assert!(error.contains(says), "{error}");
        assert!(place.vsphere.machine_named("web").is_none());
    }
    let extra = "--new-vm web --host esx8 --datastore fast --cpus 3 --memory 2048 \
                 --guest-id debian12_64Guest --firmware efi --controller lsilogic-sas";
    let (code, report) = place.kept.json(&line(extra));
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["into"]["path"], "far/web", "{report}");
    let machine = place.machine("web");
    assert_holds(&machine, &first);
    assert_eq!(machine.file(ROOT).unwrap(), "[fast] web/web.vmdk");
    assert_at_rest(&place, &machine);
}

#[test]
fn a_new_vm_goes_when_not_all_of_its_disks_come_to_be_right() {
    let (place, first, _) = backed_up_twice();
    // Of the smaller disk so little is written that it survives.
    let image = place.kept.image(first.id(), "disk-2000");
    place.kept.flip_a_bit_of(&image);
    let (code, report) = restore(&place, &first, "--new-vm web-restored");
    assert_eq!(code, 6, "{report}");
    assert_eq!(report["disks"][0]["outcome"], "content_differs", "{report}");
    let error = report["disks"][1]["error"].as_str().unwrap();
    assert!(error.contains("removed again with the new VM"), "{error}");
    assert_eq!(report["into"], Value::Null);
    assert!(place.vsphere.machine_named("web-restored").is_none());
    place.assert_nothing_left();
    place.kept.flip_a_bit_of(&image);

    place.vsphere.plugin_fault("die_after_written", json!(100_000));
    let (code, report) = restore(&place, &first, "--new-vm web-restored --retries 1");
    assert_eq!(code, 5, "{report}");
    assert!(!report.to_string().contains("overwritten"), "{report}");
    assert!(place.vsphere.machine_named("web-restored").is_none());
    assert_eq!(place.vsphere.count("Destroy_Task"), 2);
    assert_at_rest(&place, &place.machine("web"));
}

#[test]
fn a_vm_that_is_not_made_is_an_error_of_the_target() {
    let (place, first, _) = backed_up_twice();
    let failure = Failure::new("NoDiskSpace", "Insufficient disk space on datastore");
    place.vsphere.trouble(Trouble::TaskFails { method: "CreateVM_Task", failure });
    let (code, report) = restore(&place, &first, "--new-vm other");
    assert_eq!(code, 5, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("CreateVM_Task") && error.contains("make room"), "{error}");
    let (code, report) = restore(&place, &first, "--new-vm web");
    assert_eq!(code, 5, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("DuplicateName"), "{error}");
    assert!(place.vsphere.machine_named("other").is_none());
    place.assert_nothing_left();
}

#[test]
fn a_new_vm_of_which_no_answer_told_is_removed() {
    let (place, first, _) = backed_up_twice();
    let by = Duration::from_millis(300);
    for slow in [None, Some(Trouble::TaskSlow { method: MAKE, by })] {
        place.vsphere.trouble(Trouble::Cut { method: MAKE, bytes: 10 });
        slow.into_iter().for_each(|slow| place.vsphere.trouble(slow));
        place.vsphere.clear_calls();
        let (code, report) = restore(&place, &first, "--new-vm other");
        assert_eq!(code, 5, "{report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("cannot be reached for CreateVM_Task"), "{error}");
        assert!(!error.contains("remove it"), "{error}");
        assert_eq!(place.vsphere.count("Destroy_Task"), 1);
        assert!(place.vsphere.machine_named("other").is_none());
        assert_at_rest(&place, &place.machine("web"));
    }
}

#[test]
fn a_new_vm_that_may_come_later_is_told_with_all_that_it_is_known_by() {
    let (place, first, _) = backed_up_twice();
    let makes = "--new-vm other --vcenter-deadline 1s";
    place.vsphere.trouble(Trouble::CallHeld { method: MAKE });
    let (code, report) = restore(&place, &first, makes);
    assert_eq!(code, 5, "{report}");
    place.vsphere.release_call(MAKE);
    let comes = |vsphere: &Vsphere| vsphere.machine_named("other").is_some();
    assert!(place.vsphere.wait_until(Duration::from_secs(60), comes));
    let notes = place.machine("other").annotation().unwrap();
    assert!(notes.contains(first.id()) && notes.contains("[blockferry restore "), "{notes}");
    let error = report["error"].as_str().unwrap();
    let says = format!(
        "it may come later: if there is a VM \"other\" in \"dc/prod/linux\" on datastore \
         \"datastore1\" whose notes are {notes:?}, remove it"
    );
    assert!(error.contains("did not answer CreateVM_Task") && error.ends_with(&says), "{error}");
}

#[test]
fn a_vm_of_the_same_name_with_other_notes_stays_when_no_answer_told_of_the_new_one() {
    let (place, first, _) = backed_up_twice();
    let other = NewMachine::new("other").folder("else").powered_off();
    let other = place.vsphere.add_machine(&other).unwrap();
    place.vsphere.trouble(Trouble::Cut { method: MAKE, bytes: 10 });
    let (code, report) = restore(&place, &first, "--new-vm other");
    assert_eq!(code, 5, "{report}");
    let left: Vec<String> = place.vsphere.machines().iter().map(|vm| vm.id().to_owned()).collect();
    assert_eq!(left, [place.machine("web").id(), other.id()]);
}

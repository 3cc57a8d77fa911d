//! `restore --to vsphere`: disks of a point into a VM that is there, and into a new one.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use blockferry::{Backed, VmPlace, code, processes_of, signal, stderr, wait_until};
use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::vsphere::{
    CHANGE_BYTES, Failure, NewMachine, Trouble, VirtualMachine, Vsphere,
};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Not a multiple of what anything is counted in but sectors.
const ODD: u64 = 8 * MIB + 512;
const ROOT: i32 = 2000;
const DATA: i32 = 2001;

fn web() -> NewMachine {
    NewMachine::new("web").folder("prod/linux").disk(16 * MIB).disk(ODD).tracked()
}

/// A VM with content, and two points of it. It is off then, and has other content than either.
fn backed_up_twice() -> (VmPlace, Backed, Backed) {
    let place = VmPlace::new(web());
    let machine = place.machine("web");
    scribble(&machine, 1);
    let first = place.back_up("web", "");
    scribble(&machine, 2);
    let second = place.back_up("web", "");
    assert_eq!(second.mode("disk-2000"), "incremental", "{}", second.report);
    scribble(&machine, 3);
    machine.power(false).unwrap();
    (place, first, second)
}

/// Writes here and there on both disks, to their last bytes.
fn scribble(machine: &VirtualMachine, round: u8) {
    for (key, size) in machine.disks().unwrap() {
        let block = vec![round * 16 + u8::try_from(key - ROOT).unwrap(); 200_000];
        machine.write(key, u64::from(round) * MIB + 700, &block).unwrap();
        // Zeros in the midst of other data: they have to be written too.
        machine.write(key, 5 * MIB, &vec![round; 3 * 65_536]).unwrap();
        machine.write(key, 5 * MIB + 65_536, &vec![0; usize::from(round % 2) * 65_536]).unwrap();
        machine.write(key, size - 512, &[round; 512]).unwrap();
    }
}

/// The line that restores a point into a VM.
fn line(place: &VmPlace, backed: &Backed, extra: &str) -> String {
    format!(
        "restore {} --repository repository --to vsphere --json {} {} {extra}",
        backed.id(),
        place.server(),
        place.vddk()
    )
}

fn restore(place: &VmPlace, backed: &Backed, extra: &str) -> (i32, Value) {
    place.kept.json(&line(place, backed, extra))
}

/// The files of a VM's disks by the names that a point has for them.
fn files(machine: &VirtualMachine) -> BTreeMap<String, PathBuf> {
    let keys = machine.disks().unwrap().into_keys();
    keys.map(|key| (format!("disk-{key}"), machine.path(key).unwrap())).collect()
}

/// What is on its disks now.
fn contents(machine: &VirtualMachine) -> Vec<Vec<u8>> {
    files(machine).values().map(|path| fs::read(path).unwrap()).collect()
}

#[track_caller]
fn assert_holds(machine: &VirtualMachine, backed: &Backed) {
    let files = files(machine);
    assert_eq!(files.len(), backed.copies.len());
    for (name, copy) in &backed.copies {
        compare_raw(copy, &files[name]).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// It is as a restore leaves it: off, without snapshots, and nothing of the program is left.
#[track_caller]
fn assert_at_rest(place: &VmPlace, machine: &VirtualMachine) {
    assert!(!machine.is_on().unwrap());
    assert_eq!(machine.snapshots().unwrap(), []);
    assert_eq!(place.vsphere.sessions(), 0);
    place.assert_nothing_left();
}

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
fn a_vm_that_is_on_or_has_snapshots_is_left_alone() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let before = contents(&machine);
    let refused = |says: &str| {
        let (code, report) = restore(&place, &first, "--vm web");
        let error = report["error"].as_str().unwrap();
        assert_eq!(code, 5, "{report}");
        assert!(error.starts_with("VM dc/prod/linux/web is not restored into: "), "{error}");
        assert!(error.contains(says), "{error}");
        assert!(contents(&machine) == before);
        assert_eq!(place.vsphere.count("ReconfigVM_Task"), 0);
    };
    machine.power(true).unwrap();
    refused("it is on; shut it down first");
    machine.power(false).unwrap();
    let snapshot = machine.take_snapshot("before update").unwrap();
    refused("it has snapshots (\"before update\")");
    machine.remove_snapshot(&snapshot).unwrap();
    machine.set_consolidation_needed(true).unwrap();
    refused("need consolidation");
    machine.set_consolidation_needed(false).unwrap();

    // A backup has it, or another restore.
    let record = json!({
        "server": place.vsphere.address().to_string(), "vm": machine.id(), "vm_path": "web",
        "job": "01kat0h4m2f6q8r0s2", "since_ms": 1,
    });
    let path = place.kept.path("repository/snapshots/01kat0h4m2f6q8r0s2.json");
    fs::write(&path, record.to_string()).unwrap();
    let held = File::open(&path).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    refused("job 01kat0h4m2f6q8r0s2 is at work with it");
    drop(held);
    // That job is dead now, and swept by whoever says that the record is this folder's own.
    let line = format!("node sweep --adopt --repository repository {}", place.server());
    let swept = place.kept.run(&line);
    assert_eq!(self::code(&swept), 0, "{}", stderr(&swept));
    let (code, report) = restore(&place, &first, "--vm web");
    assert_eq!(code, 0, "{report}");
    assert_holds(&machine, &first);
    place.assert_nothing_left();
}

#[test]
fn disks_that_do_not_go_together_are_wrong_usage_and_listed() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    place.vsphere.add_machine(&NewMachine::new("db").powered_off().disk(16 * MIB)).unwrap();
    place.vsphere.add_machine(&NewMachine::new("db").folder("old").powered_off()).unwrap();
    let refused = |vm: &str, says: &[&str]| {
        let (code, report) = restore(&place, &first, vm);
        let error = report["error"].as_str().unwrap();
        assert_eq!(code, 2, "{report}");
        assert!(says.iter().all(|says| error.contains(says)), "{error}");
    };
    refused("--vm db", &["\"db\" is several VMs", "dc/db", "dc/old/db"]);
    refused("--vm wep", &["no VM \"wep\"", "did you mean dc/prod/linux/web?"]);
    let uuid = machine.disk_uuid(ROOT).unwrap();
    refused(
        "--vm path=dc/db",
        &["none has its UUID", &uuid[9..], "the VM has Hard disk 1 (disk-2000"],
    );
    refused(
        "--vm path=dc/old/db",
        &["disk disk-2000 has no place in VM dc/old/db", "the VM has no disk"],
    );
    refused("--vm web --disk swap", &["no disk \"swap\""]);
    machine.grow(DATA, ODD + CHANGE_BYTES).unwrap();
    let (has, wants) = ((ODD + CHANGE_BYTES).to_string(), ODD.to_string());
    refused("--vm web", &["disk disk-2001 has no place", &has, &wants, "restore to a new VM"]);
    machine.remove_disk(DATA).unwrap();
    refused("--vm web", &["disk disk-2001 has no place", "none has its UUID"]);
    let (code, report) = restore(&place, &first, "--vm web --disk disk-2000");
    assert_eq!(code, 0, "{report}");
    compare_raw(&first.copies["disk-2000"], &machine.path(ROOT).unwrap()).unwrap();
}

#[test]
fn words_that_do_not_go_together_are_wrong_usage() {
    let (place, first, _) = backed_up_twice();
    let (server, id) = (place.server(), first.id());
    let base = format!("restore {id} --repository repository --vddk-runtime run");
    for (words, says) in [
        (format!("--to vsphere {server}"), "which VM?"),
        (format!("--to vsphere {server} --vm web --force"), "about files"),
        (format!("--to vsphere {server} --vm web --new-vm x"), "cannot be used with"),
        (format!("--to vsphere {server} --vm web --cpus 2"), "--new-vm"),
        ("--to vsphere --vm web".into(), "which vCenter"),
        (format!("--to vsphere {server} --new-vm="), "a name has letters or digits"),
        (format!("--to out {server}"), "are for --to vsphere"),
        ("--to out --vm web".into(), "are for --to vsphere"),
        ("--to out --max-disks-per-host 2".into(), "are for --to vsphere"),
    ] {
        let output = place.kept.run(&format!("{base} {words}"));
        assert_eq!(code(&output), 2, "{words}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{words}: {}", stderr(&output));
    }
    assert_eq!(place.vsphere.count("Login"), 2, "that of each backup");
}

#[test]
fn a_restore_that_breaks_off_says_what_is_overwritten_and_the_next_one_mends_it() {
    let (place, first, second) = backed_up_twice();
    let machine = place.machine("web");
    place.vsphere.plugin_fault("die_after_written", json!(2 * MIB));
    let (code, report) = restore(&place, &first, "--vm web --retries 1");
    assert_eq!(code, 5, "{report}");
    assert_eq!(report["outcome"], "target_fault", "{report}");
    for (disk, key) in report["disks"].as_array().unwrap().iter().zip([ROOT, DATA]) {
        let error = disk["error"].as_str().unwrap();
        let file = machine.file(key).unwrap();
        let says = format!(
            "; {file} of VM dc/prod/linux/web is now partly overwritten: restore it again before \
             the VM is started"
        );
        assert!(error.ends_with(&says), "{error}");
        assert!(error.contains("was ended by signal 9"), "{error}");
    }
    assert!(machine.is_tracked().unwrap());
    assert_at_rest(&place, &machine);
    place.vsphere.clear_plugin_faults();
    // Nobody takes it for whole.
    let (code, report) = place.try_back_up("web", "");
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("disk-2000, disk-2001 are partly overwritten"), "{error}");

    // What is right by one restore stays so when another one mends the rest.
    let (code, report) = restore(&place, &first, "--vm web --disk disk-2001");
    assert_eq!(code, 0, "{report}");
    let (code, report) = place.try_back_up("web", "");
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("disk-2000 is partly overwritten"), "{error}");

    let (code, report) = restore(&place, &second, "--vm web");
    assert_eq!(code, 0, "{report}");
    assert_holds(&machine, &second);
    let next = place.back_up("web", "");
    assert_eq!(next.mode("disk-2000"), "full", "{}", next.report);
    place.assert_equal(&next);
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
fn writes_that_are_acknowledged_and_lost_are_found_by_reading_back() {
    let (place, first, _) = backed_up_twice();
    place.vsphere.plugin_fault("lose_writes_at", json!(5 * MIB + 1));
    let (code, report) = restore(&place, &first, "--vm web");
    assert_eq!(code, 6, "{report}");
    let error = report["disks"][0]["error"].as_str().unwrap();
    let says = "gives back something else than was written to it, first at bytes 5242880 to ";
    assert!(error.contains(says) && error.contains("overwritten"), "{error}");
    let (code, report) = restore(&place, &first, "--new-vm other");
    assert_eq!(code, 6, "{report}");
    assert!(place.vsphere.machine_named("other").is_none());
    place.assert_nothing_left();
}

#[test]
fn who_may_not_in_changes_nothing() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let before = contents(&machine);
    let password = place.kept.path("vc.password");
    fs::write(&password, "wrong").unwrap();
    let (code, report) = restore(&place, &first, "--vm web");
    assert_eq!(code, 5, "{report}");
    assert!(report["error"].as_str().unwrap().contains("InvalidLogin"), "{report}");
    fs::write(&password, "secret").unwrap();

    // The server lets us in, and its disks do not.
    let words = "VixDiskLib_Open: You do not have access rights to this file";
    place.vsphere.plugin_fault("refuse_open", json!(words));
    for into in ["--vm web", "--new-vm other"] {
        let (code, report) = restore(&place, &first, into);
        assert_eq!(code, 5, "{report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("access rights") && !error.contains("overwritten"), "{error}");
    }
    assert!(contents(&machine) == before);
    assert!(machine.is_tracked().unwrap());
    assert_eq!(machine.annotation().unwrap(), "");
    assert_eq!(place.vsphere.count("ReconfigVM_Task"), 0);
    assert!(place.vsphere.machine_named("other").is_none());
    place.vsphere.clear_plugin_faults();
    machine.power(true).unwrap();
    let next = place.back_up("web", "");
    assert_eq!(next.mode("disk-2000"), "incremental", "{}", next.report);
    machine.power(false).unwrap();
    assert_at_rest(&place, &machine);
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

const MAKE: &str = "CreateVM_Task";

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

#[test]
fn a_backup_of_a_vm_that_is_restored_into_says_so_and_a_restore_that_was_killed_is_struck_out() {
    let (place, first, _) = backed_up_twice();
    place.vsphere.plugin_fault("open_delay_ms", json!(600_000));
    let mut child = place.kept.command(&line(&place, &first, "--vm web"));
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let folder = place.kept.folder().to_str().unwrap();
    let opens = || processes_of(folder).iter().any(|line| line.contains("nbdkit "));
    wait_until("no disk is opened", opens);
    let (code, report) = place.try_back_up("web", "");
    assert_eq!(code, 1, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("the VM is being restored into, by job "), "{error}");
    assert!(!error.contains("snapshot"), "{error}");
    let (code, report) = restore(&place, &first, "--vm web");
    assert_eq!(code, 5, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("restores into it too"), "{error}");

    child.kill().unwrap();
    child.wait().unwrap();
    place.vsphere.clear_plugin_faults();
    let swept = place.ask("node sweep --repository repository");
    let said = stderr(&swept);
    assert!(said.contains("into VM dc/prod/linux/web has left nothing"), "{said}");
    assert!(place.kept.names("repository/snapshots").is_empty());
}

/// A restore at work, slowly.
struct Slow {
    child: Child,
}

impl Slow {
    /// Waits until the VM of this name says that it is restored into.
    fn start(place: &VmPlace, backed: &Backed, extra: &str, vm: &str) -> Self {
        let mut command = place.kept.command(&line(place, backed, extra));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let is_marked = |vsphere: &Vsphere| {
            let machine = vsphere.machine_named(vm);
            machine.is_some_and(|vm| vm.annotation().unwrap().contains(MARK))
        };
        assert!(place.vsphere.wait_until(PATIENCE, is_marked), "the VM is not marked");
        Self { child }
    }

    /// Waits until it has written into a file.
    fn writes(&self, path: &Path, before: &[u8]) {
        wait_until("nothing is written", || fs::read(path).unwrap() != before);
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

const MARK: &str = "[blockferry restore ";
const PATIENCE: Duration = Duration::from_secs(60);

/// The line of a backup into another repository, which knows nothing of the first.
fn elsewhere(place: &VmPlace) -> String {
    place.backup("web", "").replace("--repository repository", "--repository other")
}

#[test]
fn a_restore_keeps_backups_into_other_repositories_away_and_they_it() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let slow = Slow::start(&place, &first, "--vm web --rate-limit 4M", "web");
    let (code, report) = place.kept.json(&elsewhere(&place));
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("writes it or was cut off"), "{error}");
    assert!(error.contains("take the line of blockferry out of its notes"), "{error}");
    assert_eq!(machine.snapshots().unwrap(), []);
    let output = slow.child.wait_with_output().unwrap();
    assert_eq!(self::code(&output), 0, "{}", stderr(&output));
    assert_holds(&machine, &first);
    assert_eq!(machine.annotation().unwrap(), "");

    // The other way round, too.
    place.vsphere.plugin_fault("open_delay_ms", json!(600_000));
    let mut backup = place.kept.command(&elsewhere(&place));
    let mut backup = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let has_snapshot = |_: &Vsphere| !machine.snapshots().unwrap().is_empty();
    assert!(place.vsphere.wait_until(PATIENCE, has_snapshot));
    let (code, report) = restore(&place, &first, "--vm web");
    assert_eq!(code, 5, "{report}");
    assert!(report["error"].as_str().unwrap().contains("it has snapshots"), "{report}");
    assert_eq!(machine.annotation().unwrap(), "");
    backup.kill().unwrap();
    backup.wait().unwrap();
}

const RECONFIGURE: &str = "ReconfigVM_Task";
const CREATE: &str = "CreateSnapshot_Task";

#[test]
fn a_backup_whose_snapshot_comes_after_the_mark_of_a_restore_makes_no_point() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let (path, before) = (machine.path(ROOT).unwrap(), contents(&machine).remove(0));
    // It has looked at the VM, which had no mark.
    place.vsphere.trouble(Trouble::CallHeld { method: CREATE });
    let mut backup = place.kept.command(&elsewhere(&place));
    let backup = backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(place.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held(CREATE) > 0));
    let slow = Slow::start(&place, &first, "--vm web --rate-limit 4M", "web");
    // Nor is there a snapshot when it has marked the VM.
    slow.writes(&path, &before);
    place.vsphere.release_call(CREATE);
    let output = backup.wait_with_output().unwrap();
    assert_eq!(self::code(&output), 4, "{}", stderr(&output));
    assert!(stderr(&output).contains("writes it or was cut off"), "{}", stderr(&output));
    assert_eq!(machine.snapshots().unwrap(), []);
    let (code, listed) = place.kept.json("points --repository other --json");
    assert_eq!((code, &listed["points"]), (0, &json!([])), "{listed}");
    // Whether it opened its disks anew while there was a snapshot, and failed, is not the matter here.
    slow.kill();
}

#[test]
fn a_restore_that_finds_a_snapshot_after_its_mark_writes_nothing() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let before = contents(&machine);
    // It has looked at the VM, which had no snapshot.
    place.vsphere.trouble(Trouble::CallHeld { method: RECONFIGURE });
    let mut restore = place.kept.command(&line(&place, &first, "--vm web"));
    let restore = restore.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(place.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held(RECONFIGURE) > 0));
    place.vsphere.plugin_fault("open_delay_ms", json!(600_000));
    let mut backup = place.kept.command(&elsewhere(&place));
    let mut backup = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let folder = place.kept.folder().to_str().unwrap();
    let opens = || processes_of(folder).iter().any(|line| line.contains("nbdkit "));
    // Nor is there a mark when its snapshot is made.
    wait_until("the backup opens no disk", opens);
    place.vsphere.clear_plugin_faults();
    place.vsphere.release_call(RECONFIGURE);
    let output = restore.wait_with_output().unwrap();
    assert_eq!(self::code(&output), 5, "{}", stderr(&output));
    assert!(stderr(&output).contains("it has snapshots"), "{}", stderr(&output));
    assert!(contents(&machine) == before);
    assert!(machine.is_tracked().unwrap());
    assert_eq!(machine.annotation().unwrap(), "");
    backup.kill().unwrap();
    backup.wait().unwrap();
}

#[test]
fn a_restore_that_was_cut_off_is_told_by_all_who_meet_its_vm_until_it_is_mended() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let (path, before) = (machine.path(ROOT).unwrap(), contents(&machine).remove(0));
    let slow = Slow::start(&place, &first, "--vm web --rate-limit 4M", "web");
    slow.writes(&path, &before);
    // Who looks meanwhile is told that it is at work.
    let swept = place.ask("node sweep --repository repository");
    assert_eq!(code(&swept), 0, "{}", stderr(&swept));
    let said = stderr(&swept);
    assert!(said.contains("into VM dc/prod/linux/web stays: its job is at work"), "{said}");
    slow.kill();

    let (code, report) = place.try_back_up("web", "");
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("disk-2000, disk-2001 are partly overwritten"), "{error}");
    assert!(!error.contains("snapshot"), "{error}");
    assert_eq!(machine.snapshots().unwrap(), []);
    let (_, listed) = place.ask_json("check web");
    assert!(listed.to_string().contains("partly overwritten"), "{listed}");

    let (code, report) = restore(&place, &first, "--vm web");
    assert_eq!(code, 0, "{report}");
    assert_holds(&machine, &first);
    assert_eq!(machine.annotation().unwrap(), "");
    // As before the one that was killed.
    assert!(machine.is_tracked().unwrap());
    let next = place.back_up("web", "");
    place.assert_equal(&next);
    place.assert_nothing_left();
}

#[test]
fn a_sweep_names_what_a_restore_that_was_killed_has_left() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    Slow::start(&place, &first, "--vm web --rate-limit 4M", "web").kill();
    let half = Slow::start(&place, &first, "--new-vm half --rate-limit 4M", "half");
    let noted = || place.kept.names("repository/snapshots").len();
    wait_until("it is not written down", || noted() == 2);
    half.kill();
    let (code, swept) = place.ask_json("node sweep --repository repository");
    assert_eq!(code, 0, "{swept}");
    let restores = swept["restores"].as_array().unwrap();
    let says = |vm: &str| {
        let is_its = |it: &&Value| it["restore"]["vm_path"] == vm;
        let found = restores.iter().find(is_its).unwrap_or_else(|| panic!("{vm}: {swept}"));
        assert_eq!(found["cut_off"], true, "{swept}");
        found["says"].as_str().unwrap().to_owned()
    };
    let of_web = says("dc/prod/linux/web");
    assert!(of_web.contains("was cut off") && of_web.contains("restore again"), "{of_web}");
    let of_new = says("dc/prod/linux/half");
    assert!(of_new.contains("the new VM is not whole: remove that VM"), "{of_new}");
    assert_eq!(swept["removed"], json!([]), "{swept}");
    assert_eq!(noted(), 0);
    // A half VM is no more backed up than one that is partly overwritten.
    let (code, report) = place.try_back_up("half", "");
    assert_eq!(code, 4, "{report}");
    assert!(report["error"].as_str().unwrap().contains("the new VM is not whole"), "{report}");
    assert!(machine.annotation().unwrap().contains(MARK));
}

#[test]
fn a_sweep_that_cannot_read_a_record_does_not_end_well() {
    let (place, _, _) = backed_up_twice();
    fs::write(place.kept.path("repository/snapshots/x.json"), "{").unwrap();
    let (code, swept) = place.ask_json("node sweep --repository repository");
    assert_eq!(code, 1, "{swept}");
    assert!(swept["strange"][0].as_str().unwrap().contains("x.json"), "{swept}");
}

#[test]
fn a_disk_that_cannot_be_opened_again_has_the_words_of_nbdkit() {
    let (place, first, _) = backed_up_twice();
    let machine = place.machine("web");
    let slow = Slow::start(&place, &first, "--vm web --rate-limit 8M --retries 1", "web");
    // The lanes have the disks open; to be read back they are opened once more.
    slow.writes(&machine.path(ROOT).unwrap(), &contents(&machine).remove(0));
    machine.power(true).unwrap();
    let output = slow.child.wait_with_output().unwrap();
    assert_eq!(self::code(&output), 5, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("Failed to lock the file"), "{said}");
    assert!(!said.contains("has no export"), "{said}");
}

#[test]
fn a_restore_or_backup_that_is_called_off_while_it_logs_in_ends_in_order() {
    let (place, first, _) = backed_up_twice();
    for words in [line(&place, &first, "--vm web"), place.backup("web", "")] {
        place.vsphere.trouble(Trouble::CallHeld { method: "Login" });
        let mut command = place.kept.command(&words);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(place.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held("Login") > 0));
        signal(&child, Signal::TERM);
        let output = child.wait_with_output().unwrap();
        assert_eq!(self::code(&output), 7, "{}", stderr(&output));
        assert!(stderr(&output).contains("interrupted before it began"), "{}", stderr(&output));
        place.vsphere.release_call("Login");
        // The next one is not to be taken for this one.
        assert!(place.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held("Login") == 0));
    }
}

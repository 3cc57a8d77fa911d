//! What is not restored into, and says why.

use std::fs::{self, File};

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::vsphere::{CHANGE_BYTES, NewMachine};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use super::{
    DATA, MIB, ODD, ROOT, assert_at_rest, assert_holds, backed_up_twice, contents, restore,
};
use crate::blockferry::{code, stderr};

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

//! Restores that break off: what is overwritten is said, and nothing is called right that is not.

use std::process::Stdio;

use blockferry_doubles::vsphere::Trouble;
use rustix::process::Signal;
use serde_json::json;

use super::{
    DATA, MIB, PATIENCE, ROOT, Slow, assert_at_rest, assert_holds, backed_up_twice, contents, line,
    restore,
};
use crate::blockferry::{code, signal, stderr};

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
fn what_is_called_off_while_it_logs_in_ends_in_order() {
    let (place, first, _) = backed_up_twice();
    let server = place.server();
    for words in [
        line(&place, &first, "--vm web"),
        place.backup("web", ""),
        format!("vms {server}"),
        format!("check web {server}"),
        format!("node sweep --repository repository {server}"),
    ] {
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

//! A VM that is restored into is marked, so that nobody takes it for whole.

use std::fs;
use std::process::Stdio;

use blockferry_doubles::vsphere::{Trouble, Vsphere};
use serde_json::{Value, json};

use super::{MARK, PATIENCE, ROOT, Slow, assert_holds, backed_up_twice, contents, line, restore};
use crate::blockferry::{VmPlace, code, processes_of, stderr, wait_until};

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
    // One that is being written has another name.
    let is_written = |name: &String| name.ends_with(".json");
    let names = || place.kept.names("repository/snapshots");
    let noted = || names().into_iter().filter(is_written).count();
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

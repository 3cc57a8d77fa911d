//! How a VM is named to a node, and what it is called in the hub's repository.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use blockferry_doubles::vsphere::{NewMachine, Trouble, Vsphere};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{MIB, Place, SLOW, two_disks};
use crate::blockferry::{NodePlace, VmPlace, by, signal, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_vm_of_a_node_is_found_by_its_path_and_called_as_one_likes() {
    let place = Place::new(two_disks());
    let mut node = place.node("");
    let machine = place.vms.machine("web");
    let (code, by_path) = place.try_back_up("dc/web");
    assert_eq!(code, 0, "{by_path}");
    assert_eq!(by_path["vm"], "web");
    let (code, other) = place.try_back_up_with("dc/web", "--as web-old");
    assert_eq!(code, 0, "{other}");
    assert_eq!(other["vm"], "web-old");
    // Chains of their own: the second began in full, the third goes on with the second.
    machine.write(2000, 0, &[9; 4096]).unwrap();
    let moref = format!("moref={}", machine.id());
    let (code, next) = place.try_back_up_with(&moref, "--as web-old");
    assert_eq!(code, 0, "{next}");
    let modes = |report: &Value| -> Vec<String> {
        let disks = report["disks"].as_array().unwrap().iter();
        disks.map(|disk| disk["mode"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(modes(&other), ["full", "full"]);
    assert_eq!(modes(&next), ["incremental", "incremental"]);
    place.assert_nothing_left();

    let (code, failed) = place.try_back_up_with(&moref, "--as new --mode incremental");
    assert_eq!((code, &failed["vm"]), (2, &json!("new")), "{failed}");
    let (code, refused) = place.try_back_up_with("web", "--as a/b");
    assert_eq!(code, 2, "{refused}");
    let disk = "--as web-old --disk root=nbd://127.0.0.1:1/root";
    let (code, refused) = place.try_back_up_with("web", disk);
    assert_eq!(code, 2, "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("--as is about a VM"), "{refused}");
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0), "{}", node.says());
}

#[test]
fn a_key_of_a_vm_under_another_name_is_that_of_its_word_and_name() {
    let place = Place::new(two_disks());
    let mut node = place.node("");
    let ask = |vm: &str, name: Option<&str>| {
        let body = json!({ "vm": vm, "as": name, "node": "n1", "idempotency_key": "tonight" });
        place.hubs.hub.ask(&place.hubs.token, "POST", "/backups", &body)
    };
    let (status, job) = ask("dc/web", Some("old"));
    assert_eq!((status, &job["vm"]), (202, &json!("old")), "{job}");
    place.hubs.point_of(job["id"].as_str().unwrap());
    for (vm, name) in [("dc/web", None), ("dc/web", Some("older")), ("web", Some("old"))] {
        let (status, refused) = ask(vm, name);
        assert_eq!(status, 409, "{vm} {name:?}: {refused}");
    }
    // The node need not be there to tell that it is the same.
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0), "{}", node.says());
    let (status, same) = ask("dc/web", Some("old"));
    assert_eq!((status, &same["id"]), (200, &job["id"]), "{same}");

    for (body, says) in [
        (json!({ "vm": "dc/web" }), "a name has"),
        (json!({ "vm": "web", "as": "old" }), "as is about a VM"),
        (json!({ "vm": "web", "as": "a/b", "node": "n1" }), "a name has"),
        (json!({ "vm": "a\nb", "node": "n1" }), "control"),
        (json!({ "vm": "a".repeat(2001), "node": "n1" }), "2000 bytes"),
    ] {
        let (status, refused) = place.hubs.hub.ask(&place.hubs.token, "POST", "/backups", &body);
        assert_eq!(status, 422, "{refused}");
        let said = refused["error"]["message"].as_str().unwrap();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn the_record_of_a_job_says_what_its_node_waits_for() {
    let db = NewMachine::new("db").disk(MIB).tracked();
    let vms = VmPlace::with(Vsphere::builder().machine(two_disks()).machine(db));
    let place = Place { hubs: NodePlace::new(""), vms };
    let _node = place.node(&format!("{SLOW} --max-disks-per-host 2"));
    let first = place.at_work("web");
    let job = place.submit("db");
    let record = || place.hubs.hub.get(&place.hubs.token, &format!("/backups/{job}"));
    let waits = |record: &Value| {
        let said = record["said"]["text"].as_str().unwrap_or_default();
        said.contains("VM dc/db waits for disks of host") && said.contains("VM dc/web")
    };
    wait_until("its record does not say what it waits for", || waits(&record()));
    let changed = record()["changed_ms"].as_u64().unwrap();
    assert!(record()["said"]["at_ms"].as_u64().unwrap() >= changed);
    place.hubs.point_of(&first);
    place.hubs.point_of(&job);
    assert_eq!(record()["said"], Value::Null);
    place.assert_nothing_left();
}

#[test]
fn a_backup_that_is_called_off_while_its_vm_is_sought_never_becomes_a_job() {
    let sought = "RetrievePropertiesEx";
    for signals in 1..=2 {
        let place = Place::new(two_disks());
        let _node = place.node("");
        place.vms.vsphere.trouble(Trouble::CallHeld { method: sought });
        let said = place.hubs.kept.path("said");
        let line = format!("backup --vm web {} --node n1", by(&place.hubs.hub));
        let mut command = place.hubs.kept.command(&line);
        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let mut child = command.spawn().unwrap();
        let said = || fs::read_to_string(&said).unwrap();
        assert!(place.vms.vsphere.wait_until(PATIENCE, |vsphere| vsphere.held(sought) == 1));
        signal(&child, Signal::TERM);
        if signals == 2 {
            wait_until("the signal is not heard", || said().contains("once more to stop"));
            signal(&child, Signal::TERM);
        }
        assert_eq!(child.wait().unwrap().code(), Some(7), "{}", said());
        assert!(said().contains("GET /api/v1/backups tells whether"), "{}", said());
        wait_until("the hub has not heard of it", || place.hubs.hub.callers() == 0);
        place.vms.vsphere.release_call(sought);
        // The node was asked before, and has answered by then.
        let (code, made) = place.try_back_up("web");
        assert_eq!(code, 0, "{made}");
        let jobs = place.hubs.hub.get(&place.hubs.token, "/backups")["backups"].clone();
        assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs}");
        assert_eq!(jobs[0]["id"], made["job"]);
        place.assert_nothing_left();
    }
}

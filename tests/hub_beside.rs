//! A hub, and backups without it in the same repository.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::process::{Child, Stdio};

use blockferry::{Hub, HubPlace, by, code, signal, stderr, wait_until};
use blockferry_doubles::{Nbdkit, Server};
use rustix::process::Signal;
use serde_json::{Value, json};

fn slow_source() -> Server {
    Nbdkit::pattern(8 << 20).filter("rate", &["rate=8M"]).tcp().start().unwrap()
}

fn source() -> Server {
    Nbdkit::sparse_random(1 << 20, 1).tcp().start().unwrap()
}

/// A backup that says what it does.
fn start(place: &HubPlace, vm: &str, source: &Server, rest: &str) -> Child {
    let line = format!("backup --vm {vm} --disk root={} {rest}", source.uri());
    place.kept.command(&line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until something is written in the repository.
fn wait_for_an_image(place: &HubPlace) {
    wait_until("no image is written", || {
        let jobs = place.kept.names("repository/work").into_iter();
        jobs.flat_map(|job| place.kept.names(&format!("repository/work/{job}")))
            .any(|name| name.ends_with(".qcow2"))
    });
}

fn submit(place: &HubPlace, hub: &Hub, vm: &str, source: &Server) -> String {
    let disk = json!({ "name": "root", "source": source.uri() });
    let body = json!({ "vm": vm, "disks": [disk] });
    let (status, job) = hub.ask(&place.token, "POST", "/backups", &body);
    assert_eq!(status, 202, "{job}");
    job["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_hub_does_not_begin_with_a_vm_that_is_backed_up_beside_it() {
    let place = HubPlace::new();
    let hub = place.hub();
    let slow = slow_source();
    let beside = start(&place, "db1", &slow, "--repository repository");
    wait_for_an_image(&place);
    let job = hub.wait_over(&place.token, &submit(&place, &hub, "db1", &slow));
    let reason = job["reason"].as_str().unwrap();
    assert_eq!(job["state"], "failed", "{job}");
    assert!(reason.starts_with("VM \"db1\" is being backed up by job "), "{reason}");
    // Another one is nobody's matter.
    let other = hub.wait_over(&place.token, &submit(&place, &hub, "db2", &source()));
    assert_eq!(other["state"], "done", "{other}");
    let ended = beside.wait_with_output().unwrap();
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
    // It is free again.
    let again = hub.wait_over(&place.token, &submit(&place, &hub, "db1", &slow));
    assert_eq!(again["state"], "done", "{again}");
}

#[test]
fn a_backup_does_not_begin_with_a_vm_that_a_hub_backs_up() {
    let place = HubPlace::new();
    let hub = place.hub();
    let slow = slow_source();
    let job = submit(&place, &hub, "db1", &slow);
    wait_for_an_image(&place);
    let refused =
        start(&place, "db1", &slow, "--repository repository").wait_with_output().unwrap();
    let said = format!("VM \"db1\" is being backed up by job {job}; wait until that has ended");
    assert_eq!((code(&refused), stderr(&refused).contains(&said)), (1, true), "{refused:?}");
    assert_eq!(hub.wait_over(&place.token, &job)["state"], "done");
}

#[test]
fn a_point_that_a_delta_is_made_on_is_said_to_be_in_use_by_a_backup() {
    let place = HubPlace::new();
    place.kept.disk("root", 8 << 20, 1);
    let base = place.kept.back_up(&["root"]);
    let source =
        Nbdkit::file(place.kept.path("root")).filter("rate", &["rate=8M"]).tcp().start().unwrap();
    let hub = place.hub();
    let backup = start(&place, "db1", &source, "--repository repository");
    wait_for_an_image(&place);
    for asked in ["--repository repository".to_owned(), by(&hub)] {
        let refused = place.kept.run(&format!("points delete {base} {asked}"));
        let said = stderr(&refused);
        assert_eq!((code(&refused), said.contains("in use by a backup")), (1, true), "{said}");
    }
    let ended = backup.wait_with_output().unwrap();
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
}

#[test]
fn what_a_killed_backup_has_left_goes_with_the_next_job_of_a_hub_that_runs_all_the_while() {
    let place = HubPlace::new();
    let hub = place.hub();
    let slow = slow_source();
    let mut killed = start(&place, "db1", &slow, "--repository repository");
    wait_for_an_image(&place);
    signal(&killed, Signal::KILL);
    killed.wait().unwrap();
    assert_eq!(place.kept.names("repository/work").len(), 1);
    // The same VM: it is not the dead one's any more.
    let job = hub.wait_over(&place.token, &submit(&place, &hub, "db1", &source()));
    assert_eq!(job["state"], "done", "{job}");
    assert_eq!(place.kept.names("repository/work"), [""; 0]);
    assert_eq!(hub.get(&place.token, "/points")["points"].as_array().map(Vec::len), Some(1));
    assert_ne!(job["point"], Value::Null);
}

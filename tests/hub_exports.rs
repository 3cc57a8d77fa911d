//! Points that a hub serves, with the clients of others.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use blockferry::{Hub, HubPlace, by, code, signal, stderr, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A running export by a hub, and what it printed when it was ready.
fn ready(place: &HubPlace, line: &str, hub: &Hub) -> (Child, Value) {
    let line = format!("export {line} {} --json", by(hub));
    let mut command = place.kept.command(&line);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let report: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(report["outcome"], "ready", "{report}");
    (child, report)
}

fn end(child: Child, name: Signal) -> Output {
    signal(&child, name);
    child.wait_with_output().unwrap()
}

fn uri(report: &Value, disk: usize) -> String {
    report["exports"][disk]["uri"].as_str().unwrap().to_owned()
}

fn nbd(program: &str, args: &[&str], place: &HubPlace) -> Output {
    Command::new(program).args(args).current_dir(place.kept.folder()).output().unwrap()
}

fn kill_server(report: &Value) {
    let pid = report["exports"][0]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn clients_read_all_disks_on_leased_ports_that_are_free_when_the_command_ends() {
    let place = HubPlace::new();
    let kept = &place.kept;
    kept.disk("root", 1 << 20, 1);
    kept.disk("odd", 1000, 2);
    kept.back_up(&["root", "odd"]);
    kept.write("root", 70_000, b"changed");
    let point = kept.back_up(&["root", "odd"]);
    let hub = place.hub();
    for name in [Signal::INT, Signal::TERM] {
        let (child, report) = ready(&place, &point, &hub);
        assert_eq!((&report["point"], &report["vm"]), (&json!(point), &json!("db1")));
        assert_eq!(report["exports"][0]["size"], 1000);
        let leases = place.leases(&hub);
        for (disk, lease) in ["odd", "root"].iter().zip(&leases) {
            assert_eq!((&lease["vm"], &lease["disk"]), (&json!("db1"), &json!(disk)), "{lease}");
        }
        assert_eq!(leases.len(), 2, "{leases:?}");
        let processes = hub.get(&place.token, "/nbd/processes");
        assert_eq!(processes["processes"].as_array().unwrap().len(), 2, "{processes}");
        let copied = nbd("nbdcopy", &[&uri(&report, 1), "copy.raw"], &place);
        assert!(copied.status.success(), "{copied:?}");
        kept.assert_same("root", "copy.raw");
        let read_only = nbd("nbdinfo", &["--is", "read-only", &uri(&report, 1)], &place);
        assert!(read_only.status.success(), "{read_only:?}");
        // It is none of the backups, under no path of theirs.
        assert_eq!(hub.get(&place.token, "/backups"), json!({ "backups": [] }));
        let job = leases[0]["job_id"].as_str().unwrap();
        for (method, call) in [("GET", ""), ("GET", "/events"), ("POST", "/cancel")] {
            let call = format!("/backups/{job}{call}");
            assert_eq!(hub.ask(&place.token, method, &call, &Value::Null).0, 404, "{call}");
        }
        let delete = hub.ask(&place.token, "DELETE", &format!("/points/{point}"), &Value::Null);
        assert_eq!((delete.0, &delete.1["error"]["code"]), (409, &json!("in_use")));
        let output = end(child, name);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(place.leases(&hub), [] as [Value; 0]);
    }
    place.assert_idle(&hub);
}

#[test]
fn ports_are_free_again_when_the_caller_was_killed() {
    let place = HubPlace::new();
    let [_, _, newest] = place.kept.chain();
    let hub = place.hub();
    let (child, report) = ready(&place, &newest, &hub);
    assert_eq!(place.leases(&hub).len(), 1);
    end(child, Signal::KILL);
    place.assert_idle(&hub);
    assert!(!nbd("nbdinfo", &["--size", &uri(&report, 0)], &place).status.success());
}

#[test]
fn an_export_is_taken_back_by_its_job() {
    let place = HubPlace::new();
    let [_, _, newest] = place.kept.chain();
    let hub = place.hub();
    let (child, _) = ready(&place, &newest, &hub);
    let job = place.leases(&hub)[0]["job_id"].as_str().unwrap().to_owned();
    // Its port is not released under it.
    let release = format!("/nbd/ports/job/{job}");
    assert_eq!(hub.ask(&place.token, "DELETE", &release, &Value::Null).0, 409);
    let call = format!("/exports/{job}");
    let (status, answer) = hub.ask(&place.token, "DELETE", &call, &Value::Null);
    assert_eq!((status, &answer), (200, &json!({ "ended": job })));
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output), "blockferry: the export was called off\n");
    place.assert_idle(&hub);
    let (status, answer) = hub.ask(&place.token, "DELETE", &call, &Value::Null);
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("no_such_export")));
}

#[test]
fn a_hub_that_stops_takes_its_exports_back() {
    let place = HubPlace::new();
    let [_, _, newest] = place.kept.chain();
    let mut hub = place.hub();
    let (child, _) = ready(&place, &newest, &hub);
    hub.signal(Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output), "blockferry: the hub is being stopped\n");
    assert!(hub.child.wait().unwrap().success());
    assert_eq!(place.ports.open(), None);
    drop(hub);
    place.assert_idle(&place.hub());
}

#[test]
fn what_a_killed_hub_served_is_undone_when_it_starts_again() {
    let place = HubPlace::new();
    let [_, _, newest] = place.kept.chain();
    let hub = place.hub();
    let (read_only, _) = ready(&place, &newest, &hub);
    let (writable, _) = ready(&place, &format!("{newest} --writable"), &hub);
    assert_eq!(place.leases(&hub).len(), 2);
    hub.signal(Signal::KILL);
    drop(hub);
    for child in [read_only, writable] {
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 1, "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
    let hub = place.hub();
    let said = fs::read_to_string(place.kept.path("stderr")).unwrap();
    assert_eq!(said.matches("is free again: job ").count(), 2, "{said}");
    place.assert_idle(&hub);
    assert_eq!(place.ports.open(), None);
    let (child, _) = ready(&place, &newest, &hub);
    assert_eq!(code(&end(child, Signal::INT)), 0);
}

#[test]
fn what_is_written_to_an_export_of_a_hub_is_thrown_away() {
    let place = HubPlace::new();
    let kept = &place.kept;
    kept.disk("root", 1 << 20, 1);
    kept.disk("other", 1 << 20, 2);
    let point = kept.back_up(&["root"]);
    let hub = place.hub();
    for _ in 0..2 {
        let (child, report) = ready(&place, &format!("{point} --writable"), &hub);
        assert!(nbd("nbdcopy", &[&uri(&report, 0), "read.raw"], &place).status.success());
        kept.assert_same("root", "read.raw");
        assert!(nbd("nbdcopy", &["other", &uri(&report, 0)], &place).status.success());
        assert!(nbd("nbdcopy", &[&uri(&report, 0), "read.raw"], &place).status.success());
        kept.assert_same("other", "read.raw");
        assert_eq!(code(&end(child, Signal::TERM)), 0);
    }
    place.assert_idle(&hub);
    assert_eq!(code(&place.run(&format!("verify {point}"), &hub)), 0);
}

#[test]
fn a_server_that_dies_is_started_anew_unless_writes_went_with_it() {
    let place = HubPlace::new();
    let [_, _, newest] = place.kept.chain();
    let hub = place.hub();
    let (child, report) = ready(&place, &newest, &hub);
    kill_server(&report);
    wait_until("another one serves the disk", || {
        let processes = hub.get(&place.token, "/nbd/processes");
        let pids = processes["processes"].as_array().unwrap();
        pids.iter().any(|process| process["pid"] != report["exports"][0]["pid"])
    });
    assert!(nbd("nbdcopy", &[&uri(&report, 0), "read.raw"], &place).status.success());
    place.kept.assert_same("root", "read.raw");
    let output = end(child, Signal::INT);
    assert_eq!(code(&output), 0);
    let said = stderr(&output);
    assert!(said.contains("disk root: its export was started anew, for "), "{said}");

    let (child, report) = ready(&place, &format!("{newest} --writable"), &hub);
    kill_server(&report);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(stderr(&output).contains("disk root is served no more, for "), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
    place.assert_idle(&hub);
}

#[test]
fn what_a_hub_cannot_serve_is_said_with_its_code() {
    let place = HubPlace::new();
    let kept = &place.kept;
    kept.disk("root", 1 << 20, 1);
    kept.disk("data", 1 << 20, 2);
    let both = kept.back_up(&["root", "data"]);
    let hub = place.hub_with_ports(1);
    let refused = |line: &str, expected: i32, said: &str| {
        let output = place.run(&format!("export {line} --json"), &hub);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(code(&output), expected, "{line}: {report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(said), "{line}: {error}");
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    };
    refused("01kat0h4m2f6q8r0s2", 2, "there is no restore point");
    refused(&format!("{both} --disk swap"), 2, "has no disk \"swap\"; it has data, root");
    refused(&both, 2, "2 disks, and this hub has 1 ports");
    refused(&format!("{both} --port 1"), 2, "cannot be used with");
    let one = format!("{both} --disk root");
    let (child, _) = ready(&place, &one, &hub);
    refused(&format!("{both} --disk data"), 1, "are taken");
    assert_eq!(code(&end(child, Signal::INT)), 0);
    place.assert_idle(&hub);
    fs::remove_file(kept.image(&both, "root")).unwrap();
    refused(&one, 4, "is missing; points that stand on it cannot be read");
    place.assert_idle(&hub);
}

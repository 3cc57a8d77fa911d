//! What a node does for its hub: reads disks as the hub itself would.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use blockferry::{NodePlace, by, code, signal, stderr};
use blockferry_doubles::{Nbdkit, QemuNbd};
use rustix::process::Signal;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
/// A few seconds for the disks of these tests, so that there is a middle.
const PACED: &str = "--rate-limit 4M";

#[test]
fn full_and_compared_and_vouched_for_points_of_two_disks_equal_them() {
    let place = NodePlace::new("");
    let _node = place.node("n1", "");
    let (root, data) = (place.disk("root", 6 * MIB, 1), place.disk("data", 5 * MIB + 512, 2));
    let words = format!("--node n1 --disk root={} --disk data={}", root.uri(), data.uri());
    let mut points = Vec::new();
    let mut back_up = |words: &str| {
        let (code, report) = place.back_up(words);
        assert_eq!(code, 0, "{report}");
        points.push(report["point"].as_str().unwrap().to_owned());
        place.assert_equal(points.last().unwrap(), &["root", "data"]);
        report
    };
    let full = back_up(&words);
    assert_eq!(full["disks"][0]["mode"], "full");
    assert_eq!(full["bytes"]["read"], 11 * MIB + 512);

    // The digests of the base came to the node: what is as it was is not sent.
    place.kept.write("root", MIB as u64, &[3; 128 << 10]);
    let compared = back_up(&words);
    assert_eq!(compared["disks"][0]["mode"], "incremental");
    assert_eq!(compared["bytes"]["read"], 11 * MIB + 512);
    let sent = compared["bytes"]["sent"].as_u64().unwrap();
    assert!((128 << 10..=1 << 20).contains(&sent), "{compared}");

    // Areas: nothing else is read.
    place.kept.write("data", 3 << 20, &[4; 64 << 10]);
    fs::write(place.kept.path("areas"), r#"[{"start":3145728,"length":65536}]"#).unwrap();
    fs::write(place.kept.path("none"), "[]").unwrap();
    let vouched = back_up(&format!("{words} --changed root=none --changed data=areas"));
    assert_eq!(vouched["bytes"]["read"], 64 << 10);
    assert_eq!(place.points(), 3);
    place.hubs("verify --all");
    place.assert_forgotten("n1");
}

#[test]
fn a_dirty_bitmap_that_the_node_sees_is_what_is_read() {
    let place = NodePlace::new("");
    let _node = place.node("n1", "");
    place.kept.disk("root", 6 * MIB, 1);
    let tool = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).current_dir(place.kept.folder()).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    tool("qemu-img", &["convert", "-O", "qcow2", "root", "image"]);
    let image = place.kept.path("image");
    {
        let source = QemuNbd::new(&image).format("qcow2").read_only().tcp().start().unwrap();
        let words = format!("--node n1 --disk root={} --bitmap root=daily", source.uri());
        let (code, report) = place.back_up(&words);
        assert_eq!((code, &report["disks"][0]["mode"]), (0, &json!("full")), "{report}");
    }
    tool("qemu-img", &["bitmap", "--add", "image", "daily"]);
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 9 2M 192k", "image"]);
    let source = QemuNbd::new(&image).format("qcow2").read_only().bitmap("daily").tcp();
    let source = source.start().unwrap();
    let words = format!("--node n1 --disk root={} --bitmap root=daily", source.uri());
    let (code, report) = place.back_up(&format!("{words} --mode incremental"));
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["disks"][0]["bytes"]["read"], 192 << 10, "{report}");
    drop(source);
    tool("qemu-img", &["convert", "-O", "raw", "image", "root"]);
    place.assert_equal(report["point"].as_str().unwrap(), &["root"]);
}

/// The names of all fields, with those that they are in before them.
fn shape(value: &Value, within: &str, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                shape(value, &format!("{within}.{name}"), names);
            }
        }
        Value::Array(values) => {
            for value in values {
                shape(value, within, names);
            }
        }
        _ => {
            names.insert(within.to_owned());
        }
    }
}

#[test]
fn the_report_has_the_shape_that_it_has_without_a_node() {
    let place = NodePlace::new("");
    let _node = place.node("n1", "");
    let disk = place.disk("root", MIB, 1);
    let both = |disk: &str| {
        ["", "--node n1"].map(|node| {
            let (_, report) = place.back_up(&format!("--mode full {node} --disk root={disk}"));
            let mut names = BTreeSet::new();
            shape(&report, "", &mut names);
            (report, names)
        })
    };
    let same = |[(here, of_here), (there, of_there)]: &[(Value, BTreeSet<String>); 2]| {
        assert_eq!(of_here, of_there);
        for field in ["outcome", "exit_code", "vm", "mode"] {
            assert_eq!(here[field], there[field]);
        }
        for field in ["read", "zero", "sent", "acknowledged", "skipped"] {
            assert_eq!(here["bytes"][field], there["bytes"][field], "{here} {there}");
        }
    };
    same(&both(&disk.uri()));
    let failed = both("nbd://127.0.0.1:1/x");
    same(&failed);
    let [(here, _), (there, _)] = failed;
    assert_eq!(here["exit_code"], 4, "{here}");
    let said = there["error"].as_str().unwrap();
    assert!(said.contains("disk root: at the node: source nbd://127.0.0.1:1/x"), "{said}");
}

#[test]
fn a_job_says_in_its_steps_that_its_node_looks_at_it() {
    let place = NodePlace::new("");
    let _node = place.node("n1", "");
    let disk = place.disk("root", MIB, 1);
    let job = place.end_of(&place.submit("db1", Some("n1"), &[("root", &disk.uri())]));
    let steps = job["steps"].as_array().unwrap();
    let planning = steps.iter().find(|step| step["state"] == "planning").unwrap();
    assert_eq!(planning["reason"], "node n1 looks at its disks", "{job}");
}

#[test]
fn the_same_key_is_the_same_job_of_the_same_node() {
    let place = NodePlace::new("");
    let _node = place.node("n1", "");
    let disk = place.disk("root", MIB, 1);
    let body = json!({ "vm": "db1", "node": "n1", "idempotency_key": "nightly",
                       "disks": [{ "name": "root", "source": disk.uri() }] });
    let first = place.submit_body(&body);
    place.point_of(&first);
    let (status, again) = place.hub.ask(&place.token, "POST", "/backups", &body);
    assert_eq!((status, again["id"].as_str()), (200, Some(first.as_str())), "{again}");
    assert_eq!(place.points(), 1);
}

#[test]
fn a_backup_that_is_interrupted_ends_at_its_node_too() {
    let place = NodePlace::new("");
    let _node = place.node("n1", PACED);
    let disk = place.disk("root", 24 * MIB, 1);
    let line = format!("backup --vm db1 --node n1 --disk root={} {}", disk.uri(), by(&place.hub));
    let mut command = place.kept.command(&line);
    let backup = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let listed = || place.hub.get(&place.token, "/backups")["backups"].as_array().unwrap().clone();
    blockferry::wait_until("there is no job", || !listed().is_empty());
    let job = listed()[0]["id"].as_str().unwrap().to_owned();
    place.wait_at_work(&job);
    let before = Instant::now();
    signal(&backup, Signal::INT);
    let ended = backup.wait_with_output().unwrap();
    assert_eq!(code(&ended), 7, "{}", stderr(&ended));
    assert_eq!(place.end_of(&job)["state"], "cancelled");
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    place.assert_forgotten("n1");
    assert_eq!(place.points(), 0);
}

#[test]
fn jobs_with_and_without_a_node_wait_in_one_queue_for_ports() {
    let block = blockferry_doubles::PortBlock::take();
    let (first, last) = (*block.first(3).start(), *block.first(3).end());
    let place = NodePlace::new(&format!("--ports {first}-{last}"));
    let (_n1, _n2) = (place.node("n1", ""), place.node("n2", ""));
    let sources = [1, 2, 3, 4].map(|seed| {
        let name = format!("disk{seed}");
        let server = place.disk(&name, 4 * MIB, seed);
        (name, server)
    });
    let disks: Vec<(&str, String)> =
        sources.iter().map(|(name, server)| (name.as_str(), server.uri())).collect();
    let jobs: Vec<(String, usize)> = (0..9)
        .map(|number| {
            let node = [None, Some("n1"), Some("n2")][number % 3];
            let (one, two) = (&disks[number % 4], &disks[(number + 1) % 4]);
            let pair = [(one.0, one.1.as_str()), (two.0, two.1.as_str())];
            (place.submit(&format!("vm{number}"), node, &pair), number)
        })
        .collect();
    let points: Vec<(String, usize)> =
        jobs.into_iter().map(|(job, number)| (place.point_of(&job), number)).collect();
    place.assert_idle();
    for (point, number) in points {
        place.assert_equal(&point, &[disks[number % 4].0, disks[(number + 1) % 4].0]);
    }
    place.assert_forgotten("n1");
    place.assert_forgotten("n2");
}

#[test]
fn a_node_opens_no_sockets_of_its_machine_unless_it_may() {
    let place = NodePlace::new("");
    let mut node = place.node("n1", "");
    place.kept.disk("root", MIB, 1);
    let source = Nbdkit::file(place.kept.path("root")).read_only().unix().start().unwrap();
    let words = format!("--node n1 --disk root={}", source.uri());
    let (refused, report) = place.back_up(&words);
    let said = report["error"].as_str().unwrap();
    assert_ne!(refused, 0);
    assert!(said.contains("start it with --local-sources"), "{said}");
    assert!(said.contains("node n1"), "{said}");
    let file = place.kept.path("root");
    let (refused, report) = place.back_up(&format!("--node n1 --disk root={}", file.display()));
    assert_eq!(refused, 2, "{report}");

    node.kill();
    let mut node = place.start_node("n1", "--local-sources");
    node.wait_until_served();
    let (code, report) = place.back_up(&words);
    assert_eq!(code, 0, "{report}");
    place.assert_equal(report["point"].as_str().unwrap(), &["root"]);
}

#[test]
fn a_node_that_nobody_enrolled_is_refused_at_once() {
    let place = NodePlace::new("");
    let _node = place.node("n1", "");
    let (refused, report) = place.back_up("--node n2 --disk root=nbd://127.0.0.1:1/x");
    assert_eq!(refused, 2, "{report}");
    assert!(report["error"].as_str().unwrap().contains("there is no node n2"), "{report}");
    assert_eq!(place.hub.get(&place.token, "/backups"), json!({ "backups": [] }));
}

#[test]
fn a_node_that_is_not_connected_is_waited_for_and_then_named() {
    let place = NodePlace::new("--node-deadline 1s");
    place.enroll("n1");
    let before = Instant::now();
    let reason = place.reason_of(&place.submit("db1", Some("n1"), &[("root", "nbd://h/x")]));
    let took = before.elapsed();
    assert!(reason.contains("node n1 cannot be reached: it is not connected"), "{reason}");
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}");
    place.assert_idle();
}

#[test]
fn a_job_that_waits_for_its_node_begins_when_that_comes_and_is_called_off_before() {
    let place = NodePlace::new("--node-deadline 1m");
    place.enroll("n1");
    let disk = place.disk("root", MIB, 1);
    let submit = || place.submit("db1", Some("n1"), &[("root", &disk.uri())]);
    let given_up = submit();
    place.hub.wait(&place.token, &given_up, |job| job["state"] == "planning");
    let cancel = format!("/backups/{given_up}/cancel");
    let before = Instant::now();
    assert_eq!(place.hub.ask(&place.token, "POST", &cancel, &Value::Null).0, 200);
    assert_eq!(place.end_of(&given_up)["state"], "cancelled");
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());

    let waiting = submit();
    place.hub.wait(&place.token, &waiting, |job| job["state"] == "planning");
    let _node = place.start_node("n1", "");
    place.assert_equal(&place.point_of(&waiting), &["root"]);
}

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

/// The largest proportional set size of a process that was seen, in KiB.
#[derive(Default)]
struct Memory(u64);

impl Memory {
    fn look_at(&mut self, child: &std::process::Child) {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).unwrap();
        let line = smaps.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let kib = line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap();
        self.0 = self.0.max(kib);
    }
}

/// A server of all files of a folder, each under its name; and one URI for each of them.
fn serve_all(place: &NodePlace, folder: &str) -> (blockferry_doubles::Server, String) {
    let parameter = format!("dir={}", place.kept.path(folder).display());
    let server = Nbdkit::plugin("file", &[parameter]).read_only().tcp().start().unwrap();
    let uri = server.uri();
    (server, uri.trim_end_matches('/').to_owned())
}

/// Jobs of so many disks each, for these nodes, all at once; each disk is restored and compared, and
/// the most memory that was seen of the nodes and the hub is given back, in MiB.
fn all_at_once(jobs: &[(usize, &str)], nodes: &[&str]) -> (Vec<u64>, u64) {
    let place = NodePlace::new("");
    let at_work: Vec<_> = nodes.iter().map(|node| place.node(node, "")).collect();
    fs::create_dir(place.kept.path("disks")).unwrap();
    let count: usize = jobs.iter().map(|(disks, _)| disks).sum();
    for number in 0..count {
        place.kept.disk(&format!("disks/d{number}"), 4 * MIB, number as u64);
    }
    let (_server, uri) = serve_all(&place, "disks");
    let mut numbers = 0..count;
    let disks: Vec<Vec<usize>> =
        jobs.iter().map(|(disks, _)| numbers.by_ref().take(*disks).collect()).collect();
    let submit = |(job, disks): (&(usize, &str), &Vec<usize>)| {
        let disks: Vec<(String, String)> =
            disks.iter().map(|n| (format!("d{n}"), format!("{uri}/d{n}"))).collect();
        let named: Vec<(&str, &str)> =
            disks.iter().map(|(name, uri)| (name.as_str(), uri.as_str())).collect();
        place.submit(&format!("vm-{}", disks[0].0), Some(job.1), &named)
    };
    let ids: Vec<String> = jobs.iter().zip(&disks).map(submit).collect();
    let mut of_hub = Memory::default();
    let mut of_nodes: Vec<Memory> = nodes.iter().map(|_| Memory::default()).collect();
    blockferry::wait_until("the jobs are not over", || {
        let listed = place.hub.get(&place.token, "/backups");
        for (memory, node) in of_nodes.iter_mut().zip(&at_work) {
            memory.look_at(&node.child);
        }
        of_hub.look_at(&place.hub.child);
        let is_over = |job: &Value| ["done", "failed"].contains(&job["state"].as_str().unwrap());
        listed["backups"].as_array().unwrap().iter().all(is_over)
    });
    // A job has its ports from before it looks at its disks until its point is published; the first
    // of many may be over by the time that the last one begins.
    let peak = place.hub.get(&place.token, "/nbd/ports/metrics")["peak"].as_u64().unwrap();
    let least = if jobs.len() > 10 { 3 * count / 4 } else { count };
    assert!(peak >= least as u64, "{peak}");
    for (job, disks) in ids.iter().zip(&disks) {
        let point = place.point_of(job);
        place.hubs(&format!("restore {point} --to out"));
        for number in disks {
            place.kept.assert_same(&format!("disks/d{number}"), &format!("out/d{number}.raw"));
        }
        fs::remove_dir_all(place.kept.path("out")).unwrap();
    }
    for node in nodes {
        place.assert_forgotten(node);
    }
    (of_nodes.iter().map(|memory| memory.0 >> 10).collect(), of_hub.0 >> 10)
}

/// As many disks as a hub has ports.
const ALL: usize = 101;
/// For all lanes of all ports.
const MOST_OF_A_NODE_MIB: u64 = 160;
/// Half as much again as was seen, which was 89. The exports are processes of their own.
const MOST_OF_A_HUB_MIB: u64 = 134;

#[test]
fn a_hundred_and_one_lanes_of_two_nodes_at_once_bring_every_byte() {
    let jobs = [(17, "n1"), (17, "n1"), (17, "n1"), (25, "n2"), (25, "n2")];
    assert_eq!(jobs.iter().map(|(disks, _)| disks).sum::<usize>(), ALL);
    let (nodes, hub) = all_at_once(&jobs, &["n1", "n2"]);
    eprintln!("memory: nodes {nodes:?} MiB, hub {hub} MiB");
    assert!(nodes.iter().all(|node| *node <= MOST_OF_A_NODE_MIB), "{nodes:?}");
    assert!(hub <= MOST_OF_A_HUB_MIB, "{hub}");
}

#[test]
fn a_hundred_and_one_lanes_of_one_job_bring_every_byte() {
    let (nodes, hub) = all_at_once(&[(ALL, "n1")], &["n1"]);
    eprintln!("memory: node {nodes:?} MiB, hub {hub} MiB");
    assert!(nodes[0] <= MOST_OF_A_NODE_MIB, "{nodes:?}");
    assert!(hub <= MOST_OF_A_HUB_MIB, "{hub}");
}

#[test]
fn a_flood_of_jobs_for_one_node_is_worked_off_and_disturbs_nobody() {
    const JOBS: usize = 100;
    let place = NodePlace::new("");
    let node = place.node("n1", "");
    let disk = place.disk("root", MIB, 1);
    // Each job has a second, so that all are at work at once.
    let paced = Nbdkit::file(place.kept.path("root")).read_only().tcp();
    let paced = paced.filter("delay", &["rdelay=1"]).start().unwrap();
    let jobs: Vec<String> = (0..JOBS)
        .map(|number| place.submit(&format!("vm{number}"), Some("n1"), &[("root", &paced.uri())]))
        .collect();
    // Meanwhile the hub reads a disk itself, and answers.
    let own = place.submit("own", None, &[("root", &disk.uri())]);
    let before = Instant::now();
    place.hub.get(&place.token, "/health");
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    let (called_off, others) = jobs.split_at(10);
    for job in called_off {
        let cancel = format!("/backups/{job}/cancel");
        let (status, answer) = place.hub.ask(&place.token, "POST", &cancel, &Value::Null);
        assert!([200, 409].contains(&status), "{answer}");
    }
    place.assert_equal(&place.point_of(&own), &["root"]);
    let points: Vec<String> = others.iter().map(|job| place.point_of(job)).collect();
    for job in called_off {
        let state = place.end_of(job)["state"].as_str().unwrap().to_owned();
        assert!(["cancelled", "done"].contains(&state.as_str()), "{state}");
    }
    for point in points.iter().step_by(40) {
        place.assert_equal(point, &["root"]);
    }
    place.assert_forgotten("n1");
    // Each of the questions how they get on found a place.
    assert!(!node.says().contains("refused"), "{}", node.says());
}

#[test]
fn a_hundred_and_one_jobs_of_one_node_bring_every_byte() {
    let (nodes, hub) = all_at_once(&[(1, "n1"); ALL], &["n1"]);
    eprintln!("memory: node {nodes:?} MiB, hub {hub} MiB");
    assert!(nodes[0] <= MOST_OF_A_NODE_MIB, "{nodes:?}");
    assert!(hub <= MOST_OF_A_HUB_MIB, "{hub}");
}

//! Many lanes and many jobs of nodes at once.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::time::{Duration, Instant};

use blockferry::NodePlace;
use blockferry_doubles::Nbdkit;
use serde_json::Value;

const MIB: usize = 1 << 20;

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

/// Jobs of so many disks each, for these nodes, all at once; disks are restored and compared, and
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
    let points: Vec<String> = ids.iter().map(|job| place.point_of(job)).collect();
    // Of many points some, for each is restored by a process of its own.
    let step = if jobs.len() > 10 { 10 } else { 1 };
    for (point, disks) in points.iter().zip(&disks).step_by(step) {
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
fn a_hundred_and_one_jobs_of_one_node_keep_to_its_memory() {
    let (nodes, hub) = all_at_once(&[(1, "n1"); ALL], &["n1"]);
    eprintln!("memory: node {nodes:?} MiB, hub {hub} MiB");
    assert!(nodes[0] <= MOST_OF_A_NODE_MIB, "{nodes:?}");
    assert!(hub <= MOST_OF_A_HUB_MIB, "{hub}");
}

//! A node, its hub, the line between them, sources and exports, each lost in the middle of a backup:
//! it goes on, or ends within its deadline with the reason, and the next one is made.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::thread;
use std::time::{Duration, Instant};

use blockferry::{Hub, Node, NodePlace, code, place, stderr, tunnel_of, wait_until};
use blockferry_doubles::{PortBlock, Proxy, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const MIB: usize = 1 << 20;
/// Bytes of the disk that is lost sight of.
const DISK: usize = 16 * MIB;
/// Four seconds for it, so that there is a middle.
const PACED: &str = "--rate-limit 4M";
/// Half as fast.
const SLOW: &str = "--rate-limit 2M";
/// With a flush now and then, before which nothing is sent again.
const FLUSHED: &str = "--deadline 10s --flush-interval 100ms";
/// Of the disk when it is lost sight of, and more than is sent again.
const MOST: usize = DISK / 2;

/// A hub, its node, and a backup in its middle.
struct AtWork {
    place: NodePlace,
    node: Node,
    source: Server,
    job: String,
}

impl AtWork {
    fn new(hub: &str, node: &str) -> Self {
        Self::at(PACED, hub, node)
    }

    /// At a pace.
    fn at(pace: &str, hub: &str, node: &str) -> Self {
        let place = NodePlace::new(hub);
        let node = place.node("n1", &format!("{pace} {node}"));
        let source = place.disk("root", DISK, 1);
        let job = place.submit("db1", Some("n1"), &[("root", &source.uri())]);
        let work = Self { place, node, source, job };
        work.wait_for(2 << 20);
        work
    }

    /// Waits until so many bytes are acknowledged.
    fn wait_for(&self, bytes: usize) {
        self.place.wait_for_bytes(&self.job, bytes as u64);
    }

    /// The job is done, and its point is the disk; so many bytes at most were moved twice.
    fn assert_goes_on(&self, redone: usize) {
        let point = self.place.point_of(&self.job);
        let bytes = &self.place.disks_of(&point)[0]["bytes"];
        // What was read beyond the disk was read twice.
        let read = bytes["read"].as_u64().unwrap();
        let disk = DISK as u64;
        assert!((disk..=disk + redone as u64).contains(&read), "{bytes}");
        self.place.assert_equal(&point, &["root"]);
        self.assert_next(1);
    }

    /// The job has failed, and nothing is left of it at the hub; its reason.
    fn assert_fails(&self) -> String {
        let reason = self.place.reason_of(&self.job);
        assert_eq!(self.place.points(), 0);
        self.place.assert_idle();
        reason
    }

    /// Another backup is made, by the same node, and nothing of any is left.
    fn assert_next(&self, points: usize) {
        self.place.assert_next(&self.source, points);
        self.place.assert_forgotten("n1");
    }

    fn cut(&self) {
        self.place.line.refuse(true);
        self.place.line.cut();
    }

    fn mend(&self) {
        self.place.line.refuse(false);
    }

    /// Waits until the node has tried so many times to come back.
    fn wait_for_attempts(&self, count: u64) {
        let before = self.place.line.accepted();
        wait_until("the node does not dial", || self.place.line.accepted() >= before + count);
    }
}

/// A moment that has passed, and how much more than that.
fn assert_within(since: Instant, limit: Duration, told: &str) {
    assert!(since.elapsed() < limit, "{:?}: {told}", since.elapsed());
}

#[test]
fn a_line_that_is_cut_for_a_moment_costs_what_was_on_its_way() {
    let work = AtWork::new("", FLUSHED);
    work.wait_for(MOST);
    work.cut();
    work.wait_for_attempts(3);
    work.mend();
    work.assert_goes_on(MOST / 2);
    assert!(work.node.says().contains("tunnel connection 1 is lost"), "{}", work.node.says());
}

#[test]
fn a_line_that_is_away_longer_than_lanes_wait_fails_the_job_with_the_words_of_the_node() {
    let work = AtWork::new("--node-deadline 1m", "--deadline 1s");
    work.cut();
    work.node.wait_for(&format!("job {}: ", work.job));
    work.mend();
    let reason = work.assert_fails();
    assert!(reason.starts_with("disk root: the repository, from the node: "), "{reason}");
    work.assert_next(0);
}

#[test]
fn a_line_that_is_away_longer_than_the_hub_waits_fails_the_job_which_the_node_forgets() {
    let work = AtWork::new("--node-deadline 1s", "--deadline 1m --forget 2s");
    let before = Instant::now();
    work.cut();
    let reason = work.assert_fails();
    assert_within(before, Duration::from_secs(4), &reason);
    assert!(reason.contains("node n1 cannot be reached: it is not connected"), "{reason}");
    work.node.wait_for("the hub has not asked about it");
    work.mend();
    work.assert_next(0);
}

#[test]
fn a_line_that_moves_nothing_is_left_for_another_connection() {
    let work = AtWork::new("", "--deadline 3s --flush-interval 100ms");
    work.wait_for(MOST);
    work.place.line.freeze();
    work.node.wait_for("tunnel connection 1 is lost");
    work.place.line.thaw();
    // With what was under way, which a line that stands still takes for a while.
    work.assert_goes_on(MOST);
}

#[test]
fn a_line_with_a_delay_is_cut_and_brings_the_disk_over() {
    // A round trip of 50 ms.
    let place =
        NodePlace::over("", |line| line.delay(Duration::from_millis(25)).bytes_per_second(8 << 20));
    let node = place.node("n1", &format!("{PACED} {FLUSHED}"));
    let source = place.disk("root", DISK, 1);
    let job = place.submit("db1", Some("n1"), &[("root", &source.uri())]);
    let work = AtWork { place, node, source, job };
    work.wait_for(MOST);
    work.cut();
    work.wait_for_attempts(3);
    work.mend();
    work.assert_goes_on(MOST / 2);
}

#[test]
fn a_line_that_flaps_twenty_times_brings_the_disk_over() {
    let work = AtWork::at(SLOW, "", FLUSHED);
    for step in 1..=20 {
        work.wait_for((2 << 20) + step * (512 << 10));
        work.place.line.cut();
    }
    work.assert_goes_on(DISK);
}

#[test]
fn a_node_that_is_killed_fails_its_job_once_it_is_there_again() {
    let mut work = AtWork::new("--node-deadline 1m", "");
    work.node.kill();
    work.node = work.place.start_node("n1", "");
    work.node.wait_until_served();
    let reason = work.assert_fails();
    let words = "node n1 does not know the job any more: it was started anew meanwhile";
    assert!(reason.contains(words), "{reason}");
    work.assert_next(0);
}

#[test]
fn a_node_that_is_away_from_the_start_is_told_of_and_waited_for() {
    let place = NodePlace::new("");
    let mut node = place.node("n1", "");
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0), "{}", node.says());
    let source = place.disk("root", DISK, 1);
    let job = place.submit("db1", Some("n1"), &[("root", &source.uri())]);
    let call = format!("/backups/{job}");
    let told = || place.hub.get(&place.token, &call)["said"]["text"].to_string();
    wait_until("nothing is told of the node", || told().contains("node n1 cannot be reached"));
    let mut node = place.start_node("n1", "");
    node.wait_until_served();
    let point = place.point_of(&job);
    place.assert_equal(&point, &["root"]);
}

#[test]
fn a_node_that_is_killed_for_good_fails_its_job_within_the_deadline() {
    let mut work = AtWork::new("--node-deadline 1s", "");
    let before = Instant::now();
    work.node.kill();
    let reason = work.assert_fails();
    assert_within(before, Duration::from_secs(3), &reason);
    assert!(reason.contains("node n1 cannot be reached"), "{reason}");
    assert!(reason.contains("does `blockferry node serve` run there?"), "{reason}");
    work.node = work.place.start_node("n1", "");
    work.node.wait_until_served();
    work.assert_next(0);
}

#[test]
fn a_hub_that_is_killed_leaves_a_job_that_says_so_and_nothing_else_on_either_side() {
    let mut work = AtWork::new("", "--deadline 5s --forget 2s");
    work.place.hub.signal(Signal::KILL);
    work.place.hub.child.wait().unwrap();
    work.place.restart_hub();
    let reason = work.assert_fails();
    assert!(reason.starts_with("the hub ended while it was "), "{reason}");
    for port in work.place.ports.range() {
        std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
    work.place.assert_forgotten("n1");
    work.assert_next(0);
}

#[test]
fn a_node_that_stands_still_for_a_moment_goes_on_as_it_was() {
    let work = AtWork::new("--node-deadline 10s", "--deadline 10s");
    work.node.signal(Signal::STOP);
    thread::sleep(Duration::from_secs(2));
    work.node.signal(Signal::CONT);
    work.assert_goes_on(0);
    assert!(!work.node.says().contains("is lost"), "{}", work.node.says());
}

#[test]
fn a_node_that_stands_still_for_longer_fails_its_job_within_the_deadline() {
    let work = AtWork::new("--node-deadline 2s", "--forget 2s");
    let before = Instant::now();
    work.node.signal(Signal::STOP);
    let reason = work.assert_fails();
    assert_within(before, Duration::from_secs(6), &reason);
    assert!(reason.contains("node n1 cannot be reached: it does not answer"), "{reason}");
    work.node.signal(Signal::CONT);
    work.assert_next(0);
}

#[test]
fn a_job_of_a_node_that_stands_still_can_be_called_off() {
    let work = AtWork::new("--node-deadline 1m", "--forget 2s");
    work.node.signal(Signal::STOP);
    let before = Instant::now();
    let cancel = format!("/backups/{}/cancel", work.job);
    assert_eq!(work.place.hub.ask(&work.place.token, "POST", &cancel, &Value::Null).0, 200);
    let job = work.place.end_of(&work.job);
    assert_eq!(job["state"], "cancelled", "{job}");
    // It is told for five seconds that it may stop.
    assert_within(before, Duration::from_secs(8), "");
    work.place.assert_idle();
    work.node.signal(Signal::CONT);
    work.assert_next(0);
}

#[test]
fn a_hub_that_stands_still_for_a_moment_costs_nothing() {
    let work = AtWork::new("", "--deadline 10s");
    work.place.hub.signal(Signal::STOP);
    thread::sleep(Duration::from_secs(2));
    work.place.hub.signal(Signal::CONT);
    work.assert_goes_on(0);
}

#[test]
fn a_hub_that_stands_still_for_longer_than_lanes_wait_fails_its_job() {
    let work = AtWork::new("", "--deadline 2s");
    work.place.hub.signal(Signal::STOP);
    work.node.wait_for(&format!("job {}: ", work.job));
    work.place.hub.signal(Signal::CONT);
    let reason = work.assert_fails();
    assert!(reason.starts_with("disk root: the repository, from the node: "), "{reason}");
    work.assert_next(0);
}

#[test]
fn a_node_that_is_told_to_end_calls_its_jobs_off_and_says_so() {
    let mut work = AtWork::new("--node-deadline 2s", "");
    work.node.signal(Signal::TERM);
    assert_eq!(work.node.end(), Some(0), "{}", work.node.says());
    let reason = work.assert_fails();
    let told = ["node n1 has called its lanes off", "node n1 cannot be reached"];
    assert!(told.iter().any(|words| reason.contains(words)), "{reason}");
    work.node = work.place.start_node("n1", "");
    work.node.wait_until_served();
    work.assert_next(0);
}

#[test]
fn a_hub_that_is_told_to_end_calls_its_jobs_off_at_the_node_too() {
    let mut work = AtWork::new("", "");
    work.place.hub.signal(Signal::TERM);
    assert_eq!(work.place.hub.child.wait().unwrap().code(), Some(0), "{}", work.place.hub_says());
    wait_until("the node still has the job", || work.place.kept.names("n1/jobs").is_empty());
    work.place.restart_hub();
    let job = work.place.end_of(&work.job);
    assert_eq!((&job["state"], &job["point"]), (&"cancelled".into(), &Value::Null), "{job}");
    work.assert_next(0);
}

#[test]
fn an_export_that_is_killed_is_started_anew_and_the_node_goes_on() {
    let work = AtWork::new("", FLUSHED);
    work.wait_for(MOST);
    let processes = work.place.hub.get(&work.place.token, "/nbd/processes");
    let pid = processes["processes"][0]["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    work.assert_goes_on(MOST / 2);
}

#[test]
fn a_source_that_comes_back_is_read_on() {
    let mut work = AtWork::new("", FLUSHED);
    work.wait_for(MOST);
    work.source.restart().unwrap();
    work.assert_goes_on(MOST / 2);
}

#[test]
fn a_source_that_is_gone_fails_the_job_as_a_source_at_the_node() {
    let mut work = AtWork::new("", "--deadline 2s");
    let uri = work.source.uri();
    let uri = uri.trim_end_matches('/').to_owned();
    let gone = std::mem::replace(&mut work.source, work.place.serve("root"));
    let before = Instant::now();
    drop(gone);
    let reason = work.assert_fails();
    assert_within(before, Duration::from_secs(5), &reason);
    assert!(reason.starts_with(&format!("disk root: at the node: source {uri}")), "{reason}");
    let job = work.place.end_of(&work.job);
    assert_eq!(job["failure"], "source_fault");
    work.assert_next(0);
}

#[test]
fn a_source_that_stands_still_fails_the_job_of_a_node_that_would_wait_for_long() {
    let place = NodePlace::new("--node-stall 2s");
    let node = place.node("n1", &format!("{PACED} --deadline 1m"));
    let source = place.disk("root", DISK, 1);
    let way = Proxy::to(source.address()).start().unwrap();
    let job = place.submit("db1", Some("n1"), &[("root", &way.uri(source.export()))]);
    let work = AtWork { place, node, source, job };
    work.wait_for(2 << 20);
    let before = Instant::now();
    way.freeze();
    let reason = work.assert_fails();
    assert_within(before, Duration::from_secs(10), &reason);
    let words = "node n1 answers, but has moved no byte of any disk for 2 s";
    assert!(reason.contains(words), "{reason}");
    // Its lanes are called off.
    work.place.assert_forgotten("n1");
    work.assert_next(0);
}

#[test]
fn a_node_that_is_removed_loses_its_job_and_its_way_in() {
    let mut work = AtWork::new("--node-deadline 1s", "--forget 2s");
    let before = Instant::now();
    let removed = work.place.kept.run("hub enroll --remove n1 --state state");
    assert_eq!(code(&removed), 0, "{}", stderr(&removed));
    let reason = work.assert_fails();
    assert_within(before, Duration::from_secs(8), &reason);
    assert!(reason.contains("node n1 cannot be reached: it is not connected"), "{reason}");
    work.node.wait_for("does not take the key");
    let body = serde_json::json!({ "vm": "db1", "node": "n1",
        "disks": [{ "name": "root", "source": work.source.uri() }] });
    let (status, refused) = work.place.hub.ask(&work.place.token, "POST", "/backups", &body);
    assert_eq!((status, &refused["error"]["code"]), (422, &"wrong_field".into()), "{refused}");
    // One that is started now says so and ends.
    work.node.kill();
    let mut revoked = work.place.start_node("n1", "");
    assert_eq!(revoked.end(), Some(5), "{}", revoked.says());
    assert!(revoked.says().contains("does not take the key"), "{}", revoked.says());
    // Enrolled anew, it is what it was.
    work.place.enroll("n1");
    work.node = work.place.start_node("n1", "");
    work.node.wait_until_served();
    work.assert_next(0);
}

#[test]
fn a_second_node_on_the_same_folder_does_not_start_and_disturbs_nothing() {
    let work = AtWork::new("", "");
    let second = work.place.kept.run("node serve --state n1");
    assert_eq!(code(&second), 1, "{}", stderr(&second));
    assert!(stderr(&second).contains("another node works in n1"), "{}", stderr(&second));
    work.assert_goes_on(0);
}

#[test]
fn a_hub_that_is_another_is_believed_neither_by_a_node_that_runs_nor_by_one_that_starts() {
    let mut work = AtWork::new("--node-deadline 1s", "--forget 2s");
    let (folder, _token) = place();
    let ports = PortBlock::take();
    let stranger = Hub::start_with(folder.path(), &ports, "--tunnel 127.0.0.1:0");
    work.place.line.lead_to(&tunnel_of(&stranger));
    let reason = work.assert_fails();
    assert!(reason.contains("node n1 cannot be reached"), "{reason}");
    let words = "shows another host key than it should (SHA256:";
    work.node.wait_for(words);
    work.node.kill();
    let mut started = work.place.start_node("n1", "");
    assert_eq!(started.end(), Some(5), "{}", started.says());
    assert!(started.says().contains(words), "{}", started.says());
    work.place.line.lead_to(&tunnel_of(&work.place.hub));
    work.node = work.place.start_node("n1", "");
    work.node.wait_until_served();
    work.assert_next(0);
}

#[test]
fn a_node_is_reachable_within_three_seconds_of_its_hub() {
    let mut place = NodePlace::new("--node-deadline 3s");
    let source = place.disk("root", MIB, 1);
    place.enroll("n1");
    place.hub.signal(Signal::KILL);
    place.hub.child.wait().unwrap();
    // Before there is a hub, and after it went while nothing was asked of the node.
    let node = place.start_node("n1", "");
    for round in 0..2 {
        let before = place.line.accepted();
        wait_until("the node does not dial", || place.line.accepted() >= before + 4);
        place.restart_hub();
        let since = Instant::now();
        node.wait_for_times("the far end can connect to this one", round + 1);
        assert_within(since, Duration::from_secs(3), &node.says());
        place.assert_next(&source, round);
        place.hub.signal(Signal::KILL);
        place.hub.child.wait().unwrap();
    }
}

#[test]
fn a_source_that_stands_still_is_named_before_anything_is_read() {
    let place = NodePlace::new("");
    let node = place.node("n1", "--deadline 1s");
    place.kept.disk("root", MIB, 1);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("nbd://{}/x", silent.local_addr().unwrap());
    let before = Instant::now();
    let reason = place.reason_of(&place.submit("db1", Some("n1"), &[("root", &uri)]));
    assert_within(before, Duration::from_secs(5), &reason);
    assert!(reason.starts_with(&format!("disk root: at the node: source {uri}")), "{reason}");
    place.assert_next(&place.serve("root"), 0);
    drop(node);
}

//! `backup --hub` and `points --hub`, as a person runs them.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use blockferry::{Hub, code, command, place, run, signal, stderr};
use blockferry_control::catalog::{JobId, PointId};
use blockferry_doubles::{Nbdkit, PortBlock, Server};
use rustix::process::Signal;
use serde_json::Value;

/// A hub with a repository, and a file with its token.
struct Place {
    folder: tempfile::TempDir,
    token: String,
    ports: PortBlock,
    hub: Option<Hub>,
    address: String,
}

impl Place {
    fn new() -> Self {
        let (folder, token) = place();
        fs::write(folder.path().join("token"), format!("{token}\n")).unwrap();
        let ports = PortBlock::take();
        let hub = Hub::start_with(folder.path(), &ports, "--repository repository");
        let address = hub.address.to_string();
        Self { folder, token, ports, hub: Some(hub), address }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn hub(&self) -> &Hub {
        self.hub.as_ref().unwrap()
    }

    /// Starts the hub again where it was.
    fn start_again(&mut self) {
        let range = self.ports.range();
        let (first, last, address) = (range.start(), range.end(), &self.address);
        let options = format!("--repository repository --ports {first}-{last} --listen {address}");
        self.hub = Some(Hub::start_on(self.path(), &options));
    }

    fn words(&self, line: &str) -> Vec<String> {
        let line = format!("{line} --hub http://{} --token-file token", self.address);
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn run(&self, line: &str) -> Output {
        let words = self.words(line);
        run(self.path(), &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn json(&self, line: &str) -> (i32, Value) {
        let output = self.run(line);
        let report = serde_json::from_slice(&output.stdout);
        (code(&output), report.unwrap_or_else(|error| panic!("{error}: {}", stderr(&output))))
    }

    fn start(&self, line: &str) -> Child {
        let words = self.words(line);
        command(self.path(), &words.iter().map(String::as_str).collect::<Vec<_>>())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The only job, once it has this state.
    fn job_that_is(&self, state: &str) -> String {
        let started = Instant::now();
        loop {
            let list = self.hub().get(&self.token, &format!("/backups?state={state}"));
            if let Some(job) = list["backups"].as_array().unwrap().first() {
                return job["id"].as_str().unwrap().to_owned();
            }
            assert!(started.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn source() -> Server {
    Nbdkit::sparse_random(4 << 20, 1).tcp().start().unwrap()
}

fn slow_source() -> Server {
    Nbdkit::pattern(8 << 20).filter("rate", &["rate=8M"]).tcp().start().unwrap()
}

fn line(disk: &Server) -> String {
    format!("backup --vm db1 --disk root={} --json", disk.uri())
}

/// The names of all fields, with those of objects in them.
fn fields(value: &Value, prefix: &str) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, value)| {
                let name = format!("{prefix}.{name}");
                [vec![name.clone()], fields(value, &name)].concat()
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(|value| fields(value, prefix)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_backup_by_a_hub_reports_what_one_without_reports() {
    let place = Place::new();
    let disk = source();
    let (code_by_hub, by_hub) = place.json(&line(&disk));
    assert_eq!(code_by_hub, 0, "{by_hub}");
    let alone = format!("{} --repository alone", line(&disk));
    let alone = run(place.path(), &alone.split_whitespace().collect::<Vec<_>>());
    let alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
    assert_eq!(fields(&by_hub, ""), fields(&alone, ""));
    for field in ["bytes", "mode", "vm", "outcome"] {
        assert_eq!(by_hub[field], alone[field], "{field}");
    }
    for field in ["name", "mode", "reason", "size", "bytes", "parent"] {
        assert_eq!(by_hub["disks"][0][field], alone["disks"][0][field], "{field}");
    }
    let (_, second) = place.json(&line(&disk));
    let second = &second["disks"][0];
    assert_eq!((&second["mode"], &second["parent"]), (&"incremental".into(), &by_hub["point"]));
}

#[test]
fn a_backup_by_a_hub_says_with_v_what_it_does_and_prints_a_table() {
    let place = Place::new();
    let disk = source();
    let output = place.run(&format!("backup -v --vm db1 --disk root={}", disk.uri()));
    let said = stderr(&output);
    assert_eq!(code(&output), 0, "{said}");
    for words in ["is planning: ", "disk root: full, because ", "is done: published point "] {
        assert!(said.contains(words), "{words} in {said}");
    }
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("of VM db1 is published"), "{table}");
    assert!(!said.contains(&place.token));
}

#[test]
fn the_exit_code_tells_whose_fault_it_was_as_without_a_hub() {
    let place = Place::new();
    let disk = source();
    for (line, expected) in [
        ("backup --json --vm db1 --disk root=nbd://127.0.0.1:1/x".to_owned(), 4),
        (format!("{} --mode incremental", line(&disk)), 2),
        (format!("{} --repository none", line(&disk)), 2),
        (format!("{} --retries 1", line(&disk)), 2),
        ("backup --json --vm db1 --disk root=token".to_owned(), 2),
        ("backup --json --vm db1 --disk root=nbd+unix:///?socket=/x".to_owned(), 2),
    ] {
        let (found, report) = place.json(&line);
        assert_eq!((found, &report["exit_code"]), (expected, &expected.into()), "{line}: {report}");
        assert_eq!(report["point"], Value::Null);
    }
}

#[test]
fn ctrl_c_calls_the_job_off_waits_for_its_end_and_exits_7() {
    let place = Place::new();
    let disk = slow_source();
    let child = place.start(&line(&disk));
    let job = place.job_that_is("copying");
    signal(&child, Signal::INT);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(report["outcome"], "interrupted");
    let shown = place.hub().get(&place.token, &format!("/backups/{job}"));
    assert_eq!(shown["state"], "cancelled");
}

/// An interrupt is for somebody who waits: much less than the minutes that a hub may be away.
const AT_ONCE: Duration = Duration::from_secs(6);

/// Interrupts a backup that a hub does not answer any more; gives back what it says.
fn interrupted(child: Child, name: Signal) -> String {
    let began = Instant::now();
    signal(&child, name);
    let ended = child.wait_with_output().unwrap();
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(report["outcome"], "interrupted");
    let error = report["error"].as_str().unwrap();
    let told = stderr(&ended).lines().filter(|line| line.ends_with(error)).count();
    assert_eq!(told, 1, "{}", stderr(&ended));
    error.to_owned()
}

#[test]
fn an_interrupt_does_not_wait_for_a_hub_that_is_gone_or_stuck_and_says_that_the_job_may_go_on() {
    for (how, name) in [(Signal::KILL, Signal::TERM), (Signal::STOP, Signal::INT)] {
        let place = Place::new();
        let disk = slow_source();
        let mut child = place.start(&format!("{} -v", line(&disk)));
        let job = place.job_that_is("copying");
        // It has heard of the job: byte by byte, for the rest of what it says is read later.
        let mut said = Vec::new();
        while !said.ends_with(b"is copying") {
            let mut byte = [0];
            child.stderr.as_mut().unwrap().read_exact(&mut byte).unwrap();
            said.extend(byte);
        }
        place.hub().signal(how);
        let error = interrupted(child, name);
        assert!(error.contains(&format!("job {job} may still run there")), "{error}");
    }
}

#[test]
fn an_interrupt_before_the_hub_has_answered_tells_whether_there_may_be_a_job() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "blockferry_token").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let line = format!(
        "backup --json --vm db1 --disk root=nbd://127.0.0.1:1/x --hub {url} --token-file token"
    );
    let words: Vec<&str> = line.split_whitespace().collect();
    let start = || {
        let mut command = command(folder.path(), &words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // The connection, once the head of a request has come.
    let asked = |call: &str| {
        let (connection, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.starts_with(call), "{first}");
        assert!(lines.any(|line| line.unwrap().is_empty()));
        connection
    };
    let child = start();
    let silent = asked("GET /api/v1/health");
    assert_eq!(interrupted(child, Signal::TERM), "interrupted");
    drop(silent);

    let child = start();
    let mut health = asked("GET /api/v1/health");
    health.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    let silent = asked("POST /api/v1/backups");
    let error = interrupted(child, Signal::TERM);
    assert!(error.contains("tells whether there is a job of it"), "{error}");
    drop(silent);
}

#[test]
fn a_hub_that_is_killed_and_started_again_meanwhile_tells_what_became_of_the_job() {
    let mut place = Place::new();
    let disk = slow_source();
    let child = place.start(&line(&disk));
    place.job_that_is("copying");
    place.hub().signal(Signal::KILL);
    place.hub = None;
    place.start_again();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let error = report["error"].as_str().unwrap();
    assert!(error.starts_with("the hub ended while it was copying (job "), "{error}");
}

#[test]
fn points_of_a_hub_are_listed_and_deleted_as_those_of_a_repository() {
    let place = Place::new();
    let disk = source();
    let (_, report) = place.json(&line(&disk));
    let point = report["point"].as_str().unwrap();
    let (_, by_hub) = place.json("points --json --vm db1");
    let alone = run(place.path(), &["points", "--json", "--repository", "repository"]);
    let mut alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
    alone["points"][0]["repository"] = "default".into();
    assert_eq!(by_hub, alone);
    let table = String::from_utf8(place.run("points").stdout).unwrap();
    assert!(table.contains(point) && table.contains("whole"), "{table}");
    let (status, deleted) = place.json(&format!("points delete {point} --json"));
    assert_eq!(status, 0, "{deleted}");
    let (status, again) = place.json(&format!("points delete {point} --json"));
    assert_eq!(status, 2, "{again}");
}

#[test]
fn a_hub_that_cannot_be_had_is_told_in_one_line() {
    let (folder, token) = place();
    fs::write(folder.path().join("token"), &token).unwrap();
    let backup = "backup --vm db1 --disk root=nbd://127.0.0.1:1/x --hub";
    for (rest, expected, says) in [
        ("http://127.0.0.1:1 --token-file token", 1, "cannot be reached"),
        ("https://127.0.0.1:1 --token-file token", 2, "SSH tunnel"),
        ("http://127.0.0.1:1", 2, "BLOCKFERRY_TOKEN"),
        ("http://127.0.0.1:1 --token-file none", 2, "cannot read the token"),
    ] {
        let line = format!("{backup} {rest}");
        let output = run(folder.path(), &line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(code(&output), expected, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
    let ports = PortBlock::take();
    let hub = Hub::start(folder.path(), &ports);
    fs::write(folder.path().join("token"), "blockferry_wrong").unwrap();
    let line = format!("{backup} {} --token-file token", hub.url());
    let output = run(folder.path(), &line.split_whitespace().collect::<Vec<_>>());
    let said = stderr(&output);
    assert_eq!((code(&output), said.contains("hub token")), (2, true), "{said}");
    assert!(!said.contains("blockferry_wrong"), "{said}");
}

#[test]
fn all_points_of_all_repositories_are_listed_however_many_there_are() {
    let (folder, token) = place();
    fs::write(folder.path().join("token"), format!("{token}\n")).unwrap();
    let ports = PortBlock::take();
    let options = "--repository one=one --repository two=two --repository three=three";
    drop(Hub::start_with(folder.path(), &ports, options));
    // More than an answer has, as many, and none.
    let counts = [("one", 2_300), ("three", 0), ("two", 1_000)];
    let mut expected = Vec::new();
    for (repository, count) in counts {
        let path = folder.path().join(repository).join("catalog.db");
        let mut catalog = rusqlite::Connection::open(path).unwrap();
        let points = catalog.transaction().unwrap();
        for _ in 0..count {
            let (point, job) = (PointId::new(), JobId::new());
            let sql = "INSERT INTO points VALUES (NULL, ?1, 'db1', 1, 2, 'auto', ?2, NULL)";
            points.execute(sql, [point.as_str(), job.as_str()]).unwrap();
            expected.push(point.to_string());
        }
        points.commit().unwrap();
    }
    let hub = Hub::start_with(folder.path(), &ports, options);
    let line = format!("points --hub {} --token-file token --json", hub.url());
    let output = run(folder.path(), &line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let listed: Vec<&str> = listed["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["id"].as_str().unwrap())
        .collect();
    // The repositories come by their names.
    assert_eq!(listed.len(), expected.len());
    assert_eq!(listed, expected);
}

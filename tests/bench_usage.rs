//! `bench`: what is measured, told, and left behind, which is nothing.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use blockferry::{code, command, signal, stderr};
use blockferry_doubles::{Nbdkit, QemuNbd, Sshd, TestDisk};
use rustix::process::Signal;
use serde_json::Value;

/// How long processes may take to be gone, and servers to be there.
const DEADLINE: Duration = Duration::from_secs(30);

/// A folder for one run, in which all its files are.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("temporary")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let line = format!("bench {line}");
        let mut command = command(self.folder.path(), &line.split_whitespace().collect::<Vec<_>>());
        command.env("TMPDIR", self.path("temporary"));
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs it to its end, and gives back what it prints as JSON.
    fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --json"));
        assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Neither a file nor a process is there that a run made. Each of its processes has the folder
    /// in its words, its environment or its open files; its own temporary folder names it.
    fn assert_nothing_is_left(&self) {
        let started = Instant::now();
        loop {
            let files: Vec<_> = fs::read_dir(self.path("temporary")).unwrap().collect();
            let processes = processes_with(&self.path("temporary"));
            if files.is_empty() && processes.is_empty() {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "left: {files:?}, {processes:?}");
            thread::yield_now();
        }
    }
}

/// Processes that have this TMPDIR, which all that a run starts inherit.
fn processes_with(temporary: &Path) -> Vec<String> {
    let wanted = format!("TMPDIR={}", temporary.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let words = |name: &str| {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', "\n")
        };
        if words("environ").lines().any(|line| line == wanted) {
            found.push(words("cmdline").replace('\n', " "));
        }
    }
    found
}

/// The lines of a CSV file by the heads of their columns.
fn csv(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let heads: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields.len(), heads.len(), "{line}");
            heads.iter().zip(fields).map(|(head, field)| ((*head).into(), field.into())).collect()
        })
        .collect()
}

/// The sums of both are the bytes of each run, and of each of its connections.
fn assert_sums_agree(report: &Value, lines: &[BTreeMap<String, String>]) {
    let runs = report["runs"].as_array().unwrap();
    assert!(!runs.is_empty(), "{report}");
    let sum = |run: &Value, connection: &str| -> u64 {
        let same = |line: &&BTreeMap<String, String>| {
            ["connections", "lanes", "round"]
                .iter()
                .all(|head| line[*head].parse().ok() == run[*head].as_u64())
                && run["way"] == line["way"]
                && line["connection"] == connection
        };
        lines.iter().filter(same).map(|line| line["bytes"].parse::<u64>().unwrap()).sum()
    };
    for run in runs {
        let bytes = run["bytes"].as_u64().unwrap();
        let samples = run["samples"].as_array().unwrap();
        let sampled: u64 = samples.iter().map(|sample| sample["bytes"].as_u64().unwrap()).sum();
        assert_eq!((sampled, sum(run, "all")), (bytes, bytes), "{run}");
        assert!(bytes > 0 && run["mib_per_second"].as_f64().unwrap() > 0.0, "{run}");
        let connections = samples.last().unwrap()["connections"].as_array().unwrap().len();
        for connection in 0..connections {
            let of = |sample: &Value| sample["connections"][connection].as_u64().unwrap_or(0);
            let carried: u64 = samples.iter().map(of).sum();
            assert_eq!(carried, sum(run, &(connection + 1).to_string()), "{run}");
        }
    }
}

/// Elements are closed in the order in which they were opened, under one root, and no markup
/// is anywhere else.
fn assert_well_formed(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let mut open: Vec<&str> = Vec::new();
    let mut roots = 0;
    let mut rest = text.as_str();
    while let Some((before, behind)) = rest.split_once('<') {
        for entity in before.split('&').skip(1) {
            let (name, _) = entity.split_once(';').expect("an entity ends");
            assert!(["lt", "gt", "amp", "quot", "apos"].contains(&name), "{name}");
        }
        assert!(!open.is_empty() || before.trim().is_empty(), "text outside of the root");
        let (tag, after) = behind.split_once('>').expect("a tag ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_matches('/').split_whitespace().next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            roots += usize::from(open.is_empty());
            open.push(name);
        }
        rest = after;
    }
    assert!(open.is_empty() && roots == 1 && rest.trim().is_empty(), "{open:?}");
    assert!(text.starts_with("<svg") && text.contains("MiB/s"));
}

/// A folder with links to programs, to be all of PATH.
fn programs(place: &Place, names: &[&str]) -> PathBuf {
    let folder = place.path("programs");
    fs::create_dir(&folder).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for name in names {
        let found = std::env::split_paths(&path).map(|folder| folder.join(name));
        symlink(found.into_iter().find(|path| path.is_file()).unwrap(), folder.join(name)).unwrap();
    }
    folder
}

/// As root, sshd wants a folder that its service makes.
fn sshd_can_run() {
    if rustix::process::getuid().is_root() {
        fs::create_dir_all("/run/sshd").unwrap();
    }
}

#[test]
fn one_disk_is_measured_into_an_image_and_nothing_is_left() {
    let place = Place::new();
    let report =
        place.json("lane --size 8M --rounds 2 --csv lane.csv --plot lane.svg --sample 10ms");
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!(run["bytes"], 8 << 20);
        assert!(run["cpu_seconds"]["mover"].as_f64().unwrap() > 0.0, "{run}");
        assert_eq!(run["payload"], "splice");
    }
    assert_sums_agree(&report, &csv(&place.path("lane.csv")));
    assert_well_formed(&place.path("lane.svg"));
    place.assert_nothing_is_left();
}

#[test]
fn one_disk_is_measured_with_digests_into_nothing_and_told_in_a_table() {
    let place = Place::new();
    let output = place.run("lane --size 4M --rounds 1 --target null --digest blake3 --data random");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(
        table.contains("MiB/s") && table.contains("null") && table.contains("pooled"),
        "{table}"
    );
    assert_eq!(stderr(&output), "", "standard error is no terminal");
    place.assert_nothing_is_left();
}

#[test]
fn images_go_to_the_folder_that_is_named_and_are_removed_from_it() {
    let place = Place::new();
    fs::create_dir(place.path("images")).unwrap();
    let report = place.json("lane --size 1M --rounds 1 --dir images");
    assert_eq!(report["settings"]["dir"], "images");
    assert_eq!(fs::read_dir(place.path("images")).unwrap().count(), 0);
    place.assert_nothing_is_left();
}

#[test]
fn many_disks_are_measured_at_once_each_of_them_in_full() {
    let place = Place::new();
    let line = "fleet --disks 7 --size 1M --rounds 2 --csv fleet.csv --plot fleet.svg";
    let report = place.json(line);
    for run in report["runs"].as_array().unwrap() {
        assert_eq!((&run["bytes"], &run["lanes"]), (&(7 << 20).into(), &7.into()));
        let lanes = run["each_lane"].as_array().unwrap();
        assert!(lanes.len() == 7 && lanes.iter().all(|lane| lane["bytes"] == 1 << 20), "{run}");
        assert!(run["memory_peak"].as_u64().unwrap() > 1 << 20, "{run}");
        assert!(run["servers_memory"].as_u64().unwrap() > 7 << 20, "{run}");
    }
    assert_sums_agree(&report, &csv(&place.path("fleet.csv")));
    assert_well_formed(&place.path("fleet.svg"));
    place.assert_nothing_is_left();
}

#[test]
fn a_tunnel_is_measured_beside_ssh_and_tcp_with_each_of_its_connections() {
    sshd_can_run();
    let place = Place::new();
    let line = "tunnel --connections 1,2 --lanes 1,3 --size 6M --csv t.csv --plot t.svg \
                --sample 10ms";
    let report = place.json(line);
    let runs = report["runs"].as_array().unwrap();
    let mut seen: Vec<(String, u64, u64)> = Vec::new();
    for run in runs {
        let number = |name: &str| run[name].as_u64().unwrap();
        let way = run["way"].as_str().unwrap();
        seen.push((way.into(), number("connections"), number("lanes")));
        assert_eq!(run["bytes"], 6 << 20, "{run}");
        assert!(run["round_trip_ms"]["idle"].as_f64().unwrap() > 0.0, "{run}");
        let samples = run["samples"].as_array().unwrap();
        let last = samples.last().unwrap()["connections"].as_array().unwrap().len() as u64;
        assert_eq!(last, number("connections"), "{run}");
        assert_eq!(run["cpu_seconds"]["ssh_client"].is_f64(), way == "ssh -L", "{run}");
        for connection in 0..usize::try_from(last).unwrap() {
            let bytes = samples.iter().map(|sample| sample["connections"][connection].as_u64());
            assert!(bytes.map(Option::unwrap_or_default).sum::<u64>() > 0, "an idle one: {run}");
        }
    }
    seen.sort();
    let wanted = [
        ("ssh -L", 1, 1),
        ("ssh -L", 1, 3),
        ("ssh -L", 2, 3),
        ("tcp", 0, 1),
        ("tcp", 0, 3),
        ("tunnel", 1, 1),
        ("tunnel", 1, 3),
        ("tunnel", 2, 3),
    ];
    assert_eq!(seen, wanted.map(|(way, connections, lanes)| (way.to_owned(), connections, lanes)));
    assert_sums_agree(&report, &csv(&place.path("t.csv")));
    assert_well_formed(&place.path("t.svg"));
    place.assert_nothing_is_left();
}

#[test]
fn a_run_of_a_tunnel_ends_when_its_time_is_over() {
    sshd_can_run();
    let place = Place::new();
    let report = place.json("tunnel --connections 2 --lanes 2 --seconds 1 --ways tunnel");
    let run = &report["runs"][0];
    let seconds = run["seconds"].as_f64().unwrap();
    assert!((1.0..3.0).contains(&seconds), "{seconds}");
    assert!(run["samples"].as_array().unwrap().len() >= 3, "{run}");
    assert!(run["round_trip_ms"]["busy"].as_f64().unwrap() > 0.0, "{run}");
    place.assert_nothing_is_left();
}

#[test]
fn a_signal_ends_it_and_what_was_measured_before_is_told() {
    sshd_can_run();
    for line in [
        "lane --size 1M --rounds 1000 -v --json",
        "fleet --disks 5 --size 1M --rounds 1000 -v --json",
        "tunnel --lanes 1,2,3,4,5,6 --connections 1,2 --size 1M -v --json",
    ] {
        let place = Place::new();
        let mut child =
            place.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        // One run is told when it is over.
        told.find(|text| text.as_ref().unwrap().contains("MiB/s")).unwrap().unwrap();
        assert!(processes_with(&place.path("temporary")).len() > 1, "its servers are there");
        signal(&child, Signal::INT);
        let rest: Vec<String> = told.map(Result::unwrap).collect();
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 7, "{line}: {rest:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["outcome"], "interrupted");
        assert!(!report["runs"].as_array().unwrap().is_empty(), "{report}");
        place.assert_nothing_is_left();
    }
}

#[test]
fn the_servers_of_one_that_was_killed_end_and_the_next_removes_its_files() {
    let place = Place::new();
    let mut child = place
        .command("lane --size 1M --rounds 1000 -v")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    told.find(|text| text.as_ref().unwrap().contains("MiB/s")).unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_dir(place.path("temporary")).unwrap().count(), 1);
    place.json("lane --size 1M --rounds 1 --target null");
    place.assert_nothing_is_left();
}

#[test]
fn a_real_target_is_written_over_only_where_that_is_allowed() {
    let place = Place::new();
    let output = place.run("tunnel --tunnel ssh://me@127.0.0.1:1 --target nbd://127.0.0.1:2/x");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--overwrite"), "{}", stderr(&output));
}

#[test]
fn a_real_tunnel_is_measured_into_the_target_that_may_be_written_over() {
    let place = Place::new();
    let sshd = Sshd::new().start().unwrap();
    let image = TestDisk::sized(place.folder.path(), 8 << 20).unwrap();
    let target = QemuNbd::new(&image.path).format("raw").shared(0).tcp().start().unwrap();
    let line = format!(
        "tunnel --tunnel {} --identity {} --known-hosts {} --target {} --overwrite \
         --connections 2 --lanes 4 --seconds 20",
        sshd.uri(),
        sshd.identity().display(),
        sshd.known_hosts().unwrap().display(),
        target.uri(),
    );
    let output = place.run(&format!("{line} --json"));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // The target's address is one of the far end's own, and plain TCP leads elsewhere.
    assert!(stderr(&output).contains("without tcp"), "{}", stderr(&output));
    assert!(stderr(&output).contains("take a larger one"), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| &run["way"]).collect::<Vec<_>>(), ["tunnel", "ssh -L"]);
    for run in runs {
        // It is full before the time is over.
        assert_eq!(run["bytes"], 8 << 20, "{run}");
        assert!(run["cpu_seconds"]["ssh_server"].is_null(), "nobody knows it: {run}");
    }
    // The pattern: every 8 bytes hold their offset.
    let content = fs::read(&image.path).unwrap();
    let wanted: Vec<u8> = (0..1_u64 << 20).flat_map(|word| (word * 8).to_be_bytes()).collect();
    assert!(content == wanted);
    place.assert_nothing_is_left();
}

#[test]
fn a_target_that_is_not_there_or_cannot_be_written_is_told() {
    let place = Place::new();
    let sshd = Sshd::new().start().unwrap();
    let read_only = Nbdkit::pattern(1 << 20).tcp().start().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (target, exit, word) in [
        (read_only.uri(), 2, "read-only"),
        (format!("nbd://127.0.0.1:{free}/x"), 5, "target nbd://127.0.0.1"),
    ] {
        let output = place.run(&format!(
            "tunnel --tunnel {} --identity {} --known-hosts {} --target {target} --overwrite",
            sshd.uri(),
            sshd.identity().display(),
            sshd.known_hosts().unwrap().display(),
        ));
        assert_eq!(code(&output), exit, "{}", stderr(&output));
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
    place.assert_nothing_is_left();
}

#[test]
fn wrong_usage_is_told_in_a_line() {
    let place = Place::new();
    for (line, word) in [
        ("lane --size 1000", "512"),
        ("lane --rounds 0", "--rounds"),
        ("lane --target tape", "qcow2 or null"),
        ("lane --dir no-such-folder", "no-such-folder"),
        ("lane --payload splice --digest xxh3", "--digest"),
        ("lane --csv nowhere/lane.csv", "--csv"),
        ("lane --plot a --csv a", "--plot"),
        ("fleet --disks 102", "102"),
        ("tunnel --lanes 0", "--lanes"),
        ("tunnel --connections x", "--connections"),
        ("tunnel --ways pigeon", "tunnel, ssh or tcp"),
        ("tunnel --seconds 3 --size 1M", "--size"),
        ("tunnel --target nbd://127.0.0.1:1/x", "--tunnel"),
        ("tunnel --tunnel http://x --target nbd://127.0.0.1:1/x --overwrite", "ssh://"),
        ("tunnel --tunnel ssh://me@x --target nbds://x --overwrite", "TLS"),
        ("tunnel --tunnel ssh://me@x --target x --overwrite", "--target"),
    ] {
        let output = place.run(line);
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{line}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{line}");
        let output = place.run(&format!("{line} --json"));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["exit_code"], code(&output)), (&2.into(), 2), "{report}");
    }
    place.assert_nothing_is_left();
}

#[test]
fn a_line_says_what_to_install_where_a_program_is_missing() {
    let place = Place::new();
    let path = programs(&place, &["setpriv", "id", "nbdkit"]);
    for (line, word) in
        [("lane --size 1M", "qemu-utils"), ("tunnel --sshd no-such-sshd", "openssh-server")]
    {
        let output = place.command(line).env("PATH", &path).output().unwrap();
        assert_ne!(code(&output), 0, "{line}");
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        assert!(stderr(&output).contains(word), "{line}: {}", stderr(&output));
    }
    for line in ["lane --size 1M", "fleet --size 1M", "tunnel"] {
        let output = place.command(line).env("PATH", "").output().unwrap();
        assert_eq!(code(&output), 1, "{line}");
        assert!(stderr(&output).contains("install nbdkit"), "{line}: {}", stderr(&output));
    }
    place.assert_nothing_is_left();
}

#[test]
fn without_the_openssh_client_that_way_is_left_out_and_said_so() {
    sshd_can_run();
    let place = Place::new();
    let path = programs(&place, &["setpriv", "id", "nbdkit"]);
    let line = "tunnel --lanes 1 --connections 1 --size 1M --json";
    let output = place.command(line).env("PATH", &path).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("openssh-client"), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ways = report["runs"].as_array().unwrap().iter().map(|run| run["way"].clone());
    assert_eq!(ways.collect::<Vec<_>>(), ["tunnel", "tcp"]);
    place.assert_nothing_is_left();
}

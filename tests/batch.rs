//! `blockferry batch`: many VMs from one file.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Output, Stdio};
use std::time::{Duration, Instant};

use blockferry::{code, command, run, stderr};
use blockferry_control::catalog::{
    JobFilter, JobState, Jobs, Leases, PointFilter, PointId, Points,
};
use blockferry_control::repository::Repository;
use blockferry_doubles::TestDisk;
use blockferry_doubles::disk::{compare_raw, convert_to_raw};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Slow enough to be met at work.
const SLOW: &str = "rate-limit = \"256KiB\"\n";
/// A source that nobody serves.
const DEAD: &str = "nbd+unix:///?socket=/nonexistent/nbd.sock";

/// A folder with the disks `a`, `b` and `c`, and files of jobs.
struct Place {
    folder: TempDir,
    disks: [TestDisk; 3],
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disks = ["a", "b", "c"].map(|name| {
            let disk = TestDisk::random(folder.path(), (2 << 20) + 512, 0.6, 7).unwrap();
            let path = folder.path().join(name);
            fs::rename(&disk.path, &path).unwrap();
            TestDisk { path, ..disk }
        });
        Self { folder, disks }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn repository(&self) -> Repository {
        Repository::open(&self.path().join("repository")).unwrap()
    }

    fn jobs(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs a batch of these jobs, with more options.
    fn batch(&self, text: &str, options: &[&str]) -> Output {
        self.jobs("jobs.toml", text);
        run(self.path(), &[&["batch", "jobs.toml"], options].concat())
    }

    /// Fails unless the point has what its disk has.
    fn assert_point(&self, id: &Value, disk: usize) {
        let id: PointId = id.as_str().unwrap().parse().unwrap();
        let held = self.repository().hold(id).unwrap();
        let raw = self.path().join("restored");
        convert_to_raw(&held.layers[0].image, "qcow2", &raw).unwrap();
        compare_raw(&raw, &self.disks[disk].path).unwrap();
    }

    fn assert_tidy(&self) {
        let repository = self.repository();
        let work = fs::read_dir(repository.root().join("work")).unwrap();
        assert_eq!(work.count(), 0, "folders of jobs are left");
        assert_eq!(repository.catalog().leases().unwrap(), []);
    }
}

fn vm(name: &str, source: &str, more: &str) -> String {
    format!(
        "[[vm]]\nname = \"{name}\"\nrepository = \"repository\"\n\
         disks.root = {{ source = \"{source}\" }}\n{more}"
    )
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A batch that tells what it does; it is killed with this value.
struct AtWork {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl AtWork {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut command = command(folder, &[&["batch", "-v"], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads until a line has this in it; gives back all lines up to it.
    fn until(&mut self, what: &str) -> Vec<String> {
        let mut read = Vec::new();
        for line in &mut self.lines {
            read.push(line.unwrap());
            if read.last().unwrap().contains(what) {
                return read;
            }
        }
        panic!("no line has {what}: {read:#?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Its end, with what it has said since.
    fn end(mut self) -> (i32, Vec<String>, Value) {
        let lines = (&mut self.lines).map(Result::unwrap).collect();
        let report = serde_json::from_reader(self.child.stdout.take().unwrap()).unwrap();
        (self.child.wait().unwrap().code().unwrap(), lines, report)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_dead_source_fails_its_vm_alone() {
    let place = Place::new();
    let text = [vm("one", "a", ""), vm("dead", DEAD, ""), vm("three", "c", "")].concat();
    let output = place.batch(&text, &["--json"]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let report = json(&output);
    assert_eq!((&report["outcome"], &report["exit_code"]), (&"partly_done".into(), &3.into()));
    let vms = report["vms"].as_array().unwrap();
    let told: Vec<_> = vms.iter().map(|vm| (&vm["vm"], &vm["outcome"])).collect();
    let expected = [("one", "done"), ("dead", "source_fault"), ("three", "done")];
    let expected = expected.map(|(vm, outcome)| (Value::from(vm), Value::from(outcome)));
    assert_eq!(told, expected.each_ref().map(|(vm, outcome)| (vm, outcome)));
    place.assert_point(&vms[0]["point"], 0);
    place.assert_point(&vms[2]["point"], 2);
    assert_eq!(vms[1]["point"], Value::Null);
    let said = stderr(&output);
    assert!(said.starts_with("blockferry: VM dead: disk root: source "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    place.assert_tidy();

    // The same for people; and the second time, only what has changed.
    let output = place.batch(&text, &[]);
    assert_eq!(code(&output), 3);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("2 of 3 VMs are backed up"), "{table}");
    assert!(table.lines().any(|row| row.contains("dead") && row.contains("source fault")));
    let newest = place.repository().catalog().points(&PointFilter::default()).unwrap();
    assert_eq!(newest.len(), 4);
}

#[test]
fn vms_that_all_fail_alike_give_their_code_and_all_done_is_0() {
    let place = Place::new();
    let output = place.batch(&[vm("a", DEAD, ""), vm("b", DEAD, "")].concat(), &[]);
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    let output = place.batch(&[vm("a", "a", ""), vm("b", "b", "")].concat(), &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn what_is_missing_for_one_vm_is_its_own_matter() {
    let place = Place::new();
    fs::write(place.path().join("file"), "no folder").unwrap();
    let text = [
        vm("list", "a", "").replace("\"a\" }", "\"a\", changed = \"missing.json\" }"),
        vm("repository", "b", "").replace("\"repository\"\nd", "\"file/none\"\nd"),
        vm("incremental", "b", "mode = \"incremental\"\n"),
        vm("well", "c", ""),
    ]
    .concat();
    let output = place.batch(&text, &["--json"]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let report = json(&output);
    let vms = report["vms"].as_array().unwrap();
    for (vm, (code, says)) in vms.iter().zip([
        (2, "missing.json"),
        (5, "file/none"),
        (2, "no incremental backup is possible"),
    ]) {
        assert_eq!(vm["exit_code"], code, "{vm}");
        assert!(vm["error"].as_str().unwrap().contains(says), "{vm}");
    }
    place.assert_point(&vms[3]["point"], 2);
}

#[test]
fn a_second_batch_on_the_same_repository_says_so_and_ends_at_once() {
    let place = Place::new();
    place.jobs("first.toml", &[SLOW_DEFAULTS, &vm("a", "a", ""), &vm("b", "b", "")].concat());
    let mut first = AtWork::start(place.path(), &["first.toml", "--json"]);
    first.until("is copying");

    let asked = Instant::now();
    let output = place.batch(&vm("c", "c", ""), &["--json"]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let said = stderr(&output);
    assert!(said.starts_with("blockferry: another batch is at work in "), "{said}");
    assert!(json(&output)["error"].as_str().unwrap().contains("another batch"));

    // By another path it is the same; another repository is not.
    std::os::unix::fs::symlink("repository", place.path().join("link")).unwrap();
    let by_link = vm("c", "c", "").replace("\"repository\"", "\"link\"");
    assert_eq!(code(&place.batch(&by_link, &[])), 1);
    let other = vm("c", "c", "").replace("\"repository\"", "\"other\"");
    assert_eq!(code(&place.batch(&other, &[])), 0);

    first.signal(Signal::TERM);
    assert_eq!(first.end().0, 7);
    assert_eq!(code(&place.batch(&vm("c", "c", ""), &[])), 0);
}

/// Each VM is slow.
const SLOW_DEFAULTS: &str = "[defaults]\nrate-limit = \"256KiB\"\n";

#[test]
fn an_interrupt_calls_off_who_is_at_work_and_begins_nobody() {
    let place = Place::new();
    let text = [vm("a", "a", ""), vm("b", "b", SLOW), vm("c", "c", "")].concat();
    place.jobs("jobs.toml", &text);
    let mut batch = AtWork::start(place.path(), &["jobs.toml", "--json"]);
    batch.until("VM b: job");
    batch.until("is copying");
    batch.signal(Signal::TERM);
    let (code, lines, report) = batch.end();
    assert_eq!(code, 7, "{lines:?}");
    assert_eq!(report["outcome"], "interrupted");
    let errors = [0, 1, 2].map(|vm| &report["vms"][vm]["error"]);
    let expected = [Value::Null, "interrupted".into(), "interrupted before it began".into()];
    assert_eq!(errors, expected.each_ref());
    place.assert_point(&report["vms"][0]["point"], 0);
    place.assert_tidy();
    let jobs = place.repository().catalog().jobs(&JobFilter::default()).unwrap();
    let states: Vec<_> = jobs.iter().map(|job| (job.vm.as_str(), job.state)).collect();
    assert_eq!(states, [("a", JobState::Done), ("b", JobState::Cancelled)]);
}

#[test]
fn vms_are_at_work_together_as_many_as_may_be_and_each_line_names_its_own() {
    let place = Place::new();
    let text = [SLOW_DEFAULTS, &vm("a", "a", ""), &vm("b", "b", ""), &vm("c", "c", "")].concat();
    place.jobs("jobs.toml", &format!("concurrency = 3\n{text}"));
    let mut batch = AtWork::start(place.path(), &["jobs.toml", "--json", "--concurrency", "2"]);
    let mut lines = batch.until("is copying");
    lines.extend(batch.until("is copying"));
    batch.signal(Signal::TERM);
    let (code, rest, _) = batch.end();
    assert_eq!(code, 7);
    let copying = lines.iter().filter(|line| line.contains("is copying"));
    let copying: HashSet<&str> = copying.map(|line| &line[..line.find(": job").unwrap()]).collect();
    assert_eq!(copying, HashSet::from(["blockferry: VM a", "blockferry: VM b"]));
    assert!(!lines.iter().any(|line| line.contains("published")), "{lines:#?}");
    for line in lines.iter().chain(&rest) {
        let about_one =
            line.starts_with("blockferry: VM a: ") || line.starts_with("blockferry: VM b: ");
        let about_all = line.starts_with("blockferry: interrupted: finishing");
        assert!(about_one || about_all, "{line}");
    }
}

#[test]
fn one_after_another_is_what_happens_unless_something_is_said() {
    let place = Place::new();
    place.jobs("jobs.toml", &[vm("a", "a", ""), vm("b", "b", "")].concat());
    let mut batch = AtWork::start(place.path(), &["jobs.toml", "--json"]);
    let lines = batch.until("VM b: job");
    assert!(lines.iter().any(|line| line.contains("VM a: point")), "{lines:#?}");
    assert_eq!(batch.end().0, 0);
}

#[test]
fn what_is_wrong_in_the_file_is_told_with_its_place_before_anything_is_begun() {
    let place = Place::new();
    for (text, says) in [
        (vm("a", "a", "passwort = \"x\"\n"), "line 5, column 1: unknown field `passwort`"),
        (vm("a", "a", "retries = \"many\"\n"), "line 5, column 11: invalid type"),
        ("[[vm]\n".into(), "line 1, column "),
        (
            [vm("a", "a", ""), vm("b", "b", ""), vm("a", "c", "")].concat(),
            "line 9, column 1: VM a is in it twice, first in line 1",
        ),
    ] {
        let output = place.batch(&text, &["--json"]);
        let said = stderr(&output);
        assert_eq!(code(&output), 2, "{said}");
        assert!(said.starts_with(&format!("blockferry: jobs.toml: {says}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(json(&output)["outcome"], "wrong_usage");
        assert!(!place.path().join("repository").exists());
    }
    let output = run(place.path(), &["batch", "missing.toml"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("cannot read missing.toml"), "{}", stderr(&output));
}

#[test]
fn paths_in_the_file_are_from_its_folder_wherever_it_is_used() {
    let place = Place::new();
    let areas = place.path().join("areas.json");
    fs::write(areas, "[{\"start\": 0, \"length\": 4096}]").unwrap();
    let text = vm("a", "a", "").replace("\"a\" }", "\"a\", changed = \"areas.json\" }");
    let jobs = place.jobs("jobs.toml", &text);
    let elsewhere = tempfile::tempdir().unwrap();
    let args = ["batch", jobs.to_str().unwrap(), "--json"];
    for mode in ["full", "incremental"] {
        let output = run(elsewhere.path(), &args);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let report = json(&output);
        assert_eq!(report["vms"][0]["disks"][0]["mode"], mode);
        place.assert_point(&report["vms"][0]["point"], 0);
    }
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

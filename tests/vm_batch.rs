//! `blockferry batch` with VMs of a vCenter: side by side, with one session, each its own point or
//! its own reason.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use blockferry::{Backed, VmPlace, code, processes_of, signal, wait_until, write_secret};
use blockferry_control::catalog::JobId;
use blockferry_control::snapshots::Ledger;
use blockferry_doubles::vddk::plugin;
use blockferry_doubles::vsphere::{NewDisk, NewMachine, Trouble, Vsphere};
use rustix::process::Signal;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three VMs at a vCenter, and files that name them.
struct Place {
    vms: VmPlace,
}

impl Place {
    fn new() -> Self {
        let machine = |name: &str| NewMachine::new(name).disk(4 * MIB).disk(MIB).tracked();
        let builder = NAMES.iter().fold(Vsphere::builder(), |all, name| all.machine(machine(name)));
        let place = Self { vms: VmPlace::with(builder) };
        for (name, fill) in NAMES.iter().zip(1..) {
            let bytes = vec![fill; usize::try_from(2 * MIB).unwrap()];
            place.vms.machine(name).write(2000, 0, &bytes).unwrap();
        }
        place
    }

    /// The table of the vCenter, with more lines.
    fn vcenter(&self, more: &str) -> String {
        format!(
            "[[vcenter]]\nserver = \"{}\"\nuser = \"backup\"\npassword-file = \"vc.password\"\n\
             thumbprint = \"{}\"\nvddk-plugin = \"{}\"\nvddk-libdir = \"vsphere\"\n\
             vddk-runtime = \"run\"\n{more}\n",
            self.vms.vsphere.address(),
            self.vms.vsphere.thumbprint(),
            plugin().display(),
        )
    }

    fn start(&self, text: &str, options: &str) -> AtWork {
        self.vms.kept.write_text("jobs.toml", text);
        let errors = self.vms.kept.path("errors");
        let mut command = self.vms.kept.command(&format!("batch jobs.toml --json {options}"));
        command.stdout(Stdio::piped()).stderr(File::create(&errors).unwrap());
        AtWork { child: Some(command.spawn().unwrap()), errors }
    }

    /// Runs a batch to its end. Returns its exit code, its report and what it has said.
    fn batch(&self, text: &str, options: &str) -> (i32, Value, String) {
        self.start(text, options).end()
    }

    /// The point of a VM equals its last snapshot, every byte.
    fn assert_equal(&self, report: &Value, name: &str) -> Backed {
        let report = of(report, name).clone();
        let copies = self.vms.copies_of(&self.vms.machine(name)).pop_last().unwrap().1;
        let backed = Backed { report, copies };
        self.vms.assert_equal(&backed);
        backed
    }

    fn snapshots(&self) -> usize {
        self.vms.vsphere.machines().iter().map(|vm| vm.snapshots().unwrap().len()).sum()
    }

    fn assert_tidy(&self) {
        self.vms.assert_nothing_left();
        assert_eq!(self.vms.vsphere.sessions(), 0, "sessions are left open");
    }
}

/// A batch that runs; it is killed with this value.
struct AtWork {
    child: Option<Child>,
    errors: PathBuf,
}

impl AtWork {
    fn says(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    fn signal(&self, of_kind: Signal) {
        signal(self.child.as_ref().unwrap(), of_kind);
    }

    fn output(&mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    fn end(mut self) -> (i32, Value, String) {
        let (output, said) = (self.output(), self.says());
        let report = serde_json::from_slice(&output.stdout);
        let report: Value = report.unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!(report["exit_code"], code(&output), "{report}");
        (code(&output), report, said)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // It may have ended.
        let _gone = child.kill();
        let _reaped = child.wait();
    }
}

/// VMs of the only vCenter, into one repository, with more lines for each.
fn vms(names: &[&str], more: &str) -> String {
    let vm = |name: &&str| format!("[[vm]]\nname = \"{name}\"\n{more}\n");
    names.iter().map(vm).collect()
}

/// So many at once, into one repository.
fn head(at_once: usize) -> String {
    format!("concurrency = {at_once}\n[defaults]\nrepository = \"repository\"\n")
}

/// What is reported of a VM.
fn of<'a>(report: &'a Value, vm: &str) -> &'a Value {
    let vms = report["vms"].as_array().unwrap();
    vms.iter().find(|found| found["vm"] == vm).unwrap_or_else(|| panic!("{report}"))
}

#[test]
fn vms_side_by_side_share_a_session_and_one_that_fails_is_alone_with_that() {
    let place = Place::new();
    let stopped = NewMachine::new("raw").with_disk(NewDisk::new(MIB).independent()).tracked();
    place.vms.vsphere.add_machine(&stopped).unwrap();
    let all = ["a", "nope", "b", "raw", "c"];
    let text = head(5) + &place.vcenter("quiesce = \"none\"") + &vms(&all, "");
    let (code, report, said) = place.batch(&text, "");
    assert_eq!(code, 3, "{said}");
    assert_eq!(report["outcome"], "partly_done");
    let told = report["vms"].as_array().unwrap().iter().map(|vm| (&vm["vm"], &vm["outcome"]));
    let outcomes = ["done", "wrong_usage", "done", "source_fault", "done"];
    let expected = all.map(Value::from).into_iter().zip(outcomes.map(Value::from));
    assert!(told.eq(expected.collect::<Vec<_>>().iter().map(|(vm, outcome)| (vm, outcome))));
    let why = of(&report, "nope")["error"].as_str().unwrap();
    assert!(why.contains("has no VM \"nope\""), "{why}");
    let why = of(&report, "raw")["error"].as_str().unwrap();
    assert!(why.contains("no disk that a snapshot would hold"), "{why}");
    assert_eq!(said.lines().filter(|line| line.starts_with("blockferry: VM nope: ")).count(), 1);
    for name in NAMES {
        let backed = place.assert_equal(&report, name);
        assert_eq!(backed.mode("disk-2000"), "full");
        assert_eq!(place.vms.notes(&backed)[0].1, "the snapshot is as after a power cut, as asked");
    }
    assert_eq!(place.vms.vsphere.count("Login"), 1);
    place.assert_tidy();

    // The next time only what was tracked as changed is read.
    for name in NAMES {
        place.vms.machine(name).write(2001, 0, b"changed").unwrap();
    }
    let text = head(3) + &place.vcenter("quiesce = \"none\"") + &vms(&NAMES, "");
    let (code, report, said) = place.batch(&text, "");
    assert_eq!((code, &*said), (0, ""));
    for name in NAMES {
        let backed = place.assert_equal(&report, name);
        let reason = backed.reason("disk-2001");
        assert!(reason.starts_with("what changed since point "), "{reason}");
        assert_eq!(
            (backed.bytes("disk-2000", "read"), backed.bytes("disk-2001", "read")),
            (0, 65536)
        );
    }
    place.assert_tidy();
    // For people.
    let output = place.vms.kept.run("batch jobs.toml");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("3 of 3 VMs are backed up"), "{table}");
}

#[test]
fn an_interrupt_ends_all_that_are_at_work_and_removes_all_of_their_snapshots() {
    let place = Place::new();
    place.vms.vsphere.plugin_fault("read_delay_ms", 1000.into());
    let text = head(2) + &place.vcenter("quiesce = \"none\"") + &vms(&NAMES, "");
    let batch = place.start(&text, "-v");
    wait_until("nothing is copied", || batch.says().matches(" is copying").count() == 2);
    assert_eq!(place.snapshots(), 2, "{}", batch.says());
    batch.signal(Signal::TERM);
    let (code, report, said) = batch.end();
    assert_eq!(code, 7, "{said}");
    assert_eq!(of(&report, "c")["error"], "interrupted before it began");
    for name in NAMES {
        assert_eq!(of(&report, name)["outcome"], "interrupted", "{report}");
    }
    assert_eq!(place.snapshots(), 0);
    assert_eq!(place.vms.points(), Vec::<Value>::new());
    place.assert_tidy();

    place.vms.vsphere.clear_plugin_faults();
    let (code, report, said) = place.batch(&text, "");
    assert_eq!((code, &*said), (0, ""));
    NAMES.iter().for_each(|name| drop(place.assert_equal(&report, name)));
    place.assert_tidy();
}

#[test]
fn what_a_kill_left_is_removed_by_the_next_batch_also_of_a_vm_that_is_in_no_file_any_more() {
    let place = Place::new();
    place.vms.vsphere.plugin_fault("read_delay_ms", 1000.into());
    let text = head(3) + &place.vcenter("quiesce = \"none\"") + &vms(&NAMES, "");
    let mut batch = place.start(&text, "");
    let all = |_: &Vsphere| place.snapshots() == 3;
    assert!(place.vms.vsphere.wait_until(PATIENCE, all), "{}", batch.says());
    batch.signal(Signal::KILL);
    batch.output();
    let folder = place.vms.kept.folder().to_str().unwrap().to_owned();
    wait_until("a process outlives it", || processes_of(&folder).is_empty());
    assert_eq!(place.snapshots(), 3);

    place.vms.vsphere.clear_plugin_faults();
    let text = head(2) + &place.vcenter("quiesce = \"none\"") + &vms(&["a", "b"], "");
    let (code, report, said) = place.batch(&text, "");
    assert_eq!(code, 0, "{said}");
    let removed = |line: &&str| line.ends_with("is removed: its job is dead");
    assert_eq!(said.lines().filter(removed).count(), 3, "{said}");
    assert_eq!(said.lines().count(), 3, "{said}");
    place.assert_equal(&report, "a");
    place.assert_equal(&report, "b");
    place.vms.assert_nothing_left();
}

#[test]
fn vms_of_one_host_wait_for_each_other_as_processes_do() {
    let place = Place::new();
    let method = "CreateSnapshot_Task";
    place.vms.vsphere.trouble(Trouble::TaskSticks { method, cancelable: true });
    let limit = "quiesce = \"none\"\nmax-disks-per-host = 2";
    let text = head(2) + &place.vcenter(limit) + &vms(&["a", "b"], "");
    let batch = place.start(&text, "");
    wait_until("nobody waits", || batch.says().contains(" waits for disks of host "));
    let line = batch.says();
    assert!(line.contains(": 2, where 2 of 2 are taken by VM dc/"), "{line}");
    let tasks = || place.vms.vsphere.tasks().into_iter().filter(|task| task.method == method);
    assert!(place.vms.vsphere.wait_until(PATIENCE, |_| tasks().count() == 1));
    place.vms.vsphere.release_task(&tasks().next().unwrap().id);
    let (code, _, said) = batch.end();
    assert_eq!(code, 0, "{said}");
    place.assert_tidy();
}

#[test]
fn a_vm_may_have_settings_of_its_own_and_another_name() {
    let place = Place::new();
    let moref = format!("moref={}", place.vms.machine("c").id());
    let usual = "quiesce = \"none\"\ncbt-audit = 0";
    let text = head(1)
        + &place.vcenter(usual)
        + &vms(&["a"], "")
        + &vms(&["b"], "quiesce = \"try\"\ncbt-audit = 100")
        + &vms(&[&moref], "as = \"called otherwise\"\nquiesce = \"require\"");
    assert_eq!(place.batch(&text, "").0, 0);
    for name in ["a", "b"] {
        place.vms.machine(name).write_unseen(2000, 3 * MIB, b"nobody was told").unwrap();
    }
    place.vms.machine("c").set_tools(false).unwrap();
    let (code, report, said) = place.batch(&text, "");
    assert_eq!(code, 3, "{said}");
    let notes = |name: &str| {
        let report = of(&report, name).clone();
        place.vms.notes(&Backed { report, copies: BTreeMap::new() })
    };
    assert_eq!(notes("a")[0].1, "the snapshot is as after a power cut, as asked");
    let has_alarm = |name: &str| notes(name).iter().any(|(weight, _)| weight == "alarm");
    assert!(!has_alarm("a") && has_alarm("b"));
    assert_eq!(notes("b")[0].1, "the guest's data was put in order");
    place.assert_equal(&report, "b");
    let failed = of(&report, "called otherwise");
    assert_eq!(failed["outcome"], "source_fault");
    let why = failed["error"].as_str().unwrap();
    assert!(why.starts_with("the guest cannot put its data in order: "), "{why}");
    let point = place.vms.points().into_iter().find(|point| point["vm"] == "called otherwise");
    assert!(point.is_some());
    place.assert_tidy();
}

#[test]
fn tracking_is_turned_on_for_the_vms_that_want_it() {
    let builder = ["a", "b"]
        .iter()
        .fold(Vsphere::builder(), |all, name| all.machine(NewMachine::new(name).disk(MIB)));
    let place = Place { vms: VmPlace::with(builder) };
    let text = head(1)
        + &place.vcenter("quiesce = \"none\"\nenable-cbt = true")
        + &vms(&["a"], "")
        + &vms(&["b"], "enable-cbt = false");
    let (code, _, said) = place.batch(&text, "");
    assert_eq!(code, 0, "{said}");
    assert!(place.vms.machine("a").is_tracked().unwrap());
    assert!(!place.vms.machine("b").is_tracked().unwrap());
    place.assert_tidy();
}

#[test]
fn a_vcenter_that_lets_nobody_in_is_asked_once_and_fails_its_own_vms_alone() {
    let place = Place::new();
    fs::remove_file(place.vms.kept.path("vc.password")).unwrap();
    write_secret(&place.vms.kept.path("vc.password"), "wrong");
    place.vms.kept.disk("disk", 1 << 20, 3);
    let text = head(2)
        + &place.vcenter("")
        + &vms(&NAMES, "")
        + "[[vm]]\nname = \"plain\"\ndisks.root = { source = \"disk\" }\n";
    let (code, report, said) = place.batch(&text, "");
    assert_eq!(code, 3, "{said}");
    let outcomes: Vec<_> =
        report["vms"].as_array().unwrap().iter().map(|vm| vm["outcome"].clone()).collect();
    assert_eq!(outcomes, ["source_fault", "source_fault", "source_fault", "done"]);
    assert!(!said.contains("wrong\n") && !report.to_string().contains("secret"), "{said}");
    assert_eq!(place.vms.vsphere.count("Login"), 1);

    // A file that others can read is wrong usage of those VMs, and nobody is asked.
    let open = place.vms.kept.path("vc.password");
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (code, report, _) = place.batch(&text, "");
    assert_eq!((code, &of(&report, "a")["exit_code"]), (3, &json!(2)));
    assert_eq!(place.vms.vsphere.count("Login"), 1);
}

#[test]
fn a_server_that_is_away_for_a_moment_fails_only_those_vms_that_were_asked_for_then() {
    let place = Place::new();
    // All attempts at the first login; later ones succeed.
    for _ in 0..3 {
        let failure = blockferry_doubles::vsphere::Failure::new("HostNotConnected", "no answer");
        place.vms.vsphere.trouble(Trouble::CallFails { method: "Login", failure });
    }
    let text = head(1) + &place.vcenter("quiesce = \"none\"") + &vms(&NAMES, "");
    let (code, report, said) = place.batch(&text, "");
    assert_eq!(code, 3, "{said}");
    assert_eq!(of(&report, "a")["outcome"], "source_fault");
    place.assert_equal(&report, "b");
    place.assert_equal(&report, "c");
    place.assert_tidy();
}

#[test]
fn two_vcenters_are_told_apart_by_their_names() {
    let place = Place::new();
    let first = place.vcenter("name = \"main\"\nquiesce = \"none\"");
    let second = place.vcenter("name = \"other\"\nquiesce = \"none\"\ncbt-audit = 100");
    let text = head(2)
        + &first
        + &second
        + &vms(&["a"], "vcenter = \"main\"")
        + &vms(&["b"], "vcenter = \"other\"");
    let (code, report, said) = place.batch(&text, "");
    assert_eq!(code, 0, "{said}");
    place.assert_equal(&report, "a");
    place.assert_equal(&report, "b");
    assert_eq!(place.vms.vsphere.count("Login"), 2);
    place.assert_tidy();
}

#[test]
fn what_dead_jobs_left_is_told_to_be_elsewhere_only_where_no_server_of_the_batch_has_it() {
    let place = Place::new();
    place.vms.back_up("c", "");
    let ledger = Ledger::open(&place.vms.kept.path("repository/snapshots")).unwrap();
    let job = |server: &str| {
        let mut line =
            json!({ "server": server, "vm": "vm-9", "vm_path": "dc/dead", "since_ms": 1 });
        let job = JobId::new().to_string();
        line["job"] = json!(job);
        drop(ledger.note(serde_json::from_value(line).unwrap()).unwrap());
        job
    };
    // The other name of the same double, and a server that nobody asks.
    let other = place.vms.vsphere.address().to_string().replace("127.0.0.1", "localhost");
    let (here, there) = (job(&other), job("far.example"));

    let first = place.vcenter("name = \"main\"\nquiesce = \"none\"");
    let second = place.vcenter("name = \"other\"\nquiesce = \"none\"");
    let second = second.replace("127.0.0.1", "localhost");
    let text = head(1)
        + &first
        + &second
        + &vms(&["a"], "vcenter = \"main\"")
        + &vms(&["b"], "vcenter = \"other\"");
    let (code, _, said) = place.batch(&text, "");
    assert_eq!(code, 0, "{said}");
    let about = |job: &str| said.lines().filter(|line| line.contains(job)).count();
    assert_eq!((about(&here), about(&there)), (1, 1), "{said}");
    let told = |job: &str, what: &str| {
        assert!(said.contains(&format!("blockferry-{job} of VM dc/dead{what}")), "{said}");
    };
    told(&here, " was gone already");
    told(&there, ", whose job is dead, is at far.example: sweep there");
}

#[test]
fn what_is_wrong_with_a_vcenter_is_told_with_its_line_before_anybody_is_asked() {
    let place = Place::new();
    for (text, says) in [
        (
            head(1) + &place.vcenter("passwort = \"x\"") + &vms(&["a"], ""),
            "line 12, column 1: unknown field `passwort`",
        ),
        (
            head(1) + &place.vcenter("cbt-audit = 200") + &vms(&["a"], ""),
            "line 12, column 13: 200 is not in 0..=100",
        ),
        (
            head(1) + &vms(&["a"], ""),
            "line 4, column 1: VM a has no disks, and there is no [[vcenter]]",
        ),
        (
            head(1) + &place.vcenter("") + &vms(&["a"], "vcenter = \"x\""),
            "line 15, column 11: there is no vCenter x",
        ),
    ] {
        let (code, report, said) = place.batch(&text, "");
        assert_eq!(code, 2, "{said}");
        assert!(said.starts_with(&format!("blockferry: jobs.toml: {says}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(report["outcome"], "wrong_usage");
    }
    assert!(!place.vms.kept.path("repository").exists());
    assert_eq!(place.vms.vsphere.calls().len(), 0);
}

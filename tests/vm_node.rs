//! VMs of a vCenter that a node of a hub backs up: the password and the snapshot are the node's.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Stdio;

use blockferry::{
    Backed, Node, NodePlace, Secret, VmPlace, by, code, cores, processes_below, signal, stderr,
    wait_until, with_cores, write_secret,
};
use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::vsphere::{Failure, Guest, NewMachine, Steps, Trouble, Vsphere};
use rustix::process::Signal;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Slow enough that a backup is at work when it is disturbed.
const SLOW: &str = "--rate-limit 4M";

/// What VMware's library says of a read, as its double has it.
const READ: &str = "VixDiskLib_Read: ";

/// Of the user `vault`.
const PASSWORD: Secret = Secret("c0rrect-h0rse&<y");

/// A hub, and a vCenter that a node of it can ask.
struct Place {
    hubs: NodePlace,
    vms: VmPlace,
}

impl Place {
    fn new(machine: NewMachine) -> Self {
        Self::with(machine, "")
    }

    fn with(machine: NewMachine, hub: &str) -> Self {
        Self { hubs: NodePlace::new(hub), vms: VmPlace::new(machine) }
    }

    /// With a user `vault` at the vCenter, and the file of their password. Returns the options of a
    /// node, too.
    fn with_vault() -> (Self, String) {
        let builder = Vsphere::builder().machine(two_disks()).user("vault", PASSWORD.0);
        let hubs = NodePlace::new("--node-deadline 4s");
        let place = Self { hubs, vms: VmPlace::with(builder) };
        write_secret(&place.vms.kept.path("vault.password"), PASSWORD.0);
        let options = place.options(SLOW).replace("--vcenter-user backup", "--vcenter-user vault");
        (place, options.replace("vc.password", "vault.password"))
    }

    /// The password is in no file of hub or node, and in no process of this machine.
    fn assert_secret(&self) {
        assert_eq!(PASSWORD.processes(), Vec::<u32>::new());
        assert_eq!(PASSWORD.files(self.hubs.kept.folder()), Vec::<String>::new());
        // Of the vCenter, which is the password's own place, and of nbdkit and budgets.
        let own = ["vault.password", "vddk.json"];
        assert_eq!(PASSWORD.files(self.vms.kept.folder()), own);
    }

    /// What a node has to be told of the vCenter, as seen from another folder.
    fn options(&self, more: &str) -> String {
        let at = |name: &str| self.vms.kept.path(name).display().to_string();
        let server = self.vms.server().replace("vc.password", &at("vc.password"));
        let vddk = self.vms.vddk().replace("libdir vsphere", &format!("libdir {}", at("vsphere")));
        format!("{server} {vddk} --quiesce none {more}")
    }

    fn node(&self, more: &str) -> Node {
        self.hubs.node("n1", &self.options(more))
    }

    fn start_again(&self, more: &str) -> Node {
        let mut node = self.hubs.start_node("n1", &self.options(more));
        node.wait_until_served();
        node
    }

    /// Backs a VM up by the node. Returns the exit code, and the report.
    fn try_back_up(&self, vm: &str) -> (i32, Value) {
        self.try_back_up_with(vm, "")
    }

    /// The same, with more words.
    fn try_back_up_with(&self, vm: &str, more: &str) -> (i32, Value) {
        let hub = by(&self.hubs.hub);
        self.hubs.kept.json(&format!("backup --json --vm {vm} {hub} --node n1 {more}"))
    }

    /// The same, which has to succeed, with the copies of its snapshot.
    fn back_up(&self, vm: &str) -> Backed {
        self.back_up_with(vm, "")
    }

    fn back_up_with(&self, vm: &str, more: &str) -> Backed {
        let machine = self.vms.machine(vm);
        let before = self.vms.copies_of(&machine);
        let (code, report) = self.try_back_up_with(vm, more);
        assert_eq!(code, 0, "{report}");
        let mut copies = self.vms.copies_of(&machine).into_iter();
        let copies = copies.rfind(|(number, _)| !before.contains_key(number)).unwrap().1;
        Backed { report, copies }
    }

    /// The point equals its snapshot, every byte.
    fn assert_equal(&self, backed: &Backed) {
        let out = format!("restored-{}", backed.id());
        self.hubs.hubs(&format!("restore {} --to {out}", backed.id()));
        for (name, copy) in &backed.copies {
            compare_raw(copy, &self.hubs.kept.path(&out).join(format!("{name}.raw"))).unwrap();
        }
    }

    fn submit(&self, vm: &str) -> String {
        self.hubs.submit_body(&json!({ "vm": vm, "node": "n1" }))
    }

    /// A backup of a VM that has something to copy, once it is at work with its snapshot.
    fn at_work(&self, vm: &str) -> String {
        self.vms.machine(vm).write(2000, 0, &vec![7; 20 << 20]).unwrap();
        let job = self.submit(vm);
        self.hubs.wait_at_work(&job);
        assert_eq!(self.snapshots(), 1);
        job
    }

    /// The names of the snapshots of a VM.
    fn snapshots_of(&self, vm: &str) -> Vec<String> {
        let snapshots = self.vms.machine(vm).snapshots().unwrap().into_iter();
        snapshots.map(|snapshot| snapshot.name).collect()
    }

    fn snapshots(&self) -> usize {
        self.vms.vsphere.machines().iter().map(|vm| vm.snapshots().unwrap().len()).sum()
    }

    /// Waits until nothing is left at the vCenter, at the node and at the hub.
    fn assert_nothing_left(&self) {
        wait_until("a snapshot is left", || self.snapshots() == 0);
        // The node itself names the vCenter's folder.
        let is_left = |word: &String| !word.contains(" node serve ");
        wait_until("something is left at the node", || !self.vms.left().iter().any(is_left));
        wait_until("a snapshot is written down", || {
            self.hubs.kept.names("n1/snapshots").is_empty()
        });
        self.hubs.assert_forgotten("n1");
    }
}

fn two_disks() -> NewMachine {
    NewMachine::new("web").disk(24 * MIB).disk(8 * MIB + 512).tracked()
}

#[test]
fn a_node_backs_up_a_vm_whose_guest_writes_on_and_each_point_is_one_instant() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    let machine = place.vms.machine("web");
    let guest = Guest::start(&machine, std::time::Duration::from_millis(1)).unwrap();
    let full = place.back_up("web");
    let deltas = [place.back_up("web"), place.back_up("web")];
    guest.stop().unwrap();
    assert_eq!(full.mode("disk-2000"), "full");
    for delta in &deltas {
        assert_eq!(delta.mode("disk-2000"), "incremental", "{}", delta.report);
        let reason = delta.reason("disk-2001");
        assert!(reason.starts_with("what changed since point "), "{reason}");
    }
    for backed in [&full, &deltas[0], &deltas[1]] {
        place.assert_equal(backed);
        let counters: BTreeSet<u64> =
            backed.copies.values().map(|disk| Steps::counter(disk).unwrap()).collect();
        assert_eq!(counters.len(), 1, "{counters:?}");
    }
    let point = place.hubs.hub.get(&place.hubs.token, &format!("/points/{}", full.id()));
    assert!(point["vm_uuid"].is_string(), "{point}");
    assert_eq!(point["notes"][0]["weight"], "note", "{point}");
    place.assert_nothing_left();
}

#[test]
fn a_node_that_audits_compares_the_whole_disk_where_tracking_lies() {
    let place = Place::new(two_disks());
    let _node = place.node("--cbt-audit 100");
    place.back_up("web");
    let machine = place.vms.machine("web");
    machine.write_unseen(2000, 5 * MIB, b"nobody was told of this").unwrap();
    let backed = place.back_up("web");
    place.assert_equal(&backed);
    let point = place.hubs.hub.get(&place.hubs.token, &format!("/points/{}", backed.id()));
    let notes = point["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note["weight"] == "alarm"), "{point}");
    place.assert_nothing_left();
}

#[test]
fn a_snapshot_that_is_removed_while_a_node_reads_it_makes_no_point() {
    let place = Place::new(two_disks());
    let _node = place.node(SLOW);
    let job = place.at_work("web");
    let machine = place.vms.machine("web");
    for snapshot in machine.snapshots().unwrap() {
        machine.remove_snapshot(&snapshot.id).unwrap();
    }
    let failed = place.hubs.hub.wait_over(&place.hubs.token, &job);
    assert_eq!(failed["state"], "failed", "{failed}");
    let why = failed["reason"].as_str().unwrap();
    assert!(why.contains("is gone, and was not removed by this backup"), "{failed}");
    assert_eq!(place.hubs.points(), 0);
    place.assert_nothing_left();
}

#[test]
fn a_vcenter_that_is_away_once_all_is_read_is_told_of_and_not_waited_for_after_a_signal() {
    let place = Place::new(two_disks());
    let _node = place.node(SLOW);
    place.vms.machine("web").write(2000, 0, &vec![7; 20 << 20]).unwrap();
    let said = place.hubs.kept.path("said");
    let line = format!("backup --vm web {} --node n1 -v", by(&place.hubs.hub));
    let mut command = place.hubs.kept.command(&line);
    let child = command.stdout(Stdio::null()).stderr(File::create(&said).unwrap()).spawn().unwrap();
    let told = || fs::read_to_string(&said).unwrap();
    wait_until("nothing is copied", || told().contains(" is copying: "));
    // For longer than this test takes.
    for _ in 0..10_000 {
        let failure = Failure::new("HostNotConnected", "The host is not connected.");
        place.vms.vsphere.trouble(Trouble::CallFails { method: "RetrievePropertiesEx", failure });
    }
    wait_until("nothing is told", || told().contains("cannot be seen: "));
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 7, "{}", told());
    assert_eq!(place.hubs.points(), 0);
    place.vms.vsphere.clear_troubles();
}

#[test]
fn ports_are_given_back_before_a_snapshot_whose_removal_takes_its_time() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    let method = "RemoveSnapshot_Task";
    place.vms.vsphere.trouble(Trouble::TaskSticks { method, cancelable: true });
    let job = place.submit("web");
    place.hubs.point_of(&job);
    let leased = || place.hubs.hub.get(&place.hubs.token, "/nbd/ports")["ports"] != json!([]);
    wait_until("a port is leased", || !leased());
    assert_eq!(place.snapshots(), 1);
    let stuck = place.vms.vsphere.tasks().into_iter().rfind(|task| task.method == method);
    place.vms.vsphere.release_task(&stuck.unwrap().id);
    place.assert_nothing_left();
}

#[test]
fn a_backup_may_have_settings_of_its_own_and_the_next_has_those_of_the_node() {
    let untracked = NewMachine::new("web").disk(24 * MIB).disk(8 * MIB + 512);
    let place = Place::new(untracked);
    let _node = place.node("");
    let notes = |backed: &Backed| -> Vec<(String, String)> {
        let point = place.hubs.hub.get(&place.hubs.token, &format!("/points/{}", backed.id()));
        let notes = point["notes"].as_array().unwrap().iter();
        let text = |of: &Value| of.as_str().unwrap().to_owned();
        notes.map(|note| (text(&note["weight"]), text(&note["says"]))).collect()
    };
    let has = |backed: &Backed, words: &str| {
        notes(backed)
            .iter()
            .any(|(weight, says)| [weight, says].iter().any(|it| it.contains(words)))
    };
    let machine = place.vms.machine("web");
    place.back_up("web");
    assert!(!machine.is_tracked().unwrap());
    let first = place.back_up_with("web", "--enable-cbt --quiesce require");
    assert!(has(&first, "change tracking (CBT) was turned on"), "{:?}", notes(&first));
    assert!(has(&first, "the guest's data was put in order"), "{:?}", notes(&first));
    place.back_up("web");
    machine.write_unseen(2000, 5 * MIB, b"nobody was told of this").unwrap();
    let usual = place.back_up("web");
    assert!(has(&usual, "as after a power cut, as asked") && !has(&usual, "alarm"));
    let audited = place.back_up_with("web", "--cbt-audit 100");
    place.assert_equal(&audited);
    assert!(has(&audited, "alarm"), "{:?}", notes(&audited));
    machine.set_tools(false).unwrap();
    let (code, report) = place.try_back_up_with("web", "--quiesce require");
    assert_eq!(code, 4, "{report}");
    assert!(report["error"].as_str().unwrap().contains("cannot put its data in order"), "{report}");
    place.back_up("web");
    place.assert_nothing_left();
}

#[test]
fn a_key_of_a_vm_is_that_of_its_node_and_of_nothing_else() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    let _other = place.hubs.node("n2", &place.options(""));
    let body = |node: &str| json!({ "vm": "web", "node": node, "idempotency_key": "nightly" });
    let first = place.hubs.submit_body(&body("n1"));
    let ask = |node: &str| place.hubs.hub.ask(&place.hubs.token, "POST", "/backups", &body(node));
    let (status, again) = ask("n1");
    assert_eq!((status, &again["id"]), (200, &json!(first)), "{again}");
    let (status, refused) = ask("n2");
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("key_reused")), "{refused}");
    place.hubs.point_of(&first);
    place.assert_nothing_left();
}

#[test]
fn settings_of_a_snapshot_that_mean_nothing_are_refused() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    let ask = |body: Value| place.hubs.hub.ask(&place.hubs.token, "POST", "/backups", &body);
    let disks = json!([{ "name": "root", "source": "nbd://127.0.0.1:1/root" }]);
    let none = json!({ "quiesce": "none" });
    for (body, says) in [
        (json!({ "vm": "web", "node": "n1", "snapshot": { "quiesce": "no" } }), "quiesce"),
        (json!({ "vm": "web", "node": "n1", "snapshot": { "audit_percent": 101 } }), "101"),
        (json!({ "vm": "web", "node": "n1", "snapshot": { "enable_cbt": 1 } }), "boolean"),
        (json!({ "vm": "web", "node": "n1", "snapshot": { "audit": 1 } }), "audit"),
        (json!({ "vm": "web", "node": "n1", "snapshot": ["none"] }), "an object"),
        (json!({ "vm": "web", "node": "n1", "disks": disks, "snapshot": none }), "no disks"),
        (json!({ "vm": "web", "disks": disks, "snapshot": none }), "no disks"),
    ] {
        let (status, answer) = ask(body);
        assert_eq!(status, 422, "{answer}");
        let said = answer["error"]["message"].as_str().unwrap();
        assert!(said.contains(says), "{said}");
    }
    for (words, says) in [
        ("--quiesce-deadline 1m", "options of its `node serve`"),
        ("--max-disks-per-host 2", "options of its `node serve`"),
        ("--disk root=nbd://127.0.0.1:1/root --cbt-audit 5", "name that with --vcenter"),
    ] {
        let (code, report) = place.try_back_up_with("web", words);
        assert_eq!(code, 2, "{report}");
        assert!(report["error"].as_str().unwrap().contains(says), "{report}");
    }
    assert_eq!(place.vms.vsphere.count("CreateSnapshot_Task"), 0);
}

#[test]
fn who_asks_again_under_a_key_has_the_same_job_while_the_node_is_away() {
    let place = Place::new(two_disks());
    let mut node = place.node("");
    let ask = |vm: &str, mode: &str| {
        let body = json!({ "vm": vm, "node": "n1", "mode": mode, "idempotency_key": "tonight" });
        place.hubs.hub.ask(&place.hubs.token, "POST", "/backups", &body)
    };
    let (status, job) = ask("web", "auto");
    assert_eq!(status, 202, "{job}");
    place.hubs.point_of(job["id"].as_str().unwrap());
    // Another way of naming it is asked for, and is the same.
    let (status, same) = ask(&format!("moref={}", place.vms.machine("web").id()), "auto");
    assert_eq!((status, &same["id"]), (200, &job["id"]), "{same}");
    // What is asked for otherwise is not.
    let (status, refused) = ask("web", "full");
    assert_eq!(status, 409, "{refused}");
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0), "{}", node.says());
    let asked = std::time::Instant::now();
    for word in ["web", "name=web"] {
        let (status, same) = ask(word, "auto");
        assert_eq!((status, &same["id"]), (200, &job["id"]), "{same}");
    }
    // A node that is away is waited for, for 30 s.
    assert!(asked.elapsed() < std::time::Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(place.hubs.points(), 1);
}

#[test]
fn a_snapshot_is_removed_when_its_job_is_called_off_and_when_its_node_stops() {
    let place = Place::with(two_disks(), "--node-deadline 4s");
    let mut node = place.node(SLOW);
    let job = place.at_work("web");
    let (status, _) = place.hubs.hub.ask(
        &place.hubs.token,
        "POST",
        &format!("/backups/{job}/cancel"),
        &json!({}),
    );
    assert_eq!(status, 200);
    assert_eq!(place.hubs.end_of(&job)["state"], "cancelled");
    place.assert_nothing_left();

    let job = place.at_work("web");
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0), "{}", node.says());
    assert_eq!(place.snapshots(), 0, "{}", node.says());
    place.hubs.reason_of(&job);
    let _node = place.start_again("");
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn a_node_that_was_killed_removes_its_snapshot_when_it_starts_again_and_no_other() {
    let place = Place::with(two_disks(), "--node-deadline 4s");
    let mut node = place.node(SLOW);
    let job = place.at_work("web");
    node.kill();
    place.hubs.reason_of(&job);
    assert_eq!(place.snapshots(), 1);
    let is_socket = |name: &String| name.starts_with("blockferry-vddk-");
    let sockets = || place.vms.kept.names("run").into_iter().any(|name| is_socket(&name));
    assert!(sockets(), "the kill left none");
    let node = place.start_again("");
    assert!(!sockets(), "the dead node's are there");
    wait_until("the snapshot of the dead job is there", || place.snapshots() == 0);
    node.wait_for("of VM dc/web is removed: its job is dead");
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn a_node_that_does_not_hear_of_its_hub_any_more_lets_the_vm_go() {
    let mut place = Place::new(two_disks());
    let node = place.node(&format!("{SLOW} --forget 2s"));
    let job = place.at_work("web");
    place.hubs.hub.signal(Signal::KILL);
    wait_until("the snapshot is there", || place.snapshots() == 0);
    place.hubs.restart_hub();
    assert_eq!(place.hubs.end_of(&job)["state"], "failed");
    drop(node);
    let _node = place.start_again("");
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn a_hub_that_was_killed_has_its_nodes_let_go_of_vms_when_it_starts_again() {
    let mut place = Place::new(two_disks());
    // It would wait for a quarter of an hour by itself.
    let _node = place.node(SLOW);
    let job = place.at_work("web");
    place.hubs.hub.signal(Signal::KILL);
    place.hubs.restart_hub();
    assert_eq!(place.hubs.end_of(&job)["state"], "failed");
    wait_until("the snapshot is there", || place.snapshots() == 0);
    let written = || place.hubs.kept.names("n1/snapshots");
    wait_until("it is written down", || written().is_empty());
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn an_nbdkit_that_dies_and_a_host_in_maintenance_end_the_job_of_a_node_and_leave_nothing() {
    let place = Place::new(two_disks());
    let _node = place.node(SLOW);
    let vsphere = &place.vms.vsphere;
    place.vms.machine("web").write(2000, 0, &vec![7; 20 << 20]).unwrap();
    vsphere.plugin_fault("die_after_bytes", MIB.into());
    let (code, report) = place.try_back_up("web");
    let error = report["error"].as_str().unwrap();
    assert_eq!(code, 4, "{report}");
    assert!(error.contains("nbdkit") && error.contains("signal 9"), "{error}");
    place.assert_nothing_left();
    vsphere.clear_plugin_faults();

    let job = place.at_work("web");
    vsphere.set_maintenance("esx1", true);
    let reason = place.hubs.reason_of(&job);
    assert!(reason.contains("disk-200") && reason.contains(READ), "{reason}");
    assert!(reason.contains("entering maintenance mode"), "{reason}");
    place.assert_nothing_left();
    assert_eq!(place.hubs.points(), 0);
    // The VM is on the other host now.
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

#[test]
fn a_backup_beside_that_of_a_node_is_refused_and_leaves_it_its_snapshot() {
    let place = Place::new(two_disks());
    let _node = place.node(SLOW);
    let job = place.at_work("web");
    let held = place.snapshots_of("web");
    let (code, report) = place.vms.try_back_up("web", "");
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("another backup has a snapshot of it") && error.contains(&held[0]));
    assert_eq!(place.snapshots_of("web"), held);
    place.hubs.point_of(&job);
    place.assert_nothing_left();
    place.vms.back_up("web", "");
    place.assert_nothing_left();
}

#[test]
fn a_node_is_refused_a_vm_that_is_backed_up_beside_it_and_leaves_its_snapshot() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    place.vms.machine("web").write(2000, 0, &vec![7; 20 << 20]).unwrap();
    place.vms.vsphere.plugin_fault("read_delay_ms", 300.into());
    let mut command = place.vms.backup_command("web", "");
    let first = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("no snapshot is made", || place.snapshots() == 1);
    let held = place.snapshots_of("web");
    let (code, report) = place.try_back_up("web");
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("another backup has a snapshot of it"), "{error}");
    assert_eq!(place.snapshots_of("web"), held);
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    place.assert_nothing_left();
    place.vms.vsphere.clear_plugin_faults();
    place.assert_equal(&place.back_up("web"));
}

#[test]
fn of_two_nodes_of_one_hub_the_second_is_refused_and_leaves_the_first_its_snapshot() {
    let place = Place::new(two_disks());
    let _first = place.node(SLOW);
    let _second = place.hubs.node("n2", &place.options(""));
    let job = place.at_work("web");
    let held = place.snapshots_of("web");
    let hub = by(&place.hubs.hub);
    let id = place.vms.machine("web").id().to_owned();
    for name in ["web".to_owned(), format!("moref={id}")] {
        let line = format!("backup --json --vm {name} {hub} --node n2");
        let (code, report) = place.hubs.kept.json(&line);
        assert_ne!(code, 0, "{name}: {report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("is being backed up by job"), "{name}: {error}");
        assert_eq!(place.snapshots_of("web"), held, "{name}");
    }
    place.hubs.point_of(&job);
    place.assert_nothing_left();
    assert!(place.hubs.kept.names("n2/snapshots").is_empty());
    // And the other one may, once the first has ended.
    let (code, report) = place.hubs.kept.json(&format!("backup --json --vm web {hub} --node n2"));
    assert_eq!(code, 0, "{report}");
    place.assert_nothing_left();
}

#[test]
fn what_a_node_cannot_do_for_a_vm_is_told_in_one_line() {
    let place = Place::new(two_disks());
    let node = place.node("");
    let told = |(code, report): (i32, Value)| (code, report["error"].as_str().unwrap().to_owned());
    let (code, said) = told(place.try_back_up("nope"));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("node n1: ") && said.contains("has no VM \"nope\""), "{said}");
    place.vms.vsphere.trouble(Trouble::SnapshotHalfway);
    let (code, said) = told(place.try_back_up("web"));
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("node n1: "), "{said}");
    place.assert_nothing_left();
    drop(node);
    let mut node = place.hubs.start_node("n1", "");
    node.wait_until_served();
    let (_, said) = told(place.try_back_up("web"));
    assert!(said.contains("start it with --vcenter"), "{said}");
    assert_eq!(place.hubs.points(), 0);
}

#[test]
fn the_password_of_a_node_is_in_no_process_no_output_and_no_file_of_node_and_hub() {
    let (place, options) = Place::with_vault();
    let mut node = place.hubs.node("n1", &options);
    let job = place.at_work("web");
    let names = |pid| processes_below(pid).into_iter().map(|process| process.name);
    assert!(names(node.child.id()).any(|name| name == "exe"), "there is no nbdkit");
    assert!(names(place.hubs.hub.child.id()).any(|name| name == "qemu-nbd"));
    for file in ["state/hub.db", "repository/catalog.db", "n1.log", "stderr"] {
        assert!(place.hubs.kept.path(file).exists(), "{file}");
    }
    for folder in ["n1/jobs", "n1/snapshots", "repository/work"] {
        assert!(!place.hubs.kept.names(folder).is_empty(), "{folder} is empty");
    }
    assert!(!place.vms.kept.names("run/budgets").is_empty());
    place.assert_secret();
    place.hubs.point_of(&job);
    place.assert_nothing_left();
    place.assert_secret();

    // What is told when it is refused.
    std::fs::write(place.vms.kept.path("vault.password"), format!("{}-", PASSWORD.0)).unwrap();
    place.vms.vsphere.expire_sessions();
    let hub = by(&place.hubs.hub);
    let refused = place.hubs.kept.run(&format!("backup --json -v --vm web {hub} --node n1"));
    assert!(!refused.status.success() && stderr(&refused).contains("InvalidLogin"));
    assert!(!PASSWORD.is_in(&refused.stdout) && !PASSWORD.is_in(&refused.stderr));
    place.assert_secret();
    node.kill();
}

#[test]
fn a_node_that_has_the_password_leaves_no_core() {
    let (place, options) = Place::with_vault();
    place.hubs.enroll("n1");
    let line = format!("node serve --json --state n1 {options}");
    let folder = place.hubs.kept.folder();
    let Some(command) = with_cores(folder, line.split_whitespace()) else { return };
    let mut node = Node::of(command, folder, "n1");
    node.wait_until_served();
    let job = place.at_work("web");
    node.signal(Signal::ABORT);
    let status = node.child.wait().unwrap();
    assert!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(6), "{status}");
    assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&status), "{status}");
    assert_eq!(cores(folder), Vec::<String>::new());
    place.assert_secret();
    place.hubs.reason_of(&job);
    let _node = place.start_again("");
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

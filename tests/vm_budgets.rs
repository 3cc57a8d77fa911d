//! Jobs of one machine that agree on how much they take of hosts and datastores: each is a process
//! of its own, as cron starts them.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use blockferry::{NodePlace, VmPlace, by, seen_by, signal, wait_until};
use blockferry_doubles::vsphere::{NewMachine, Trouble, Vsphere};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;
const CREATE: &str = "CreateSnapshot_Task";
const STUCK: Trouble = Trouble::TaskSticks { method: CREATE, cancelable: true };

/// A backup in a process of its own.
struct Job {
    child: Child,
    errors: PathBuf,
}

impl Job {
    fn start(place: &VmPlace, vm: &str, extra: &str) -> Self {
        let errors = place.kept.path(&format!("{vm}.errors"));
        Self::of(place.backup_command(vm, extra), errors)
    }

    fn of(mut command: Command, errors: PathBuf) -> Self {
        command.stdout(Stdio::null()).stderr(File::create(&errors).unwrap());
        Self { child: command.spawn().unwrap(), errors }
    }

    /// One that has all that it wants, and whose snapshot is not made before `release`. Returns its
    /// task too.
    fn stuck(place: &VmPlace, vm: &str, extra: &str) -> (Self, String) {
        let before = created(place);
        place.vsphere.trouble(STUCK);
        let job = Self::start(place, vm, extra);
        let is_asked = |_: &Vsphere| created(place).len() > before.len();
        assert!(place.vsphere.wait_until(Duration::from_secs(60), is_asked), "{}", job.says());
        (job, created(place).pop().unwrap())
    }

    fn says(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }

    /// Waits until it has told what it waits for. Returns all that it has said of that.
    fn waits(&self) -> Vec<String> {
        let told = || {
            let says = self.says();
            // The last line may be one that is being written.
            let whole = says.rsplit_once('\n').map_or("", |(whole, _)| whole).lines();
            whole.filter(|line| line.contains(" waits for ")).map(str::to_owned).collect()
        };
        wait_until("a job does not say what it waits for", || !Vec::<String>::is_empty(&told()));
        told()
    }

    fn ends(mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap();
        (code, self.says())
    }

    fn succeeds(self) {
        let (code, says) = self.ends();
        assert_eq!(code, 0, "{says}");
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The tasks that make snapshots, the newest last.
fn created(place: &VmPlace) -> Vec<String> {
    let tasks = place.vsphere.tasks().into_iter().filter(|task| task.method == CREATE);
    tasks.map(|task| task.id).collect()
}

fn machine(name: &str, disks: usize) -> NewMachine {
    (0..disks).fold(NewMachine::new(name).host("esx1"), |machine, _| machine.disk(MIB))
}

fn place(machines: &[(&str, usize)]) -> VmPlace {
    let builder = Vsphere::builder();
    VmPlace::with(
        machines
            .iter()
            .fold(builder, |builder, (name, disks)| builder.machine(machine(name, *disks))),
    )
}

#[test]
fn of_three_vms_with_three_disks_on_a_host_with_eight_two_are_backed_up_and_one_waits() {
    let place = place(&[("a", 3), ("b", 3), ("c", 3)]);
    let (a, task_of_a) = Job::stuck(&place, "a", "");
    let (b, task_of_b) = Job::stuck(&place, "b", "");
    let c = Job::start(&place, "c", "");
    let words = c.waits().pop().unwrap();
    let expected = "waits for disks of host esx1: 3, where 6 of 8 are taken by VM ";
    assert!(words.contains(expected), "{words}");
    assert!(words.contains("/a (3), ") && words.ends_with("/b (3)"), "{words}");
    assert_eq!(created(&place).len(), 2);
    place.vsphere.release_task(&task_of_a);
    a.succeeds();
    c.succeeds();
    place.vsphere.release_task(&task_of_b);
    b.succeeds();
    assert_eq!(place.points().len(), 3);
    place.assert_nothing_left();
}

#[test]
fn a_server_by_another_name_has_the_same_hosts() {
    let place = place(&[("a", 6), ("b", 3)]);
    let (a, task_of_a) = Job::stuck(&place, "a", "");
    let renamed = place.backup("b", "").replace("127.0.0.1:", "localhost:");
    let b = Job::of(place.kept.command(&renamed), place.kept.path("b.errors"));
    let words = b.waits().pop().unwrap();
    assert!(words.contains("waits for disks of host esx1: 3, where 6 of 8 are taken"), "{words}");
    place.vsphere.release_task(&task_of_a);
    a.succeeds();
    b.succeeds();
}

#[test]
fn a_job_that_is_killed_frees_what_it_had() {
    let place = place(&[("a", 8), ("b", 1)]);
    let (a, _stuck_for_ever) = Job::stuck(&place, "a", "");
    let b = Job::start(&place, "b", "");
    b.waits();
    signal(&a.child, Signal::KILL);
    b.succeeds();
    assert_eq!(place.points().len(), 1);
    drop(a);
}

#[test]
fn a_job_that_is_called_off_while_it_waits_ends_at_once_and_has_asked_for_no_snapshot() {
    let place = place(&[("a", 8), ("b", 1)]);
    let (a, task_of_a) = Job::stuck(&place, "a", "");
    let b = Job::start(&place, "b", "");
    b.waits();
    signal(&b.child, Signal::TERM);
    let (code, says) = b.ends();
    assert_eq!(code, 7, "{says}");
    assert_eq!(place.kept.names("run/budgets").len(), 1);
    assert_eq!(created(&place).len(), 1);
    place.vsphere.release_task(&task_of_a);
    a.succeeds();
    place.assert_nothing_left();
}

#[test]
fn a_vm_with_more_disks_than_a_host_gives_is_backed_up_alone_and_not_passed() {
    let place = place(&[("a", 1), ("big", 3), ("c", 1)]);
    let two = "--max-disks-per-host 2";
    let (a, task_of_a) = Job::stuck(&place, "a", two);
    place.vsphere.trouble(STUCK);
    let big = Job::start(&place, "big", two);
    big.waits();
    let c = Job::start(&place, "c", two);
    // Its disk would fit beside that of the first one.
    let words = c.waits().pop().unwrap();
    assert!(
        words.contains("where 1 of 2 are taken by VM ") && words.ends_with("/big (3)"),
        "{words}"
    );
    place.vsphere.release_task(&task_of_a);
    a.succeeds();
    wait_until("the VM with many disks has no turn", || created(&place).len() == 2);
    wait_until("what the other one waits for is not told anew", || {
        let words = c.waits().pop().unwrap();
        words.contains("where 3 of 2 are taken by VM ") && words.ends_with("/big (3)")
    });
    assert_eq!(created(&place).len(), 2);
    place.vsphere.release_task(&created(&place)[1]);
    big.succeeds();
    c.succeeds();
    place.assert_nothing_left();
}

#[test]
fn snapshots_on_a_datastore_and_connections_of_a_vcenter_are_waited_for_too() {
    let place = place(&[("a", 2), ("b", 2), ("c", 2)]);
    let (a, task_of_a) = Job::stuck(&place, "a", "--max-snapshots-per-datastore 1");
    let b = Job::start(&place, "b", "--max-snapshots-per-datastore 1");
    let words = b.waits().pop().unwrap();
    assert!(words.contains("waits for snapshots on datastore "), "{words}");
    assert!(words.contains(": 1, where 1 of 1 are taken by VM "), "{words}");
    let c = Job::start(&place, "c", "--max-nfc-connections 3");
    let words = c.waits().pop().unwrap();
    let server = place.vsphere.address();
    let expected = format!("waits for connections of {server}: 2, where 2 of 3 are taken by VM ");
    assert!(words.contains(&expected), "{words}");
    place.vsphere.release_task(&task_of_a);
    for job in [a, b, c] {
        job.succeeds();
    }
    place.assert_nothing_left();
}

/// A VM `b` with a point and other content since, that is off; and beside it `a` with so many disks.
fn with_point(disks_of_a: usize) -> (VmPlace, String) {
    let place = place(&[("a", disks_of_a), ("b", 2)]);
    let machine = place.machine("b");
    machine.write(2000, 0, b"kept").unwrap();
    let point = place.back_up("b", "").id().to_owned();
    machine.write(2000, 0, b"lost").unwrap();
    machine.power(false).unwrap();
    (place, point)
}

fn restore(place: &VmPlace, point: &str, into: &str) -> Job {
    let (server, vddk) = (place.server(), place.vddk());
    let line = format!(
        "restore {point} --repository repository --to vsphere {into} --json {server} {vddk}"
    );
    Job::of(place.kept.command(&line), place.kept.path("restore.errors"))
}

fn first_bytes(place: &VmPlace, vm: &str) -> Vec<u8> {
    let file = place.machine(vm).path(2000).unwrap();
    fs::read(file).unwrap()[..4].to_vec()
}

#[test]
fn a_restore_waits_for_the_disks_that_a_backup_has_of_its_host() {
    let (place, point) = with_point(7);
    let (a, task_of_a) = Job::stuck(&place, "a", "");
    let into_b = restore(&place, &point, "--vm b");
    let words = into_b.waits().pop().unwrap();
    let expected = "/b waits for disks of host esx1: 2, where 7 of 8 are taken by VM ";
    assert!(words.contains(expected) && words.ends_with("/a (7)"), "{words}");
    // Nothing is begun of it.
    assert_eq!(place.vsphere.count("ReconfigVM_Task"), 0);
    assert_eq!(first_bytes(&place, "b"), b"lost");
    place.vsphere.release_task(&task_of_a);
    a.succeeds();
    into_b.succeeds();
    assert_eq!(first_bytes(&place, "b"), b"kept");
    place.assert_nothing_left();
}

#[test]
fn a_restore_into_a_new_vm_waits_for_connections_and_leaves_no_vm_when_it_is_called_off() {
    let (place, point) = with_point(2);
    let (a, task_of_a) = Job::stuck(&place, "a", "");
    let into_new = restore(&place, &point, "--new-vm c --host esx2 --max-nfc-connections 3");
    let words = into_new.waits().pop().unwrap();
    let server = place.vsphere.address();
    let expected =
        format!("/c waits for connections of {server}: 2, where 2 of 3 are taken by VM ");
    assert!(words.contains(&expected), "{words}");
    signal(&into_new.child, Signal::TERM);
    let (code, says) = into_new.ends();
    assert_eq!(code, 7, "{says}");
    assert!(place.vsphere.machine_named("c").is_none(), "{says}");
    place.vsphere.release_task(&task_of_a);
    a.succeeds();
    place.assert_nothing_left();
}

#[test]
fn a_backup_waits_for_the_disks_that_a_restore_writes() {
    let (place, point) = with_point(7);
    place.vsphere.plugin_fault("open_delay_ms", 3000.into());
    let into_b = restore(&place, &point, "--vm b");
    wait_until("the restore takes nothing", || !place.kept.names("run/budgets").is_empty());
    let a = Job::start(&place, "a", "");
    let words = a.waits().pop().unwrap();
    let expected = "/a waits for disks of host esx1: 7, where 2 of 8 are taken by VM ";
    assert!(words.contains(expected) && words.ends_with("/b (2)"), "{words}");
    into_b.succeeds();
    assert_eq!(first_bytes(&place, "b"), b"kept");
    place.vsphere.clear_plugin_faults();
    a.succeeds();
    place.assert_nothing_left();
}

#[test]
fn a_vm_that_is_started_while_its_restore_waits_is_left_alone() {
    let (place, point) = with_point(7);
    let (a, task_of_a) = Job::stuck(&place, "a", "");
    let into_b = restore(&place, &point, "--vm b");
    into_b.waits();
    place.machine("b").power(true).unwrap();
    place.vsphere.release_task(&task_of_a);
    a.succeeds();
    let (code, says) = into_b.ends();
    assert_eq!(code, 5, "{says}");
    assert!(says.contains("it is on; shut it down first"), "{says}");
    assert_eq!(first_bytes(&place, "b"), b"lost");
    place.assert_nothing_left();
}

#[test]
fn a_hub_is_told_what_a_job_of_its_node_waits_for() {
    let place = place(&[("a", 8), ("b", 1)]);
    let hub = NodePlace::new("");
    let options = format!("{} {} --quiesce none", place.server(), place.vddk());
    let password = place.kept.path("vc.password");
    let library = place.kept.path("vsphere");
    let options = options
        .replace("vc.password", password.to_str().unwrap())
        .replace("--vddk-libdir vsphere", &format!("--vddk-libdir {}", library.display()));
    let _node = hub.node("near", &options);
    let (a, task_of_a) = Job::stuck(&place, "a", "");
    let line = format!("backup --vm b --node near {}", by(&hub.hub));
    let b = Job::of(hub.kept.command(&line), place.kept.path("b.errors"));
    let words = b.waits().pop().unwrap();
    assert!(
        words.contains("/b waits for disks of host esx1: 1, where 8 of 8 are taken"),
        "{words}"
    );
    place.vsphere.release_task(&task_of_a);
    a.succeeds();
    b.succeeds();
    wait_until("something is left", || place.left().iter().all(|left| left.starts_with("process")));
}

/// A process that has a small file system in the place of a folder, which only it sees. Nothing where
/// this user may mount nothing.
fn small_folder(folder: &Path) -> Option<Child> {
    let mount = "mount -t tmpfs -o mode=700,size=256k none \"$0\" && echo mounted && exec cat";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", mount]).arg(folder);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    if said == "mounted\n" {
        return Some(holder);
    }
    eprintln!("skipped: {:?}", holder.wait().unwrap());
    None
}

#[test]
fn a_runtime_folder_that_is_full_is_told_at_once_and_holds_nobody_up() {
    let place = place(&[("a", 1), ("b", 1)]);
    let run = place.kept.path("run");
    fs::create_dir(&run).unwrap();
    let Some(mut holder) = small_folder(&run) else { return };
    let small = seen_by(&holder, &run);
    let job = |vm: &str| {
        let line = place.backup(vm, "");
        let line = line.replace(&run.display().to_string(), &small.display().to_string());
        Job::of(place.kept.command(&line), place.kept.path(&format!("{vm}.errors")))
    };
    place.vsphere.trouble(STUCK);
    let a = job("a");
    assert!(place.vsphere.wait_until(Duration::from_secs(60), |_| created(&place).len() == 1));
    let claims = || {
        let files = fs::read_dir(small.join("budgets")).unwrap();
        let files: Vec<_> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        files
    };
    let claim = claims();

    let mut ballast = File::create(small.join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    let begun = Instant::now();
    let (code, says) = job("b").ends();
    assert_eq!(code, 1, "{says}");
    assert!(says.contains("cannot be written, for its file system is full"), "{says}");
    // Whoever wants a turn gives up after so long.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(claims(), claim);

    fs::remove_file(small.join("ballast")).unwrap();
    drop(ballast);
    place.vsphere.release_task(&created(&place)[0]);
    a.succeeds();
    job("b").succeeds();
    assert_eq!(place.points().len(), 2);
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

//! The password is in no word of a process, in no file, and in no core.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use blockferry_doubles::vsphere::Vsphere;
use rustix::process::{Pid, Signal, kill_process};

use super::{MIB, Stage};
use crate::blockferry::{
    Secret, cores, processes_below, processes_of, signal, stderr, wait_until, with_cores,
    write_secret,
};

const PASSWORD: Secret = Secret("Tr0ub4dor&3<x");
/// The file that has it, and the server's own state.
const OWN: [&str; 2] = ["vault.password", "vddk.json"];

/// A stage with another user, and the line of a backup by them.
fn stage() -> (Stage, String) {
    let stage = Stage::with(Vsphere::builder().user("vault", PASSWORD.0));
    write_secret(&stage.place.kept.path("vault.password"), PASSWORD.0);
    let line = by_vault(&stage.place.backup("web", "--mode full -v"));
    (stage, line)
}

fn by_vault(line: &str) -> String {
    let line = line.replace("--vcenter-user backup", "--vcenter-user vault");
    line.replace("vc.password", "vault.password")
}

#[test]
fn the_password_is_in_no_process_no_output_and_no_file_but_its_own() {
    let (stage, line) = stage();
    let folder = stage.place.kept.folder();
    stage.place.vsphere.plugin_fault("read_delay_ms", 200.into());
    let mut command = stage.place.kept.command(&line);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    stage.wait_for("qemu-nbd");
    wait_until("no data comes", || stage.has_data());
    assert_eq!(PASSWORD.processes(), Vec::<u32>::new());
    let below = processes_below(child.id());
    // nbdkit has run itself again, by /proc/self/exe.
    for program in ["blockferry", "exe", "qemu-nbd"] {
        assert!(below.iter().any(|process| process.name == program), "{program}: {below:?}");
    }
    // While the folders of nbdkit, the ledger, the budgets and the work are there.
    for place in ["run/budgets", "repository/snapshots", "repository/work"] {
        assert!(!stage.place.kept.names(place).is_empty(), "{place} is empty");
    }
    assert_eq!(PASSWORD.files(folder), OWN);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!PASSWORD.is_in(&output.stdout) && !PASSWORD.is_in(&output.stderr));
    assert_eq!(PASSWORD.files(folder), OWN);

    // And where all goes wrong with it.
    stage.place.vsphere.plugin_fault("refuse_open", "VixDiskLib_ConnectEx: no".into());
    let refused = stage.place.kept.run(&line);
    assert!(!PASSWORD.is_in(&refused.stdout) && !PASSWORD.is_in(&refused.stderr));
    write_secret(&stage.place.kept.path("wrong.password"), &format!("{}-", PASSWORD.0));
    let refused = stage.place.kept.run(&line.replace("vault.password", "wrong.password"));
    assert!(!PASSWORD.is_in(&refused.stdout) && !PASSWORD.is_in(&refused.stderr));
    assert_eq!(PASSWORD.files(folder), [OWN[0], OWN[1], "wrong.password"]);
}

#[test]
fn the_password_of_a_restore_is_in_no_process_no_output_and_no_file_but_its_own() {
    let (stage, _) = stage();
    let folder = stage.place.kept.folder();
    stage.web.power(false).unwrap();
    let (server, vddk) = (by_vault(&stage.place.server()), stage.place.vddk());
    let id = stage.first.id();
    let line = format!(
        "restore {id} --repository repository --to vsphere --vm web --json -v {server} {vddk} \
         --rate-limit 1M"
    );
    let mut command = stage.place.kept.command(&line);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    stage.wait_for("nbdkit");
    stage.wait_for("qemu-nbd");
    assert_eq!(PASSWORD.processes(), Vec::<u32>::new());
    assert!(processes_below(child.id()).iter().any(|process| process.name == "exe"));
    assert_eq!(PASSWORD.files(folder), OWN);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!PASSWORD.is_in(&output.stdout) && !PASSWORD.is_in(&output.stderr));
    assert_eq!(PASSWORD.files(folder), OWN);
}

/// Waits until nothing of a stage runs. There is no core, and the password is where it was.
fn assert_no_core(stage: &Stage) {
    let folder = stage.place.kept.folder();
    wait_until("a process outlives it", || processes_of(folder.to_str().unwrap()).is_empty());
    assert_eq!(cores(folder), Vec::<String>::new());
    assert_eq!(PASSWORD.files(folder), OWN);
}

#[test]
fn a_password_file_with_a_byte_order_mark_is_refused_before_a_login() {
    let (stage, line) = stage();
    write_secret(&stage.place.kept.path("marked.password"), &format!("\u{feff}{}", PASSWORD.0));
    let output = stage.place.kept.run(&line.replace("vault.password", "marked.password"));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("begins with a UTF-8 byte order mark"), "{said}");
    assert_eq!(stage.place.vsphere.count("Login"), 0);
    assert!(!PASSWORD.is_in(&output.stdout) && !PASSWORD.is_in(&output.stderr));
    stage.assert_tidy();
}

#[test]
fn the_password_needs_no_folder_for_temporary_files() {
    let (stage, line) = stage();
    let output = stage.place.kept.command(&line).env("TMPDIR", "/nope").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stage.points(), 2);
    stage.assert_tidy();
}

#[test]
fn a_program_that_has_the_password_leaves_no_core() {
    let (stage, line) = stage();
    // A segmentation fault that was not one is let go by the runtime of the language.
    for of_kind in [Signal::ABORT, Signal::QUIT] {
        let Some(mut command) = with_cores(stage.place.kept.folder(), line.split_whitespace())
        else {
            return;
        };
        stage.place.vsphere.plugin_fault("read_delay_ms", 300.into());
        let mut child = command.spawn().unwrap();
        stage.wait_for_snapshot();
        stage.wait_for("qemu-nbd");
        signal(&child, of_kind);
        let status = child.wait().unwrap();
        let expected = (Some(of_kind.as_raw()), false);
        assert_eq!((status.signal(), status.core_dumped()), expected, "{status}");
        assert_no_core(&stage);
        stage.place.vsphere.clear_plugin_faults();
        stage.succeeds("", &["is removed: its job is dead"]);
    }
    stage.place.assert_nothing_left();
}

#[test]
fn an_nbdkit_that_has_the_password_leaves_no_core() {
    let (stage, line) = stage();
    let Some(mut command) = with_cores(stage.place.kept.folder(), line.split_whitespace()) else {
        return;
    };
    stage.place.vsphere.plugin_fault("read_delay_ms", 1500.into());
    let child = command.spawn().unwrap();
    stage.wait_for_snapshot();
    stage.wait_for("qemu-nbd");
    let below = processes_below(child.id());
    let nbdkits: Vec<u32> =
        below.iter().filter(|it| it.name == "exe").map(|process| process.pid).collect();
    assert_eq!(nbdkits.len(), 2, "{below:?}");
    for (&pid, of_kind) in nbdkits.iter().zip([Signal::ABORT, Signal::SEGV]) {
        // It is in there, or the rest shows nothing.
        assert!(holds_the_password(pid), "{pid}");
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), of_kind).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("was ended by signal"), "{}", stderr(&output));
    assert_no_core(&stage);
    stage.assert_tidy();
    stage.recovers();
}

/// Whether a process has the password in its memory, as far as this user may look.
fn holds_the_password(pid: u32) -> bool {
    // What it allocates lies in smaller mappings; nbdkit has one of 192 MiB that is empty.
    const MAX_BYTES: u64 = 4 * MIB;
    let folder = Path::new("/proc").join(pid.to_string());
    let maps = fs::read_to_string(folder.join("maps")).unwrap();
    let memory = File::open(folder.join("mem")).unwrap();
    maps.lines().filter(|line| line.contains(" rw-p ")).any(|line| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, bytes) = (address(from), address(to) - address(from));
        let mut content = vec![0; usize::try_from(bytes.min(MAX_BYTES)).unwrap()];
        memory.read_exact_at(&mut content, from).is_ok() && PASSWORD.is_in(&content)
    })
}

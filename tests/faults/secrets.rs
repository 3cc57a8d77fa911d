//! The password is in no word of a process, in no file, and in no core.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use blockferry_doubles::vsphere::Vsphere;
use rustix::process::Signal;

use super::Stage;
use crate::blockferry::{signal, stderr, write_secret};

const PASSWORD: &str = "Tr0ub4dor&3<x";

fn has_password(bytes: &[u8]) -> bool {
    bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes())
}

/// A stage with another user, and the line of a backup by them.
fn stage() -> (Stage, String) {
    let stage = Stage::with(Vsphere::builder().user("vault", PASSWORD));
    write_secret(&stage.place.kept.path("vault.password"), PASSWORD);
    let line = stage.place.backup("web", "--mode full -v");
    let line = line.replace("--vcenter-user backup", "--vcenter-user vault");
    (stage, line.replace("vc.password", "vault.password"))
}

/// The files of a folder that have the password in them.
fn files_with_password(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(files_with_password(&path)),
            false if fs::read(&path).is_ok_and(|content| has_password(&content)) => {
                found.push(name)
            }
            false => {}
        }
    }
    found.sort_unstable();
    found
}

/// What the processes of a backup have in their arguments and environments; and which they are.
fn words_of_processes(parent: u32) -> (Vec<u8>, Vec<String>) {
    let (mut words, mut names) = (Vec::new(), Vec::new());
    let mut parents = vec![parent];
    while let Some(process) = parents.pop() {
        let folder = Path::new("/proc").join(process.to_string());
        // One that has ended meanwhile has none.
        for name in ["cmdline", "environ"] {
            words.extend(fs::read(folder.join(name)).unwrap_or_default());
        }
        names.push(fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned());
        for task in fs::read_dir(folder.join("task")).into_iter().flatten() {
            let children = task.unwrap().path().join("children");
            let children = fs::read_to_string(children).unwrap_or_default();
            parents.extend(children.split_whitespace().map(|child| child.parse::<u32>().unwrap()));
        }
    }
    (words, names)
}

#[test]
fn the_password_is_in_no_process_no_output_and_no_file_but_its_own() {
    let (stage, line) = stage();
    stage.place.vsphere.plugin_fault("read_delay_ms", 200.into());
    let mut command = stage.place.kept.command(&line);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    stage.wait_for("qemu-nbd");
    let (words, names) = words_of_processes(child.id());
    // nbdkit has run itself again, by /proc/self/exe.
    for program in ["blockferry", "exe", "qemu-nbd"] {
        assert!(names.iter().any(|name| name == program), "{program} is not in {names:?}");
    }
    assert!(!has_password(&words));
    // While the folders of nbdkit and the ledger are there; the server's own state has it, of course.
    let own = ["vault.password", "vddk.json"];
    assert_eq!(files_with_password(stage.place.kept.folder()), own);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!has_password(&output.stdout) && !has_password(&output.stderr));
    assert_eq!(files_with_password(stage.place.kept.folder()), own);

    // And where all goes wrong with it.
    stage.place.vsphere.plugin_fault("refuse_open", "VixDiskLib_ConnectEx: no".into());
    let refused = stage.place.kept.run(&line);
    assert!(!has_password(&refused.stdout) && !has_password(&refused.stderr));
    write_secret(&stage.place.kept.path("wrong.password"), &format!("{PASSWORD}-"));
    let refused = stage.place.kept.run(&line.replace("vault.password", "wrong.password"));
    assert!(!has_password(&refused.stdout) && !has_password(&refused.stderr));
    assert_eq!(
        files_with_password(stage.place.kept.folder()),
        ["vault.password", "vddk.json", "wrong.password"]
    );
}

/// A shell that lets cores be, in a folder.
fn with_cores(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -c unlimited && {script}")]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_program_that_has_the_password_leaves_no_core() {
    let (stage, line) = stage();
    let folder = tempfile::tempdir().unwrap();
    let control = with_cores(folder.path(), "kill -ABRT $$").output().unwrap();
    if !control.status.core_dumped() {
        eprintln!("skipped: nobody leaves a core here: {}", control.status);
        return;
    }
    stage.place.vsphere.plugin_fault("read_delay_ms", 300.into());
    let mut command = with_cores(stage.place.kept.folder(), "exec \"$0\" \"$@\"");
    command.arg(env!("CARGO_BIN_EXE_blockferry")).args(line.split_whitespace());
    let mut child = command.spawn().unwrap();
    stage.wait_for("qemu-nbd");
    signal(&child, Signal::ABORT);
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false), "{status}");
    assert_eq!(files_with_password(stage.place.kept.folder()), ["vault.password", "vddk.json"]);
    crate::blockferry::wait_until("a process outlives it", || {
        crate::blockferry::processes_of(stage.place.kept.folder().to_str().unwrap()).is_empty()
    });
    stage.place.vsphere.clear_plugin_faults();
    stage.succeeds("", &["is removed: its job is dead"]);
    stage.place.assert_nothing_left();
}

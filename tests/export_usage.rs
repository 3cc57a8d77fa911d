//! `export`, with the clients of others.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Output, Stdio};

use blockferry::{Kept, code, signal, stderr};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A running export, and its first line.
fn start(kept: &Kept, line: &str) -> (Child, String) {
    let mut child = kept
        .command(&format!("export {line}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    if first.is_empty() {
        panic!("{}", stderr(&child.wait_with_output().unwrap()));
    }
    (child, first)
}

fn ready(kept: &Kept, line: &str) -> (Child, Value) {
    let (child, first) = start(kept, &format!("{line} --json"));
    (child, serde_json::from_str(&first).unwrap())
}

fn end(child: Child, name: Signal) -> Output {
    signal(&child, name);
    child.wait_with_output().unwrap()
}

fn nbd(program: &str, args: &[&str], kept: &Kept) -> Output {
    Command::new(program).args(args).current_dir(kept.folder()).output().unwrap()
}

#[test]
fn clients_of_others_read_all_disks_until_a_signal_comes() {
    let kept = Kept::new();
    kept.disk("root", 1 << 20, 1);
    kept.disk("odd", 1000, 2);
    let point = kept.back_up(&["root", "odd"]);
    kept.write("root", 70_000, b"changed");
    let delta = kept.back_up(&["root", "odd"]);
    assert_ne!(point, delta);
    for name in [Signal::INT, Signal::TERM] {
        let (child, report) = ready(&kept, &format!("{delta} --repository repository"));
        assert_eq!((&report["outcome"], &report["exit_code"]), (&"ready".into(), &0.into()));
        let uri = |disk: usize| report["exports"][disk]["uri"].as_str().unwrap().to_owned();
        assert!(uri(1).starts_with("nbd://127.0.0.1:") && uri(1).ends_with("/root"), "{report}");
        let size = nbd("nbdinfo", &["--size", &uri(0)], &kept);
        assert_eq!(String::from_utf8(size.stdout).unwrap().trim(), "1024");
        assert_eq!(report["exports"][0]["size"], 1000);
        let copied = nbd("nbdcopy", &[&uri(1), "copy.raw"], &kept);
        assert!(copied.status.success(), "{copied:?}");
        kept.assert_same("root", "copy.raw");
        let read_only = nbd("nbdinfo", &["--is", "read-only", &uri(1)], &kept);
        assert!(read_only.status.success(), "{read_only:?}");
        let output = end(child, name);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let gone = nbd("nbdinfo", &["--size", &uri(1)], &kept);
        assert!(!gone.status.success());
    }
}

#[test]
fn a_uri_a_line_is_printed_for_people() {
    let kept = Kept::new();
    kept.disk("root", 1000, 1);
    let point = kept.back_up(&["root"]);
    let (child, line) = start(&kept, &format!("{point} --repository repository"));
    assert!(line.starts_with("nbd://127.0.0.1:"), "{line}");
    assert!(nbd("nbdinfo", &["--size", line.trim()], &kept).status.success());
    assert_eq!(code(&end(child, Signal::INT)), 0);
}

#[test]
fn sockets_are_in_a_folder_that_only_this_user_can_enter() {
    let kept = Kept::new();
    kept.disk("root", 100_000, 1);
    let point = kept.back_up(&["root"]);
    fs::create_dir(kept.path("sockets")).unwrap();
    let (child, report) =
        ready(&kept, &format!("{point} --repository repository --socket-dir sockets"));
    let uri = report["exports"][0]["uri"].as_str().unwrap();
    let copied = nbd("nbdcopy", &[uri, "copy.raw"], &kept);
    assert!(copied.status.success(), "{copied:?}");
    // Rounded up, as qemu does it.
    assert_eq!(
        fs::read(kept.path("copy.raw")).unwrap()[..100_000],
        fs::read(kept.path("root")).unwrap()
    );
    let folder = kept.path("sockets").join(&kept.names("sockets")[0]);
    assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
    assert_eq!(code(&end(child, Signal::TERM)), 0);
    assert_eq!(kept.names("sockets"), [] as [&str; 0]);
}

#[test]
fn sockets_of_killed_exports_are_removed_by_the_next_and_those_of_others_stay() {
    let kept = Kept::new();
    kept.disk("root", 100_000, 1);
    let point = kept.back_up(&["root"]);
    fs::create_dir(kept.path("sockets")).unwrap();
    fs::create_dir(kept.path("sockets/somebodys")).unwrap();
    let line = format!("{point} --repository repository --socket-dir sockets");
    let (living, report) = ready(&kept, &line);
    let (mut killed, _) = ready(&kept, &line);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(kept.names("sockets").len(), 3);
    let (next, _) = ready(&kept, &line);
    assert_eq!(kept.names("sockets").len(), 3, "one went, one came");
    let uri = report["exports"][0]["uri"].as_str().unwrap();
    assert!(nbd("nbdinfo", &["--size", uri], &kept).status.success());
    for child in [living, next] {
        assert_eq!(code(&end(child, Signal::TERM)), 0);
    }
    assert_eq!(kept.names("sockets"), ["somebodys"]);
}

#[test]
fn what_a_killed_verification_left_is_removed_by_an_export() {
    let kept = Kept::new();
    kept.disk("root", 3 << 20, 1);
    let point = kept.back_up(&["root"]);
    let line = format!("verify {point} --repository repository --rate-limit 100K");
    let mut child = kept.command(&line).spawn().unwrap();
    let digests = |name: &str| kept.names(&format!("temporary/{name}")).len() >= 3;
    while !kept.names("temporary").iter().any(|name| digests(name)) {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(kept.names("temporary").len(), 1);
    let (child, _) = ready(&kept, &format!("{point} --repository repository"));
    assert_eq!(kept.names("temporary"), [] as [&str; 0]);
    assert_eq!(code(&end(child, Signal::TERM)), 0);
}

#[test]
fn two_readers_serve_the_same_point_and_it_cannot_be_deleted_meanwhile() {
    let kept = Kept::new();
    let [_, _, newest] = kept.chain();
    let line = format!("{newest} --repository repository");
    let ((one, first), (other, second)) = (ready(&kept, &line), ready(&kept, &line));
    let uri = |report: &Value| report["exports"][0]["uri"].as_str().unwrap().to_owned();
    assert_ne!(uri(&first), uri(&second));
    for (report, file) in [(&first, "one.raw"), (&second, "other.raw")] {
        assert!(nbd("nbdcopy", &[&uri(report), file], &kept).status.success());
        kept.assert_same("root", file);
    }
    let delete = format!("points delete {newest} --repository repository");
    assert_eq!(code(&end(one, Signal::TERM)), 0);
    let output = kept.run(&delete);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("in use"), "{}", stderr(&output));
    assert_eq!(code(&end(other, Signal::TERM)), 0);
    assert_eq!(code(&kept.run(&delete)), 0);
}

#[test]
fn what_is_written_to_a_writable_export_is_thrown_away() {
    let kept = Kept::new();
    kept.disk("root", 1 << 20, 1);
    kept.disk("other", 1 << 20, 2);
    let point = kept.back_up(&["root"]);
    let line = format!("{point} --repository repository --writable");
    let (child, report) = ready(&kept, &line);
    let uri = report["exports"][0]["uri"].as_str().unwrap();
    assert!(nbd("nbdcopy", &["other", uri], &kept).status.success());
    assert!(nbd("nbdcopy", &[uri, "read.raw"], &kept).status.success());
    kept.assert_same("other", "read.raw");
    assert_eq!(code(&end(child, Signal::TERM)), 0);
    assert_eq!(code(&kept.run(&format!("verify {point} --repository repository"))), 0);
    let (child, report) = ready(&kept, &line);
    let uri = report["exports"][0]["uri"].as_str().unwrap();
    assert!(nbd("nbdcopy", &[uri, "read.raw"], &kept).status.success());
    kept.assert_same("root", "read.raw");
    assert_eq!(code(&end(child, Signal::TERM)), 0);
}

#[test]
fn an_export_whose_server_dies_ends_with_code_4_and_says_so() {
    let kept = Kept::new();
    kept.disk("root", 1000, 1);
    let point = kept.back_up(&["root"]);
    let (child, report) = ready(&kept, &format!("{point} --repository repository"));
    let pid = report["exports"][0]["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(stderr(&output).contains("disk root is served no more"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
}

#[test]
fn what_cannot_be_served_is_said_with_its_code() {
    let kept = Kept::new();
    let [full, _, newest] = kept.chain();
    for (line, expected) in [
        ("01kat0h4m2f6q8r0s2 --repository repository".to_owned(), 2),
        (format!("{newest} --repository nosuch"), 2),
        (format!("{newest} --repository repository --disk swap"), 2),
    ] {
        let (code, report) = kept.json(&format!("export {line} --json"));
        assert_eq!(code, expected, "{report}");
    }
    let both = format!("export {newest} --repository repository --port 1 --socket-dir .");
    assert_eq!(code(&kept.run(&both)), 2);
    fs::remove_file(kept.image(&full, "root")).unwrap();
    let (code, report) = kept.json(&format!("export {newest} --repository repository --json"));
    assert_eq!(code, 4, "{report}");
    assert!(report["error"].as_str().unwrap().contains(&newest), "{report}");
}

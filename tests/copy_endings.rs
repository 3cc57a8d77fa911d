//! How a copy ends that is interrupted, kept waiting or killed.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use blockferry::{code, command, copy, folder, stderr};
use rustix::process::{Pid, Signal, kill_process};

/// A copy that takes a minute, once it moves data.
fn slow_copy(folder: &Path) -> Child {
    let line = "copy -R 1 --request-size 65536 --no-extents --progress=1 -- \
                [ nbdkit --filter=delay memory 64M rdelay=60ms ] null:";
    let mut child = command(folder, &line.split_whitespace().collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its first percent shows that the mover is at work.
    let mut shares = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(shares.any(|share| share.unwrap() == "1/100"));
    child
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn a_signal_ends_the_copy_in_order_with_code_7() {
    for name in [Signal::INT, Signal::TERM, Signal::HUP] {
        let child = slow_copy(folder().path());
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let text = stderr(&output);
        assert_eq!(code(&output), 7, "{text}");
        assert!(text.starts_with("blockferry: interrupted: finishing"), "{text}");
    }
}

#[test]
fn a_signal_ends_a_copy_whose_standard_output_is_blocked_at_once() {
    let folder = folder();
    for engine in ["uring", "poll"] {
        for source in ["a", "[ nbdkit memory 64M ]"] {
            let line = format!("copy --engine {engine} --deadline 60s -v -- {source} -");
            let mut child = command(folder.path(), &line.split_whitespace().collect::<Vec<_>>())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // Bytes in the pipe, of which no more is read, show that it is being filled.
            let mut pipe = child.stdout.take().unwrap();
            std::io::Read::read_exact(&mut pipe, &mut [0]).unwrap();
            let asked = std::time::Instant::now();
            signal(&child, Signal::TERM);
            let output = child.wait_with_output().unwrap();
            assert_eq!(code(&output), 7, "{line}: {}", stderr(&output));
            assert!(asked.elapsed() < Duration::from_secs(5), "{line}: {:?}", asked.elapsed());
        }
    }
}

#[test]
fn a_named_pipe_that_nobody_writes_to_is_a_fault_of_the_source_at_the_deadline() {
    let folder = folder();
    let made = Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap();
    assert!(made.success());
    let output = copy(folder.path(), "--deadline 500ms pipe b");
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("source pipe: no answer within 500 ms"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_named_pipe_that_nobody_reads_is_a_fault_of_the_target_at_the_deadline() {
    let folder = folder();
    let made = Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap();
    assert!(made.success());
    fs::write(folder.path().join("data"), [7; 4096]).unwrap();
    let output = copy(folder.path(), "--deadline 500ms data pipe");
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    assert!(stderr(&output).contains("nobody opened it to read"), "{}", stderr(&output));
}

#[test]
fn a_server_does_not_outlive_a_copy_that_is_killed() {
    let child = slow_copy(folder().path());
    let parent = child.id().to_string();
    let server = only_child(&parent);
    signal(&child, Signal::KILL);
    child.wait_with_output().unwrap();
    for _ in 0..200 {
        if !Path::new(&format!("/proc/{server}")).exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the server {server} is still there");
}

/// The one child of `parent`, whichever of its threads started it.
fn only_child(parent: &str) -> String {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).unwrap();
    let children = threads.filter_map(|thread| {
        // A thread that has ended since has no children.
        fs::read_to_string(thread.unwrap().path().join("children")).ok()
    });
    let children = children.collect::<String>();
    assert_eq!(children.split_whitespace().count(), 1, "{children:?}");
    children.trim().to_owned()
}

#[test]
fn a_source_that_was_written_in_place_since_its_journal_was_not_noticed() {
    for written in [false, true] {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        let line = "copy --resume j --flush-interval 0s -R 1 --request-size 4096 \
                    --rate-limit 256k a b";
        let words: Vec<&str> = line.split_whitespace().collect();
        let child = command(folder.path(), &words).stderr(Stdio::piped()).spawn().unwrap();
        // Something is safe.
        let begun = std::time::Instant::now();
        while !fs::read_to_string(path("j")).is_ok_and(|text| text.contains("\"safe\":[[")) {
            assert!(begun.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&child, Signal::INT);
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 7, "{}", stderr(&output));
        if written {
            let file = fs::OpenOptions::new().write(true).open(path("a")).unwrap();
            file.write_all_at(b"new", 0).unwrap();
        }
        let output = copy(folder.path(), "--resume j a b");
        let text = stderr(&output);
        if written {
            assert_eq!(code(&output), 2, "{text}");
            assert!(text.contains("the source was written to since"), "{text}");
        } else {
            assert_eq!(code(&output), 0, "{text}");
            assert!(fs::read(path("a")).unwrap() == fs::read(path("b")).unwrap());
        }
    }
}

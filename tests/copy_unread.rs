//! A copy whose words nobody reads: pipes that are full, and whose readers stand still.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use blockferry::{command, folder, signal};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;

/// Time in which a copy has to end that is asked to: its leave, and what it waits for readers.
const END: Duration = Duration::from_secs(15);

/// A pipe that takes nothing more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b".").is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

fn spawn(folder: &Path, line: &str, stdout: Stdio, stderr: Stdio) -> Child {
    let words: Vec<&str> = line.split_whitespace().collect();
    command(folder, &words).stdout(stdout).stderr(stderr).spawn().unwrap()
}

/// Its exit code; it must come in time.
fn ended(mut child: Child, line: &str) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap();
        }
        if begun.elapsed() > END {
            child.kill().unwrap();
            panic!("{line}: it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_was_without_effect_while_nobody_read_standard_error() {
    let folder = folder();
    for name in [Signal::INT, Signal::TERM] {
        for options in ["--engine uring", "--engine poll -v", "--engine uring -v --json"] {
            let line = format!(
                "copy {options} -R 1 --request-size 65536 --no-extents --progress=1 -- \
                 [ nbdkit --filter=delay memory 64M rdelay=60ms ] null:"
            );
            let (_reader, writer) = full_pipe();
            let mut child = spawn(folder.path(), &line, Stdio::piped(), writer.into());
            // Its first percent shows that the mover is at work.
            let mut shares = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(shares.any(|share| share.unwrap() == "1/100"));
            signal(&child, name);
            assert_eq!(ended(child, &line), 7, "{line}");
        }
    }
}

#[test]
fn an_error_was_without_end_while_nobody_read_standard_error() {
    let folder = folder();
    for (line, expected) in [
        ("copy nosuch b", 4),
        ("copy --engine poll nosuch b", 4),
        ("copy a", 2),
        ("copy --nosuch a b", 2),
        ("copy -v a b", 0),
        ("copy -p a b", 0),
        ("copy --progress=2 a b", 0),
    ] {
        let (_reader, writer) = full_pipe();
        let child = spawn(folder.path(), line, Stdio::null(), writer.into());
        assert_eq!(ended(child, line), expected, "{line}");
    }
}

#[test]
fn the_last_line_comes_to_a_reader_that_is_slow_to_begin() {
    let folder = folder();
    let (mut reader, writer) = full_pipe();
    let child = spawn(folder.path(), "copy nosuch b", Stdio::null(), writer.into());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(ended(child, "copy nosuch b"), 4);
    let said = text.trim_start_matches('.');
    assert!(said.starts_with("blockferry: source nosuch: cannot open it"), "{said}");
    assert!(said.ends_with("\n"), "{said}");
}

#[test]
fn every_line_comes_in_its_order_to_a_reader() {
    const LANES: usize = 300;
    let folder = folder();
    let lane = |number| format!("{{\"source\": \"no{number}\", \"target\": \"b{number}\"}}\n");
    fs::write(folder.path().join("lanes"), (0..LANES).map(lane).collect::<String>()).unwrap();
    let line = "copy --threads 1 --max-lanes 1 --lanes lanes";
    let child = spawn(folder.path(), line, Stdio::null(), Stdio::piped());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), LANES + 1, "{text}");
    for (number, line) in lines[..LANES].iter().enumerate() {
        assert!(line.starts_with(&format!("blockferry: lane {number}: source no")), "{line}");
    }
    assert_eq!(lines[LANES], format!("blockferry: {LANES} of {LANES} lanes failed"));
}

#[test]
fn one_signal_was_not_enough_while_nobody_read_progress_or_report() {
    let folder = folder();
    let copy = folder.path().join("b");
    for (line, expected) in [("copy --json a b", [7, 7]), ("copy --progress=1 a b", [7, 0])] {
        fs::write(&copy, "").unwrap();
        let (_reader, writer) = full_pipe();
        let child = spawn(folder.path(), line, writer.into(), Stdio::null());
        let begun = Instant::now();
        while fs::read(&copy).unwrap() != fs::read(folder.path().join("a")).unwrap() {
            assert!(begun.elapsed() < END, "{line}");
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&child, Signal::INT);
        let asked = Instant::now();
        let code = ended(child, line);
        assert!(expected.contains(&code), "{line}: {code}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{line}: {:?}", asked.elapsed());
    }
}

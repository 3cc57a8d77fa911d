//! How it ends, and that nothing is left.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

#[test]
fn a_stop_leaves_neither_process_nor_folder() {
    let (bench, disk, _) = Bench::with_disk(MIB);
    let running = bench.start(&disk).unwrap();
    let pid = running.pid();
    assert_eq!(running.exit_reason(), None);
    running.stop().unwrap();
    assert!(is_gone(pid) && bench.left().is_empty());
}

#[test]
fn a_drop_leaves_neither_process_nor_folder() {
    let (bench, disk, _) = Bench::with_disk(MIB);
    let running = bench.start(&disk).unwrap();
    // A lane may hold on to it.
    let _endpoint = running.endpoint();
    let pid = running.pid();
    drop(running);
    assert!(is_gone(pid) && bench.left().is_empty());
}

#[test]
fn one_that_does_not_take_sigterm_is_killed_in_time_and_that_is_told() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    // nbdkit below a process that ignores the signal, in its group.
    bench.script(
        "[ \"$1\" != --version ] || exec nbdkit --version\n\
         trap '' TERM\nnbdkit \"$@\" &\nwhile :; do sleep 1; done",
    );
    bench.settings.end_deadline = Duration::from_millis(300);
    let running = bench.start(&disk).unwrap();
    let pid = running.pid();
    let error = running.stop().unwrap_err();
    assert!(matches!(error, SourceError::Killed { .. }), "{error}");
    assert!(is_gone(pid) && bench.left().is_empty());
}

#[test]
fn the_death_of_one_in_the_middle_is_the_reason_that_its_lane_gives() {
    let (mut bench, disk, _) = Bench::with_disk(8 * MIB);
    bench.vcenter.fault("die_after_bytes", MIB).write().unwrap();
    let running = bench.start(&disk).unwrap();
    let settings = LaneSettings { retries: 1, ..lane_settings() };
    let fault = copy(running.endpoint(), Endpoint::Null, settings).outcome.unwrap_err();
    let text = fault.to_string();
    assert!(text.contains("was ended by signal 9") && text.contains(&disk.file), "{text}");
    let reason = running.exit_reason().unwrap();
    assert!(reason.contains("was ended by signal 9"), "{reason}");
    let error = running.stop().unwrap_err();
    assert!(matches!(error, SourceError::Died { .. }), "{error}");
    assert!(bench.left().is_empty());
}

#[test]
fn a_read_that_fails_is_told_in_the_words_of_the_library() {
    let (mut bench, disk, _) = Bench::with_disk(4 * MIB);
    bench.vcenter.fault("fail_reads_at", 3 * MIB).write().unwrap();
    let running = bench.start(&disk).unwrap();
    let settings = LaneSettings { extents: false, ..lane_settings() };
    let fault = copy(running.endpoint(), Endpoint::Null, settings).outcome.unwrap_err().to_string();
    let words = "VixDiskLib_Read: Unknown error";
    assert!(fault.ends_with(&format!("; the server says: {words}")), "{fault}");
    wait_until_said(&running, words);
}

/// The folder of the process of the next test, which is killed.
const HELD: &str = "BLOCKFERRY_TEST_HELD_VDDK";

#[test]
#[ignore = "run by the tests of what is left when we are killed"]
fn a_disk_is_held_until_this_process_is_killed() {
    let folder = PathBuf::from(std::env::var_os(HELD).expect("its test names a folder"));
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    bench.settings.runtime = folder;
    let running = bench.start(&disk).unwrap();
    println!("pid {}", running.pid());
    thread::park();
}

#[test]
fn no_process_is_left_when_we_are_killed_and_the_next_start_removes_its_folder() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    bench.settings.runtime = bench.folder.path().join("runtime");
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("sources::vddk::tests::ending::a_disk_is_held_until_this_process_is_killed")
        .env(HELD, &bench.settings.runtime)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| line.unwrap().split_once("pid ").map(|at| at.1.to_owned()));
    let pid: u32 = line.expect("it tells of its process").parse().unwrap();
    assert!(!is_gone(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("the end of its process", || is_gone(pid));
    let left = bench.left();
    assert_eq!(left.len(), 1, "a kill leaves its folder");
    let running = bench.start(&disk).unwrap();
    assert!(!left[0].exists());
    running.stop().unwrap();
    assert!(bench.left().is_empty());
}

#[test]
fn one_that_is_stopped_ends_in_order() {
    let (bench, disk, _) = Bench::with_disk(MIB);
    let running = bench.start(&disk).unwrap();
    signal(running.pid(), Signal::STOP);
    let begun = Instant::now();
    running.stop().unwrap();
    assert!(begun.elapsed() < bench.settings.end_deadline / 2, "{:?}", begun.elapsed());
}

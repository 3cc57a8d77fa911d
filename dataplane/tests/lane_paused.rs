//! Servers that nbdkit's pause filter holds up: they take requests, and answer none.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blockferry_dataplane::{Lane, LaneReport, LaneSettings, Mover, Side};
use blockferry_doubles::{Nbdkit, Server};
use lanes::{DEADLINE, SLACK, Way, every_way, folder, nbd, patient};

/// The content of both ends, without any hole: as a target the plugin refuses every byte that
/// differs.
const CONTENT: [&str; 3] = ["size=4M", "seed=17", "percent=100"];

/// A server that can be paused, and the socket by which that is done. Each request takes a
/// moment, so that the copy is under way when it is.
fn pausable(dir: &Path, name: &str) -> (Server, PathBuf) {
    let control = dir.join(name);
    let parameter = format!("pause-control={}", control.display());
    let server = Nbdkit::plugin("sparse-random", &CONTENT)
        .threads(1)
        .filter("pause", &[&parameter])
        .filter("delay", &["rdelay=4ms", "wdelay=4ms"])
        .start()
        .unwrap();
    server.wait_ready(lanes::HANG).unwrap();
    (server, control)
}

/// Sends a command to the filter, and waits until it is carried out (nbdkit-pause-filter(1)).
fn tell(control: &Path, command: u8) {
    let mut socket = UnixStream::connect(control).unwrap();
    socket.set_read_timeout(Some(lanes::HANG)).unwrap();
    socket.write_all(&[command]).unwrap();
    let mut answer = [0];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], command.to_ascii_uppercase());
}

/// Copies, and pauses `side` once a part has arrived; resumes it after `pause`, if ever.
fn paused(
    way: Way,
    side: Side,
    pause: Option<Duration>,
    settings: LaneSettings,
) -> (LaneReport, String, Duration) {
    let dir = folder();
    let (source, source_control) = pausable(dir.path(), "source");
    let (target, target_control) = pausable(dir.path(), "target");
    let (control, uri) = match side {
        Side::Source => (source_control, source.uri()),
        Side::Target => (target_control, target.uri()),
    };
    let lane = Lane::new(nbd(&source.uri()), nbd(&target.uri())).with_settings(settings);
    let running = Mover::new(lanes::mover(way)).start(vec![lane]).unwrap();
    let begun = std::time::Instant::now();
    while running.progress().acknowledged == 0 {
        assert!(begun.elapsed() < lanes::HANG);
        // The mover tells of no single acknowledgement.
        let _ended = running.wait_for(Duration::from_millis(1));
    }
    tell(&control, b'p');
    let since = std::time::Instant::now();
    if let Some(pause) = pause {
        assert!(!running.wait_for(pause), "it does not wait");
        tell(&control, b'r');
    }
    assert!(running.wait_for(lanes::HANG), "it hangs");
    let took = since.elapsed();
    (running.wait().lanes.pop().unwrap(), uri, took)
}

#[test]
fn a_server_that_is_paused_for_less_than_the_deadline_only_delays_the_lane() {
    every_way(|way| {
        for side in [Side::Source, Side::Target] {
            let settings = patient(way);
            let pause = Some(settings.deadline / 4);
            let (report, ..) = paused(way, side, pause, settings);
            assert!(report.outcome.is_ok(), "{side}: {:?}", report.outcome);
            assert_eq!(report.reconnects, 0, "{side}");
            lanes::assert_counts(&report.counts);
        }
    });
}

#[test]
fn a_server_that_is_paused_for_good_fails_the_lane_within_the_deadline() {
    every_way(|way| {
        for side in [Side::Source, Side::Target] {
            let settings = LaneSettings { deadline: DEADLINE, ..patient(way) };
            let (report, uri, took) = paused(way, side, None, settings);
            let fault = report.outcome.expect_err("nobody answers");
            assert_eq!(fault.side(), Some(side), "{fault}");
            assert!(fault.to_string().contains(uri.trim_end_matches('/')), "{fault} names {uri}");
            assert!(took < DEADLINE * 3 / 2 + SLACK, "{fault} after {took:?}");
        }
    });
}

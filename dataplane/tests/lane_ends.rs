//! Ends that come early, and ends that are full.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::process::Command;
use std::time::{Duration, Instant};

use blockferry_dataplane::{Endpoint, Fault, Lane, LaneSettings, Mover, Side};
use blockferry_doubles::process::run_ok;
use blockferry_doubles::{
    Fault as Wrong, Hostile, HostileServer, Nbdkit, Occasion, TestDisk, Trigger,
};
use lanes::{
    HANG, MIB, Way, assert_same, copied, dense, every_engine, every_way, folder, nbd, settings,
};

fn content() -> Vec<u8> {
    dense(2 << 20, 95)
}

fn source() -> HostileServer {
    Hostile::builder().content(&content()).start().unwrap()
}

/// Cancels a lane as soon as `when` holds; it must end at once.
fn cancelled(way: Way, source: &HostileServer, target: &HostileServer, when: impl Fn() -> bool) {
    let settings = LaneSettings {
        deadline: Duration::from_secs(30),
        request_bytes: Some(64 << 10),
        ..settings(way)
    };
    let lane = Lane::new(nbd(&source.uri()), nbd(&target.uri())).with_settings(settings);
    let running = Mover::new(lanes::mover(way)).start(vec![lane]).unwrap();
    let began = Instant::now();
    while !when() {
        assert!(began.elapsed() < HANG, "the moment to cancel never comes");
        std::thread::yield_now();
    }
    let asked = Instant::now();
    running.canceller().cancel();
    assert!(running.wait_for(HANG));
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let outcome = &running.wait().lanes[0].outcome;
    assert!(matches!(outcome, Err(Fault::Interrupted)), "{outcome:?}");
}

#[test]
fn a_lane_that_waits_for_a_greeting_ends_at_once_when_it_is_cancelled() {
    every_way(|way| {
        let silent = || {
            Hostile::builder()
                .size(2 * MIB)
                .fault(Wrong::NoGreeting, Trigger::Always)
                .start()
                .unwrap()
        };
        let (quiet, there) = (silent(), Hostile::builder().size(2 * MIB).start().unwrap());
        cancelled(way, &quiet, &there, || quiet.accepted() > 0);
        cancelled(way, &source(), &quiet, || quiet.accepted() > 1);
    });
}

#[test]
fn a_lane_that_is_connecting_again_ends_at_once_when_it_is_cancelled() {
    every_way(|way| {
        let target = Hostile::builder()
            .size(2 * MIB)
            .fault_on(Occasion::Write, Wrong::CloseBeforeReply, Trigger::Nth(4))
            .fault_on(Occasion::Greeting, Wrong::NoGreeting, Trigger::From(2))
            .start()
            .unwrap();
        cancelled(way, &source(), &target, || target.accepted() > 1);
    });
}

#[test]
fn a_lane_whose_source_is_silent_saves_what_it_has_when_it_is_cancelled() {
    every_way(|way| {
        let source = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Wrong::CloseBeforeReply, Trigger::Nth(20))
            .fault_on(Occasion::Greeting, Wrong::NoGreeting, Trigger::From(2))
            .start()
            .unwrap();
        let target = Hostile::builder().size(2 * MIB).start().unwrap();
        cancelled(way, &source, &target, || source.accepted() > 1 && !target.written().is_empty());
        lanes::assert_no_stale_byte(&content(), &target.content());
    });
}

#[test]
fn a_name_with_several_addresses_is_tried_at_each() {
    every_way(|way| {
        // `localhost` is ::1 first on many machines, where nobody listens.
        let source = Hostile::builder().content(&content()).tcp().start().unwrap();
        let target = Hostile::builder().size(2 * MIB).tcp().start().unwrap();
        let named = |server: &HostileServer| server.uri().replace("127.0.0.1", "localhost");
        copied(way, &named(&source), &named(&target), settings(way));
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_full_device_is_the_targets_fault() {
    every_engine(|way| {
        let source = source();
        let target = Endpoint::File("/dev/full".into());
        let lane = Lane::new(nbd(&source.uri()), target).with_settings(settings(way));
        let (report, _) = lanes::run(way, lane);
        let fault = lanes::fault_of(report);
        assert_eq!(fault.side(), Some(Side::Target), "{fault}");
        assert!(fault.to_string().contains("No space left"), "{fault}");
    });
}

/// A file system with room for half of the disk; none where nobody may mount.
struct SmallFileSystem(tempfile::TempDir);

impl SmallFileSystem {
    fn mount() -> Option<Self> {
        let dir = folder();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir.path());
        run_ok(mount, HANG).ok().map(|_| Self(dir))
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.arg("-l").arg(self.0.path());
        // What stays is taken away with the machine.
        let _ = run_ok(umount, HANG);
    }
}

#[test]
fn a_full_file_system_fails_the_lanes_on_it_and_no_other() {
    every_way(|way| {
        let Some(small) = SmallFileSystem::mount() else {
            return;
        };
        let (first, second, third) = (source(), source(), source());
        let full_disk = TestDisk::sized(small.0.path(), 2 * MIB).unwrap();
        let full = Nbdkit::file(&full_disk.path).start().unwrap();
        let target = Hostile::builder().size(2 * MIB).start().unwrap();
        let pooled =
            LaneSettings { payload: blockferry_dataplane::PayloadChoice::Pooled, ..settings(way) };
        let lanes_of = vec![
            Lane::new(nbd(&first.uri()), nbd(&full.uri())).with_settings(settings(way)),
            Lane::new(nbd(&second.uri()), nbd(&target.uri())).with_settings(settings(way)),
            Lane::new(nbd(&third.uri()), Endpoint::File(small.0.path().join("copy")))
                .with_settings(pooled),
        ];
        let (report, _) = lanes::run_all(lanes::mover(way), lanes_of);
        for lane in [0, 2] {
            let fault = report.lanes[lane].outcome.as_ref().unwrap_err();
            assert_eq!(fault.side(), Some(Side::Target), "{fault}");
            assert!(fault.to_string().to_lowercase().contains("space"), "{fault}");
        }
        assert!(report.lanes[1].outcome.is_ok(), "{:?}", report.lanes[1].outcome);
        assert_same(&content(), &target.content());
    });
}

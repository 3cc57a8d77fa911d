//! The deadline: who does not come back has failed when it has passed, and who is only slow has
//! not.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::{Lane, LaneReport, LaneSettings, Mover, Side};
use blockferry_doubles::{
    Fault, Hostile, HostileServer, Nbdkit, Occasion, Proxy, QemuNbd, Trigger,
};
use lanes::{
    HANG, KIB, MIB, Way, assert_same, copied, dense, every_engine, every_way, fails, folder, hasty,
    nbd,
};

/// Long enough that half of it more would be seen on a loaded machine.
const DEADLINE: Duration = Duration::from_millis(1200);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_millis(400);
const SIZE: usize = 1 << 20;

fn content() -> Vec<u8> {
    dense(SIZE, 11)
}

fn strict(way: Way) -> LaneSettings {
    LaneSettings { deadline: DEADLINE, ..hasty(way) }
}

fn source() -> Hostile {
    Hostile::builder().content(&content())
}

fn target() -> Hostile {
    Hostile::builder().size(SIZE as u64)
}

/// A pair of servers of which one has this fault.
fn pair(side: Side, fault: &Fault, trigger: Trigger) -> (HostileServer, HostileServer) {
    let (source, target) = match side {
        Side::Source => (source().fault_on(Occasion::Read, fault.clone(), trigger), target()),
        Side::Target => (source(), target().fault_on(Occasion::Write, fault.clone(), trigger)),
    };
    (source.start().unwrap(), target.start().unwrap())
}

/// Runs a lane; as soon as it moves, does something to it. Tells how it ended, and how long that
/// took from there.
fn moving(way: Way, from: &str, to: &str, act: impl FnOnce()) -> (LaneReport, Duration) {
    let lane = Lane::new(nbd(from), nbd(to)).with_settings(strict(way));
    let running = Mover::new(lanes::mover(way)).start(vec![lane]).unwrap();
    let began = Instant::now();
    while running.progress().acknowledged == 0 {
        assert!(began.elapsed() < HANG, "the lane does not move");
        thread::yield_now();
    }
    let acted = Instant::now();
    act();
    assert!(running.wait_for(HANG), "the lane hangs");
    let took = acted.elapsed();
    (running.wait().lanes.pop().unwrap(), took)
}

/// A disk of 64 MiB that takes some seconds to be read.
fn slow_source() -> Nbdkit {
    // 1.32.5 aborts when a client hangs up with requests in flight, unless it has one thread.
    Nbdkit::pattern(64 * MIB).filter("rate", &["rate=128M"]).threads(1)
}

#[test]
fn a_side_that_is_stopped_for_good_fails_the_lane_no_later_than_the_deadline() {
    every_engine(|way| {
        for side in [Side::Source, Side::Target] {
            let source = slow_source().start().unwrap();
            let target = Nbdkit::memory(64 * MIB).threads(1).start().unwrap();
            let stopped = if side == Side::Source { &source } else { &target };
            let (report, took) =
                moving(way, &source.uri(), &target.uri(), || stopped.child.stop().unwrap());
            let fault = lanes::fault_of(report);
            assert_eq!(fault.side(), Some(side), "{fault}");
            let words = fault.to_string();
            assert!(words.contains("while waiting for"), "{words}");
            assert!(
                words.contains("a second connection waits for the server's greeting"),
                "{words}"
            );
            assert!(took < DEADLINE + SLACK, "{words} after {took:?}");
        }
    });
}

#[test]
fn a_server_that_answers_just_within_the_deadline_is_waited_for() {
    every_engine(|way| {
        for (source, target) in
            [("delay-read=900ms", "delay-write=0"), ("delay-read=0", "delay-write=900ms")]
        {
            let source = Nbdkit::pattern(256 * KIB).filter("delay", &[source]).start().unwrap();
            let target = Nbdkit::memory(256 * KIB).filter("delay", &[target]).start().unwrap();
            let settings = LaneSettings { requests: 2, ..strict(way) };
            let report = copied(way, &source.uri(), &target.uri(), settings);
            assert_eq!(report.reconnects, 0);
        }
    });
}

#[test]
fn a_dead_connection_is_replaced_at_the_deadline_where_its_server_lives() {
    every_way(|way| {
        for side in [Side::Source, Side::Target] {
            let (source, target) = pair(side, &Fault::HalfOpen, Trigger::Nth(5));
            let began = Instant::now();
            let report = copied(way, &source.uri(), &target.uri(), strict(way));
            let took = began.elapsed();
            assert_same(&content(), &target.content());
            assert_eq!((report.reconnects, source.violations()), (1, Vec::new()));
            assert_eq!(target.violations(), Vec::<String>::new());
            assert!((DEADLINE..DEADLINE + SLACK).contains(&took), "{took:?}");
        }
    });
}

#[test]
fn a_server_that_greets_and_whose_storage_hangs_is_not_taken_for_one_that_came_back() {
    every_engine(|way| {
        let source =
            Nbdkit::pattern(MIB).filter("delay", &["delay-read=600"]).threads(1).start().unwrap();
        let target = target().start().unwrap();
        let limit = DEADLINE + SLACK;
        let words = fails(way, Side::Source, &source.uri(), &target.uri(), strict(way), limit);
        assert!(words.contains("a second connection waits for the reply to 1 request"), "{words}");
    });
}

#[test]
fn a_server_that_reads_and_never_writes_is_given_up_after_one_replacement() {
    every_engine(|way| {
        let source = source().start().unwrap();
        let target =
            Nbdkit::memory(MIB).filter("delay", &["delay-write=600"]).threads(1).start().unwrap();
        // It answers what is read on a second connection, takes what is written there, and then
        // is silent for a deadline again.
        let limit = DEADLINE * 2 + SLACK;
        let words = fails(way, Side::Target, &source.uri(), &target.uri(), strict(way), limit);
        assert!(words.contains("gave up after 1 attempt "), "{words}");
    });
}

#[test]
fn a_server_with_one_slot_that_is_stopped_for_most_of_the_deadline_is_not_given_up() {
    let dir = folder();
    every_engine(|way| {
        let disk = blockferry_doubles::TestDisk::sized(dir.path(), 64 * MIB).unwrap();
        let source = slow_source().start().unwrap();
        let target = QemuNbd::new(&disk.path).format("raw").shared(1).start().unwrap();
        let (report, _) = moving(way, &source.uri(), &target.uri(), || {
            target.child.stop().unwrap();
            thread::sleep(DEADLINE * 3 / 4);
            target.child.cont().unwrap();
        });
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert_eq!(report.reconnects, 0);
    });
}

#[test]
fn a_server_that_drips_for_good_fails_the_lane_at_the_deadline() {
    let drip = Fault::Drip(Duration::from_millis(30));
    every_engine(|way| {
        let (source, target) = pair(Side::Source, &drip, Trigger::From(5));
        let limit = DEADLINE + SLACK;
        let words = fails(way, Side::Source, &source.uri(), &target.uri(), strict(way), limit);
        assert!(words.contains("while waiting for the replies to 8 requests"), "{words}");
        lanes::assert_no_stale_byte(&content(), &target.content());
    });
}

#[test]
fn a_connection_that_drips_is_replaced_at_the_deadline_where_its_server_does_better() {
    let drip = Fault::Drip(Duration::from_millis(30));
    every_way(|way| {
        let (source, target) = pair(Side::Source, &drip, Trigger::Nth(5));
        let report = copied(way, &source.uri(), &target.uri(), strict(way));
        assert_eq!(report.reconnects, 1);
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_line_is_dead_below_the_least_rate_and_slow_above_it() {
    every_engine(|way| {
        let source = source().tcp().start().unwrap();
        // A request takes more than two deadlines.
        let line = Proxy::to(source.address()).bytes_per_second(96 * KIB).start().unwrap();
        let settings = |least_rate| LaneSettings {
            request_bytes: Some(256 << 10),
            requests: 2,
            retries: 0,
            least_rate,
            ..strict(way)
        };
        let dead = target().start().unwrap();
        let limit = DEADLINE + SLACK;
        fails(way, Side::Source, &line.uri(""), &dead.uri(), settings(384 * KIB), limit);
        let slow = Hostile::builder().size(MIB).start().unwrap();
        let report = lanes::copy(way, &line.uri(""), &slow.uri(), settings(24 * KIB));
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
    });
}

#[test]
fn a_target_stopped_within_a_request_was_said_to_owe_the_replies_to_0_requests() {
    every_way(|way| {
        let dir = folder();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
        let source = Nbdkit::memory(128 << 20).start().unwrap();
        let target = QemuNbd::new(image).format("raw").shared(4).start().unwrap();
        let settings = LaneSettings {
            // Far more than the sockets hold.
            request_bytes: Some(16 << 20),
            requests: 1,
            extents: false,
            sparse_bytes: Some(0),
            ..strict(way)
        };
        let lane = Lane::new(nbd(&source.uri()), nbd(&target.uri())).with_settings(settings);
        let running = Mover::new(lanes::mover(way)).start(vec![lane]).unwrap();
        let began = Instant::now();
        while running.progress().acknowledged == 0 {
            assert!(began.elapsed() < HANG, "the lane does not move");
            thread::yield_now();
        }
        target.child.stop().unwrap();
        assert!(running.wait_for(HANG), "it hangs");
        let fault = lanes::fault_of(running.wait().lanes.pop().unwrap());
        let words = fault.to_string();
        let named = ["the rest of a request to be taken", "the reply to 1 request"];
        assert!(named.iter().any(|words_for| words.contains(words_for)), "{words}");
        assert!(!words.contains(" 0 requests"), "{words}");
    });
}

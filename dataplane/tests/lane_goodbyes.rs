//! How lanes take leave of their servers, above all when the other side is lost.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::{Lane, LaneSettings, Mover, MoverSettings, Side};
use blockferry_doubles::disk::compare;
use blockferry_doubles::hostile::{Command, Replies, Request};
use blockferry_doubles::{
    Fault, Hostile, HostileServer, Nbdkit, Occasion, Proxy, Server, TestDisk, Trigger,
};
use lanes::failing_target::{builder, content, source};
use lanes::{
    DEADLINE, HANG, MIB, SLACK, Way, assert_same, copied, disk, every_way, fails, folder, hasty,
    nbd, qcow2,
};

/// Every connection that was ever made ends with a goodbye.
fn told_goodbye(server: &HostileServer) {
    let connections = server.accepted();
    let goodbyes = |log: &[Request]| {
        log.iter().filter(|request| request.command == Command::Disc).count() as u64
    };
    let all = server.wait_for_log(SLACK, |log| goodbyes(log) == connections);
    assert!(all, "{} goodbyes on {connections} connections", goodbyes(&server.log()));
    assert_eq!(server.violations(), Vec::<String>::new());
}

fn lost_target(way: Way, source: &HostileServer, fault: Fault, settings: LaneSettings) {
    let target = builder().fault_on(Occasion::Write, fault, Trigger::From(5)).start().unwrap();
    let limit = DEADLINE + SLACK;
    fails(way, Side::Target, &source.uri(), &target.uri(), settings, limit);
}

#[test]
fn a_source_is_heard_out_and_told_goodbye_when_its_target_is_lost_for_good() {
    let losses = [
        (Fault::HalfOpen, Replies::Structured),
        (Fault::StallInRequest, Replies::Simple),
        (Fault::NoReply, Replies::Simple),
        (Fault::CloseInRequest, Replies::Structured),
    ];
    every_way(|way| {
        for (fault, replies) in &losses {
            eprintln!("   {fault:?} {replies:?}");
            let source = Hostile::builder().content(&content()).replies(*replies).start().unwrap();
            lost_target(way, &source, fault.clone(), hasty(way));
            told_goodbye(&source);
        }
    });
}

#[test]
fn each_connection_of_a_source_is_told_goodbye_when_the_target_is_lost_for_good() {
    every_way(|way| {
        let source = source();
        let settings = LaneSettings { connections: 3, ..hasty(way) };
        lost_target(way, &source, Fault::HalfOpen, settings);
        assert_eq!(source.accepted(), 3);
        told_goodbye(&source);
    });
}

#[test]
fn a_target_is_told_goodbye_when_its_source_is_lost_for_good() {
    every_way(|way| {
        let source = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Fault::CloseBeforeReply, Trigger::From(5))
            .start()
            .unwrap();
        let target = builder().start().unwrap();
        let limit = DEADLINE + SLACK;
        fails(way, Side::Source, &source.uri(), &target.uri(), hasty(way), limit);
        // A connection that had half of a payload ended with the source's; the last one did not.
        let goodbye = |last: &Request| last.command == Command::Disc;
        assert!(target.wait_for_log(SLACK, |log| log.last().is_some_and(goodbye)));
    });
}

#[test]
fn a_connection_beside_a_silent_one_is_told_goodbye_when_that_gets_on() {
    every_way(|way| {
        let slow = Fault::SlowReply(DEADLINE * 3 / 2);
        let source = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, slow, Trigger::Nth(9))
            .start()
            .unwrap();
        let target = builder().start().unwrap();
        let settings = LaneSettings { deadline: DEADLINE * 2, ..hasty(way) };
        let report = copied(way, &source.uri(), &target.uri(), settings);
        assert_eq!((report.reconnects, source.accepted()), (0, 2));
        told_goodbye(&source);
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_source_that_is_silent_too_is_heard_out_for_no_longer_than_the_deadline() {
    every_way(|way| {
        for fault in [Fault::HalfOpen, Fault::StallMidPayload] {
            eprintln!("   {fault:?}");
            let source = Hostile::builder()
                .content(&content())
                .fault_on(Occasion::Read, fault, Trigger::From(9))
                .start()
                .unwrap();
            let target = builder()
                .fault_on(Occasion::Write, Fault::HalfOpen, Trigger::From(5))
                .start()
                .unwrap();
            let began = Instant::now();
            let settings = LaneSettings { deadline: DEADLINE, ..hasty(way) };
            let report = lanes::copy(way, &source.uri(), &target.uri(), settings);
            assert!(report.outcome.is_err());
            assert!(began.elapsed() < DEADLINE * 2 + SLACK, "{:?}", began.elapsed());
        }
    });
}

#[test]
fn a_source_is_told_goodbye_when_a_lane_with_a_stuck_target_is_interrupted() {
    every_way(|way| {
        let source = source();
        let target =
            builder().fault_on(Occasion::Write, Fault::HalfOpen, Trigger::From(5)).start().unwrap();
        let settings = LaneSettings { deadline: DEADLINE * 4, ..hasty(way) };
        let lane = Lane::new(nbd(&source.uri()), nbd(&target.uri())).with_settings(settings);
        let running = Mover::new(lanes::mover(way)).start(vec![lane]).unwrap();
        assert!(target.wait_for_log(HANG, |log| {
            log.iter().filter(|request| request.command == Command::Write).count() >= 4
        }));
        running.canceller().cancel();
        assert!(running.wait_for(HANG));
        drop(running.wait());
        told_goodbye(&source);
    });
}

/// Ends a real target midway. The source has many threads, as it has by default, and more to send
/// than its socket takes: it would abort if it were hung up on.
fn real_target_ended(way: Way, target: &str, end: fn(&mut Server)) {
    let dir = folder();
    let (disk, _) = disk(&dir, 32 * MIB, 51);
    let mut source = Nbdkit::file(&disk.path).start().unwrap();
    let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
    let mut server = match target {
        "nbdkit" => Nbdkit::file(&copy.path).start().unwrap(),
        _ => qcow2(&dir, "target.qcow2", disk.size).1,
    };
    let settings = LaneSettings { request_bytes: Some(1 << 20), requests: 16, ..hasty(way) };
    let lane = Lane::new(nbd(&source.uri()), nbd(&server.uri())).with_settings(settings);
    // So slow that the target can be ended in the middle.
    let mover = MoverSettings { rate_limit: Some(32 * MIB), ..lanes::mover(way) };
    let running = Mover::new(mover).start(vec![lane]).unwrap();
    while running.progress().acknowledged < MIB {
        thread::yield_now();
    }
    end(&mut server);
    assert!(running.wait_for(DEADLINE * 2 + SLACK));
    let fault = lanes::fault_of(running.wait().lanes.remove(0));
    assert_eq!(fault.side(), Some(Side::Target), "{fault}");
    assert!(source.child.is_running(), "{}", source.stderr());
    let again = TestDisk::sized(dir.path(), disk.size).unwrap();
    let target = Nbdkit::file(&again.path).start().unwrap();
    copied(way, &source.uri(), &target.uri(), hasty(way));
    compare(&disk.path, &again.path, "raw").unwrap();
}

#[test]
fn a_real_source_outlives_a_target_that_is_stopped_for_good() {
    every_way(|way| {
        for target in ["nbdkit", "qemu-nbd"] {
            real_target_ended(way, target, |server| server.child.stop().unwrap());
        }
    });
}

#[test]
fn a_real_source_outlives_a_target_that_is_killed() {
    every_way(|way| {
        for target in ["nbdkit", "qemu-nbd"] {
            real_target_ended(way, target, |server| {
                server.child.kill().unwrap();
            });
        }
    });
}

#[test]
fn stopped_servers_on_both_sides_fail_the_lane_within_two_deadlines() {
    let dir = folder();
    let (disk, _) = disk(&dir, 6 * MIB, 52);
    every_way(|way| {
        let source = Nbdkit::file(&disk.path).tcp().start().unwrap();
        let (_, target) = qcow2(&dir, &format!("{way:?}.qcow2"), disk.size);
        let line = Proxy::to(target.address()).bytes_per_second(16 * MIB).start().unwrap();
        let report = thread::scope(|scope| {
            let stops = scope.spawn(|| {
                assert!(line.wait_for_bytes(MIB, 0, HANG));
                target.child.stop().unwrap();
                source.child.stop().unwrap();
                Instant::now()
            });
            let report = lanes::copy(way, &source.uri(), &line.uri(""), hasty(way));
            let took = stops.join().unwrap().elapsed();
            assert!(took < DEADLINE * 2 + Duration::from_secs(1), "{took:?}");
            report
        });
        assert!(report.outcome.unwrap_err().side().is_some());
    });
}

//! Targets that stop, break off, forget, or come back as another.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::time::{Duration, Instant};

use blockferry_dataplane::LaneSettings;
use blockferry_doubles::hostile::Command;
use blockferry_doubles::{Fault, Hostile, Occasion, Proxy, Trigger};
use lanes::failing_target::{SIZE, builder, content, refused, source, survived};
use lanes::{
    DEADLINE, KIB, MIB, SLACK, assert_no_stale_byte, assert_same, copied, every_way, hasty, patient,
};

#[test]
fn connections_that_break_are_made_again_and_nothing_is_lost() {
    let breaks = [
        Fault::CloseBeforeReply,
        Fault::ResetBeforeReply,
        Fault::CloseMidHeader,
        Fault::CloseInRequest,
        Fault::Error(108),
        Fault::Crash,
    ];
    every_way(|way| {
        for fault in &breaks {
            for tcp in [false, true] {
                eprintln!("   {fault:?} tcp {tcp}");
                let target = builder().lose_unflushed().fault_on(
                    Occasion::Write,
                    fault.clone(),
                    Trigger::Nth(11),
                );
                let target = if tcp { target.tcp() } else { target }.start().unwrap();
                survived(way, &target, patient(way));
                assert!(target.accepted() > 1);
            }
        }
    });
}

#[test]
fn what_a_crash_lost_after_the_last_write_is_written_again() {
    every_way(|way| {
        let target = builder()
            .lose_unflushed()
            .fault_on(Occasion::Flush, Fault::Crash, Trigger::Nth(1))
            .start()
            .unwrap();
        survived(way, &target, patient(way));
        assert!(target.flushes() > 0);
    });
}

#[test]
fn what_a_target_without_flush_may_have_lost_is_written_again() {
    every_way(|way| {
        let target = builder()
            .lose_unflushed()
            .no_flush()
            .fault_on(Occasion::Write, Fault::Crash, Trigger::Nth(12))
            .start()
            .unwrap();
        let settings = LaneSettings { flush_interval: Duration::ZERO, ..patient(way) };
        survived(way, &target, settings);
    });
}

#[test]
fn flushes_at_intervals_save_what_they_covered() {
    every_way(|way| {
        let target = builder()
            .lose_unflushed()
            .fault_on(Occasion::Write, Fault::Crash, Trigger::Nth(12))
            .start()
            .unwrap();
        let settings = LaneSettings { flush_interval: Duration::ZERO, requests: 2, ..patient(way) };
        survived(way, &target, settings);
        assert!(target.flushes() > 2);
        assert!(target.count(Command::Write) < 40, "{}", target.count(Command::Write));
    });
}

#[test]
fn a_connection_that_stalls_is_made_again_within_the_deadline() {
    every_way(|way| {
        for fault in
            [Fault::StallMidPayload, Fault::HalfOpen, Fault::NoReply, Fault::StallInRequest]
        {
            eprintln!("   {fault:?}");
            let began = Instant::now();
            let target =
                builder().fault_on(Occasion::Write, fault, Trigger::Nth(5)).start().unwrap();
            survived(way, &target, LaneSettings { deadline: DEADLINE * 2, ..hasty(way) });
            assert!(began.elapsed() < DEADLINE * 2 + SLACK);
        }
    });
}

#[test]
fn a_target_that_stalls_each_time_fails_the_lane_within_the_deadline() {
    every_way(|way| {
        for fault in [Fault::HalfOpen, Fault::StallInRequest, Fault::StallMidPayload] {
            eprintln!("   {fault:?}");
            let target =
                builder().fault_on(Occasion::Write, fault, Trigger::From(5)).start().unwrap();
            let words = refused(way, &target, hasty(way));
            assert!(words.contains("waiting for"), "{words}");
        }
    });
}

#[test]
fn a_flush_that_is_never_answered_does_not_have_the_lane_done_again_for_ever() {
    every_way(|way| {
        let target =
            builder().fault_on(Occasion::Flush, Fault::NoReply, Trigger::Always).start().unwrap();
        let settings = LaneSettings { retries: 2, ..hasty(way) };
        let words = refused(way, &target, settings);
        assert!(words.contains("gave up after 1 attempt "), "{words}");
    });
}

/// Dies at every 14th write, and forgets what was not flushed: after it has written all of the
/// disk, it has still to write what it forgot.
fn mortal() -> Hostile {
    builder().lose_unflushed().fault_on(Occasion::Write, Fault::Crash, Trigger::Every(14))
}

#[test]
fn a_target_that_dies_sooner_than_the_flush_interval_gets_everything() {
    every_way(|way| {
        let target = mortal().start().unwrap();
        let settings = LaneSettings { requests: 4, ..patient(way) };
        survived(way, &target, settings);
    });
}

#[test]
fn a_target_that_dies_and_cannot_flush_does_not_have_the_lane_done_again_for_ever() {
    every_way(|way| {
        let target = mortal().no_flush().start().unwrap();
        let settings = LaneSettings { requests: 4, ..hasty(way) };
        let words = refused(way, &target, settings);
        assert!(words.contains("5 attempts"), "{words}");
    });
}

#[test]
fn what_was_read_while_the_target_was_away_is_written_when_it_is_back() {
    every_way(|way| {
        // The first new connection fails: the target is away for a while, and reads go on.
        let target = builder()
            .fault_on(Occasion::Write, Fault::Crash, Trigger::Nth(3))
            .fault_on(Occasion::Greeting, Fault::CloseBeforeGreeting, Trigger::Nth(2))
            .fault_on(Occasion::Greeting, Fault::CloseBeforeGreeting, Trigger::Nth(3))
            .start()
            .unwrap();
        let settings = LaneSettings { backoff: Duration::from_millis(30), ..patient(way) };
        survived(way, &target, settings);
        assert_eq!(target.accepted(), 4);
    });
}

#[test]
fn without_retries_the_first_loss_fails_the_lane_at_once() {
    every_way(|way| {
        let target = builder()
            .fault_on(Occasion::Write, Fault::CloseBeforeReply, Trigger::Nth(5))
            .start()
            .unwrap();
        // Nothing that was begun can still end: it is not waited for.
        let settings = LaneSettings { retries: 0, deadline: Duration::from_secs(10), ..hasty(way) };
        refused(way, &target, settings);
        assert_eq!(target.accepted(), 1);
    });
}

#[test]
fn another_size_on_reconnecting_is_refused() {
    every_way(|way| {
        let target = builder()
            .size_on_reconnect(SIZE as u64 + 4096)
            .fault_on(Occasion::Write, Fault::CloseBeforeReply, Trigger::Nth(5))
            .start()
            .unwrap();
        let words = refused(way, &target, hasty(way));
        assert!(words.contains("another export"), "{words}");
        assert!(target.log().iter().all(|request| request.connection == 1));
    });
}

#[test]
fn a_slow_target_is_no_dead_target() {
    every_way(|way| {
        let target = builder().tcp().start().unwrap();
        let line = Proxy::to(target.address()).bytes_per_second(MIB).start().unwrap();
        let settings = LaneSettings {
            // More would only fill the buffers in between.
            request_bytes: Some(256 << 10),
            in_flight_bytes: 256 << 10,
            deadline: Duration::from_millis(500),
            retries: 0,
            ..patient(way)
        };
        copied(way, &source().uri(), &line.uri(""), settings);
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_line_that_freezes_and_thaws_only_delays_the_lane() {
    every_way(|way| {
        let target = builder().tcp().start().unwrap();
        let line = Proxy::to(target.address()).bytes_per_second(8 * MIB).start().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(line.wait_for_bytes(300 * KIB, 0, lanes::HANG));
                line.freeze();
                // Long enough that another connection waits beside it.
                std::thread::sleep(DEADLINE * 3);
                line.thaw();
            });
            let settings = LaneSettings { deadline: DEADLINE * 4, ..patient(way) };
            copied(way, &source().uri(), &line.uri(""), settings);
        });
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_line_that_is_cut_and_refused_for_a_while_only_delays_the_lane() {
    every_way(|way| {
        let target = builder().tcp().lose_unflushed().start().unwrap();
        let line = Proxy::to(target.address()).start().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(line.wait_for_bytes(300 * KIB, 0, lanes::HANG));
                line.refuse(true);
                line.cut();
                let taken = line.accepted();
                while line.accepted() < taken + 2 {
                    std::thread::yield_now();
                }
                line.refuse(false);
            });
            let settings = LaneSettings {
                backoff: Duration::from_millis(20),
                deadline: DEADLINE * 2,
                ..patient(way)
            };
            copied(way, &source().uri(), &line.uri(""), settings);
        });
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_failure_midway_leaves_nothing_stale_behind() {
    every_way(|way| {
        let target = Hostile::builder()
            .size(SIZE as u64)
            .fault_on(Occasion::Write, Fault::CloseInRequest, Trigger::From(6))
            .start()
            .unwrap();
        refused(way, &target, hasty(way));
        assert_no_stale_byte(&content(), &target.content());
    });
}

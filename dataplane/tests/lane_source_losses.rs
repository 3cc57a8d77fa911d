//! Sources that stop, break off, or come back as another.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::time::{Duration, Instant};

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::hostile::{Replies, wire};
use blockferry_doubles::{Fault, Hostile, Occasion, Proxy, Trigger};
use lanes::failing_source::{SIZE, content, refused, survived, target};
use lanes::{
    DEADLINE, KIB, MIB, SLACK, assert_no_stale_byte, assert_same, copied, copy, every_way, fails,
    hasty, patient,
};

#[test]
fn connections_that_break_are_made_again() {
    let breaks = [
        Fault::CloseBeforeReply,
        Fault::ResetBeforeReply,
        Fault::CloseMidHeader,
        Fault::CloseMidPayload,
        Fault::Error(108),
        Fault::Crash,
    ];
    every_way(|way| {
        for fault in &breaks {
            for tcp in [false, true] {
                eprintln!("   {fault:?} tcp {tcp}");
                let server = Hostile::builder().content(&content()).fault_on(
                    Occasion::Read,
                    fault.clone(),
                    Trigger::Every(9),
                );
                let server = if tcp { server.tcp() } else { server }.start().unwrap();
                survived(way, &server);
                assert!(server.accepted() > 1);
            }
        }
    });
}

/// A server that is ending may have taken its export away while it still answers.
#[test]
fn an_export_that_is_away_for_a_moment_is_tried_again() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Fault::CloseBeforeReply, Trigger::Nth(5))
            .fault_on(Occasion::Go, Fault::OptionError(wire::rep::ERR_UNKNOWN), Trigger::Nth(2))
            .start()
            .unwrap();
        survived(way, &server);
        assert!(server.accepted() > 2);
    });
}

/// The target's connection ends with that of the source. While it is made again, what a source
/// with simple replies sends next has to stay where it is.
#[test]
fn data_of_a_simple_reply_wait_for_a_target_that_is_slow_to_come_back() {
    every_way(|way| {
        for nth in [3, 9, 20] {
            let server = Hostile::builder()
                .content(&content())
                .replies(Replies::Simple)
                .fault_on(Occasion::Read, Fault::CloseMidPayload, Trigger::Nth(nth))
                .start()
                .unwrap();
            let slow = Fault::SlowGreeting(Duration::from_millis(3));
            let target = Hostile::builder()
                .size(SIZE as u64)
                .fault_on(Occasion::Greeting, slow, Trigger::Always)
                .start()
                .unwrap();
            copied(way, &server.uri(), &target.uri(), patient(way));
            assert_same(&content(), &target.content());
            assert!(server.accepted() > 1);
        }
    });
}

#[test]
fn a_connection_that_stalls_is_made_again_within_the_deadline() {
    every_way(|way| {
        for fault in [Fault::StallMidPayload, Fault::HalfOpen, Fault::NoReply] {
            eprintln!("   {fault:?}");
            let began = Instant::now();
            let server = Hostile::builder()
                .content(&content())
                .fault_on(Occasion::Read, fault, Trigger::Nth(5))
                .start()
                .unwrap();
            let target = target();
            copied(
                way,
                &server.uri(),
                &target.uri(),
                LaneSettings { deadline: DEADLINE * 2, ..hasty(way) },
            );
            assert_same(&content(), &target.content());
            assert!(began.elapsed() < DEADLINE * 2 + SLACK);
        }
    });
}

#[test]
fn a_source_that_stalls_each_time_fails_the_lane_within_the_deadline() {
    every_way(|way| {
        for fault in [Fault::StallMidPayload, Fault::HalfOpen] {
            eprintln!("   {fault:?}");
            let server = Hostile::builder()
                .content(&content())
                .fault_on(Occasion::Read, fault, Trigger::From(5))
                .start()
                .unwrap();
            refused(way, &server, hasty(way));
        }
    });
}

#[test]
fn a_source_that_breaks_each_time_fails_the_lane_after_its_retries() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Fault::CloseBeforeReply, Trigger::From(5))
            .start()
            .unwrap();
        let settings = LaneSettings { retries: 3, ..hasty(way) };
        let words = refused(way, &server, settings);
        assert!(words.contains("3 attempts"), "{words}");
        // One more where what came before the first loss could be made safe.
        assert!((4..=5).contains(&server.accepted()));
    });
}

#[test]
fn without_retries_the_first_loss_fails_the_lane() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Fault::CloseBeforeReply, Trigger::Nth(5))
            .start()
            .unwrap();
        let words = refused(way, &server, LaneSettings { retries: 0, ..hasty(way) });
        assert!(words.contains("lost") && words.contains("waiting for"), "{words}");
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn a_handshake_that_fails_on_reconnecting_is_tried_again() {
    every_way(|way| {
        for fault in [Fault::CloseBeforeGreeting, Fault::NoGreeting, Fault::CloseAtOption] {
            eprintln!("   {fault:?}");
            let server = Hostile::builder()
                .content(&content())
                .fault_on(Occasion::Read, Fault::CloseBeforeReply, Trigger::Nth(5))
                .fault_on(Occasion::Greeting, fault.clone(), Trigger::Nth(2))
                .fault_on(Occasion::Option, fault.clone(), Trigger::Connection(2))
                .start()
                .unwrap();
            let target = target();
            // Where it comes back it has time to.
            let settings = LaneSettings { deadline: DEADLINE * 2, ..hasty(way) };
            let stalls = fault == Fault::NoGreeting;
            let report = copy(way, &server.uri(), &target.uri(), settings);
            if stalls {
                // Whether it comes back or not: it must not take longer than the deadline.
                assert!(report.elapsed < DEADLINE * 2 + SLACK);
                continue;
            }
            report.outcome.unwrap();
            assert_same(&content(), &target.content());
            assert_eq!(server.accepted(), 3);
        }
    });
}

#[test]
fn another_size_on_reconnecting_is_refused() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .size_on_reconnect(SIZE as u64 + 4096)
            .fault_on(Occasion::Read, Fault::CloseBeforeReply, Trigger::Nth(5))
            .start()
            .unwrap();
        let words = refused(way, &server, hasty(way));
        assert!(words.contains("another export"), "{words}");
    });
}

#[test]
fn a_slow_source_is_no_dead_source() {
    every_way(|way| {
        let server = Hostile::builder().content(&content()).tcp().start().unwrap();
        // 2 MiB at 1 MiB/s take four deadlines, and 256 KiB are one request.
        let line = Proxy::to(server.address()).bytes_per_second(MIB).start().unwrap();
        let target = target();
        let settings = LaneSettings {
            request_bytes: Some(512 << 10),
            deadline: Duration::from_millis(400),
            retries: 0,
            ..hasty(way)
        };
        copied(way, &line.uri(""), &target.uri(), settings);
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_line_that_freezes_fails_the_lane_within_the_deadline() {
    every_way(|way| {
        let server = Hostile::builder().content(&content()).tcp().start().unwrap();
        let line = Proxy::to(server.address()).bytes_per_second(4 * MIB).start().unwrap();
        let target = target();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(line.wait_for_bytes(0, 512 * KIB, lanes::HANG));
                line.freeze();
            });
            let limit = DEADLINE * 2 + SLACK;
            let words = fails(way, Side::Source, &line.uri(""), &target.uri(), hasty(way), limit);
            assert!(words.contains("waiting for") || words.contains("no answer"), "{words}");
        });
        line.thaw();
        assert_no_stale_byte(&content(), &target.content());
    });
}

#[test]
fn a_line_that_is_cut_now_and_then_only_delays_the_lane() {
    every_way(|way| {
        let server = Hostile::builder().content(&content()).tcp().start().unwrap();
        let line = Proxy::to(server.address()).start().unwrap();
        let target = target();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for part in 1..4 {
                    assert!(line.wait_for_bytes(0, part * 300 * KIB, lanes::HANG));
                    line.cut();
                }
            });
            copied(way, &line.uri(""), &target.uri(), patient(way));
        });
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_source_that_is_gone_names_its_address() {
    every_way(|way| {
        let gone = Hostile::builder().tcp().start().unwrap().uri();
        let target = target();
        let words = fails(way, Side::Source, &gone, &target.uri(), hasty(way), SLACK);
        assert!(words.contains("cannot connect"), "{words}");
    });
}

//! Targets that fail, lie, stop, break off or forget.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::time::Duration;

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::hostile::{Command, Replies};
use blockferry_doubles::{Fault, Hostile, Occasion, Trigger};
use lanes::failing_target::{SIZE, builder, content, refused, source, survived};
use lanes::{
    DEADLINE, SLACK, assert_same, copied, copy, dense, every_engine, every_way, fails, hasty,
    patient,
};

#[test]
fn replies_that_break_the_protocol_fail_the_lane() {
    let broken = [
        Fault::WrongReplyMagic,
        Fault::WrongCookie(1),
        Fault::WrongCookie(0x8000),
        Fault::WrongCookie(0x1_0000),
        Fault::WrongCookie(u64::MAX),
        Fault::UnissuedReply,
        Fault::HugeErrorMessage,
        Fault::ErrorMessageOverrun,
        Fault::UnknownChunk(77),
        Fault::EndlessErrors,
    ];
    every_way(|way| {
        for fault in &broken {
            eprintln!("   {fault:?}");
            let target = builder()
                .fault_on(Occasion::Write, fault.clone(), Trigger::Nth(5))
                .start()
                .unwrap();
            refused(way, &target, hasty(way));
        }
    });
}

#[test]
fn an_acknowledgement_that_comes_twice_fails_the_lane_or_changes_nothing() {
    every_way(|way| {
        let target = builder()
            .fault_on(Occasion::Write, Fault::DuplicateReply, Trigger::Nth(5))
            .start()
            .unwrap();
        let report = copy(way, &source().uri(), &target.uri(), hasty(way));
        if report.outcome.is_ok() {
            assert_same(&content(), &target.content());
        }
    });
}

#[test]
fn a_refused_write_fails_the_lane_with_its_range() {
    every_way(|way| {
        for replies in [Replies::Simple, Replies::Structured, Replies::Extended] {
            // ENOSPC.
            let target = builder()
                .replies(replies)
                .fault_on(Occasion::Write, Fault::Error(28), Trigger::From(4))
                .start()
                .unwrap();
            let words = refused(way, &target, hasty(way));
            assert!(words.contains("WRITE of ") && words.contains("space"), "{words}");
        }
    });
}

#[test]
fn a_refused_write_zeroes_fails_the_lane() {
    every_way(|way| {
        let target = builder()
            .fault_on(Occasion::WriteZeroes, Fault::Error(5), Trigger::Nth(1))
            .start()
            .unwrap();
        let words = refused(way, &target, hasty(way));
        assert!(words.contains("WRITE"), "{words}");
    });
}

#[test]
fn the_request_that_was_refused_is_named_and_not_all_of_its_piece() {
    // Runs of zeros in between data, found by reading them: several requests for one piece.
    let mut content = dense(SIZE, 8);
    for start in (0..SIZE).step_by(64 << 10) {
        content[start + 8192..start + 20_480].fill(0);
    }
    every_engine(|way| {
        for (occasion, verb) in
            [(Occasion::Write, "WRITE"), (Occasion::WriteZeroes, "WRITE_ZEROES")]
        {
            let source = Hostile::builder().content(&content).start().unwrap();
            let target =
                builder().fault_on(occasion, Fault::Error(5), Trigger::Nth(6)).start().unwrap();
            let settings = LaneSettings { extents: false, ..hasty(way) };
            let words =
                fails(way, Side::Target, &source.uri(), &target.uri(), settings, DEADLINE + SLACK);
            let log = target.log();
            let request = log.iter().find(|request| request.error != 0).unwrap();
            assert!(request.length < 64 << 10, "{request:?} is a part");
            let says = format!("{verb} of {} bytes at {} ", request.length, request.offset);
            assert!(words.replace([',', ':'], " ").contains(&says), "{words} is of {request:?}");
        }
    });
}

#[test]
fn a_refused_flush_is_no_success() {
    every_way(|way| {
        let target =
            builder().fault_on(Occasion::Flush, Fault::Error(5), Trigger::Always).start().unwrap();
        let words = refused(way, &target, hasty(way));
        assert!(words.contains("FLUSH"), "{words}");
    });
}

#[test]
fn write_zeroes_that_are_not_supported_after_all_are_written() {
    every_way(|way| {
        let mut content = dense(SIZE, 8);
        for part in 0..16 {
            content[part * 131_072..part * 131_072 + 65_536].fill(0);
        }
        let source = Hostile::builder().content(&content).start().unwrap();
        // ENOTSUP, to each of those that are in flight.
        let target = builder()
            .fault_on(Occasion::WriteZeroes, Fault::Error(95), Trigger::Always)
            .start()
            .unwrap();
        copied(way, &source.uri(), &target.uri(), patient(way));
        assert_same(&content, &target.content());
    });
}

#[test]
fn a_target_without_write_zeroes_gets_zeros() {
    every_way(|way| {
        let target = builder().no_write_zeroes().block_size(1, 4096, 64 << 10).start().unwrap();
        survived(way, &target, patient(way));
        assert_eq!(target.count(Command::WriteZeroes), 0);
    });
}

#[test]
fn handshakes_that_fail_name_the_target_within_the_deadline() {
    every_way(|way| {
        for fault in [
            Fault::NoGreeting,
            Fault::CloseBeforeGreeting,
            Fault::StallAtOption,
            Fault::EndlessOptionReplies,
        ] {
            let target = builder().fault(fault, Trigger::Always).start().unwrap();
            refused(way, &target, hasty(way));
        }
    });
}

#[test]
fn targets_that_do_not_fit_are_refused_before_anything_is_written() {
    every_way(|way| {
        let read_only = builder().read_only().start().unwrap();
        assert!(refused(way, &read_only, hasty(way)).contains("read-only"));
        let small = Hostile::builder().size(SIZE as u64 - 1).start().unwrap();
        assert!(refused(way, &small, hasty(way)).contains("too small"));
        for target in [&read_only, &small] {
            assert!(target.written().is_empty() && target.zeroed().is_empty());
        }
    });
}

#[test]
fn a_target_that_is_gone_names_its_address() {
    every_way(|way| {
        let gone = builder().tcp().start().unwrap().uri();
        let words = fails(way, Side::Target, &source().uri(), &gone, hasty(way), SLACK);
        assert!(words.contains("cannot connect"), "{words}");
    });
}

#[test]
fn a_source_that_leaves_when_all_is_read_is_no_failure() {
    every_way(|way| {
        let source = Hostile::builder().content(&content()).start().unwrap();
        let target = builder()
            .fault_on(
                Occasion::Flush,
                Fault::SlowReply(Duration::from_millis(150)),
                Trigger::Nth(1),
            )
            .start()
            .unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(target.wait_for_log(lanes::HANG, |log| {
                    log.iter().any(|r| r.command == Command::Flush)
                }));
                source.crash();
            });
            copied(way, &source.uri(), &target.uri(), LaneSettings { retries: 0, ..patient(way) });
        });
        assert_same(&content(), &target.content());
    });
}

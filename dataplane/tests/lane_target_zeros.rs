//! What a target says of its own zeros, and what it does not.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::time::Duration;

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::hostile::Replies;
use blockferry_doubles::{Fault, Hostile, HostileServer, Occasion, Trigger};
use lanes::{DEADLINE, SLACK, assert_same, copied, copy, dense, every_way, fails, hasty, patient};

const SIZE: usize = 4 << 20;

/// Half of it zeros.
fn content() -> Vec<u8> {
    let mut content = dense(SIZE, 91);
    content[1 << 20..3 << 20].fill(0);
    content
}

fn source() -> HostileServer {
    Hostile::builder().content(&content()).start().unwrap()
}

/// Stale, but for a part of what has to be zero and a part of what has not.
fn target() -> Hostile {
    let mut stale = vec![0xEE; SIZE];
    stale[(3 << 20) / 2..(7 << 20) / 2].fill(0);
    Hostile::builder().content(&stale).lose_unflushed()
}

#[test]
fn answers_of_any_form_leave_no_stale_byte() {
    let faults = [
        Fault::Error(22),
        Fault::OneExtent,
        Fault::ManyExtents(700),
        Fault::LongLastExtent,
        Fault::HoleWithoutZero,
        Fault::WrongContext,
        Fault::CloseBeforeReply,
        Fault::Crash,
        Fault::NoReply,
        Fault::SlowReply(Duration::from_millis(20)),
    ];
    every_way(|way| {
        for fault in &faults {
            for replies in [Replies::Structured, Replies::Extended] {
                eprintln!("   {fault:?} {replies:?}");
                let target = target()
                    .replies(replies)
                    .fault_on(Occasion::BlockStatus, fault.clone(), Trigger::Always)
                    .start()
                    .unwrap();
                copied(
                    way,
                    &source().uri(),
                    &target.uri(),
                    LaneSettings { deadline: DEADLINE * 2, ..hasty(way) },
                );
                assert_same(&content(), &target.content());
            }
        }
    });
}

#[test]
fn answers_that_no_server_may_give_leave_no_stale_byte_behind_a_success() {
    every_way(|way| {
        for fault in [
            Fault::ZeroLengthExtents,
            Fault::ExtentsPastEnd,
            Fault::NoExtents,
            Fault::StallMidPayload,
        ] {
            eprintln!("   {fault:?}");
            let target =
                target().fault_on(Occasion::BlockStatus, fault, Trigger::Always).start().unwrap();
            let report = copy(way, &source().uri(), &target.uri(), hasty(way));
            match report.outcome {
                Ok(()) => assert_same(&content(), &target.content()),
                Err(fault) => assert_eq!(fault.side(), Some(Side::Target), "{fault}"),
            }
        }
    });
}

#[test]
fn zeros_that_the_target_had_not_made_safe_are_made_again_when_it_dies() {
    every_way(|way| {
        // A first copy fails at its FLUSH: its zeros are there, and not safe. The second one is
        // told that they are there; then the server dies.
        let target = target()
            .fault_on(Occasion::Flush, Fault::Error(5), Trigger::Nth(1))
            .fault_on(Occasion::Flush, Fault::Crash, Trigger::Nth(2))
            .start()
            .unwrap();
        fails(way, Side::Target, &source().uri(), &target.uri(), patient(way), DEADLINE + SLACK);
        let report = copied(way, &source().uri(), &target.uri(), patient(way));
        assert!(report.reconnects > 0);
        assert_same(&content(), &target.content());
    });
}

#[test]
fn zeros_stay_allocated_where_that_is_asked_whatever_the_target_says() {
    every_way(|way| {
        let target = target().start().unwrap();
        copied(
            way,
            &source().uri(),
            &target.uri(),
            LaneSettings { allocated: true, ..patient(way) },
        );
        assert_same(&content(), &target.content());
        let zeroed: u64 = target.zeroed().iter().map(|(_, length)| length).sum();
        assert!(zeroed >= 2 << 20, "{zeroed}");
    });
}

//! Sources that fail, lie, stop or break off.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::time::Instant;

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::hostile::{Command, Replies, wire};
use blockferry_doubles::{Fault, Hostile, HostileServer, Nbdkit, Occasion, Trigger, queued};
use lanes::failing_source::{SIZE, content, refused, refused_within, survived, target};
use lanes::{
    DEADLINE, HANG, MIB, SLACK, assert_same, copied, copy, dense, every_way, fails, hasty,
};

/// A source with one fault of its own.
fn source(fault: Fault, trigger: Trigger) -> HostileServer {
    Hostile::builder().content(&content()).fault(fault, trigger).start().unwrap()
}

#[test]
fn replies_that_break_the_protocol_fail_the_lane_and_write_nothing_stale() {
    let broken = [
        Fault::WrongReplyMagic,
        Fault::WrongCookie(1),
        Fault::WrongCookie(0x8000),
        Fault::WrongCookie(0x1_0000),
        Fault::WrongCookie(u64::MAX),
        Fault::UnissuedReply,
        Fault::HugeChunkLength,
        Fault::OverlappingData,
        Fault::DataOutOfRange,
        Fault::ShortData,
        Fault::EmptyData,
        Fault::SimpleReplyToRead,
        Fault::HugeErrorMessage,
        Fault::ErrorMessageOverrun,
        Fault::UnknownChunk(77),
        Fault::EndlessErrors,
    ];
    every_way(|way| {
        for fault in &broken {
            eprintln!("   {fault:?}");
            let server = Hostile::builder()
                .content(&content())
                .fault_on(Occasion::Read, fault.clone(), Trigger::Nth(5))
                .start()
                .unwrap();
            refused(way, &server, hasty(way));
        }
    });
}

#[test]
fn a_block_status_without_end_fails_the_lane_and_fills_no_memory() {
    every_way(|way| {
        let server = source(Fault::EndlessStatus, Trigger::Nth(1));
        let all = || queued(|_, _| true);
        let (others, began) = (all(), Instant::now());
        let words = refused_within(HANG, way, &server, hasty(way));
        let took = began.elapsed().saturating_sub(all().saturating_sub(others));
        assert!(words.contains("none ends its reply"), "{words}");
        // So many that a busy machine takes a while; not this program.
        assert!(took < DEADLINE + SLACK, "{took:?}");
    });
}

#[test]
fn a_reply_that_comes_twice_fails_the_lane() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Fault::DuplicateReply, Trigger::Nth(3))
            .start()
            .unwrap();
        refused(way, &server, hasty(way));
    });
}

#[test]
fn a_refused_read_fails_the_lane_with_its_range() {
    every_way(|way| {
        for replies in [Replies::Simple, Replies::Structured, Replies::Extended] {
            let server = Hostile::builder()
                .content(&content())
                .replies(replies)
                .fault_on(Occasion::Read, Fault::Error(5), Trigger::Nth(4))
                .start()
                .unwrap();
            let words = refused(way, &server, hasty(way));
            assert!(words.contains("READ of 65536 bytes at "), "{words}");
        }
    });
}

#[test]
fn an_error_before_or_after_data_is_an_error() {
    every_way(|way| {
        for fault in [Fault::DataThenError, Fault::ErrorThenData] {
            let words = refused(way, &source(fault, Trigger::Nth(4)), hasty(way));
            assert!(words.contains("READ of 65536 bytes at "), "{words}");
        }
    });
}

#[test]
fn an_unknown_error_number_is_an_error_and_no_broken_protocol() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Fault::Error(123_456), Trigger::Nth(4))
            .start()
            .unwrap();
        let words = refused(way, &server, hasty(way));
        assert!(words.contains("READ of"), "{words}");
    });
}

#[test]
fn handshakes_that_fail_name_the_source_within_the_deadline() {
    let faults = [
        Fault::NoGreeting,
        Fault::CloseBeforeGreeting,
        Fault::WrongGreetingMagic,
        Fault::WrongOptionMagic,
        Fault::WrongOptionEcho,
        Fault::OversizeOptionLength,
        Fault::StallAtOption,
        Fault::CloseAtOption,
        Fault::EndlessOptionReplies,
        Fault::OversizeExportSize,
        Fault::TlsRequired,
    ];
    every_way(|way| {
        for fault in &faults {
            eprintln!("   {fault:?}");
            let server = source(fault.clone(), Trigger::Always);
            refused(way, &server, hasty(way));
        }
    });
}

#[test]
fn block_status_that_fails_is_no_failure_of_the_lane() {
    let faults = [
        Fault::ZeroLengthExtents,
        Fault::LongLastExtent,
        Fault::ExtentsPastEnd,
        Fault::HoleWithoutZero,
        Fault::OneExtent,
        Fault::ManyExtents(700),
    ];
    let mut content = content();
    content[300_000..900_000].fill(0);
    every_way(|way| {
        for fault in &faults {
            eprintln!("   {fault:?}");
            let server = Hostile::builder()
                .content(&content)
                .fault(fault.clone(), Trigger::Always)
                .start()
                .unwrap();
            let target = target();
            let report = copy(way, &server.uri(), &target.uri(), hasty(way));
            match report.outcome {
                Ok(()) => assert_same(&content, &target.content()),
                // Only what no server may send may fail the lane.
                Err(e) => assert!(
                    matches!(fault, Fault::ZeroLengthExtents | Fault::ExtentsPastEnd),
                    "{fault:?}: {e}"
                ),
            }
        }
    });
}

#[test]
fn block_status_in_extents_of_a_byte_is_given_up_soon() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .fault(Fault::ManyExtents(16), Trigger::Always)
            .start()
            .unwrap();
        survived(way, &server);
        let questions = server.count(Command::BlockStatus);
        assert!(questions <= 16, "{questions} questions, with 16 bytes in each answer");
    });
}

#[test]
fn an_error_of_block_status_means_that_everything_is_read() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::BlockStatus, Fault::Error(22), Trigger::Always)
            .start()
            .unwrap();
        survived(way, &server);
    });
}

#[test]
fn a_context_that_was_not_selected_loses_no_data() {
    every_way(|way| survived(way, &source(Fault::WrongContext, Trigger::Always)));
}

#[test]
fn a_block_status_without_extents_fails_the_lane_and_writes_nothing_stale() {
    every_way(|way| {
        let words = refused(way, &source(Fault::NoExtents, Trigger::Always), hasty(way));
        assert!(words.contains("block status"), "{words}");
    });
}

#[test]
fn replies_in_pieces_are_put_together() {
    every_way(|way| {
        for fault in [Fault::MixedChunks, Fault::DoneApart] {
            for length in [None, Some(64 << 10), Some(2 << 20)] {
                eprintln!("   {fault:?} {length:?}");
                let server = source(fault.clone(), Trigger::Always);
                let target = target();
                let settings = LaneSettings { request_bytes: length, ..hasty(way) };
                copied(way, &server.uri(), &target.uri(), settings);
                assert_same(&content(), &target.content());
            }
        }
    });
}

#[test]
fn replies_in_pieces_of_large_requests_do_not_outgrow_the_pool() {
    let content = dense(5 << 20, 3);
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content)
            .fault(Fault::MixedChunks, Trigger::From(2))
            .start()
            .unwrap();
        let target = Hostile::builder().size(content.len() as u64).start().unwrap();
        copied(way, &server.uri(), &target.uri(), lanes::settings(way));
        assert_same(&content, &target.content());
    });
}

#[test]
fn interleaved_pieces_of_several_replies_find_their_places() {
    let mut content = content();
    content[500_000..700_000].fill(0);
    every_way(|way| {
        for (seed, replies) in
            [(1, Replies::Structured), (2, Replies::Extended), (3, Replies::Simple)]
        {
            let server = Hostile::builder()
                .content(&content)
                .replies(replies)
                .interleaved(seed)
                .start()
                .unwrap();
            let target = Hostile::builder()
                .size(SIZE as u64)
                .replies(replies)
                .interleaved(seed)
                .start()
                .unwrap();
            copied(way, &server.uri(), &target.uri(), hasty(way));
            assert_same(&content, &target.content());
        }
    });
}

#[test]
fn a_source_without_the_options_of_today_is_read() {
    every_way(|way| {
        let server = Hostile::builder()
            .content(&content())
            .unsupported(&[wire::opt::GO, wire::opt::INFO, wire::opt::STRUCTURED_REPLY])
            .start()
            .unwrap();
        survived(way, &server);
    });
}

#[test]
fn real_read_errors_name_the_source() {
    every_way(|way| {
        let server = Nbdkit::pattern(2 * MIB)
            .filter("error", &["error-pread=EIO", "error-pread-rate=100%"])
            .threads(1)
            .start()
            .unwrap();
        let target = target();
        let words =
            fails(way, Side::Source, &server.uri(), &target.uri(), hasty(way), DEADLINE + SLACK);
        assert!(words.contains("READ of"), "{words}");
        assert!(target.content().iter().all(|byte| *byte == 0));
    });
}

//! Several connections a side, of which some fail.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::time::Duration;

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::hostile::{Command, Replies};
use blockferry_doubles::{Fault, Hostile, HostileServer, Occasion, Proxy, Trigger};
use lanes::{
    DEADLINE, HANG, KIB, MIB, SLACK, Way, assert_same, copied, copy, dense, every_way, fails,
    hasty, patient,
};

const SIZE: usize = 6 << 20;

fn content() -> Vec<u8> {
    let mut content = dense(SIZE, 81);
    for hole in 0..12 {
        let start = hole * 500_000;
        content[start..start + 140_000].fill(0);
    }
    content
}

fn source() -> Hostile {
    Hostile::builder().content(&content())
}

fn target() -> Hostile {
    Hostile::builder().content(&[0xEE; SIZE]).lose_unflushed()
}

fn several(way: Way) -> LaneSettings {
    LaneSettings { connections: 3, retries: 20, ..patient(way) }
}

fn arrives(way: Way, source: &HostileServer, target: &HostileServer, settings: LaneSettings) {
    copied(way, &source.uri(), &target.uri(), settings);
    assert_same(&content(), &target.content());
    assert_eq!(source.violations(), Vec::<String>::new());
    assert_eq!(target.violations(), Vec::<String>::new());
}

#[test]
fn one_connection_of_the_source_that_breaks_is_made_again() {
    every_way(|way| {
        for fault in [Fault::CloseMidPayload, Fault::CloseBeforeReply, Fault::Error(108)] {
            for connection in [1, 2, 3] {
                let source = source()
                    .fault_on(Occasion::Read, fault.clone(), Trigger::Connection(connection))
                    .start()
                    .unwrap();
                arrives(way, &source, &target().start().unwrap(), several(way));
            }
        }
    });
}

#[test]
fn one_connection_of_the_target_that_breaks_undoes_what_all_wrote() {
    every_way(|way| {
        for fault in [Fault::CloseBeforeReply, Fault::CloseInRequest, Fault::Crash] {
            for connection in [1, 2, 3] {
                let target = target()
                    .fault_on(Occasion::Write, fault.clone(), Trigger::Connection(connection))
                    .start()
                    .unwrap();
                arrives(way, &source().start().unwrap(), &target, several(way));
            }
        }
    });
}

#[test]
fn one_connection_that_falls_silent_is_made_again() {
    every_way(|way| {
        for side in [Side::Source, Side::Target] {
            let (source, target) = match side {
                Side::Source => (
                    source().fault_on(Occasion::Read, Fault::HalfOpen, Trigger::Connection(2)),
                    target(),
                ),
                Side::Target => (
                    source(),
                    target().fault_on(
                        Occasion::Write,
                        Fault::StallInRequest,
                        Trigger::Connection(2),
                    ),
                ),
            };
            arrives(way, &source.start().unwrap(), &target.start().unwrap(), several(way));
        }
    });
}

#[test]
fn answers_about_zeros_are_never_taken_for_those_to_another_question() {
    every_way(|way| {
        // Many short answers on the first connection, and losses on the others.
        let source = source()
            .fault_on(Occasion::BlockStatus, Fault::ManyExtents(9), Trigger::Every(2))
            .fault_on(Occasion::BlockStatus, Fault::OneExtent, Trigger::Always)
            .fault_on(Occasion::Read, Fault::CloseMidPayload, Trigger::Every(5))
            .start()
            .unwrap();
        let target = target()
            .fault_on(Occasion::Write, Fault::CloseBeforeReply, Trigger::Nth(17))
            .start()
            .unwrap();
        arrives(way, &source, &target, LaneSettings { cluster_bytes: 4096, ..several(way) });
    });
}

#[test]
fn everything_at_once_still_arrives() {
    every_way(|way| {
        for seed in 0..3 {
            let source = source()
                .replies(Replies::Extended)
                .interleaved(seed)
                .fault_on(Occasion::Read, Fault::CloseMidPayload, Trigger::Every(31))
                .start()
                .unwrap();
            let target = target()
                .interleaved(seed)
                .fault_on(Occasion::Request, Fault::Crash, Trigger::Every(67))
                .start()
                .unwrap();
            let settings =
                LaneSettings { flush_interval: Duration::from_millis(1), ..several(way) };
            arrives(way, &source, &target, settings);
        }
    });
}

#[test]
fn an_extra_connection_to_another_disk_is_refused() {
    every_way(|way| {
        let target = target().size_on_reconnect(SIZE as u64 * 2).start().unwrap();
        let words = fails(
            way,
            Side::Target,
            &source().start().unwrap().uri(),
            &target.uri(),
            several(way),
            DEADLINE + SLACK,
        );
        assert!(words.contains("another export"), "{words}");
        assert!(target.log().iter().all(|r| r.connection == 1 || r.command == Command::Disc));
    });
}

#[test]
fn a_line_with_all_connections_that_is_cut_is_made_again() {
    every_way(|way| {
        let target = target().tcp().start().unwrap();
        let line = Proxy::to(target.address()).bytes_per_second(16 * MIB).start().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for part in 1..4 {
                    assert!(line.wait_for_bytes(part * 700 * KIB, 0, HANG));
                    line.cut();
                }
            });
            copied(way, &source().start().unwrap().uri(), &line.uri(""), several(way));
        });
        assert_same(&content(), &target.content());
    });
}

#[test]
fn no_reply_to_one_request_while_others_are_answered_is_noticed() {
    every_way(|way| {
        for side in [Side::Source, Side::Target] {
            let slow = |builder: Hostile, occasion| {
                builder.fault_on(occasion, Fault::NoReply, Trigger::Nth(3)).fault_on(
                    occasion,
                    Fault::SlowReply(Duration::from_millis(4)),
                    Trigger::Always,
                )
            };
            let (source, target) = match side {
                Side::Source => (slow(source(), Occasion::Read), target()),
                Side::Target => (source(), slow(target(), Occasion::Write)),
            };
            let (source, target) = (source.start().unwrap(), target.start().unwrap());
            let settings = LaneSettings {
                deadline: Duration::from_millis(250),
                requests: 4,
                request_bytes: Some(16 << 10),
                ..hasty(way)
            };
            let report = copy(way, &source.uri(), &target.uri(), settings);
            assert!(report.outcome.is_ok(), "{:?}", report.outcome);
            assert!(report.reconnects > 0);
            assert_same(&content(), &target.content());
        }
    });
}

#[test]
fn a_full_queue_of_connections_is_waited_for_until_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    // One connection waits to be accepted: the queue is full.
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let target = target().start().unwrap();
    every_way(|way| {
        let started = std::time::Instant::now();
        let report = copy(way, &uri, &target.uri(), hasty(way));
        let fault = report.outcome.unwrap_err();
        assert_eq!(fault.side(), Some(Side::Source), "{fault}");
        assert!(started.elapsed() >= DEADLINE, "after {:?}", started.elapsed());
        assert!(started.elapsed() < DEADLINE + SLACK, "after {:?}", started.elapsed());
    });
}

//! Pipes as ends of a lane: read once, written in order.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Endpoint, Extent, Fault, Lane, LaneSettings, Mover, Side};
use blockferry_doubles::{Fault as Wrong, Hostile, Occasion, Trigger};
use lanes::ends::{collected, ran, succeeds};
use lanes::{
    KIB, MIB, Way, assert_same, dense, every_engine, fault_of, folder, hasty, nbd, patient,
    settings,
};

/// A pipe that is fed by a thread.
fn fed(content: Vec<u8>) -> Endpoint {
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::thread::spawn(move || {
        // In odd parts; whoever reads may leave early.
        let _ = content.chunks(77_777).try_for_each(|part| writer.write_all(part));
    });
    Endpoint::Stream(Arc::new(OwnedFd::from(reader)))
}

#[test]
fn a_stream_arrives_in_servers_and_files() {
    let dir = folder();
    let mut content = dense((3 << 20) + 321, 22);
    content[1 << 20..2 << 20].fill(0);
    every_engine(|way| {
        let server = Hostile::builder().content(&vec![7; 4 << 20]).start().unwrap();
        let report = succeeds(way, fed(content.clone()), nbd(&server.uri()));
        assert_eq!(report.counts.planned, content.len() as u64);
        assert_same(&content, &server.content()[..content.len()]);
        assert!(server.content()[content.len()..].iter().all(|byte| *byte == 7));

        let target = dir.path().join("from-stream");
        fs::write(&target, vec![7; 5 << 20]).unwrap();
        succeeds(way, fed(content.clone()), Endpoint::File(target.clone()));
        assert_same(&content, &fs::read(&target).unwrap());
    });
}

#[test]
fn a_file_has_the_zeros_that_a_stream_ended_with() {
    let dir = folder();
    let target = dir.path().join("from-stream");
    let mut zeros_last = dense(1000, 5);
    zeros_last.resize(3_001_000, 0);
    for content in [zeros_last, vec![0; 3_000_000], vec![0; 2 << 20], vec![0; 1], Vec::new()] {
        for old in [None, Some(vec![7; 5 << 20])] {
            every_engine(|way| {
                let _none = fs::remove_file(&target);
                old.iter().for_each(|old| fs::write(&target, old).unwrap());
                succeeds(way, fed(content.clone()), Endpoint::File(target.clone()));
                assert_same(&content, &fs::read(&target).unwrap());
            });
        }
    }
}

#[test]
fn a_stream_longer_than_the_target_is_the_targets_fault() {
    every_engine(|way| {
        let server = Hostile::builder().size(MIB).start().unwrap();
        let report = ran(way, fed(dense(3 << 20, 1)), nbd(&server.uri()), settings(way));
        let fault = lanes::fault_of(report);
        assert_eq!(fault.side(), Some(Side::Target), "{fault}");
        assert!(fault.to_string().contains("too small"), "{fault}");
    });
}

#[test]
fn an_empty_stream_is_a_copy_of_nothing() {
    every_engine(|way| {
        let server = Hostile::builder().content(&vec![7; 1 << 20]).start().unwrap();
        succeeds(way, fed(Vec::new()), nbd(&server.uri()));
        assert_eq!(server.content(), vec![7; 1 << 20]);
    });
}

#[test]
fn what_a_stream_gave_is_never_replaced_by_what_comes_next_in_it() {
    let content = dense(2 << 20, 23);
    every_engine(|way| {
        for (occasion, fault) in [
            (Occasion::Write, Wrong::Crash),
            (Occasion::Write, Wrong::CloseBeforeReply),
            (Occasion::Flush, Wrong::Crash),
        ] {
            let server = Hostile::builder()
                .size(2 * MIB)
                .lose_unflushed()
                .fault_on(occasion, fault, Trigger::Nth(1))
                .start()
                .unwrap();
            let report = ran(way, fed(content.clone()), nbd(&server.uri()), hasty(way));
            let fault = lanes::fault_of(report);
            assert_eq!(fault.side(), Some(Side::Target), "{fault}");
            lanes::assert_no_stale_byte(&content, &server.content());
        }
    });
}

#[test]
fn zeros_in_a_stream_survive_a_target_that_cannot_make_zeros() {
    let mut content = dense(2 << 20, 24);
    content[300_000..1_500_000].fill(0);
    every_engine(|way| {
        let server = Hostile::builder().size(2 * MIB).no_write_zeroes().start().unwrap();
        succeeds(way, fed(content.clone()), nbd(&server.uri()));
        assert_same(&content, &server.content());
    });
}

#[test]
fn a_disk_leaves_through_a_pipe_in_order() {
    let mut content = dense((5 << 20) + 13, 25);
    content[1 << 20..3 << 20].fill(0);
    every_engine(|way| {
        for fault in [None, Some(Wrong::CloseBeforeReply)] {
            let source = Hostile::builder().content(&content).interleaved(5);
            let source = match fault {
                Some(fault) => source.fault_on(Occasion::Read, fault, Trigger::Nth(7)),
                None => source,
            };
            let source = source.start().unwrap();
            let (pipe, collector) = collected();
            let report = ran(way, nbd(&source.uri()), pipe, patient(way));
            assert!(report.outcome.is_ok(), "{:?}", report.outcome);
            assert_same(&content, &collector.join().unwrap());
        }
    });
}

#[test]
fn a_pipe_that_is_zero_already_still_gets_every_byte() {
    let mut content = dense(2 << 20, 25);
    content[1 << 20..].fill(0);
    every_engine(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        let (pipe, collector) = collected();
        let report = ran(
            way,
            nbd(&source.uri()),
            pipe,
            LaneSettings { target_is_zero: true, ..settings(way) },
        );
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert_same(&content, &collector.join().unwrap());
    });
}

#[test]
fn parts_of_a_disk_cannot_leave_through_a_pipe() {
    let dir = folder();
    every_engine(|way| {
        let source = Hostile::builder().content(&dense(1 << 20, 1)).start().unwrap();
        let areas = AreaSet::from_unsorted([Area::new(512 * KIB, 4096)], MIB).unwrap();
        for wrong in [
            LaneSettings { extent: Extent::Areas(areas), ..settings(way) },
            LaneSettings { journal: Some(dir.path().join("journal")), ..settings(way) },
        ] {
            let (pipe, collector) = collected();
            let fault = lanes::fault_of(ran(way, nbd(&source.uri()), pipe, wrong));
            assert!(matches!(fault, Fault::Request(_)), "{fault}");
            assert!(collector.join().unwrap().is_empty());
        }
    });
}

#[test]
fn a_pipe_whose_reader_leaves_fails_the_lane_at_once() {
    every_engine(|way| {
        let source = Hostile::builder().content(&dense(4 << 20, 1)).start().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        std::thread::spawn(move || reader.read_exact(&mut [0; 100_000]).unwrap());
        let began = std::time::Instant::now();
        let fault = lanes::fault_of(ran(
            way,
            nbd(&source.uri()),
            Endpoint::Stream(Arc::new(writer.into())),
            settings(way),
        ));
        assert_eq!(fault.side(), Some(Side::Target), "{fault}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    });
}

#[test]
fn a_silent_pipe_holds_up_neither_other_lanes_nor_the_end() {
    let content = dense(2 << 20, 1);
    every_engine(|way| {
        let (reader, _silent) = std::io::pipe().unwrap();
        let (_unread, writer) = std::io::pipe().unwrap();
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder().size(2 * MIB).start().unwrap();
        let elsewhere = Hostile::builder().size(2 * MIB).start().unwrap();
        let lane = |source, target| Lane::new(source, target).with_settings(settings(way));
        let waiting = lane(Endpoint::Stream(Arc::new(reader.into())), nbd(&elsewhere.uri()));
        let stuffed = lane(nbd(&source.uri()), Endpoint::Stream(Arc::new(writer.into())));
        let moving = lane(nbd(&source.uri()), nbd(&target.uri()));
        let events = lanes::Events::default();
        let running = Mover::new(lanes::mover(way))
            .on_event(events.observe())
            .start(vec![waiting, stuffed, moving])
            .unwrap();
        let began = std::time::Instant::now();
        while events.count("Finished { lane: 2, fault: None") == 0 {
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", events.all());
            std::thread::yield_now();
        }
        assert_same(&content, &target.content());
        running.canceller().cancel();
        assert!(running.wait_for(Duration::from_secs(3)));
        let report = running.wait();
        for lane in &report.lanes[..2] {
            assert!(matches!(lane.outcome, Err(Fault::Interrupted)), "{:?}", lane.outcome);
        }
    });
}

/// A pipe with a name.
fn named_pipe(dir: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    let path = dir.path().join(name);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn a_named_pipe_that_nobody_writes_to_is_waited_for_until_the_deadline() {
    let dir = folder();
    every_engine(|way| {
        let pipe = named_pipe(&dir, &format!("{:?}", way.engine));
        let server = Hostile::builder().size(MIB).start().unwrap();
        let began = std::time::Instant::now();
        let source = Endpoint::File(pipe.clone());
        let fault = lanes::fault_of(ran(way, source, nbd(&server.uri()), hasty(way)));
        let took = began.elapsed();
        assert_eq!(fault.side(), Some(Side::Source), "{fault}");
        let words = fault.to_string();
        assert!(words.contains(pipe.to_str().unwrap()), "{words}");
        assert!(words.contains("waiting for the first bytes of the pipe"), "{words}");
        assert!((lanes::DEADLINE..lanes::DEADLINE * 2).contains(&took), "{took:?}");
    });
}

#[test]
fn a_named_pipe_that_nobody_writes_to_holds_up_neither_other_lanes_nor_the_end() {
    let (dir, content) = (folder(), dense(1 << 20, 1));
    every_engine(|way| {
        let pipe = named_pipe(&dir, &format!("{:?}", way.engine));
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder().size(MIB).start().unwrap();
        let elsewhere = Hostile::builder().size(MIB).start().unwrap();
        let lane = |source, target| Lane::new(source, target).with_settings(settings(way));
        let waiting = lane(Endpoint::File(pipe), nbd(&elsewhere.uri()));
        let moving = lane(nbd(&source.uri()), nbd(&target.uri()));
        let events = lanes::Events::default();
        let running = Mover::new(lanes::mover(way))
            .on_event(events.observe())
            .start(vec![waiting, moving])
            .unwrap();
        let began = std::time::Instant::now();
        while events.count("Finished { lane: 1, fault: None") == 0 {
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", events.all());
            std::thread::yield_now();
        }
        running.canceller().cancel();
        assert!(running.wait_for(Duration::from_secs(3)));
        assert!(matches!(running.wait().lanes[0].outcome, Err(Fault::Interrupted)));
    });
}

#[test]
fn a_named_pipe_is_read_when_its_writer_comes() {
    let (dir, content) = (folder(), dense(1 << 20, 2));
    every_engine(|way| {
        let pipe = named_pipe(&dir, &format!("{:?}", way.engine));
        let server = Hostile::builder().size(MIB).start().unwrap();
        let writer = std::thread::spawn({
            let (pipe, content) = (pipe.clone(), content.clone());
            move || {
                // This open returns when the lane has opened the other end.
                let mut writer = fs::OpenOptions::new().write(true).open(pipe).unwrap();
                std::thread::sleep(lanes::DEADLINE);
                content.chunks(77_777).for_each(|part| writer.write_all(part).unwrap());
            }
        });
        let report = ran(way, Endpoint::File(pipe), nbd(&server.uri()), patient(way));
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        writer.join().unwrap();
        assert_same(&content, &server.content());
    });
}

/// A terminal whose output nobody reads, and the end that would read it.
fn blocked_terminal() -> (OwnedFd, OwnedFd) {
    use std::os::fd::FromRawFd;
    let (mut near, mut far) = (0, 0);
    let nothing = std::ptr::null_mut();
    // SAFETY: both numbers outlive the call, and the other pointers may be null.
    let result =
        unsafe { libc::openpty(&mut near, &mut far, nothing, nothing.cast(), nothing.cast()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the call has just opened both, and nobody else knows them.
    unsafe { (OwnedFd::from_raw_fd(near), OwnedFd::from_raw_fd(far)) }
}

#[test]
fn a_blocked_terminal_does_not_hold_up_the_end_of_an_interrupted_lane() {
    let way = Way {
        engine: blockferry_dataplane::EngineChoice::Uring,
        payload: blockferry_dataplane::PayloadChoice::Pooled,
    };
    let source = Hostile::builder().content(&dense(2 << 20, 1)).start().unwrap();
    let (_unread, terminal) = blocked_terminal();
    let target = Endpoint::Stream(Arc::new(terminal));
    let lane = Lane::new(nbd(&source.uri()), target).with_settings(settings(way));
    let running = Mover::new(lanes::mover(way)).start(vec![lane]).unwrap();
    let began = std::time::Instant::now();
    while running.progress().sent == 0 {
        assert!(began.elapsed() < lanes::HANG, "nothing is written");
        std::thread::yield_now();
    }
    running.canceller().cancel();
    assert!(running.wait_for(Duration::from_secs(3)), "the thread waits for the terminal");
    let outcome = &running.wait().lanes[0].outcome;
    assert!(matches!(outcome, Err(Fault::Interrupted)), "{outcome:?}");
}

#[test]
fn a_target_lost_under_a_stream_did_not_say_that_the_stream_cannot_be_read_again() {
    every_engine(|way| {
        let target = Hostile::builder()
            .size(MIB)
            .fault_on(Occasion::Write, Wrong::CloseBeforeReply, Trigger::Nth(2))
            .start()
            .unwrap();
        let fault = fault_of(ran(way, fed(dense(1 << 20, 3)), nbd(&target.uri()), patient(way)));
        assert_eq!(fault.side(), Some(Side::Target));
        let words = fault.to_string();
        assert!(words.contains("a stream cannot be read again: start the copy anew"), "{words}");
        assert!(words.contains("was lost") && !words.contains(" 0 requests"), "{words}");
    });
}

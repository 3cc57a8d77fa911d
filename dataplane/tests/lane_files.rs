//! Files, pipes and nothing at all as ends of a lane.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Endpoint, Extent, Fault, Lane, LaneReport, LaneSettings, Mover, Side};
use blockferry_doubles::{Fault as Wrong, Hostile, Occasion, Trigger};
use lanes::{KIB, MIB, Way, assert_same, dense, disk, every_engine, folder, hasty, nbd, settings};

fn ran(way: Way, source: Endpoint, target: Endpoint, settings: LaneSettings) -> LaneReport {
    let (report, events) = lanes::run(way, Lane::new(source, target).with_settings(settings));
    eprintln!("   {:?} {:?}", report.outcome, events.all());
    report
}

fn succeeds(way: Way, source: Endpoint, target: Endpoint) -> LaneReport {
    let report = ran(way, source, target, settings(way));
    assert!(report.outcome.is_ok(), "{:?}", report.outcome);
    lanes::assert_counts(&report.counts);
    report
}

/// A pipe that is fed by a thread.
fn fed(content: Vec<u8>) -> Endpoint {
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::thread::spawn(move || {
        // In odd parts; whoever reads may leave early.
        let _ = content
            .chunks(77_777)
            .try_for_each(|part| writer.write_all(part));
    });
    Endpoint::Stream(Arc::new(OwnedFd::from(reader)))
}

/// A pipe, and a thread that collects what comes out of it.
fn collected() -> (Endpoint, std::thread::JoinHandle<Vec<u8>>) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let collector = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    (Endpoint::Stream(Arc::new(OwnedFd::from(writer))), collector)
}

#[test]
fn holes_stay_holes_on_every_way_through_files() {
    let dir = folder();
    let size = 12 * MIB + 777;
    let (disk, content) = disk(&dir, size, 21);
    every_engine(|way| {
        let server = Hostile::builder().size(size).start().unwrap();
        succeeds(way, Endpoint::File(disk.path.clone()), nbd(&server.uri()));
        assert_same(&content, &server.content());

        let from_nbd = dir.path().join(format!("from-nbd-{way:?}"));
        succeeds(way, nbd(&server.uri()), Endpoint::File(from_nbd.clone()));
        let from_file = dir.path().join(format!("from-file-{way:?}"));
        succeeds(
            way,
            Endpoint::File(disk.path.clone()),
            Endpoint::File(from_file.clone()),
        );
        for path in [from_nbd, from_file] {
            assert_same(&content, &fs::read(&path).unwrap());
            let blocks = fs::metadata(&path).unwrap().blocks();
            assert!(
                blocks * 512 < size * 8 / 10,
                "{} of {size} bytes are allocated",
                blocks * 512
            );
        }
    });
}

#[test]
fn odd_sizes_of_files_arrive_to_the_last_byte() {
    let dir = folder();
    every_engine(|way| {
        for size in [0, 1, 511, 4097, 65_537, MIB + 1] {
            let content = dense(usize::try_from(size).unwrap(), size);
            let source = dir.path().join("source");
            fs::write(&source, &content).unwrap();
            let target = dir.path().join("target");
            fs::write(&target, [7; 100_000]).unwrap();
            succeeds(
                way,
                Endpoint::File(source.clone()),
                Endpoint::File(target.clone()),
            );
            assert_same(&content, &fs::read(&target).unwrap());

            let (pipe, collector) = collected();
            succeeds(way, Endpoint::File(source), pipe);
            assert_same(&content, &collector.join().unwrap());
        }
    });
}

#[test]
fn changed_areas_leave_the_rest_of_a_file_alone() {
    let dir = folder();
    let content = dense(2 << 20, 3);
    every_engine(|way| {
        let target = dir.path().join("target");
        fs::write(&target, vec![7; 2 << 20]).unwrap();
        let source = Hostile::builder().content(&content).start().unwrap();
        let extent =
            Extent::Areas(AreaSet::from_unsorted([Area::new(MIB, 4096)], 2 * MIB).unwrap());
        let report = ran(
            way,
            nbd(&source.uri()),
            Endpoint::File(target.clone()),
            LaneSettings {
                extent,
                ..settings(way)
            },
        );
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        let mut expected = vec![7; 2 << 20];
        expected[1 << 20..(1 << 20) + 4096].copy_from_slice(&content[1 << 20..(1 << 20) + 4096]);
        assert_same(&expected, &fs::read(&target).unwrap());
    });
}

#[test]
fn a_stream_arrives_in_servers_and_files() {
    let dir = folder();
    let mut content = dense((3 << 20) + 321, 22);
    content[1 << 20..2 << 20].fill(0);
    every_engine(|way| {
        let server = Hostile::builder()
            .content(&vec![7; 4 << 20])
            .start()
            .unwrap();
        let report = succeeds(way, fed(content.clone()), nbd(&server.uri()));
        assert_eq!(report.counts.planned, content.len() as u64);
        assert_same(&content, &server.content()[..content.len()]);
        assert!(
            server.content()[content.len()..]
                .iter()
                .all(|byte| *byte == 7)
        );

        let target = dir.path().join("from-stream");
        fs::write(&target, vec![7; 5 << 20]).unwrap();
        succeeds(way, fed(content.clone()), Endpoint::File(target.clone()));
        assert_same(&content, &fs::read(&target).unwrap());
    });
}

#[test]
fn a_stream_longer_than_the_target_is_the_targets_fault() {
    every_engine(|way| {
        let server = Hostile::builder().size(MIB).start().unwrap();
        let report = ran(
            way,
            fed(dense(3 << 20, 1)),
            nbd(&server.uri()),
            settings(way),
        );
        let fault = lanes::fault_of(report);
        assert_eq!(fault.side(), Some(Side::Target), "{fault}");
        assert!(fault.to_string().contains("too small"), "{fault}");
    });
}

#[test]
fn an_empty_stream_is_a_copy_of_nothing() {
    every_engine(|way| {
        let server = Hostile::builder()
            .content(&vec![7; 1 << 20])
            .start()
            .unwrap();
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
        let server = Hostile::builder()
            .size(2 * MIB)
            .no_write_zeroes()
            .start()
            .unwrap();
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
            let report = ran(way, nbd(&source.uri()), pipe, hasty(way));
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
            LaneSettings {
                target_is_zero: true,
                ..settings(way)
            },
        );
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert_same(&content, &collector.join().unwrap());
    });
}

#[test]
fn parts_of_a_disk_cannot_leave_through_a_pipe() {
    let dir = folder();
    every_engine(|way| {
        let source = Hostile::builder()
            .content(&dense(1 << 20, 1))
            .start()
            .unwrap();
        let areas = AreaSet::from_unsorted([Area::new(512 * KIB, 4096)], MIB).unwrap();
        for wrong in [
            LaneSettings {
                extent: Extent::Areas(areas),
                ..settings(way)
            },
            LaneSettings {
                journal: Some(dir.path().join("journal")),
                ..settings(way)
            },
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
        let source = Hostile::builder()
            .content(&dense(4 << 20, 1))
            .start()
            .unwrap();
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
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
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
        let waiting = lane(
            Endpoint::Stream(Arc::new(reader.into())),
            nbd(&elsewhere.uri()),
        );
        let stuffed = lane(
            nbd(&source.uri()),
            Endpoint::Stream(Arc::new(writer.into())),
        );
        let moving = lane(nbd(&source.uri()), nbd(&target.uri()));
        let events = lanes::Events::default();
        let running = Mover::new(lanes::mover(way))
            .on_event(events.observe())
            .start(vec![waiting, stuffed, moving])
            .unwrap();
        let began = std::time::Instant::now();
        while events.count("Finished { lane: 2, fault: None") == 0 {
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{:?}",
                events.all()
            );
            std::thread::yield_now();
        }
        assert_same(&content, &target.content());
        running.canceller().cancel();
        assert!(running.wait_for(Duration::from_secs(3)));
        let report = running.wait();
        for lane in &report.lanes[..2] {
            assert!(
                matches!(lane.outcome, Err(Fault::Interrupted)),
                "{:?}",
                lane.outcome
            );
        }
    });
}

#[test]
fn a_file_that_shrinks_under_the_lane_is_the_sources_fault() {
    let dir = folder();
    every_engine(|way| {
        let path = dir.path().join("shrinks");
        fs::write(&path, dense(4 << 20, 1)).unwrap();
        let target = Hostile::builder()
            .size(4 * MIB)
            .fault_on(
                Occasion::Write,
                Wrong::SlowReply(Duration::from_millis(50)),
                Trigger::Nth(1),
            )
            .start()
            .unwrap();
        let shrink = |log: &[blockferry_doubles::hostile::Request]| !log.is_empty();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(target.wait_for_log(lanes::HANG, shrink));
                File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(2 << 20)
                    .unwrap();
            });
            let settings = LaneSettings {
                synchronous: true,
                request_bytes: Some(64 << 10),
                ..settings(way)
            };
            let fault = lanes::fault_of(ran(
                way,
                Endpoint::File(path.clone()),
                nbd(&target.uri()),
                settings,
            ));
            assert_eq!(fault.side(), Some(Side::Source), "{fault}");
            assert!(fault.to_string().contains("ended at"), "{fault}");
        });
    });
}

#[test]
fn a_file_copied_onto_itself_is_refused_and_stays_as_it_is() {
    let dir = folder();
    every_engine(|way| {
        let path = dir.path().join("same");
        fs::write(&path, [5; 70_000]).unwrap();
        let link = dir.path().join(format!("hard-{way:?}"));
        fs::hard_link(&path, &link).unwrap();
        for target in [
            path.clone(),
            dir.path()
                .join("../")
                .join(dir.path().file_name().unwrap())
                .join("same"),
            link,
        ] {
            let fault = lanes::fault_of(ran(
                way,
                Endpoint::File(path.clone()),
                Endpoint::File(target),
                settings(way),
            ));
            assert!(matches!(fault, Fault::Request(_)), "{fault}");
            assert_eq!(fs::read(&path).unwrap(), [5; 70_000]);
        }
    });
}

#[test]
fn files_that_cannot_be_opened_name_side_and_path() {
    let dir = folder();
    every_engine(|way| {
        let missing = dir.path().join("missing");
        let there = Hostile::builder().start().unwrap();
        let fault = lanes::fault_of(ran(
            way,
            Endpoint::File(missing.clone()),
            nbd(&there.uri()),
            settings(way),
        ));
        assert_eq!(fault.side(), Some(Side::Source));
        assert!(fault.to_string().contains("missing"), "{fault}");
        let fault = lanes::fault_of(ran(
            way,
            nbd(&there.uri()),
            Endpoint::File(missing.join("below")),
            settings(way),
        ));
        assert_eq!(fault.side(), Some(Side::Target));
        let fault = lanes::fault_of(ran(
            way,
            Endpoint::File(dir.path().into()),
            nbd(&there.uri()),
            settings(way),
        ));
        assert_eq!(fault.side(), Some(Side::Source), "{fault}");
    });
}

#[test]
fn allocated_files_have_no_holes() {
    let dir = folder();
    every_engine(|way| {
        let source = Hostile::builder()
            .size(2 * MIB)
            .content_at(MIB, &[1; 4096])
            .start()
            .unwrap();
        let path = dir.path().join(format!("allocated-{way:?}"));
        let report = ran(
            way,
            nbd(&source.uri()),
            Endpoint::File(path.clone()),
            LaneSettings {
                allocated: true,
                ..settings(way)
            },
        );
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 2 * MIB);
        let mut byte = [0];
        File::open(&path)
            .unwrap()
            .read_exact_at(&mut byte, MIB)
            .unwrap();
        assert_eq!(byte, [1]);
    });
}

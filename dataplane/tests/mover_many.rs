//! Many lanes in one mover.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blockferry_dataplane::{
    Event, Fault, Lane, LaneSettings, Mover, MoverSettings, PayloadKind, Side,
};
use blockferry_doubles::hostile::Command;
use blockferry_doubles::{
    Fault as Wrong, Hostile, HostileServer, Nbdkit, Occasion, QemuNbd, TestDisk, Trigger,
};
use lanes::{
    HANG, KIB, MIB, assert_same, dense, every_way, folder, hasty, mover, nbd, patient, run_all,
    settings,
};

const SIZE: usize = 512 << 10;

fn content(lane: usize) -> Vec<u8> {
    let mut content = dense(SIZE, lane as u64 + 100);
    content[100_000..300_000].fill(0);
    content
}

/// Sources and targets for so many lanes.
fn servers(count: usize) -> (Vec<HostileServer>, Vec<HostileServer>) {
    let source = |lane| Hostile::builder().content(&content(lane)).start().unwrap();
    let target = |_| Hostile::builder().content(&[0xEE; SIZE]).start().unwrap();
    ((0..count).map(source).collect(), (0..count).map(target).collect())
}

fn lanes_of(
    sources: &[HostileServer],
    targets: &[HostileServer],
    settings: &LaneSettings,
) -> Vec<Lane> {
    let pairs = sources.iter().zip(targets);
    pairs
        .map(|(source, target)| {
            Lane::new(nbd(&source.uri()), nbd(&target.uri())).with_settings(settings.clone())
        })
        .collect()
}

#[test]
fn a_hundred_and_one_lanes_into_real_exports_all_arrive() {
    let dir = folder();
    let disk = TestDisk::random(dir.path(), MIB + 70_000, 0.7, 61).unwrap();
    let source = Nbdkit::file(&disk.path).threads(4).start().unwrap();
    let targets: Vec<_> = (0..101)
        .map(|_| {
            let copy = TestDisk::sized(dir.path(), disk.size.div_ceil(512) * 512).unwrap();
            let server = QemuNbd::new(&copy.path).format("raw").shared(3).start().unwrap();
            (copy, server)
        })
        .collect();
    every_way(|way| {
        let lane = |(_, server): &(TestDisk, _)| {
            let server: &blockferry_doubles::Server = server;
            Lane::new(nbd(&source.uri()), nbd(&server.uri())).with_settings(settings(way))
        };
        let all = targets.iter().map(lane).collect();
        let (report, _) = run_all(MoverSettings { threads: Some(2), ..mover(way) }, all);
        for lane in &report.lanes {
            assert!(lane.outcome.is_ok(), "{}: {:?}", lane.target, lane.outcome);
            lanes::assert_counts(&lane.counts);
        }
        assert_eq!(report.totals().planned, 101 * disk.size);
        let content = disk.content().unwrap();
        for (copy, _) in &targets {
            let mut copied = copy.content().unwrap();
            copied.truncate(content.len());
            assert_same(&content, &copied);
            // For the next way.
            copy.overwrite(0..copy.size, 9).unwrap();
        }
    });
}

#[test]
fn lanes_that_wait_for_their_turn_are_all_moved() {
    every_way(|way| {
        let (sources, targets) = servers(12);
        let settings = MoverSettings { max_lanes: 2, ..mover(way) };
        let (report, _) = run_all(settings, lanes_of(&sources, &targets, &lanes::settings(way)));
        for (index, lane) in report.lanes.iter().enumerate() {
            assert!(lane.outcome.is_ok(), "{:?}", lane.outcome);
            assert_eq!(lane.source, sources[index].uri().trim_end_matches('/'));
            assert_same(&content(index), &targets[index].content());
        }
    });
}

#[test]
fn no_more_lanes_than_allowed_are_at_work_however_many_threads_share_them() {
    for (max_lanes, threads) in [(3, 2), (1, 4), (5, 4)] {
        let (sources, targets) = servers(14);
        let lanes = lanes_of(&sources, &targets, &LaneSettings::default());
        let at_work = Arc::new(Mutex::new((0_usize, 0_usize)));
        let counted = Arc::clone(&at_work);
        let settings =
            MoverSettings { max_lanes, threads: Some(threads), ..MoverSettings::default() };
        let mover = Mover::new(settings).on_event(move |event| {
            let (now, most) = &mut *counted.lock().unwrap();
            match event {
                Event::Started { .. } => {
                    *now += 1;
                    *most = (*most).max(*now);
                }
                Event::Finished { .. } => *now -= 1,
                _ => {}
            }
        });
        let running = mover.start(lanes).unwrap();
        assert!(running.wait_for(HANG));
        let report = running.wait();
        assert!(report.lanes.iter().all(|lane| lane.outcome.is_ok()), "{report:?}");
        let (now, most) = *at_work.lock().unwrap();
        assert_eq!(now, 0);
        assert!(most <= max_lanes, "{most} lanes at once, of {max_lanes} that were allowed");
    }
}

#[test]
fn one_full_target_fails_its_lane_and_no_other() {
    every_way(|way| {
        let (sources, mut targets) = servers(8);
        targets[3] = Hostile::builder()
            .size(SIZE as u64)
            .fault_on(Occasion::Write, Wrong::Error(28), Trigger::From(3))
            .start()
            .unwrap();
        let (report, _) = run_all(mover(way), lanes_of(&sources, &targets, &hasty(way)));
        for (index, lane) in report.lanes.iter().enumerate() {
            if index == 3 {
                let fault = lane.outcome.as_ref().unwrap_err();
                assert_eq!(fault.side(), Some(Side::Target));
                assert!(fault.to_string().contains("space"), "{fault}");
            } else {
                assert!(lane.outcome.is_ok(), "{:?}", lane.outcome);
                assert_same(&content(index), &targets[index].content());
            }
        }
    });
}

#[test]
fn lanes_that_hang_hold_up_no_other_and_end_in_time() {
    every_way(|way| {
        let (mut sources, mut targets) = servers(6);
        sources[0] = Hostile::builder()
            .content(&content(0))
            .fault(Wrong::NoGreeting, Trigger::Always)
            .start()
            .unwrap();
        targets[1] = Hostile::builder()
            .size(SIZE as u64)
            .fault_on(Occasion::Write, Wrong::HalfOpen, Trigger::Always)
            .start()
            .unwrap();
        // So few blocks that those of the lane that hangs are missed.
        let settings = MoverSettings { pool_bytes: 1 << 20, ..mover(way) };
        let began = Instant::now();
        let (report, _) = run_all(settings, lanes_of(&sources, &targets, &patient(way)));
        // One deadline, and one for the target, which takes what is written on a second connection.
        assert!(began.elapsed() < patient(way).deadline * 2 + lanes::SLACK);
        assert_eq!(report.lanes[0].outcome.as_ref().unwrap_err().side(), Some(Side::Source));
        assert_eq!(report.lanes[1].outcome.as_ref().unwrap_err().side(), Some(Side::Target));
        for (index, lane) in report.lanes.iter().enumerate().skip(2) {
            assert!(lane.outcome.is_ok(), "{:?}", lane.outcome);
            assert_same(&content(index), &targets[index].content());
        }
    });
}

#[test]
fn events_of_a_lane_begin_with_its_start_and_end_with_its_end() {
    every_way(|way| {
        let (sources, targets) = servers(4);
        let (_, events) = run_all(mover(way), lanes_of(&sources, &targets, &settings(way)));
        for lane in 0..4 {
            let of_lane: Vec<String> = events
                .all()
                .into_iter()
                .filter(|event| event.contains(&format!("lane: {lane}")))
                .collect();
            assert!(of_lane.first().unwrap().starts_with("Started"), "{of_lane:?}");
            assert!(of_lane.last().unwrap().starts_with("Finished"), "{of_lane:?}");
            assert_eq!(of_lane.iter().filter(|event| event.starts_with("Finished")).count(), 1);
        }
    });
}

#[test]
fn an_observer_that_panics_harms_no_lane() {
    every_way(|way| {
        let (sources, targets) = servers(4);
        let told = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&told);
        let running = Mover::new(mover(way))
            .on_event(move |event| {
                if let Event::Finished { .. } = event {
                    *counted.lock().unwrap() += 1;
                }
                assert!(!matches!(event, Event::Started { lane: 1, .. }), "meant to panic");
            })
            .start(lanes_of(&sources, &targets, &settings(way)))
            .unwrap();
        assert!(running.wait_for(HANG));
        for (index, lane) in running.wait().lanes.iter().enumerate() {
            assert!(lane.outcome.is_ok(), "{:?}", lane.outcome);
            assert_same(&content(index), &targets[index].content());
        }
        assert_eq!(*told.lock().unwrap(), 4);
    });
}

#[test]
fn the_rate_limit_holds_within_a_tenth() {
    every_way(|way| {
        let content = dense(SIZE, 1);
        let source = || Hostile::builder().content(&content).start().unwrap();
        let target = || Hostile::builder().size(SIZE as u64).start().unwrap();
        let sources: Vec<_> = (0..4).map(|_| source()).collect();
        let targets: Vec<_> = (0..4).map(|_| target()).collect();
        let settings = MoverSettings { rate_limit: Some(2 * MIB), ..mover(way) };
        let lane = LaneSettings { request_bytes: Some(32 << 10), ..lanes::settings(way) };
        let (report, _) = run_all(settings, lanes_of(&sources, &targets, &lane));
        let seconds = report.elapsed.as_secs_f64();
        // 2 MiB at 2 MiB/s, less the burst.
        assert!((0.9..1.15).contains(&seconds), "{seconds} s");
        assert_eq!(report.totals().read, 4 * SIZE as u64);
    });
}

#[test]
fn lanes_that_share_a_rate_limit_advance_in_step() {
    const LIMIT: u64 = 4 * MIB;
    lanes::every_engine(|way| {
        let content = dense(2 << 20, 1);
        let sources: Vec<_> =
            (0..8).map(|_| Hostile::builder().content(&content).start().unwrap()).collect();
        let targets: Vec<_> =
            (0..8).map(|_| Hostile::builder().size(2 * MIB).start().unwrap()).collect();
        let settings = MoverSettings { rate_limit: Some(LIMIT), threads: Some(2), ..mover(way) };
        let running = Mover::new(settings)
            .start(lanes_of(&sources, &targets, &lanes::settings(way)))
            .unwrap();
        let began = Instant::now();
        let mut seen = vec![(0.0, [0; 8])];
        while !running.wait_for(Duration::from_millis(50)) {
            assert!(began.elapsed() < HANG);
            let read = std::array::from_fn(|lane| running.lane_progress(lane).read);
            seen.push((began.elapsed().as_secs_f64(), read));
        }
        let piece = LIMIT / 16;
        let report = running.wait();
        for (index, lane) in report.lanes.iter().enumerate() {
            assert!(lane.outcome.is_ok(), "{:?}", lane.outcome);
            assert_eq!(u64::from(lane.request_bytes), piece);
            assert_same(&content, &targets[index].content());
        }
        for (seconds, read) in &seen {
            let (least, most) = (read.iter().min().unwrap(), read.iter().max().unwrap());
            assert!(most - least <= 2 * piece, "after {seconds} s: {read:?}");
        }
        let total = |read: &[u64; 8]| read.iter().sum::<u64>() as f64;
        for (since, before) in seen.iter().filter(|(since, _)| *since > 0.2) {
            let Some((until, after)) = seen.iter().find(|(until, _)| *until >= since + 2.0) else {
                break;
            };
            let rate = (total(after) - total(before)) / (until - since) / LIMIT as f64;
            assert!((0.9..1.1).contains(&rate), "{rate} of the limit from {since} to {until} s");
        }
    });
}

#[test]
fn counts_say_what_happened_and_add_up() {
    every_way(|way| {
        // Large enough that block status is asked for.
        let size = 2 * MIB;
        let mut content = dense(2 << 20, 5);
        content[100_000..300_000].fill(0);
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder().content(&[0xEE; 2 << 20]).start().unwrap();
        let (report, _) = run_all(mover(way), lanes_of(&[source], &[target], &settings(way)));
        let lane = &report.lanes[0];
        let counts = lane.counts;
        assert_eq!(counts.planned, size);
        assert_eq!(counts.acknowledged, counts.planned);
        assert_eq!((counts.skipped, counts.redone), (0, 0));
        // Whether a zero was told by block status or found by reading.
        assert!(counts.read + counts.zero >= counts.planned);
        assert_eq!(counts.sent + counts.zero, counts.planned);
        assert!(counts.zero >= 128 * KIB && counts.zero <= 200_000, "{counts:?}");
        let spliced = matches!(lane.payload, Some((PayloadKind::Splice, _)));
        assert_eq!(spliced, way.payload == blockferry_dataplane::PayloadChoice::Splice);
        assert!(lane.elapsed <= report.elapsed);
    });
}

#[test]
fn cancelling_ends_lanes_at_work_and_those_that_wait() {
    every_way(|way| {
        let slow = |lane| {
            Hostile::builder()
                .content(&content(lane))
                .fault_on(
                    Occasion::Read,
                    Wrong::SlowReply(Duration::from_millis(20)),
                    Trigger::Always,
                )
                .start()
                .unwrap()
        };
        let sources: Vec<_> = (0..5).map(slow).collect();
        let (_, targets) = servers(5);
        let events = lanes::Events::default();
        let running = Mover::new(MoverSettings { max_lanes: 2, ..mover(way) })
            .on_event(events.observe())
            .start(lanes_of(&sources, &targets, &hasty(way)))
            .unwrap();
        assert!(
            targets[0].wait_for_log(HANG, |log| log.iter().any(|r| r.command == Command::Write))
        );
        let canceller = running.canceller();
        std::thread::spawn(move || canceller.cancel()).join().unwrap();
        assert!(running.wait_for(Duration::from_secs(2)));
        let report = running.wait();
        for lane in &report.lanes {
            assert!(matches!(lane.outcome, Err(Fault::Interrupted)), "{:?}", lane.outcome);
        }
        assert_eq!(events.count("Finished"), 5);
        assert_eq!(targets[4].accepted(), 0);
    });
}

#[test]
fn no_lane_at_all_is_a_mover_that_has_finished() {
    every_way(|way| {
        let (report, _) = run_all(mover(way), Vec::new());
        assert!(report.lanes.is_empty());
    });
}

#[test]
fn progress_of_a_stream_knows_no_plan_before_its_end() {
    lanes::every_engine(|way| {
        let (reader, writer) = std::io::pipe().unwrap();
        let target = Hostile::builder().size(MIB).start().unwrap();
        let source = blockferry_dataplane::Endpoint::Stream(Arc::new(reader.into()));
        let lane = Lane::new(source, nbd(&target.uri())).with_settings(settings(way));
        let running = Mover::new(mover(way)).start(vec![lane]).unwrap();
        assert_eq!(running.lane_progress(0).planned, 0);
        use std::io::Write;
        (&writer).write_all(&[1; 5000]).unwrap();
        drop(writer);
        assert!(running.wait_for(HANG));
        assert_eq!(running.wait().lanes[0].counts.planned, 5000);
    });
}

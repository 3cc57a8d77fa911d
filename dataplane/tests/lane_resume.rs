//! Lanes that are interrupted, killed, and resumed.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::path::Path;
use std::time::Duration;

use blockferry_dataplane::{
    EngineChoice, Fault, Lane, LaneReport, LaneSettings, Mover, PayloadChoice, Side,
};
use blockferry_doubles::hostile::{Command, Request, merged};
use blockferry_doubles::process::Child;
use blockferry_doubles::{Fault as Wrong, Hostile, HostileServer, Occasion, QemuNbd, Trigger};
use lanes::{MIB, Way, assert_same, copied, copy, dense, every_way, folder, hasty, nbd, patient};

const SIZE: usize = 4 << 20;

fn content() -> Vec<u8> {
    let mut content = dense(SIZE, 31);
    content[2 << 20..3 << 20].fill(0);
    content
}

fn source() -> HostileServer {
    Hostile::builder().content(&content()).start().unwrap()
}

/// A FLUSH after every few requests, and a journal.
fn journalled(way: Way, journal: &Path) -> LaneSettings {
    LaneSettings {
        journal: Some(journal.to_owned()),
        flush_interval: Duration::ZERO,
        requests: 4,
        ..patient(way)
    }
}

/// Whether a request wrote some of the disk, and not the seal by which its image is known again.
fn moves(request: &Request) -> bool {
    let is_seal = request.length == 4096 && request.offset == (SIZE - (64 << 10)) as u64;
    matches!(request.command, Command::Write | Command::WriteZeroes) && !is_seal
}

/// Ranges whose write was acknowledged before the last FLUSH that succeeded began.
fn flushed(log: &[Request]) -> Vec<(u64, u64)> {
    let last = log.iter().rposition(|r| r.command == Command::Flush && r.error == 0);
    let before = &log[..last.unwrap_or(0)];
    let writes = before.iter().filter(|r| moves(r) && r.error == 0);
    merged(writes.map(|r| (r.offset, r.length)).collect())
}

fn total(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(_, length)| length).sum()
}

fn interrupted(
    way: Way,
    source: &HostileServer,
    target: &HostileServer,
    settings: LaneSettings,
) -> LaneReport {
    let lane = Lane::new(nbd(&source.uri()), nbd(&target.uri())).with_settings(settings);
    let running = Mover::new(lanes::mover(way)).start(vec![lane]).unwrap();
    let canceller = running.canceller();
    let wrote = |log: &[Request]| log.iter().filter(|r| r.command == Command::Write).count() > 8;
    assert!(target.wait_for_log(lanes::HANG, wrote));
    canceller.cancel();
    assert!(running.wait_for(Duration::from_secs(3)));
    let mut report = running.wait();
    report.lanes.pop().unwrap()
}

fn slow_target(builder: Hostile) -> HostileServer {
    builder
        .fault_on(Occasion::Write, Wrong::SlowReply(Duration::from_millis(2)), Trigger::Always)
        .start()
        .unwrap()
}

#[test]
fn an_interrupted_lane_drains_flushes_and_is_resumed() {
    let dir = folder();
    every_way(|way| {
        let journal = dir.path().join("journal");
        let (source, target) =
            (source(), slow_target(Hostile::builder().content(&[0xEE; SIZE]).lose_unflushed()));
        let settings =
            LaneSettings { flush_interval: Duration::from_secs(60), ..journalled(way, &journal) };
        let report = interrupted(way, &source, &target, settings.clone());
        assert!(matches!(report.outcome, Err(Fault::Interrupted)), "{:?}", report.outcome);
        assert!(report.flushes > 0);
        assert!(journal.exists());
        let log = target.log();
        let begun = log.iter().filter(|r| moves(r)).map(|r| (r.offset, r.length));
        let (safe, all) = (flushed(&log), merged(begun.collect()));
        assert_eq!(safe, all, "all that was begun is drained and flushed");
        assert_eq!(report.counts.acknowledged, total(&safe));
        // Whatever happens to the target now.
        target.crash();

        let report = copied(way, &source.uri(), &target.uri(), settings);
        assert_eq!(report.counts.skipped, total(&safe));
        assert_same(&content(), &target.content());
        assert!(!journal.exists(), "a journal ends with its copy");
    });
}

#[test]
fn without_a_journal_an_interrupted_lane_is_flushed_too() {
    every_way(|way| {
        let (source, target) = (source(), slow_target(Hostile::builder().size(SIZE as u64)));
        let settings = LaneSettings { flush_interval: Duration::from_secs(60), ..hasty(way) };
        let report = interrupted(way, &source, &target, settings);
        assert!(matches!(report.outcome, Err(Fault::Interrupted)), "{:?}", report.outcome);
        assert_eq!(target.flushes(), 1);
    });
}

#[test]
fn an_interrupted_lane_whose_target_dies_ends_and_copies_nothing_more() {
    every_way(|way| {
        let source = source();
        let target = slow_target(Hostile::builder().size(SIZE as u64).fault_on(
            Occasion::Flush,
            Wrong::Crash,
            Trigger::Always,
        ));
        let settings = LaneSettings { flush_interval: Duration::from_secs(60), ..hasty(way) };
        let report = interrupted(way, &source, &target, settings);
        assert!(report.outcome.is_err());
        assert!(target.written().iter().map(|(_, length)| length).sum::<u64>() < MIB * 3);
    });
}

#[test]
fn only_what_no_flush_covered_is_done_again_after_a_kill() {
    let dir = folder();
    for round in 0..4_u64 {
        let journal = dir.path().join("journal");
        let (source, target) =
            (source(), slow_target(Hostile::builder().content(&[0xEE; SIZE]).lose_unflushed()));
        let run = |interval: &str| {
            let mut command = lanes::this_test("copies_in_a_process_of_its_own");
            command.env("COPY_SOURCE", source.uri());
            command.env("COPY_TARGET", target.uri());
            command.env("COPY_JOURNAL", &journal);
            command.env("COPY_INTERVAL_MS", interval);
            Child::spawn(command).unwrap()
        };
        // Kills it at another moment each time.
        let mut child = run("1");
        // The first FLUSH is that of the seal.
        let begun = |log: &[Request]| {
            log.iter().filter(|r| r.command == Command::Flush).count() as u64 > round + 1
        };
        assert!(target.wait_for_log(lanes::HANG, begun), "{}", child.stderr());
        child.kill().unwrap();
        // Only a FLUSH makes anything safe.
        let (before, safe) = (target.log().len(), flushed(&target.log()));
        target.crash();
        let ended = run("30000").output(lanes::HANG).unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        assert_same(&content(), &target.content());
        // What the journal skipped was flushed; the journal may lag by the last FLUSH.
        let log = target.log();
        let again = log[before..].iter().filter(|r| moves(r)).map(|r| (r.offset, r.length));
        let again = merged(again.collect());
        assert!(total(&again) + total(&safe) >= SIZE as u64);
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        let skipped = said.split_once("skipped=").unwrap().1;
        let skipped: u64 = skipped.split_once('.').unwrap().0.parse().unwrap();
        assert_eq!(total(&again) + skipped, SIZE as u64, "{said}");
        assert!(round == 0 || skipped > 0, "{said}");
    }
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "run by another test"]
fn copies_in_a_process_of_its_own() {
    let Ok(source) = std::env::var("COPY_SOURCE") else {
        return;
    };
    let of = |name: &str| std::env::var(name).unwrap();
    let way = Way { engine: EngineChoice::Auto, payload: PayloadChoice::Auto };
    let settings = LaneSettings {
        flush_interval: Duration::from_millis(of("COPY_INTERVAL_MS").parse().unwrap()),
        // What was made zero and flushed would be left alone by the next run, and not be counted.
        extents: false,
        ..journalled(way, Path::new(&of("COPY_JOURNAL")))
    };
    let report = copied(way, &source, &of("COPY_TARGET"), settings);
    println!("skipped={}.", report.counts.skipped);
}

#[test]
fn a_journal_of_another_copy_is_refused_and_nothing_is_written() {
    let dir = folder();
    every_way(|way| {
        let journal = dir.path().join(format!("journal-{way:?}"));
        let (source, target) = (source(), slow_target(Hostile::builder().size(SIZE as u64)));
        let settings = journalled(way, &journal);
        let report = interrupted(way, &source, &target, settings.clone());
        assert!(report.outcome.is_err());

        let other = Hostile::builder().size(SIZE as u64).start().unwrap();
        let areas = blockferry_dataplane::plan::AreaSet::whole(MIB);
        let part =
            LaneSettings { extent: blockferry_dataplane::Extent::Areas(areas), ..settings.clone() };
        let other_source = Hostile::builder().content(&content()).start().unwrap();
        for (source, target, settings) in [
            (&source, &other, &settings),
            (&other_source, &target, &settings),
            (&source, &target, &part),
        ] {
            let before = target.log().len();
            let fault = lanes::fault_of(copy(way, &source.uri(), &target.uri(), settings.clone()));
            assert!(matches!(fault, Fault::Request(_)), "{fault}");
            assert!(fault.to_string().contains("another copy"), "{fault}");
            assert!(target.log()[before..].iter().all(|r| r.command != Command::Write));
        }
    });
}

#[test]
fn another_image_at_the_same_address_is_refused_by_the_witness() {
    let dir = folder();
    let size = SIZE as u64;
    every_way(|way| {
        let path = |name: &str| dir.path().join(format!("{name}-{way:?}"));
        let journal = path("journal");
        let image = path("image.raw");
        std::fs::write(&image, vec![0; SIZE]).unwrap();
        let mut target = QemuNbd::new(&image).format("raw").shared(4).start().unwrap();
        // The source refuses its last MiB: the lane fails, and its journal stays.
        let source = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Wrong::Error(5), Trigger::Nth(30))
            .start()
            .unwrap();
        let settings = journalled(way, &journal);
        let fault = lanes::fault_of(copy(way, &source.uri(), &target.uri(), settings.clone()));
        assert_eq!(fault.side(), Some(Side::Source), "{fault}");
        // Somebody puts another image there.
        target.child.kill().unwrap();
        std::fs::write(&image, dense(SIZE, 99)).unwrap();
        target.restart().unwrap();
        let fault = lanes::fault_of(copy(way, &source.uri(), &target.uri(), settings.clone()));
        assert!(matches!(fault, Fault::Request(_)), "{fault}");
        assert!(fault.to_string().contains("not of this target"), "{fault}");
        assert_same(&dense(SIZE, 99), &std::fs::read(&image).unwrap());
        assert_eq!(size, 4 * MIB);
    });
}

#[test]
fn a_target_without_flush_is_never_called_safe() {
    let dir = folder();
    every_way(|way| {
        let journal = dir.path().join(format!("journal-{way:?}"));
        let (source, target) = (
            source(),
            slow_target(Hostile::builder().content(&[0xEE; SIZE]).no_flush().lose_unflushed()),
        );
        let settings = journalled(way, &journal);
        let report = interrupted(way, &source, &target, settings.clone());
        assert!(matches!(report.outcome, Err(Fault::Interrupted)), "{:?}", report.outcome);
        target.crash();
        let report = copied(way, &source.uri(), &target.uri(), settings);
        assert_eq!(report.counts.skipped, 0);
        assert_same(&content(), &target.content());
    });
}

#[test]
fn a_journal_survives_breaks_on_both_sides() {
    let dir = folder();
    every_way(|way| {
        let journal = dir.path().join(format!("journal-{way:?}"));
        let source = Hostile::builder()
            .content(&content())
            .fault_on(Occasion::Read, Wrong::CloseMidPayload, Trigger::Every(13))
            .start()
            .unwrap();
        let target = Hostile::builder()
            .content(&[0xEE; SIZE])
            .lose_unflushed()
            .fault_on(Occasion::Request, Wrong::Crash, Trigger::Every(29))
            .start()
            .unwrap();
        let settings = LaneSettings { retries: 50, ..journalled(way, &journal) };
        copied(way, &source.uri(), &target.uri(), settings);
        assert_same(&content(), &target.content());
        assert!(!journal.exists());
    });
}

#[test]
fn a_flush_covers_only_what_was_acknowledged_before_it() {
    let dir = folder();
    every_way(|way| {
        // Several connections, and FLUSHes between writes that are on their way.
        let journal = dir.path().join(format!("journal-{way:?}"));
        let source = source();
        let target = Hostile::builder()
            .content(&[0xEE; SIZE])
            .lose_unflushed()
            .fault_on(Occasion::Write, Wrong::Crash, Trigger::Every(23))
            .start()
            .unwrap();
        let settings = LaneSettings { connections: 3, retries: 50, ..journalled(way, &journal) };
        copied(way, &source.uri(), &target.uri(), settings);
        assert_same(&content(), &target.content());
        assert!(target.count(Command::Flush) > 2);
    });
}

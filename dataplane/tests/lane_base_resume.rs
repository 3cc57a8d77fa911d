//! Lanes over a base that lose their target, are killed, and are resumed.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{EngineChoice, Fault, LaneReport, LaneSettings, PayloadChoice};
use blockferry_doubles::hostile::{Command, Request};
use blockferry_doubles::process::Child;
use blockferry_doubles::{Fault as Wrong, Hostile, HostileServer, Occasion, Trigger};
use lanes::base::{BLOCK, Overlay, differing, manifest_of, over, total};
use lanes::{Way, assert_same, copied, copy, dense, every_engine, folder, patient};

const SIZE: usize = 4 << 20;

fn before() -> Vec<u8> {
    let mut content = dense(SIZE, 71);
    content[1 << 20..(1 << 20) + 4 * BLOCK].fill(0);
    content
}

/// Every other block of the first three quarters is another one; the end, where the seal lies, is
/// as it was.
fn after() -> Vec<u8> {
    let mut content = before();
    for at in (0..SIZE / 4 * 3).step_by(2 * BLOCK) {
        content[at..at + BLOCK].copy_from_slice(&dense(BLOCK, 72 + at as u64));
    }
    content
}

/// A source that takes its time, so that there is a middle to be stopped in.
fn source() -> HostileServer {
    Hostile::builder()
        .content(&after())
        .fault_on(Occasion::Read, Wrong::SlowReply(Duration::from_millis(5)), Trigger::Always)
        .start()
        .unwrap()
}

fn settings(way: Way, base: &Arc<Manifest>, journal: &Path) -> LaneSettings {
    LaneSettings {
        journal: Some(journal.to_owned()),
        flush_interval: Duration::ZERO,
        requests: 4,
        digest: over(way, base).digest,
        base: Some(Arc::clone(base)),
        ..patient(way)
    }
}

#[test]
fn a_target_that_is_lost_gets_again_what_it_lost_and_what_was_left_alone_stays_so() {
    every_engine(|way| {
        for write in [1, 4, 11] {
            let dir = folder();
            let base = manifest_of(&dir.path().join("m"), &before(), true);
            let target = Hostile::builder()
                .content(&before())
                .lose_unflushed()
                .fault_on(Occasion::Write, Wrong::ResetBeforeReply, Trigger::Nth(write))
                .start()
                .unwrap();
            let source = source();
            for journal in [None, Some(dir.path().join("journal"))] {
                let with = settings(way, &base, Path::new("unused"));
                let with = LaneSettings { journal, ..with };
                let report = copied(way, &source.uri(), &target.uri(), with);
                assert_same(&after(), &target.content());
                assert!(report.counts.skipped >= (SIZE / 4) as u64, "{:?}", report.counts);
            }
        }
    });
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "run by another test"]
fn copies_over_a_base_in_a_process_of_its_own() {
    let Ok(source) = std::env::var("COPY_SOURCE") else {
        return;
    };
    let of = |name: &str| std::env::var(name).unwrap();
    let way = Way { engine: EngineChoice::Auto, payload: PayloadChoice::Pooled };
    let base = Arc::new(Manifest::open(Path::new(&of("COPY_BASE"))).unwrap());
    let settings = settings(way, &base, Path::new(&of("COPY_JOURNAL")));
    copied(way, &source, &of("COPY_TARGET"), settings);
}

/// A layer over a base whose copy is killed.
struct Killed {
    overlay: Overlay,
    source: HostileServer,
    journal: PathBuf,
}

impl Killed {
    fn after_reads(reads: usize) -> Self {
        let (overlay, source) = (Overlay::over(&before()), source());
        let journal = overlay.dir.path().join("journal");
        let mut command = lanes::this_test("copies_over_a_base_in_a_process_of_its_own");
        command.env("COPY_SOURCE", source.uri()).env("COPY_TARGET", overlay.server.uri());
        command.env("COPY_BASE", overlay.base.path()).env("COPY_JOURNAL", &journal);
        let mut child = Child::spawn(command).unwrap();
        let enough = |log: &[Request]| {
            log.iter().filter(|request| request.command == Command::Read).count() >= reads
        };
        assert!(source.wait_for_log(lanes::HANG, enough), "{}", child.stderr());
        child.kill().unwrap();
        Self { overlay, source, journal }
    }

    fn resume(&self, way: Way, base: &Arc<Manifest>) -> LaneReport {
        let settings = settings(way, base, &self.journal);
        copy(way, &self.source.uri(), &self.overlay.server.uri(), settings)
    }
}

#[test]
fn a_killed_copy_over_a_base_is_resumed_and_nothing_of_its_seal_stays() {
    every_engine(|way| {
        // The blocks that are not zeros are read, and the last one once the seal is off.
        for reads in [2, 20, 40, 59, 60, 61] {
            let mut killed = Killed::after_reads(reads);
            let base = Arc::clone(&killed.overlay.base);
            let report = killed.resume(way, &base);
            assert!(report.outcome.is_ok(), "{:?}", report.outcome);
            killed.overlay.holds(&after());
            // The last block is the one that equals the base and is in the layer all the same.
            let changed = total(&differing(&before(), &after()));
            assert_eq!(killed.overlay.own_bytes(), changed + BLOCK as u64);
        }
    });
}

#[test]
fn a_layer_that_was_made_anew_is_known_by_the_missing_seal() {
    every_engine(|way| {
        let killed = Killed::after_reads(30);
        let other = Overlay::over(&before());
        let base = Arc::clone(&killed.overlay.base);
        let mut killed = killed;
        killed.overlay.server.child.kill().unwrap();
        std::fs::copy(&other.image, &killed.overlay.image).unwrap();
        killed.overlay.server.restart().unwrap();
        let fault = lanes::fault_of(killed.resume(way, &base));
        assert!(fault.to_string().contains("not of this target"), "{fault}");
    });
}

#[test]
fn a_journal_of_a_copy_over_another_base_is_refused() {
    every_engine(|way| {
        let killed = Killed::after_reads(30);
        let path = killed.overlay.dir.path().join("other");
        let other = manifest_of(&path, &after(), true);
        let fault = lanes::fault_of(killed.resume(way, &other));
        assert!(matches!(fault, Fault::Request(_)), "{fault:?}");
        assert!(fault.to_string().contains("the base is manifest"), "{fault}");
    });
}

/// A journal that says that the seal is off, and no more: the lane failed on what comes there.
fn failed_on_the_last_range(
    way: Way,
    (source, target): (&HostileServer, &HostileServer),
    settings: &LaneSettings,
) {
    let fault = lanes::fault_of(copy(way, &source.uri(), &target.uri(), settings.clone()));
    assert_eq!(fault.side(), Some(blockferry_dataplane::Side::Target), "{fault}");
    let journal = std::fs::read_to_string(settings.journal.as_ref().unwrap()).unwrap();
    assert!(journal.ends_with("{\"safe\":[],\"unsealed\":true}\n"), "{journal}");
}

#[test]
fn a_range_whose_seal_was_noted_to_be_off_is_written_whatever_the_base_says() {
    // What lies under the seal: data, zeros that are read, and zeros that block status tells of,
    // which is worth a question only for a longer range.
    let zeros = [&dense(SIZE / 2, 75)[..], &[0; SIZE / 2]].concat();
    for (content, occasion, cluster_bytes) in [
        (dense(SIZE, 74), Occasion::Write, 64 << 10),
        (zeros.clone(), Occasion::WriteZeroes, 64 << 10),
        (zeros, Occasion::WriteZeroes, 2 << 20),
    ] {
        every_engine(|way| {
            let dir = folder();
            let base = manifest_of(&dir.path().join("m"), &content, true);
            let source = Hostile::builder().content(&content).start().unwrap();
            // The first write is that of the seal.
            let nth = if occasion == Occasion::Write { 2 } else { 1 };
            let target = Hostile::builder()
                .content(&content)
                .fault_on(occasion, Wrong::Error(5), Trigger::Nth(nth))
                .start()
                .unwrap();
            let settings = LaneSettings {
                cluster_bytes,
                // What the seal lies on is one request, so that the lane fails on all of it.
                request_bytes: Some(cluster_bytes),
                ..settings(way, &base, &dir.path().join("journal"))
            };
            failed_on_the_last_range(way, (&source, &target), &settings);
            assert_ne!(target.content(), content);
            let report = copied(way, &source.uri(), &target.uri(), settings);
            assert_same(&content, &target.content());
            // All else was safe, though nothing of it was ever written.
            assert!(report.counts.read <= BLOCK as u64, "{:?}", report.counts);
        });
    }
}

#[test]
fn what_was_left_alone_is_safe_also_after_the_target_was_lost() {
    let content = dense(SIZE, 77);
    let mut held = content.clone();
    held[SIZE / 2] ^= 1;
    every_engine(|way| {
        let dir = folder();
        let base = manifest_of(&dir.path().join("m"), &held, true);
        let source = Hostile::builder().content(&content).start().unwrap();
        // The writes: the seal, the block that differs, that block again, and what the seal lay on.
        let target = Hostile::builder()
            .content(&held)
            .lose_unflushed()
            .fault_on(Occasion::Write, Wrong::ResetBeforeReply, Trigger::Nth(2))
            .fault_on(Occasion::Write, Wrong::Error(5), Trigger::Nth(4))
            .start()
            .unwrap();
        // One FLUSH at the end: all that was left alone waits for it while the target is lost.
        let settings = LaneSettings {
            flush_interval: Duration::from_secs(3600),
            ..settings(way, &base, &dir.path().join("journal"))
        };
        failed_on_the_last_range(way, (&source, &target), &settings);
        let report = copied(way, &source.uri(), &target.uri(), settings);
        assert_same(&content, &target.content());
        assert_eq!(report.counts.read, BLOCK as u64, "{:?}", report.counts);
    });
}

/// Without a base, where the target is said to be zero.
#[test]
fn a_range_whose_seal_was_noted_to_be_off_is_made_zero_on_a_target_that_was_zero() {
    let content = [&dense(SIZE / 2, 76)[..], &[0; SIZE / 2]].concat();
    every_engine(|way| {
        let dir = folder();
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder()
            .size(SIZE as u64)
            .fault_on(Occasion::WriteZeroes, Wrong::Error(5), Trigger::Nth(1))
            .start()
            .unwrap();
        let settings = LaneSettings {
            target_is_zero: true,
            journal: Some(dir.path().join("journal")),
            ..patient(way)
        };
        failed_on_the_last_range(way, (&source, &target), &settings);
        copied(way, &source.uri(), &target.uri(), settings);
        assert_same(&content, &target.content());
    });
}

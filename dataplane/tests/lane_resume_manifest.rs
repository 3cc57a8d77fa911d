//! Manifests of lanes that are interrupted and resumed.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{Counts, EngineChoice, Fault, Lane, LaneSettings, Mover, PayloadChoice};
use blockferry_doubles::hostile::{Command, Request};
use blockferry_doubles::process::Child;
use blockferry_doubles::{Fault as Wrong, Hostile, HostileServer, Occasion, Trigger};
use lanes::{Way, assert_same, copied, dense, every_engine, folder, nbd, patient};

const SIZE: usize = (4 << 20) + 777;

/// Data, zeros that are a hole of the source, and zeros that are found by reading them.
fn content() -> Vec<u8> {
    let mut content = dense(SIZE, 41);
    content[1 << 20..2 << 20].fill(0);
    content[(3 << 20) + 100..(3 << 20) + 200_000].fill(0);
    content
}

fn source() -> HostileServer {
    Hostile::builder().content(&content()).start().unwrap()
}

fn target() -> HostileServer {
    Hostile::builder()
        .content(&[0xEE; SIZE])
        .lose_unflushed()
        .fault_on(Occasion::Write, Wrong::SlowReply(Duration::from_millis(8)), Trigger::Always)
        .start()
        .unwrap()
}

/// The files beside a copy.
struct Beside {
    journal: PathBuf,
    manifest: PathBuf,
    partial: PathBuf,
}

impl Beside {
    fn of(dir: &tempfile::TempDir, name: &str) -> Self {
        let path = |kind: &str| dir.path().join(format!("{name}.{kind}"));
        Self {
            journal: path("journal"),
            manifest: path("manifest"),
            partial: path("manifest.partial"),
        }
    }

    fn settings(&self, way: Way) -> LaneSettings {
        LaneSettings {
            journal: Some(self.journal.clone()),
            manifest: Some(self.manifest.clone()),
            digest: Some(DigestAlgorithm::Xxh3),
            flush_interval: Duration::ZERO,
            requests: 4,
            ..patient(way)
        }
    }
}

/// The manifest of a run that nothing interrupts.
fn uninterrupted(way: Way, dir: &tempfile::TempDir) -> Vec<u8> {
    let files = Beside::of(dir, "uninterrupted");
    let (source, target) = (source(), target());
    copied(way, &source.uri(), &target.uri(), files.settings(way));
    assert!(!files.partial.exists());
    fs::read(&files.manifest).unwrap()
}

/// Runs a lane until some of it is safe, and stops it.
fn interrupt(way: Way, source: &HostileServer, target: &HostileServer, settings: LaneSettings) {
    let lane = Lane::new(nbd(&source.uri()), nbd(&target.uri())).with_settings(settings);
    let running = Mover::new(lanes::mover(way)).start(vec![lane]).unwrap();
    let before = target.log().len();
    let begun =
        |log: &[Request]| log[before..].iter().filter(|r| r.command == Command::Write).count() > 8;
    assert!(target.wait_for_log(lanes::HANG, begun));
    running.canceller().cancel();
    assert!(running.wait_for(lanes::HANG));
    let report = running.wait();
    assert!(matches!(report.lanes[0].outcome, Err(Fault::Interrupted)), "{report:?}");
    // Only what is flushed counts.
    target.crash();
}

/// Resumes; gives the counts and the notes that were made.
fn resumed(
    way: Way,
    source: &HostileServer,
    target: &HostileServer,
    settings: LaneSettings,
) -> (Counts, String) {
    let lane = Lane::new(nbd(&source.uri()), nbd(&target.uri())).with_settings(settings);
    let (report, events) = lanes::run(way, lane);
    assert!(report.outcome.is_ok(), "{:?}", report.outcome);
    assert_same(&content(), &target.content());
    (report.counts, events.all().join("\n"))
}

#[test]
fn a_resumed_copy_moves_nothing_again_for_its_digests_and_has_the_same_manifest() {
    let dir = folder();
    every_engine(|way| {
        let expected = uninterrupted(way, &dir);
        let files = Beside::of(&dir, &format!("resumed-{way:?}"));
        let (source, target) = (source(), target());
        interrupt(way, &source, &target, files.settings(way));
        assert!(files.partial.exists() && !files.manifest.exists());
        let (counts, notes) = resumed(way, &source, &target, files.settings(way));
        assert!(counts.skipped >= 256 << 10, "{counts:?}");
        assert!(!notes.contains("moved again"), "{notes}");
        assert!(fs::read(&files.manifest).unwrap() == expected, "another manifest");
        assert!(!files.partial.exists() && !files.journal.exists());
    });
}

/// The seal of a run without digests is shorter than what a digest is made of.
#[test]
fn a_copy_that_is_resumed_with_digests_after_a_run_without_has_the_same_manifest() {
    let dir = folder();
    every_engine(|way| {
        let expected = uninterrupted(way, &dir);
        let files = Beside::of(&dir, &format!("late-{way:?}"));
        let (source, target) = (source(), target());
        let with = LaneSettings { cluster_bytes: 4096, ..files.settings(way) };
        let without = LaneSettings { manifest: None, digest: None, ..with.clone() };
        interrupt(way, &source, &target, without);
        assert!(fs::read_to_string(&files.journal).unwrap().contains("seal"));
        resumed(way, &source, &target, with);
        assert!(fs::read(&files.manifest).unwrap() == expected, "another manifest");
    });
}

#[test]
fn a_killed_copy_with_a_manifest_is_resumed_and_has_the_same_manifest() {
    let dir = folder();
    let way = Way { engine: EngineChoice::Auto, payload: PayloadChoice::Pooled };
    let expected = uninterrupted(way, &dir);
    for round in 1..5_usize {
        let (source, target) = (source(), target());
        let run = || {
            let mut command = lanes::this_test("copies_with_a_manifest_in_a_process_of_its_own");
            command.env("COPY_SOURCE", source.uri()).env("COPY_TARGET", target.uri());
            command.env("COPY_FOLDER", dir.path());
            Child::spawn(command).unwrap()
        };
        let mut child = run();
        let begun =
            |log: &[Request]| log.iter().filter(|r| r.command == Command::Flush).count() > round;
        assert!(target.wait_for_log(lanes::HANG, begun), "{}", child.stderr());
        child.kill().unwrap();
        target.crash();
        let ended = run().output(lanes::HANG).unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        assert_same(&content(), &target.content());
        let files = Beside::of(&dir, "killed");
        assert!(fs::read(&files.manifest).unwrap() == expected, "another manifest");
    }
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "run by another test"]
fn copies_with_a_manifest_in_a_process_of_its_own() {
    let Ok(source) = std::env::var("COPY_SOURCE") else {
        return;
    };
    let way = Way { engine: EngineChoice::Auto, payload: PayloadChoice::Pooled };
    let path = |kind: &str| {
        Path::new(&std::env::var("COPY_FOLDER").unwrap()).join(format!("killed.{kind}"))
    };
    let files = Beside {
        journal: path("journal"),
        manifest: path("manifest"),
        partial: path("manifest.partial"),
    };
    copied(way, &source, &std::env::var("COPY_TARGET").unwrap(), files.settings(way));
}

#[test]
fn a_manifest_that_does_not_go_with_the_journal_means_that_all_is_moved_again_and_is_said() {
    let dir = folder();
    type Spoil = fn(&Beside);
    let spoil: [(&str, Spoil); 4] = [
        ("cannot open", |files| fs::remove_file(&files.partial).unwrap()),
        ("damaged", |files| {
            let file = fs::OpenOptions::new().write(true).open(&files.partial).unwrap();
            file.set_len(5000).unwrap();
        }),
        ("damaged", |files| fs::write(&files.partial, "blockferry-parti, and what else?").unwrap()),
        ("made none", |files| {
            let text = fs::read_to_string(&files.journal).unwrap();
            let without = |line: &str| {
                line.split_once(",\"manifest\"")
                    .map_or(line.to_owned(), |(safe, _)| format!("{safe}}}"))
            };
            let lines: Vec<String> = text.lines().map(without).collect();
            fs::write(&files.journal, lines.join("\n") + "\n").unwrap();
        }),
    ];
    every_engine(|way| {
        let expected = uninterrupted(way, &dir);
        for (says, spoil) in spoil {
            let files = Beside::of(&dir, "spoilt");
            let (source, target) = (source(), target());
            interrupt(way, &source, &target, files.settings(way));
            spoil(&files);
            let (counts, notes) = resumed(way, &source, &target, files.settings(way));
            assert_eq!(counts.skipped, 0, "{says}");
            assert!(notes.contains("all is moved again") && notes.contains(says), "{notes}");
            assert!(fs::read(&files.manifest).unwrap() == expected, "another manifest");
        }
    });
}

#[test]
fn what_was_moved_without_digests_in_between_is_moved_again_and_nothing_else() {
    let dir = folder();
    every_engine(|way| {
        let expected = uninterrupted(way, &dir);
        let files = Beside::of(&dir, "between");
        let (source, target) = (source(), target());
        interrupt(way, &source, &target, files.settings(way));
        let without = LaneSettings { digest: None, manifest: None, ..files.settings(way) };
        interrupt(way, &source, &target, without);
        let (counts, notes) = resumed(way, &source, &target, files.settings(way));
        assert!(counts.skipped > 0, "{counts:?}");
        assert!(notes.contains("without digests is moved again"), "{notes}");
        assert!(fs::read(&files.manifest).unwrap() == expected, "another manifest");
    });
}

#[test]
fn a_lane_of_a_list_that_is_done_keeps_its_manifest_and_is_not_moved_again() {
    let dir = folder();
    every_engine(|way| {
        let files = Beside::of(&dir, &format!("done-{way:?}"));
        let (source, target) = (source(), target());
        let settings = LaneSettings { keep_journal: true, ..files.settings(way) };
        resumed(way, &source, &target, settings.clone());
        let manifest = fs::read(&files.manifest).unwrap();
        let before = target.count(Command::Write);
        let (counts, _) = resumed(way, &source, &target, settings.clone());
        assert_eq!(counts.skipped, SIZE as u64);
        assert_eq!(target.count(Command::Write), before);
        assert!(fs::read(&files.manifest).unwrap() == manifest);
        // One that somebody else put there is not taken for it.
        fs::remove_file(&files.manifest).unwrap();
        fs::write(&files.manifest, &manifest[..5000]).unwrap();
        let (counts, notes) = resumed(way, &source, &target, settings);
        assert!(notes.contains("is not the one that the journal is about"), "{notes}");
        assert_eq!(counts.skipped, 0);
        Manifest::open(&files.manifest).unwrap();
        assert!(fs::read(&files.manifest).unwrap() == manifest);
    });
}

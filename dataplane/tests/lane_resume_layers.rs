//! Another image at the address of an interrupted copy: one that was made anew over the same base.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use blockferry_dataplane::plan::AreaSet;
use blockferry_dataplane::{
    Endpoint, EngineChoice, Extent, Fault, Lane, LaneReport, LaneSettings, PayloadChoice,
};
use blockferry_doubles::disk::{compare, qemu_img_create};
use blockferry_doubles::hostile::{Command, Request};
use blockferry_doubles::process::Child;
use blockferry_doubles::{Fault as Wrong, Hostile, HostileServer, Occasion, Server, Trigger};
use lanes::{
    Way, assert_same, copied, copy, dense, every_engine, every_way, folder, nbd, patient,
    serve_qcow2,
};
use tempfile::TempDir;

const SIZE: usize = 4 << 20;
const BLOCK: usize = 64 << 10;

/// A layer over a base, and a source that differs from the base in some bytes.
struct Layer {
    dir: TempDir,
    base: PathBuf,
    image: PathBuf,
    /// The source's content in a file, to compare with.
    wanted: PathBuf,
    source: HostileServer,
    server: Server,
}

impl Layer {
    fn new(change: impl FnOnce(&mut [u8])) -> Self {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        let (base, image, wanted) = (path("base.raw"), path("layer.qcow2"), path("wanted.raw"));
        let mut content = dense(SIZE, 51);
        std::fs::write(&base, &content).unwrap();
        change(&mut content);
        std::fs::write(&wanted, &content).unwrap();
        let source = Hostile::builder()
            .content(&content)
            .fault_on(Occasion::Read, Wrong::SlowReply(Duration::from_millis(5)), Trigger::Always)
            .start()
            .unwrap();
        make_image(&image, &base);
        let server = serve_qcow2(&image);
        Self { dir, base, image, wanted, source, server }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// Copies in a process of its own, and kills that once half of it is safe.
    fn kill_half_way(&self, payload: PayloadChoice) {
        let mut command = lanes::this_test("copies_a_layer_in_a_process_of_its_own");
        command.env("COPY_SOURCE", self.source.uri()).env("COPY_TARGET", self.server.uri());
        command.env("COPY_JOURNAL", self.journal());
        command.env("COPY_SPLICE", (payload == PayloadChoice::Splice).to_string());
        let mut child = Child::spawn(command).unwrap();
        let half = |log: &[Request]| {
            log.iter().filter(|request| request.command == Command::Read).count() > SIZE / BLOCK / 2
        };
        assert!(self.source.wait_for_log(lanes::HANG, half), "{}", child.stderr());
        child.kill().unwrap();
        let journal = std::fs::read_to_string(self.journal()).unwrap();
        assert!(journal.contains("{\"safe\":[["), "{journal}");
    }

    /// Somebody makes the image anew over the same base, and serves it at the same address.
    fn make_anew(&mut self) {
        self.server.child.kill().unwrap();
        std::fs::remove_file(&self.image).unwrap();
        make_image(&self.image, &self.base);
        self.server.restart().unwrap();
    }

    fn settings(&self, way: Way) -> LaneSettings {
        settings(way, &self.journal())
    }

    fn resume(&self, way: Way) -> LaneReport {
        copy(way, &self.source.uri(), &self.server.uri(), self.settings(way))
    }
}

fn make_image(image: &Path, base: &Path) {
    qemu_img_create(image, "qcow2", SIZE as u64, Some((base, "raw"))).unwrap();
}

fn settings(way: Way, journal: &Path) -> LaneSettings {
    LaneSettings {
        extent: Extent::Areas(AreaSet::whole(SIZE as u64)),
        journal: Some(journal.to_owned()),
        flush_interval: Duration::ZERO,
        requests: 4,
        ..patient(way)
    }
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "run by another test"]
fn copies_a_layer_in_a_process_of_its_own() {
    let Ok(source) = std::env::var("COPY_SOURCE") else {
        return;
    };
    let of = |name: &str| std::env::var(name).unwrap();
    let spliced = of("COPY_SPLICE") == "true";
    let payload = if spliced { PayloadChoice::Splice } else { PayloadChoice::Pooled };
    let way = Way { engine: EngineChoice::Auto, payload };
    let settings = settings(way, Path::new(&of("COPY_JOURNAL")));
    copied(way, &source, &of("COPY_TARGET"), settings);
}

/// What a source has other than its base.
type Change = fn(&mut [u8]);

/// The changes of two kinds of disks: all bytes of it, and one sector of 8192 of them, which no
/// sample of the content is likely to meet.
fn changes() -> [(&'static str, Change); 2] {
    [
        ("all", |content| content.copy_from_slice(&dense(SIZE, 52))),
        ("one sector", |content| {
            content[3 * BLOCK + 512..3 * BLOCK + 1024].copy_from_slice(&dense(512, 53));
        }),
    ]
}

#[test]
fn a_layer_that_was_made_anew_over_the_same_base_is_refused_and_left_as_it_is() {
    for (what, change) in changes() {
        every_way(|way| {
            eprintln!("   changed: {what}");
            let mut layer = Layer::new(change);
            layer.kill_half_way(way.payload);
            layer.make_anew();
            let fault = lanes::fault_of(layer.resume(way));
            assert!(matches!(fault, Fault::Request(_)), "{fault}");
            assert!(fault.to_string().contains("not of this target"), "{fault}");
            compare(&layer.base, &layer.image, "qcow2").unwrap();
            // As the message says: without the journal all is done again.
            std::fs::remove_file(layer.journal()).unwrap();
            let report = layer.resume(way);
            assert!(report.outcome.is_ok(), "{:?}", report.outcome);
            assert_eq!(report.counts.skipped, 0);
            compare(&layer.wanted, &layer.image, "qcow2").unwrap();
        });
    }
}

#[test]
fn the_layer_that_was_written_is_known_again_and_not_begun_anew() {
    for (what, change) in changes() {
        every_way(|way| {
            eprintln!("   changed: {what}");
            let mut layer = Layer::new(change);
            layer.kill_half_way(way.payload);
            layer.server.restart().unwrap();
            let report = layer.resume(way);
            assert!(report.outcome.is_ok(), "{:?}", report.outcome);
            assert!(report.counts.skipped > 0);
            compare(&layer.wanted, &layer.image, "qcow2").unwrap();
            assert!(!layer.journal().exists());
        });
    }
}

/// Content whose end, where the seal is set, is zeros.
fn ending_in_zeros() -> Vec<u8> {
    let mut content = dense(SIZE, 54);
    content[SIZE / 2..].fill(0);
    content
}

#[test]
fn nothing_of_a_seal_stays_where_the_source_is_zero_and_the_target_says_that_it_was() {
    let dir = folder();
    every_way(|way| {
        for is_zero in [false, true] {
            let source = Hostile::builder().content(&ending_in_zeros()).start().unwrap();
            let target = Hostile::builder().size(SIZE as u64).start().unwrap();
            let settings = LaneSettings {
                target_is_zero: is_zero,
                ..settings(way, &dir.path().join("journal"))
            };
            copied(way, &source.uri(), &target.uri(), settings);
            assert_same(&ending_in_zeros(), &target.content());
            let seal = target.log().into_iter().find(|r| r.command == Command::Write).unwrap();
            assert_eq!((seal.offset, seal.length), ((SIZE - BLOCK) as u64, 4096));
        }
    });
}

#[test]
fn a_file_is_sealed_too_and_known_again() {
    let dir = folder();
    every_engine(|way| {
        let path = dir.path().join(format!("file-{way:?}"));
        let journal = dir.path().join(format!("journal-{way:?}"));
        let run = |source: &HostileServer| {
            let lane = Lane::new(nbd(&source.uri()), Endpoint::File(path.clone()));
            lanes::run(way, lane.with_settings(settings(way, &journal))).0
        };
        let source = Hostile::builder()
            .content(&ending_in_zeros())
            .fault_on(Occasion::Read, Wrong::Error(5), Trigger::Nth(20))
            .start()
            .unwrap();
        let report = run(&source);
        assert!(report.outcome.is_err());
        let before = std::fs::read(&path).unwrap();
        let mut other = before.clone();
        other[SIZE - 1000] ^= 1;
        std::fs::write(&path, &other).unwrap();
        let fault = lanes::fault_of(run(&source));
        assert!(fault.to_string().contains("not of this target"), "{fault}");
        std::fs::write(&path, &before).unwrap();
        let report = run(&source);
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert!(report.counts.skipped > 0);
        assert_same(&ending_in_zeros(), &std::fs::read(&path).unwrap());
    });
}

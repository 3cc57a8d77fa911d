//! Runs lanes in every way that they can be run, and never waits for ever.

// Each test file uses a part of it.
#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

pub(crate) mod base;
pub(crate) mod ends;
pub(crate) mod failing_source;
pub(crate) mod failing_target;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blockferry_dataplane::nbd::NbdUri;
use blockferry_dataplane::{
    Counts, Endpoint, EngineChoice, Event, Fault, Lane, LaneReport, LaneSettings, Mover,
    MoverSettings, PayloadChoice, Report, Side,
};
use blockferry_doubles::disk::{first_difference, qemu_img_create};
use blockferry_doubles::{QemuNbd, Server, TestDisk};
use tempfile::TempDir;

/// A lane that takes longer hangs.
pub(crate) const HANG: Duration = Duration::from_secs(20);
/// The deadline of lanes whose servers fail.
pub(crate) const DEADLINE: Duration = Duration::from_millis(500);
/// What a loaded machine may add to a deadline.
pub(crate) const SLACK: Duration = Duration::from_millis(1500);
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// One way to run a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) engine: EngineChoice,
    pub(crate) payload: PayloadChoice,
}

const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Poll];

/// Runs a test over both engines and both payload paths.
pub(crate) fn every_way(test: impl Fn(Way)) {
    for payload in [PayloadChoice::Splice, PayloadChoice::Pooled] {
        each_engine(payload, &test);
    }
}

/// For lanes that cannot be spliced.
pub(crate) fn every_engine(test: impl Fn(Way)) {
    each_engine(PayloadChoice::Pooled, test);
}

fn each_engine(payload: PayloadChoice, test: impl Fn(Way)) {
    for engine in ENGINES {
        let way = Way { engine, payload };
        let began = Instant::now();
        eprintln!("-- {way:?}");
        test(way);
        eprintln!("   took {:?}", began.elapsed());
    }
}

/// Settings of a lane that runs this way.
pub(crate) fn settings(way: Way) -> LaneSettings {
    LaneSettings {
        payload: way.payload,
        backoff: Duration::from_millis(5),
        ..LaneSettings::default()
    }
}

/// Settings for servers that fail: everything small, and a short deadline.
pub(crate) fn hasty(way: Way) -> LaneSettings {
    LaneSettings { deadline: DEADLINE, request_bytes: Some(64 << 10), requests: 8, ..settings(way) }
}

/// The same for servers that come back: a loaded machine takes its time to start them.
pub(crate) fn patient(way: Way) -> LaneSettings {
    LaneSettings { deadline: DEADLINE * 4, ..hasty(way) }
}

pub(crate) fn nbd(uri: &str) -> Endpoint {
    Endpoint::nbd(uri.parse::<NbdUri>().unwrap())
}

/// What happened to lanes, in words.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.all().iter().filter(|event| event.contains(part)).count()
    }

    pub(crate) fn observe(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let list = Arc::clone(&self.0);
        move |event| list.lock().unwrap().push(format!("{event:?}"))
    }
}

pub(crate) fn mover(way: Way) -> MoverSettings {
    MoverSettings { engine: way.engine, threads: Some(1), ..MoverSettings::default() }
}

/// Runs lanes to their end; panics when they hang.
pub(crate) fn run_all(settings: MoverSettings, lanes: Vec<Lane>) -> (Report, Events) {
    let events = Events::default();
    let running = Mover::new(settings).on_event(events.observe()).start(lanes).unwrap();
    let ended = running.wait_for(HANG);
    assert!(
        ended,
        "the lanes hang after {HANG:?} with {:?}; {:?}",
        running.progress(),
        events.all()
    );
    (running.wait(), events)
}

/// Runs one lane to its end.
pub(crate) fn run(way: Way, lane: Lane) -> (LaneReport, Events) {
    let (mut report, events) = run_all(mover(way), vec![lane]);
    (report.lanes.pop().unwrap(), events)
}

/// Copies between two exports.
pub(crate) fn copy(way: Way, source: &str, target: &str, settings: LaneSettings) -> LaneReport {
    let lane = Lane::new(nbd(source), nbd(target)).with_settings(settings);
    let (report, events) = run(way, lane);
    eprintln!(
        "   {:?} {:?} {:?}",
        report.outcome.as_ref().err().map(ToString::to_string),
        report.counts,
        events.all()
    );
    report
}

/// Copies, and insists on success and on counts that add up.
pub(crate) fn copied(way: Way, source: &str, target: &str, settings: LaneSettings) -> LaneReport {
    let report = copy(way, source, target, settings);
    if let Err(fault) = &report.outcome {
        panic!("the copy failed: {fault}");
    }
    assert_counts(&report.counts);
    report
}

/// Every planned byte is finished with.
pub(crate) fn assert_counts(counts: &Counts) {
    assert_eq!(counts.finished(), counts.planned, "{counts:?}");
}

/// Copies, insists on a failure of `side` that names `endpoint`, within `limit`; gives its words.
pub(crate) fn fails(
    way: Way,
    side: Side,
    source: &str,
    target: &str,
    settings: LaneSettings,
    limit: Duration,
) -> String {
    let began = Instant::now();
    let report = copy(way, source, target, settings);
    let took = began.elapsed();
    let endpoint = if side == Side::Source { source } else { target };
    let fault = report.outcome.expect_err("the copy should fail");
    let words = fault.to_string();
    assert_eq!(fault.side(), Some(side), "{words}");
    assert!(words.contains(endpoint.trim_end_matches('/')), "{words} names {endpoint}");
    assert!(took < limit, "{words} after {took:?}, and {limit:?} were allowed");
    words
}

/// Fails unless every block of the target is either as it was (zeros) or the source's.
pub(crate) fn assert_no_stale_byte(source: &[u8], target: &[u8]) {
    for (at, (want, got)) in source.chunks(512).zip(target.chunks(512)).enumerate() {
        let untouched = got.iter().all(|byte| *byte == 0);
        assert!(
            untouched || want == got,
            "block {at} of 512 bytes is neither the source's nor untouched"
        );
    }
}

pub(crate) fn assert_same(source: &[u8], target: &[u8]) {
    assert_eq!(source.len(), target.len());
    assert_eq!(first_difference(source, target), None, "first difference");
}

/// An empty qcow2 image of `size` bytes behind qemu-nbd.
pub(crate) fn qcow2(dir: &TempDir, name: &str, size: u64) -> (std::path::PathBuf, Server) {
    let path = dir.path().join(name);
    qemu_img_create(&path, "qcow2", size, None).unwrap();
    let server = serve_qcow2(&path);
    (path, server)
}

pub(crate) fn serve_qcow2(path: &Path) -> Server {
    QemuNbd::new(path).format("qcow2").shared(8).arg("--discard=unmap").start().unwrap()
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A random disk with holes, and its content.
pub(crate) fn disk(dir: &TempDir, size: u64, seed: u64) -> (TestDisk, Vec<u8>) {
    let disk = TestDisk::random(dir.path(), size, 0.6, seed).unwrap();
    let content = disk.content().unwrap();
    (disk, content)
}

/// Content without any zero block: what is not written is seen.
pub(crate) fn dense(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blockferry_doubles::disk::Random::new(seed).fill(&mut bytes);
    bytes
}

pub(crate) fn fault_of(report: LaneReport) -> Fault {
    report.outcome.expect_err("the lane should fail")
}

/// This test program again, to run one of its tests that is marked as ignored: for what has to
/// happen in a process of its own.
///
/// The link is followed in the child, also by a user who may not enter the folders on the way.
pub(crate) fn this_test(name: &str) -> std::process::Command {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

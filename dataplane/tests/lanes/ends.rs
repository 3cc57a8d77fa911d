//! Lanes between any two ends: files, pipes, servers.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use blockferry_dataplane::{Endpoint, Lane, LaneReport, LaneSettings};

use super::{Way, assert_counts, run, settings};

pub(crate) fn ran(
    way: Way,
    source: Endpoint,
    target: Endpoint,
    settings: LaneSettings,
) -> LaneReport {
    let (report, events) = run(way, Lane::new(source, target).with_settings(settings));
    eprintln!("   {:?} {:?}", report.outcome, events.all());
    report
}

pub(crate) fn succeeds(way: Way, source: Endpoint, target: Endpoint) -> LaneReport {
    let report = ran(way, source, target, settings(way));
    assert!(report.outcome.is_ok(), "{:?}", report.outcome);
    assert_counts(&report.counts);
    report
}

/// A pipe, and a thread that collects what comes out of it.
pub(crate) fn collected() -> (Endpoint, std::thread::JoinHandle<Vec<u8>>) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let collector = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    (Endpoint::Stream(Arc::new(OwnedFd::from(writer))), collector)
}

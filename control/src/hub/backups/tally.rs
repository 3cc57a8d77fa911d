//! How jobs have ended since the start of the hub.

use std::sync::{Mutex, PoisonError};

use blockferry_dataplane::Counts;

use crate::backup::BackupReport;

/// Counts of jobs that are over, and what was moved for those that are done.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<JobCounts>);

/// Counts of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobCounts {
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs that run.
    pub running: usize,
    /// Jobs that published a point, since the start of the hub, as all that follows.
    pub done: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs that were called off.
    pub cancelled: u64,
    /// Bytes of those that are done.
    pub bytes: Counts,
}

impl Tally {
    pub(super) fn counts(&self) -> JobCounts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn done(&self, report: &BackupReport) {
        let moved = report.disks.iter().map(|disk| &disk.counts);
        let moved = moved.fold(Counts::default(), |sum, counts| sum.plus(counts));
        self.change(|counts| {
            counts.done += 1;
            counts.bytes = counts.bytes.plus(&moved);
        });
    }

    pub(super) fn failed(&self) {
        self.change(|counts| counts.failed += 1);
    }

    pub(super) fn cancelled(&self) {
        self.change(|counts| counts.cancelled += 1);
    }

    fn change(&self, change: impl FnOnce(&mut JobCounts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

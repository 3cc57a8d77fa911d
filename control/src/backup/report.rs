//! What a backup did.

use std::time::Duration;

use blockferry_dataplane::Counts;

use super::plan::DiskPlan;
use crate::catalog::Point;

/// A published point, and how it came about.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackupReport {
    /// The point.
    pub point: Point,
    /// Its disks, in the order in which they were asked for.
    pub disks: Vec<DiskReport>,
    /// Time from the request to the published point.
    pub elapsed: Duration,
}

/// A disk of a new point.
#[derive(Debug)]
#[non_exhaustive]
pub struct DiskReport {
    /// What was planned, and why.
    pub plan: DiskPlan,
    /// What its lane moved.
    pub counts: Counts,
    /// Time that its lane took.
    pub elapsed: Duration,
    /// Bytes that its image takes on disk.
    pub stored_bytes: u64,
}

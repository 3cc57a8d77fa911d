//! What changed of a VM's disk, by its hypervisor.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::plan::AreaSet;

use super::cancel::Cancellation;
use super::error::BackupError;
use super::origin::ChangeTracker;
use super::run::Watch;
use crate::catalog::ChangeId;
use crate::snapshots::{Base, Decision, Hypervisor, Reaction, SnapshotId, VmDisk, VmId};

/// Changed areas of one disk at most; more are merged over their smallest gaps.
const MAX_AREAS: usize = 1 << 20;
/// How often a hypervisor that is out of reach for a moment is asked for changed areas.
const ASKED: u32 = 4;
/// Pause after the first time; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// How often is looked meanwhile whether the job is called off.
const LOOK: Duration = Duration::from_millis(50);

/// What a hypervisor knows of a disk's changes.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) vm: VmId,
    pub(super) identity: Option<String>,
    pub(super) snapshot: SnapshotId,
    pub(super) disk: VmDisk,
}

impl ChangeTracker for Tracker {
    fn now(&self) -> Option<&ChangeId> {
        self.disk.change.as_ref()
    }

    fn changed_since(
        &self,
        base: &Base,
        watch: &dyn Watch,
        cancellation: &Cancellation,
    ) -> Result<Result<AreaSet, String>, BackupError> {
        let since = match base.decide(self.identity.as_deref(), &self.disk) {
            Decision::Delta { since } => since,
            Decision::Full(reason) => return Ok(Err(reason.to_string())),
        };
        let (vm, snapshot, disk) = (&self.vm, &self.snapshot, &self.disk);
        let mut pause = PAUSE;
        let mut asked = 0;
        loop {
            asked += 1;
            let error = match self.hypervisor.changed_areas(vm, snapshot, disk, &since, MAX_AREAS) {
                Ok(areas) => return Ok(Ok(areas)),
                Err(error) => error,
            };
            if cancellation.is_cancelled() {
                return Err(BackupError::Cancelled);
            }
            match error.reaction() {
                Reaction::Full(reason) => return Ok(Err(reason.to_string())),
                Reaction::Retry if asked < ASKED => {
                    watch.note(&format!("{}: {error}; it is asked again", disk.label));
                    pass(pause, cancellation);
                    pause *= 2;
                }
                _ => return Err(error.into()),
            }
        }
    }
}

/// Lets time pass, and no more of it once the job is called off.
fn pass(time: Duration, cancellation: &Cancellation) {
    let end = Instant::now() + time;
    while !cancellation.is_cancelled() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK));
    }
}

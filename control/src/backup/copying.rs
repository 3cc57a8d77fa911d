//! All disks of a job on their way, and the exports that take them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{Counts, Extent};

use super::audit::differing;
use super::cancel::Cancellation;
use super::carrier::{Carried, Carrier, Load};
use super::error::BackupError;
use super::plan::Planned;
use super::request::DiskRequest;
use super::run::Watch;
use super::stage::Staged;
use crate::catalog::{NoteWeight, PointNote};
use crate::repository::{RepositoryError, Work};

/// How often progress is told, and exports are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the exports of one job are started anew before it is given up: something kills them.
const MAX_REVIVALS: u32 = 8;

/// Disks on their way.
pub(super) struct Copying<'a> {
    pub(super) disks: &'a [DiskRequest],
    pub(super) plans: &'a [Planned],
    pub(super) staged: &'a mut [Staged],
    pub(super) work: &'a Work,
    pub(super) carrier: &'a dyn Carrier,
    pub(super) watch: &'a Arc<dyn Watch>,
    pub(super) cancellation: &'a Cancellation,
}

impl Copying<'_> {
    /// Carries all disks at once, and once more in full those whose sample differs. The first that
    /// fails ends the others, for there is no point without it.
    pub(super) fn copy(&mut self) -> Result<(Vec<Carried>, Vec<PointNote>), BackupError> {
        let all: Vec<usize> = (0..self.plans.len()).collect();
        let mut carried =
            self.carry(&all, |planned| planned.extent.clone(), |at, counts| counts[at])?;
        let (again, alarms) = self.audit()?;
        if again.is_empty() {
            return Ok((carried, alarms));
        }
        for &at in &again {
            // It would be taken for one that goes on.
            let manifest = self.work.manifest(self.plans[at].plan.layer);
            fs::remove_file(&manifest).map_err(|error| {
                RepositoryError::system(&manifest, "making its digests anew", error)
            })?;
        }
        let before: Vec<Counts> = carried.iter().map(|carried| carried.counts).collect();
        let progress = |at: usize, counts: &[Counts]| {
            let anew = again.iter().position(|&again| again == at).map(|lane| counts[lane]);
            anew.map_or(before[at], |anew| before[at].plus(&anew))
        };
        let anew = self.carry(&again, |_| Extent::Whole, progress)?;
        for (&at, anew) in again.iter().zip(anew) {
            carried[at].counts = carried[at].counts.plus(&anew.counts);
            carried[at].elapsed += anew.elapsed;
        }
        Ok((carried, alarms))
    }

    /// Carries these disks.
    fn carry(
        &mut self,
        which: &[usize],
        extent: impl Fn(&Planned) -> Extent,
        progress: impl Fn(usize, &[Counts]) -> Counts,
    ) -> Result<Vec<Carried>, BackupError> {
        let load = |at: &usize| {
            let planned = &self.plans[*at];
            Load {
                disk: planned.plan.name.clone(),
                source: self.disks[*at].source.clone(),
                target: self.staged[*at].export.endpoint(),
                size: planned.plan.size_bytes,
                extent: extent(planned),
                base: planned.base.clone(),
                manifest: self.work.manifest(planned.plan.layer),
            }
        };
        let loads = which.iter().map(load).collect();
        let mut carrying = self.carrier.start(loads, self.watch, self.cancellation)?;
        let mut revivals = 0;
        let mut called_off = false;
        while !carrying.wait_for(TICK) {
            let counts = carrying.progress();
            let all: Vec<Counts> = (0..self.plans.len()).map(|at| progress(at, &counts)).collect();
            self.watch.progress(&all);
            if !called_off && self.cancellation.is_cancelled() {
                called_off = true;
                carrying.cancel();
            }
            if !called_off {
                self.revive(&mut revivals);
            }
        }
        carrying.end().map_err(|error| {
            let name = |lane: usize| self.plans[which[lane]].plan.name.clone();
            error.of_disks(name, |lane| self.staged[which[lane]].export.said())
        })
    }

    /// Starts exports anew that have died: a lane finds another process at the same address, and
    /// does again what the dead one had not made safe.
    fn revive(&mut self, revivals: &mut u32) {
        for (staged, planned) in self.staged.iter_mut().zip(self.plans) {
            if *revivals < MAX_REVIVALS
                && let Ok(Some(exited)) = staged.export.revive()
            {
                *revivals += 1;
                self.watch.note(&format!(
                    "disk {}: its export was started anew, for {exited}",
                    planned.plan.name
                ));
            }
        }
    }

    /// The disks of which something changed that nobody told, with what there is to say of them.
    fn audit(&self) -> Result<(Vec<usize>, Vec<PointNote>), BackupError> {
        let (mut again, mut alarms) = (Vec::new(), Vec::new());
        for (at, planned) in self.plans.iter().enumerate() {
            let Some(base) = planned.base.as_ref().filter(|_| !planned.audited.is_empty()) else {
                continue;
            };
            let read = Manifest::open(&self.work.manifest(planned.plan.layer))?;
            let count = differing(&planned.audited, base, &read)?;
            if count > 0 {
                let says = format!(
                    "disk {}: {count} blocks of 64 KiB differ that were tracked as unchanged, so all \
                     of it was compared; reset its change tracking, and look at the points before",
                    planned.plan.name
                );
                self.watch.note(&says);
                alarms.push(PointNote { weight: NoteWeight::Alarm, says });
                again.push(at);
            }
        }
        Ok((again, alarms))
    }
}

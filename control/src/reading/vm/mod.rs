//! Restoring into a VM of a hypervisor: one that is there, or one that is made for it.
//!
//! ```text
//!  there:  written down ─▶ looked at ─▶ disks matched ─▶ its turn ─▶ opened and closed ─┐
//!    ┌──── tracking ended ◀── looked at again ◀── marked in its notes ◀────────────────┘
//!  new: made, off, marked ─▶ written down ─▶ its turn
//!    │
//!    └─▶ served for writing ─▶ written ─▶ flushed ─▶ read back, compared
//!                                                    │
//!  there:  tracking begins anew, mark taken out ◀────┤
//!  new:    it stays, or is removed with all disks ◀──┘
//! ```

mod fit;
mod marking;
mod matching;
mod new;
mod there;
mod turn;
mod write;

use std::sync::Arc;

use super::error::ReadError;
use super::restore::RestoreReport;
use super::settings::ReadSettings;
use crate::backup::{Cancellation, Watch};
use crate::budgets::Budgets;
use crate::catalog::{DiskName, DiskUuid, JobId, PointId, Points};
use crate::repository::{HeldPoint, Repository};
use crate::snapshots::{
    Hypervisor, Ledger, LedgerEntry, LedgerError, NewVm, SnapshotRecord, Vm, WorkKind,
};
use crate::sources::vddk::Settings;

/// What is to be restored into a VM.
#[derive(Clone, Debug)]
pub struct VmRestoreRequest {
    /// The point.
    pub point: PointId,
    /// Which disks; all where none is named.
    pub disks: Vec<DiskName>,
    /// Where to.
    pub target: VmTarget,
}

/// The VM that disks are restored into.
#[derive(Clone, Debug)]
pub struct VmTarget {
    /// Who runs it.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// What that is called by whoever named it.
    pub server: String,
    /// Where it is written down who works with which VM: that of the backups into the same
    /// repository. None where nothing can be written.
    pub ledger: Option<Ledger>,
    /// What all jobs of this machine may take at once of hosts.
    pub budgets: Budgets,
    /// How its disks are served.
    pub vddk: Settings,
    /// The VM.
    pub into: IntoVm,
}

/// A VM that is there, or one that is to be made.
#[derive(Clone, Debug)]
pub enum IntoVm {
    /// This one. What its disks hold is lost.
    There(Vm),
    /// A new one; its disks are those of the point, and so are not in it yet.
    New(NewVm),
}

/// A disk of a point, as far as a VM is concerned.
#[derive(Clone, Debug)]
struct KeptDisk {
    name: DiskName,
    uuid: Option<DiskUuid>,
    size_bytes: u64,
}

/// What all of it goes on with.
struct Work<'a> {
    repository: &'a Repository,
    target: &'a VmTarget,
    settings: &'a ReadSettings,
    watch: &'a Arc<dyn Watch>,
    cancellation: &'a Cancellation,
    /// What it is called where it is written down.
    job: JobId,
}

/// Restores disks of a point into a VM. What is written is flushed, read back and compared.
///
/// # Errors
/// [`ReadError`] where nothing was restored; where disks of a VM that is there were begun to be
/// written it is [`ReadError::Overwritten`]. What happened to a single disk is in its outcome.
pub fn restore_to_vm(
    repository: &Repository,
    request: &VmRestoreRequest,
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<RestoreReport, ReadError> {
    // What is wrong with one disk does not matter to the others.
    let held = repository.hold_as_found(request.point, &request.disks)?;
    let disks = kept(repository, &held)?;
    let (target, job) = (&request.target, JobId::new());
    let work = Work { repository, target, settings, watch, cancellation, job };
    match &request.target.into {
        IntoVm::There(vm) => work.there(vm, held, &disks),
        IntoVm::New(wanted) => work.new_vm(wanted, held, &disks),
    }
}

fn kept(repository: &Repository, held: &HeldPoint) -> Result<Vec<KeptDisk>, ReadError> {
    let known = repository.catalog().disks(&held.point.vm)?;
    let layers = held.layers.iter().map(|layer| layer.layer());
    let disks = layers.map(|layer| KeptDisk {
        name: layer.disk_name.clone(),
        uuid: known.iter().find(|disk| disk.id == layer.facts.disk).and_then(|it| it.uuid.clone()),
        size_bytes: layer.facts.size_bytes,
    });
    Ok(disks.collect())
}

/// Keeps backups and other restores from a VM, for as long as it is held.
struct Claim<'a> {
    entry: Option<LedgerEntry>,
    watch: &'a Arc<dyn Watch>,
}

impl<'a> Claim<'a> {
    /// Writes down that a VM is restored into.
    fn of(work: &Work<'a>, vm: &Vm) -> Result<Self, ReadError> {
        let Work { target, watch, job, .. } = *work;
        let Some(ledger) = &target.ledger else {
            watch.note(
                "it is not written down that the VM is restored into: let nobody else use it",
            );
            return Ok(Self { entry: None, watch });
        };
        let is_same = |record: &SnapshotRecord| {
            record.is_at(&target.server, &*target.hypervisor) && record.is_of(vm)
        };
        let page = ledger.page_of(is_same)?;
        // One that is not there and may come is no reason to wait: if it is there by now, the look at
        // the VM finds it.
        let mut left = page.dead.iter().map(LedgerEntry::record);
        if let Some(dead) =
            left.find(|record| record.kind == WorkKind::Backup && !record.may_come())
        {
            let job = dead.job.clone();
            let why = format!(
                "job {job} is dead, and may have left a snapshot of it; `blockferry node sweep` \
                 removes that"
            );
            return Err(ReadError::UnfitVm { vm: vm.path.clone(), why });
        }
        drop(page);
        let record = SnapshotRecord::of_restore(&target.server, &*target.hypervisor, vm, job);
        match ledger.note(record) {
            Ok(entry) => Ok(Self { entry: Some(entry), watch }),
            Err(LedgerError::Taken { job, kind }) => {
                let does = match kind {
                    WorkKind::Restore => "restores into it too",
                    _ => "backs it up",
                };
                let why = format!("job {job} is at work with it, and {does}; wait for its end");
                Err(ReadError::UnfitVm { vm: vm.path.clone(), why })
            }
            Err(error @ LedgerError::Swept { .. }) => {
                Err(ReadError::UnfitVm { vm: vm.path.clone(), why: error.to_string() })
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.entry.take().map(LedgerEntry::strike) {
            self.watch.note(&error.to_string());
        }
    }
}

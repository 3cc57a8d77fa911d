//! The mark in the notes of a VM that is restored into: what keeps a backup from it that belongs to
//! another repository, and tells of a restore that was cut off.
//!
//! A backup looks for the mark once its snapshot is made, and a restore looks for snapshots once its
//! mark is: of two that begin at once, one at least sees the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Work;
use crate::backup::Watch;
use crate::catalog::JobId;
use crate::reading::error::ReadError;
use crate::snapshots::{
    DeviceKey, Hypervisor, HypervisorError, MarkedVm, RestoreMark, Vm, VmDisk, VmId,
};

/// A VM that has the mark of this restore. When this is dropped, it has only that of what is not right.
pub(super) struct Marking<'a> {
    vm: VmId,
    path: String,
    job: JobId,
    was_tracked: bool,
    /// What an earlier restore has left so that it is not right.
    earlier: BTreeSet<DeviceKey>,
    /// What is not right now.
    wrong: BTreeSet<DeviceKey>,
    hypervisor: &'a Arc<dyn Hypervisor>,
    watch: &'a Arc<dyn Watch>,
}

impl<'a> Marking<'a> {
    /// Marks the VM, whose disks are about to be written.
    pub(super) fn begin(work: &Work<'a>, vm: &Vm, into: &[&VmDisk]) -> Result<Self, ReadError> {
        let (earlier, was_tracked) = match vm.restore_mark() {
            None => (BTreeSet::new(), false),
            Some(earlier) => {
                work.watch.note(&format!("VM {}: {}", vm.path, earlier.advice()));
                match earlier.into {
                    MarkedVm::There { disks, was_tracked } => (disks, was_tracked),
                    MarkedVm::New => (vm.disks.iter().map(|disk| disk.key).collect(), false),
                }
            }
        };
        let marking = Self {
            vm: vm.id.clone(),
            path: vm.path.clone(),
            job: work.job,
            was_tracked: was_tracked || vm.tracks_changes,
            wrong: earlier.clone(),
            earlier,
            hypervisor: &work.target.hypervisor,
            watch: work.watch,
        };
        // Those that an earlier one has left are in it, should this one be cut off, too.
        let all = into.iter().map(|disk| disk.key).chain(marking.wrong.iter().copied());
        marking.mark(&vm.notes, &all.collect())?;
        Ok(marking)
    }

    /// Whether changes were tracked before this restore, or before one that was cut off.
    pub(super) fn was_tracked(&self) -> bool {
        self.was_tracked
    }

    /// A disk is written.
    pub(super) fn writes(&mut self, disk: &VmDisk) {
        self.wrong.insert(disk.key);
    }

    /// A disk is right.
    pub(super) fn is_right(&mut self, disk: &VmDisk) {
        self.wrong.remove(&disk.key);
    }

    /// Nothing was written of a disk after all.
    pub(super) fn is_untouched(&mut self, disk: &VmDisk) {
        if !self.earlier.contains(&disk.key) {
            self.wrong.remove(&disk.key);
        }
    }

    fn mark(&self, notes: &str, disks: &BTreeSet<DeviceKey>) -> Result<(), HypervisorError> {
        let into = MarkedVm::There { disks: disks.clone(), was_tracked: self.was_tracked };
        let mark = RestoreMark { job: Some(self.job), into };
        self.hypervisor.note(&self.vm, &mark.put_into(notes))
    }

    /// Leaves the mark of what is not right, unless another restore has put its own there.
    fn leave(&self) -> Result<(), HypervisorError> {
        let notes = self.hypervisor.look(&self.vm)?.notes;
        let is_ours = RestoreMark::of_notes(&notes).is_some_and(|it| it.job == Some(self.job));
        match (is_ours, self.wrong.is_empty()) {
            (false, _) => Ok(()),
            (true, true) => self.hypervisor.note(&self.vm, &RestoreMark::taken_out(&notes)),
            (true, false) => self.mark(&notes, &self.wrong),
        }
    }
}

impl Drop for Marking<'_> {
    fn drop(&mut self) {
        let path = &self.path;
        if let Err(error) = self.leave() {
            self.watch.note(&format!(
                "VM {path}: its notes may still say that it is restored into: {error}; if it is right, \
                 take the line of blockferry out of them, or it is not backed up"
            ));
        } else if !self.wrong.is_empty() {
            self.watch.note(&format!(
                "VM {path}: its notes say what is not right, and it is not backed up until it is \
                 restored again"
            ));
        }
    }
}

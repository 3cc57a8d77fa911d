//! Into a VM that is there.

use std::sync::Arc;
use std::time::Instant;

use super::marking::Marking;
use super::write::named;
use super::{Claim, KeptDisk, Work, fit, matching};
use crate::backup::Watch;
use crate::reading::error::ReadError;
use crate::reading::restore::{RestoreReport, RestoredDisk, RestoredInto};
use crate::repository::HeldPoint;
use crate::snapshots::{Hypervisor, Vm, VmDisk};

impl Work<'_> {
    /// Over disks of a VM that is off.
    pub(super) fn there(
        &self,
        vm: &Vm,
        held: HeldPoint,
        disks: &[KeptDisk],
    ) -> Result<RestoreReport, ReadError> {
        let started = Instant::now();
        let _claim = Claim::of(self, vm)?;
        // What it was like before may have changed by then.
        let vm = self.target.hypervisor.unless(self.cancellation).look(&vm.id)?;
        fit::check(&vm)?;
        matching::matched(disks, &vm)?;
        let (_granted, vm) = self.wait_for_turn(vm, disks.len())?;
        // And once more while it waited.
        fit::check(&vm)?;
        let into = matching::matched(disks, &vm)?;
        let untouched = vm.disks.len() - into.len();
        if untouched > 0 {
            self.watch.note(&format!("VM {}: {untouched} of its disks stay as they are", vm.path));
        }
        // What cannot be opened is told before anything of the VM is changed. Closed again, for its
        // settings may not be while somebody has its disks open.
        drop(self.open(&vm, disks, &into, false)?);
        let mut marking = Marking::begin(self, &vm, &into)?;
        // A backup that did not see the mark has its snapshot by now.
        fit::check(&self.target.hypervisor.look(&vm.id)?)?;
        let _tracking = Tracking::end(&vm, &marking, &self.target.hypervisor, self.watch)?;
        let opened = self.open(&vm, disks, &into, false)?;
        into.iter().for_each(|disk| marking.writes(disk));
        let report = opened.write(held, started);
        let target = |index: usize| named(into[index], &vm);
        let mut report = report.map_err(|error| overwritten(error, &all(&into, &vm)))?;
        for disk in &mut report.disks {
            let index = disks.iter().position(|it| it.name == disk.name);
            let Some(index) = index else { continue };
            if disk.outcome.is_ok() {
                marking.is_right(into[index]);
            } else if is_begun(disk) {
                let outcome = std::mem::replace(&mut disk.outcome, Ok(String::new()));
                disk.outcome = outcome.map_err(|error| overwritten(error, &target(index)));
            } else {
                marking.is_untouched(into[index]);
            }
        }
        report.into =
            Some(RestoredInto { vm: vm.id.clone(), path: vm.path.clone(), is_new: false });
        Ok(report)
    }
}

/// Whether something may have been written.
fn is_begun(disk: &RestoredDisk) -> bool {
    let counts = &disk.counts;
    counts.sent + counts.acknowledged + counts.zero > 0
}

fn overwritten(cause: ReadError, target: &str) -> ReadError {
    ReadError::Overwritten { target: target.to_owned(), cause: Box::new(cause) }
}

/// All that may have been begun.
fn all(into: &[&VmDisk], vm: &Vm) -> String {
    let files: Vec<&str> = into.iter().map(|disk| disk.file.as_str()).collect();
    match files.as_slice() {
        [one] => format!("{one} of VM {}", vm.path),
        files => format!("each of {} of VM {}", files.join(", "), vm.path),
    }
}

/// Change tracking knows nothing of what is written past the VM. It is ended before, and begins
/// anew with the next snapshot or start, so that no backup takes its word for what was restored.
struct Tracking<'a> {
    /// None, if it was off before.
    vm: Option<Vm>,
    hypervisor: &'a Arc<dyn Hypervisor>,
    watch: &'a Arc<dyn Watch>,
}

impl<'a> Tracking<'a> {
    fn end(
        vm: &Vm,
        marking: &Marking,
        hypervisor: &'a Arc<dyn Hypervisor>,
        watch: &'a Arc<dyn Watch>,
    ) -> Result<Self, ReadError> {
        if !marking.was_tracked() {
            return Ok(Self { vm: None, hypervisor, watch });
        }
        // A restore that was cut off has done so already.
        if vm.tracks_changes {
            hypervisor.forget_changes(&vm.id)?;
        }
        Ok(Self { vm: Some(vm.clone()), hypervisor, watch })
    }
}

impl Drop for Tracking<'_> {
    fn drop(&mut self) {
        let Some(vm) = &self.vm else { return };
        let path = &vm.path;
        match self.hypervisor.track_changes(&vm.id) {
            Ok(()) => self.watch.note(&format!(
                "VM {path}: change tracking (CBT) begins anew when the VM is started, or after the next \
                 snapshot: the next backup reads it whole, and if the VM is not started before, so \
                 does the one after it"
            )),
            Err(error) => self.watch.note(&format!(
                "VM {path}: change tracking (CBT) was turned off, and is not on again: {error}; \
                 turn it on, or have a backup do it"
            )),
        }
    }
}

//! Into a new VM.

use std::sync::Arc;
use std::time::Instant;

use super::{Claim, KeptDisk, Work, matching};
use crate::backup::Watch;
use crate::reading::error::ReadError;
use crate::reading::restore::{RestoreReport, RestoredDisk, RestoredInto};
use crate::repository::HeldPoint;
use crate::snapshots::{Hypervisor, MarkedVm, NewVm, RestoreMark, Vm, VmDisk};

/// VMware's disks are made of these.
const SECTOR_BYTES: u64 = 512;

impl Work<'_> {
    /// Into a VM that is made for it, and stays only with all disks.
    pub(super) fn new_vm(
        &self,
        wanted: &NewVm,
        held: HeldPoint,
        disks: &[KeptDisk],
    ) -> Result<RestoreReport, ReadError> {
        let started = Instant::now();
        let point = held.point.id;
        check_sizes(wanted, disks)?;
        let disks = in_order(disks);
        let job = self.job;
        let wanted = NewVm {
            disks: disks.iter().map(|disk| disk.size_bytes).collect(),
            // Who does not hear of it finds the VM by these.
            note: RestoreMark { job: Some(job), into: MarkedVm::New }
                .put_into(&format!("from point {point}")),
            ..wanted.clone()
        };
        let vm =
            self.target.hypervisor.unless(self.cancellation).make_vm(&wanted, self.cancellation)?;
        let mut made =
            Made { vm: Some(&vm), hypervisor: &self.target.hypervisor, watch: self.watch };
        // Let go before the VM is removed.
        let claim = Claim::of(self, &vm)?;
        let (_granted, vm) = self.wait_for_turn(vm.clone(), disks.len())?;
        let into = devices(&vm, &disks)?;
        let mut report = self.open(&vm, &disks, &into, true)?.write(held, started)?;
        if report.disks.iter().all(|disk| disk.outcome.is_ok()) {
            let note = format!("restored by blockferry from point {point}");
            if let Err(error) = self.target.hypervisor.note(&vm.id, &note) {
                self.watch.note(&format!("VM {}: its notes are not right: {error}", vm.path));
            }
            report.into =
                Some(RestoredInto { vm: vm.id.clone(), path: vm.path.clone(), is_new: true });
            made.vm = None;
        } else {
            report.disks.iter_mut().for_each(|disk| not_kept(disk, &vm));
        }
        drop(claim);
        Ok(report)
    }
}

/// A VM that is removed when this is dropped.
struct Made<'a> {
    /// None, if it stays.
    vm: Option<&'a Vm>,
    hypervisor: &'a Arc<dyn Hypervisor>,
    watch: &'a Arc<dyn Watch>,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let Some(vm) = self.vm else { return };
        match self.hypervisor.destroy_vm(&vm.id) {
            Ok(()) => self.watch.note(&format!("the new VM {} is removed again", vm.path)),
            Err(error) => self.watch.note(&format!(
                "the new VM {} ({}) is not whole, and is not removed: {error}; remove it",
                vm.path, vm.id
            )),
        }
    }
}

fn check_sizes(wanted: &NewVm, disks: &[KeptDisk]) -> Result<(), ReadError> {
    let odd = disks.iter().find(|it| it.size_bytes == 0 || it.size_bytes % SECTOR_BYTES != 0);
    odd.map_or(Ok(()), |disk| {
        let (name, size) = (&disk.name, disk.size_bytes);
        let why = format!(
            "disk {name} has {size} bytes, and VMware's disks are of whole sectors of {SECTOR_BYTES}; \
             restore it to a file"
        );
        Err(ReadError::UnfitVm { vm: wanted.name.clone(), why })
    })
}

/// As the devices were, so that the VM starts from the same disk; those that were none come last.
fn in_order(disks: &[KeptDisk]) -> Vec<KeptDisk> {
    let mut disks = disks.to_vec();
    disks.sort_by_key(|disk| {
        let key = matching::key_of(disk);
        (key.is_none(), key, disk.name.clone())
    });
    disks
}

/// The disks of a new VM, as they were asked for.
fn devices<'a>(vm: &'a Vm, disks: &[KeptDisk]) -> Result<Vec<&'a VmDisk>, ReadError> {
    let mut devices: Vec<&VmDisk> = vm.disks.iter().collect();
    devices.sort_by_key(|disk| disk.key);
    let sizes = |disks: &[u64]| disks.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let has: Vec<u64> = devices.iter().map(|disk| disk.capacity_bytes).collect();
    let wants: Vec<u64> = disks.iter().map(|disk| disk.size_bytes).collect();
    if has == wants {
        return Ok(devices);
    }
    let (has, wants) = (sizes(&has), sizes(&wants));
    let why = format!("it was made with disks of {has} bytes, and not of {wants}");
    Err(ReadError::UnfitVm { vm: vm.path.clone(), why })
}

/// A disk that is right goes with the others.
fn not_kept(disk: &mut RestoredDisk, vm: &Vm) {
    if disk.outcome.is_ok() {
        let (disk_name, vm) = (disk.name.clone(), vm.path.clone());
        disk.outcome = Err(ReadError::NotKept { disk: disk_name, vm });
    }
}

//! Disks of a VM that are served for writing, and written.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use super::{KeptDisk, Work};
use crate::backup::as_served;
use crate::reading::error::ReadError;
use crate::reading::restore::{RestoreReport, restore_held};
use crate::reading::target::{RestoreTarget, WholeDisk};
use crate::repository::HeldPoint;
use crate::snapshots::{DiskPlace, Vm, VmDisk};
use crate::sources::vddk::{Credentials, Disk, Running, VddkSource};
use crate::vsphere::PasswordFile;

/// Disks of a VM that can be written; they are let go when this is dropped.
pub(super) struct Opened<'a> {
    work: &'a Work<'a>,
    running: Vec<Running>,
    targets: RestoreTarget,
}

impl Work<'_> {
    /// Has disks of a VM served for writing: each for the disk of the point in the same place.
    pub(super) fn open<'a>(
        &'a self,
        vm: &Vm,
        disks: &[KeptDisk],
        into: &[&VmDisk],
        is_new: bool,
    ) -> Result<Opened<'a>, ReadError> {
        if self.cancellation.is_cancelled() {
            return Err(ReadError::Cancelled);
        }
        let hypervisor = &self.target.hypervisor;
        let places: Vec<DiskPlace> =
            into.iter().map(|disk| hypervisor.place_to_write(&vm.id, disk)).collect();
        let served: Vec<Disk> = places.iter().map(as_served).collect();
        let mut running = Vec::new();
        if let Some(first) = places.first() {
            running = VddkSource::start_all(&self.target.vddk, &served, &credentials(first)?)?;
        }
        let mut targets = BTreeMap::new();
        for ((disk, it), running) in disks.iter().zip(into).zip(&running) {
            let (has, wants) = (running.session().size, disk.size_bytes);
            let named = named(it, vm);
            if has != wants {
                let why = format!("{named} is served with {has} bytes, and not {wants}");
                return Err(ReadError::UnfitVm { vm: vm.path.clone(), why });
            }
            let target = WholeDisk { endpoint: running.endpoint(), named, is_new };
            targets.insert(disk.name.clone(), target);
        }
        Ok(Opened { work: self, running, targets: RestoreTarget::Each(targets) })
    }
}

impl Opened<'_> {
    /// Writes them.
    pub(super) fn write(
        self,
        held: HeldPoint,
        started: Instant,
    ) -> Result<RestoreReport, ReadError> {
        let Work { repository, settings, watch, cancellation, .. } = *self.work;
        restore_held(repository, held, &self.targets, settings, started, watch, cancellation)
    }
}

impl Drop for Opened<'_> {
    /// What was written has been flushed, or the restore has failed: what goes wrong here is only
    /// told.
    fn drop(&mut self) {
        let watch = self.work.watch;
        thread::scope(|scope| {
            for running in self.running.drain(..) {
                scope.spawn(move || {
                    if let Err(error) = running.stop() {
                        watch.note(&error.to_string());
                    }
                });
            }
        });
    }
}

/// A disk of a VM, for people.
pub(super) fn named(disk: &VmDisk, vm: &Vm) -> String {
    format!("{} of VM {}", disk.file, vm.path)
}

fn credentials(place: &DiskPlace) -> Result<Credentials, ReadError> {
    let password = PasswordFile::at(&place.password_file)
        .and_then(|file| file.for_nbdkit())
        .map_err(|error| ReadError::Password(Box::new(error)))?;
    Ok(Credentials {
        server: place.server.clone(),
        user: place.user.clone(),
        password,
        thumbprint: place.thumbprint.clone(),
    })
}

//! The client: a session, behind what backups ask of hypervisors.

use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::plan::AreaSet;

use super::areas::changed;
use super::error::VsphereError;
use super::inventory::{Meant, candidates, look, meant, vms};
use super::making::{destroy, make, note};
use super::patience::Waits;
use super::session::Session;
use super::settings::VsphereServer;
use super::snapshot::{
    disks_of, has_named, named, owners, remove, remove_named, take, track_changes,
};
use crate::backup::Cancellation;
use crate::catalog::ChangeId;
use crate::snapshots::{
    DiskPlace, Hypervisor, HypervisorError, NewVm, SnapshotFacts, SnapshotId, SnapshotName,
    SnapshotRequest, TakenSnapshot, Vm, VmDisk, VmId,
};

/// A session on a vCenter or an ESXi host. It is renewed when the server ends it, and ended when this
/// is dropped.
#[derive(Debug)]
pub struct Vsphere {
    session: Session,
}

impl Vsphere {
    /// Logs in. Blocks, and must not be called by a thread that runs a tokio reactor.
    ///
    /// # Errors
    /// [`VsphereError`]: what keeps it from being reached, trusted or let in.
    pub fn connect(server: &VsphereServer) -> Result<Self, VsphereError> {
        Self::connect_unless(server, &Cancellation::default())
    }

    /// The same, unless it is called off before it is done.
    ///
    /// # Errors
    /// [`VsphereError`]; [`VsphereError::CalledOff`].
    pub fn connect_unless(
        server: &VsphereServer,
        called_off: &Cancellation,
    ) -> Result<Self, VsphereError> {
        Ok(Self { session: Session::begin(server, called_off)? })
    }

    /// What the server calls itself: product, version, build.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.session.content().full_name
    }

    fn disk_place(&self, vm: &VmId, snapshot: Option<&SnapshotId>, disk: &VmDisk) -> DiskPlace {
        let server = self.session.server();
        DiskPlace {
            server: server.host.clone(),
            port: server.port,
            user: server.user.clone(),
            password_file: server.password.path().to_owned(),
            thumbprint: self.session.wire().thumbprint(),
            vm: vm.clone(),
            snapshot: snapshot.cloned(),
            file: disk.file.clone(),
        }
    }

    fn gone(error: VsphereError, vm: &VmId) -> HypervisorError {
        if error.is_gone() { HypervisorError::Gone(vm.clone()) } else { error.into() }
    }
}

impl Hypervisor for Vsphere {
    fn unless(&self, called_off: &Cancellation) -> Arc<dyn Hypervisor> {
        Arc::new(Self { session: self.session.unless(called_off) })
    }

    fn telling(
        &self,
        tell: Arc<dyn Fn(&str) + Send + Sync>,
        hurry: &Cancellation,
    ) -> Arc<dyn Hypervisor> {
        let waits = Waits { tell, hurry: hurry.clone() };
        Arc::new(Self { session: self.session.telling(waits) })
    }

    fn server_uuid(&self) -> Option<&str> {
        self.session.content().instance_uuid.as_deref()
    }

    fn removal_deadline(&self) -> Duration {
        self.session.server().deadlines.removal
    }

    fn vms(&self) -> Result<Vec<Vm>, HypervisorError> {
        Ok(self.session.looked(|| vms(&self.session))?)
    }

    fn find(&self, sought: &str) -> Result<Vm, HypervisorError> {
        let candidates = self.session.looked(|| candidates(&self.session))?;
        let sought = sought.to_owned();
        match meant(&sought, &candidates) {
            Meant::One(vm) => self.look(&vm),
            Meant::Several(candidates) => Err(HypervisorError::Ambiguous { sought, candidates }),
            Meant::None(near) => {
                let server = self.session.wire().server().to_owned();
                Err(HypervisorError::NotFound { server, sought, near })
            }
        }
    }

    fn look(&self, vm: &VmId) -> Result<Vm, HypervisorError> {
        self.session.looked(|| look(&self.session, vm)).map_err(|error| Self::gone(error, vm))
    }

    fn with_instance_uuid(&self, uuid: &str) -> Result<Vec<VmId>, HypervisorError> {
        Ok(owners(&self.session, uuid)?)
    }

    fn track_changes(&self, vm: &VmId) -> Result<(), HypervisorError> {
        track_changes(&self.session, vm, true).map_err(|error| Self::gone(error, vm))
    }

    fn forget_changes(&self, vm: &VmId) -> Result<(), HypervisorError> {
        track_changes(&self.session, vm, false).map_err(|error| Self::gone(error, vm))
    }

    fn make_vm(&self, wanted: &NewVm, called_off: &Cancellation) -> Result<Vm, HypervisorError> {
        let made = make(&self.session, wanted, called_off)?;
        self.look(&made).map_err(|error| match destroy(&self.session, &made) {
            Ok(()) => error,
            Err(why) => HypervisorError::VmIsLeft {
                error: Box::new(error),
                why: why.to_string(),
                name: wanted.name.clone(),
                vm: made,
            },
        })
    }

    fn note(&self, vm: &VmId, words: &str) -> Result<(), HypervisorError> {
        note(&self.session, vm, words).map_err(|error| Self::gone(error, vm))
    }

    fn destroy_vm(&self, vm: &VmId) -> Result<(), HypervisorError> {
        Ok(destroy(&self.session, vm)?)
    }

    fn take_snapshot(
        &self,
        vm: &VmId,
        wanted: &SnapshotRequest,
        called_off: &Cancellation,
    ) -> Result<TakenSnapshot, HypervisorError> {
        take(&self.session, vm, wanted, called_off).map_err(|error| match error {
            HypervisorError::Vsphere(error) => Self::gone(error, vm),
            error => error,
        })
    }

    fn disks_of(&self, snapshot: &SnapshotId) -> Result<Vec<VmDisk>, HypervisorError> {
        Ok(self.session.looked(|| disks_of(&self.session, snapshot))?)
    }

    fn changed_areas(
        &self,
        vm: &VmId,
        snapshot: &SnapshotId,
        disk: &VmDisk,
        since: &ChangeId,
        most: usize,
    ) -> Result<AreaSet, HypervisorError> {
        Ok(changed(&self.session, vm, snapshot, disk, since, most)?)
    }

    fn remove_snapshot(&self, snapshot: &SnapshotId) -> Result<bool, HypervisorError> {
        Ok(remove(&self.session, snapshot)?)
    }

    fn remove_named(&self, vm: &VmId, name: &SnapshotName) -> Result<usize, HypervisorError> {
        Ok(remove_named(&self.session, vm, name)?)
    }

    fn has_named(
        &self,
        vm: &VmId,
        instance_uuid: Option<&str>,
        name: &SnapshotName,
    ) -> Result<bool, HypervisorError> {
        Ok(has_named(&self.session, vm, instance_uuid, name)?)
    }

    fn own_snapshots(
        &self,
        vm: &VmId,
    ) -> Result<Vec<(SnapshotName, SnapshotFacts)>, HypervisorError> {
        let all = self.session.looked(|| named(&self.session, vm));
        let all = all.map_err(|error| Self::gone(error, vm))?;
        let own =
            all.into_iter().filter_map(|snapshot| Some((snapshot.name.parse().ok()?, snapshot)));
        Ok(own.collect())
    }

    fn place(&self, vm: &VmId, snapshot: &SnapshotId, disk: &VmDisk) -> DiskPlace {
        self.disk_place(vm, Some(snapshot), disk)
    }

    fn place_to_write(&self, vm: &VmId, disk: &VmDisk) -> DiskPlace {
        self.disk_place(vm, None, disk)
    }
}

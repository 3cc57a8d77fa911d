//! The backup of a VM through its hypervisor.

use std::sync::Arc;

use blockferry_control::backup::{
    BackupError, BackupReport, BackupSettings, VmSource, Watch, back_up_vm,
};
use blockferry_control::repository::Repository;
use blockferry_control::sources::vddk::{Settings, fitted};

use super::asked::refusal;
use super::options::BackupOptions;
use super::request::vm_name;
use super::run::watched;
use crate::exit::Refusal;
use crate::vcenter::{self, ledger_of, of_dead_jobs};

/// Makes it.
///
/// # Errors
/// Why there is no new point.
pub(super) fn back_up(options: &BackupOptions) -> anyhow::Result<BackupReport> {
    let (Some(root), None) = (&options.repository, &options.remote.hub) else {
        return Err(Refusal::usage(
            "a VM of a vCenter is backed up into a --repository here, and not by a hub",
        ));
    };
    let vddk = options.vddk.settings()?;
    let lane = options.lane.lane();
    // One that gives no answer does not end in order either.
    let vddk = Settings { end_deadline: vddk.end_deadline.min(lane.deadline), ..vddk };
    let hypervisor = options.server.connect()?;
    let vm = hypervisor.find(&options.vm).map_err(|error| vcenter::refusal(&error))?;
    let repository =
        Repository::open_or_create(root).map_err(|error| refusal(&BackupError::from(error)))?;
    let ledger = ledger_of(root)?;
    of_dead_jobs(&ledger, &options.server.name(), &hypervisor, &vm);
    let name = match &options.name {
        Some(name) => name.clone(),
        None => vm_name(&vm.name)?,
    };
    let disks = u16::try_from(vm.disks.len()).unwrap_or(u16::MAX);
    let settings = BackupSettings {
        lane: fitted(options.lane.lane()),
        mover: options.lane.mover(),
        ..BackupSettings::for_disks(disks)
    };
    let settings_of_vm = options.snapshot.settings(options.server.name(), ledger, vddk);
    let source = VmSource { hypervisor, vm, settings: settings_of_vm };
    watched(options, |telling, cancellation| {
        let watch: Arc<dyn Watch> = Arc::clone(telling) as _;
        back_up_vm(&repository, &source, &name, options.mode, &settings, &watch, cancellation)
            .map_err(|error| refusal(&error))
    })
}

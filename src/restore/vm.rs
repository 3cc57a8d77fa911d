//! Into a VM of a vCenter or an ESXi host.

use std::sync::Arc;

use blockferry_control::catalog::{Points, VmUuid};
use blockferry_control::reading::{
    IntoVm, ReadSettings, RestoreReport, VmRestoreRequest, VmTarget, restore_to_vm,
};
use blockferry_control::repository::Repository;
use blockferry_control::snapshots::{
    Hypervisor, HypervisorError, Ledger, NewVm, NewVmHardware, NewVmSite, VmId,
};
use blockferry_control::sources::vddk::fitted;

use super::options::{RestoreOptions, VmOptions};
use super::run::totals;
use crate::exit::{Exit, Refusal};
use crate::reading::{refusal, settings, watched};
use crate::vcenter::{ledger_of, of_dead_jobs};

/// Whether the target is a VM, and all options fit to that.
///
/// # Errors
/// Wrong usage.
pub(super) fn is_meant(options: &RestoreOptions) -> anyhow::Result<bool> {
    let wrong = |says| Err(Refusal::usage(says));
    if options.to != "vsphere" {
        return match options.vm.is_named()
            || options.vm.says_what_is_new()
            || options.server.is_named()
            || !options.budgets.is_plain()
            || !options.vddk.is_plain()
        {
            true => wrong(
                "--vm, --new-vm with its options, --vcenter, --nbdkit, --vddk-libdir and the like, and \
                 what is taken of hosts are for --to vsphere; leave them out, or name that",
            ),
            false => Ok(false),
        };
    }
    if !options.vm.is_named() {
        return wrong(
            "which VM? name one that is there with --vm, or a new one with --new-vm; write \
             ./vsphere for a folder of that name",
        );
    }
    if options.vm.new_vm.is_none() && options.vm.says_what_is_new() {
        return wrong(
            "folder, host, datastore and hardware are those of a --new-vm, and --vm is there",
        );
    }
    if options.format.is_some() || options.force {
        return wrong("--format and --force are about files, and --to names a VM");
    }
    if options.repository.remote.hub.is_some() {
        return wrong("a point is restored into a VM from a --repository here, and not by a hub");
    }
    Ok(true)
}

/// Restores into it.
///
/// # Errors
/// Why nothing is restored.
pub(super) fn restore(options: &RestoreOptions) -> anyhow::Result<RestoreReport> {
    // What is missing here need not be found with change tracking off, or with half a VM made.
    options.server.check()?;
    let vddk = options.vddk.looked_at(Exit::Target)?;
    let usual = settings(&options.lane)?;
    let settings = ReadSettings { lane: fitted(usual.lane.clone()), ..usual };
    let repository = options.repository.open()?;
    let point =
        repository.catalog().point(options.point).map_err(|error| refusal(&error.into()))?;
    watched(&options.output, totals, |watch, cancellation| {
        let hypervisor = options.server.connect_to_write(cancellation)?;
        let server = options.server.name();
        let ledger = ledger(&repository)?;
        let into = into(options, &hypervisor.unless(cancellation), point.vm_uuid.as_ref())?;
        if let (IntoVm::There(vm), Some(ledger)) = (&into, &ledger) {
            let teller = Arc::clone(watch);
            let say: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(move |text| teller.note(text));
            of_dead_jobs(ledger, &server, &hypervisor, Some(vm), cancellation, &say);
        }
        let budgets = options.budgets.budgets(&vddk);
        let target = VmTarget { hypervisor, server, ledger, budgets, vddk: vddk.clone(), into };
        let disks = options.disk.clone();
        let request = VmRestoreRequest { point: options.point, disks, target };
        restore_to_vm(&repository, &request, &settings, watch, cancellation)
            .map_err(|error| refusal(&error))
    })
}

/// The VM that is meant.
fn into(
    options: &RestoreOptions,
    hypervisor: &Arc<dyn Hypervisor>,
    backed_up: Option<&VmUuid>,
) -> anyhow::Result<IntoVm> {
    let said = |error: HypervisorError| refusal(&error.into());
    if let Some(vm) = &options.vm.vm {
        return Ok(IntoVm::There(hypervisor.find(vm).map_err(said)?));
    }
    let old = old(&**hypervisor, backed_up.map(VmUuid::as_str)).map_err(said)?;
    let name = options.vm.new_vm.as_deref().unwrap_or_default();
    Ok(IntoVm::New(new_vm(name, &options.vm, old)))
}

/// None, where nothing can be written into the repository: after a disaster it may be a copy that is
/// only read.
fn ledger(repository: &Repository) -> anyhow::Result<Option<Ledger>> {
    match repository.unwritable() {
        None => ledger_of(repository.root()).map(Some),
        Some(_) => Ok(None),
    }
}

/// The VM that was backed up, if it is still there.
fn old(hypervisor: &dyn Hypervisor, uuid: Option<&str>) -> Result<Option<VmId>, HypervisorError> {
    let Some(uuid) = uuid else { return Ok(None) };
    match hypervisor.find(&format!("uuid={uuid}")) {
        Ok(vm) => Ok(Some(vm.id)),
        // Of several nobody knows which; what is missing then has to be named.
        Err(HypervisorError::NotFound { .. } | HypervisorError::Ambiguous { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn new_vm(name: &str, options: &VmOptions, like: Option<VmId>) -> NewVm {
    NewVm {
        name: name.to_owned(),
        like,
        site: NewVmSite {
            folder: options.folder.clone(),
            host: options.host.clone(),
            datastore: options.datastore.clone(),
            pool: options.resource_pool.clone(),
        },
        hardware: NewVmHardware {
            guest: options.guest_id.clone(),
            cpus: options.cpus,
            memory_mib: options.memory,
            firmware: options.firmware,
            controller: options.controller,
        },
        ..NewVm::default()
    }
}

//! The backup of a VM through its hypervisor, asked for by options or in a file of many.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use blockferry_control::backup::{
    BackupError, BackupReport, BackupSettings, Cancellation, SnapshotChoice, VmSource, Watch,
    back_up_vm,
};
use blockferry_control::catalog::{BackupMode, ValueError, VmName};
use blockferry_control::repository::Repository;
use blockferry_control::snapshots::Hypervisor;
use blockferry_control::sources::vddk::{Settings, fitted};
use blockferry_dataplane::{LaneSettings, MoverSettings};

use super::asked::refusal;
use super::options::BackupOptions;
use super::run::watched;
use super::telling::{SoFar, Telling};
use crate::exit::{Exit, Refusal};
use crate::vcenter::{self, VcenterOptions, ledger_of};

/// A VM of a vCenter, with what is to be done to it.
#[derive(Debug)]
pub(crate) struct AskedVm {
    /// Its name, or another word that it is found by.
    pub(crate) vm: String,
    /// What it is called in the repository, if not as at the vCenter.
    pub(crate) name: Option<VmName>,
    pub(crate) mode: BackupMode,
    pub(crate) repository: PathBuf,
    pub(crate) lane: LaneSettings,
    pub(crate) mover: MoverSettings,
    /// What it has otherwise than other VMs of the vCenter.
    pub(crate) choice: SnapshotChoice,
}

/// The same, once it is found.
#[derive(Debug)]
pub(crate) struct FoundVm<'a> {
    asked: &'a AskedVm,
    name: VmName,
    repository: Repository,
    source: VmSource,
}

impl AskedVm {
    /// Finds it, at whom `connect` leads to, unless that is called off.
    ///
    /// # Errors
    /// Wrong usage, no such VM, or why it cannot be told.
    pub(crate) fn find(
        &self,
        vcenter: &VcenterOptions,
        connect: impl FnOnce() -> anyhow::Result<Arc<dyn Hypervisor>>,
        called_off: &Cancellation,
    ) -> anyhow::Result<FoundVm<'_>> {
        // What is missing here need not be found with a snapshot open.
        vcenter.server.check()?;
        let vddk = vcenter.vddk.looked_at(Exit::Source)?;
        // One that gives no answer does not end in order either.
        let vddk = Settings { end_deadline: vddk.end_deadline.min(self.lane.deadline), ..vddk };
        let hypervisor = connect()?;
        let vm = hypervisor.unless(called_off).find(&self.vm);
        let vm = vm.map_err(|error| vcenter::refusal(&error))?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => vm.name.parse().map_err(|error: ValueError| {
                Refusal::usage(format!("{error}; say by `--as`, or by `as` in a file, what it is called in the repository"))
            })?,
        };
        let repository = Repository::open_or_create(&self.repository)
            .map_err(|error| refusal(&BackupError::from(error)))?;
        let ledger = ledger_of(&self.repository)?;
        let settings = vcenter.snapshot.settings(vcenter.server.name(), ledger, vddk);
        let settings = self.choice.over(settings);
        Ok(FoundVm { asked: self, name, repository, source: VmSource { hypervisor, vm, settings } })
    }
}

impl FoundVm<'_> {
    /// Its disks that a snapshot holds.
    pub(crate) fn disks(&self) -> usize {
        self.source.vm.disks.iter().filter(|disk| disk.left_out().is_none()).count()
    }

    /// Makes the backup. `disks_at_once` are being backed up by this process, its own among them.
    ///
    /// # Errors
    /// Why there is no new point, with the code to exit with.
    pub(crate) fn back_up(
        &self,
        telling: &Arc<Telling>,
        cancellation: &Cancellation,
        disks_at_once: usize,
    ) -> anyhow::Result<BackupReport> {
        let asked = self.asked;
        let settings = BackupSettings {
            lane: fitted(asked.lane.clone()),
            mover: asked.mover.clone(),
            ..BackupSettings::for_disks(u16::try_from(disks_at_once).unwrap_or(u16::MAX))
        };
        let watch: Arc<dyn Watch> = Arc::clone(telling) as _;
        let (repository, source) = (&self.repository, &self.source);
        back_up_vm(repository, source, &self.name, asked.mode, &settings, &watch, cancellation)
            .map_err(|error| refusal(&error))
    }
}

/// Makes the backup that the options ask for.
///
/// # Errors
/// Why there is no new point.
pub(super) fn back_up(
    options: &BackupOptions,
    so_far: &RefCell<SoFar>,
) -> anyhow::Result<BackupReport> {
    let (Some(root), None) = (&options.repository, &options.remote.hub) else {
        return Err(Refusal::usage(
            "a VM of a vCenter is backed up into a --repository here, and not by a hub",
        ));
    };
    if !options.changed.is_empty() || !options.bitmap.is_empty() {
        return Err(Refusal::usage(
            "--changed and --bitmap are about disks that --disk names: what changed of a VM of a vCenter \
             is asked of the server; leave them out, and take --mode full to have all of it read",
        ));
    }
    let vcenter = VcenterOptions {
        server: options.server.clone(),
        snapshot: options.snapshot.clone(),
        vddk: options.vddk.clone(),
    };
    let asked = AskedVm {
        vm: options.vm.clone(),
        name: options.name.clone(),
        mode: options.mode,
        repository: root.clone(),
        lane: options.lane.lane(),
        mover: options.lane.mover(),
        choice: SnapshotChoice::default(),
    };
    watched(options, so_far, |telling, cancellation| {
        let connect = || vcenter.server.connect_unless(cancellation);
        let found = asked.find(&vcenter, connect, cancellation)?;
        found.back_up(telling, cancellation, found.disks())
    })
}

//! The disks of a VM, by its hypervisor: one snapshot for all of them, and nbdkit for each.
//!
//! ```text
//!  clear, look ─▶ written down ─▶ its turn ─▶ snapshot ─▶ its disks ─▶ served    freeze
//!                                                                           │ copy
//!  struck out ◀─ removed ◀─ sources ended ◀─────────────────────────────────┘       dropped, whatever
//!                                                                                   happened
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::cancel::Cancellation;
use super::error::BackupError;
use super::held::Held;
use super::origin::{Frozen, Origin};
use super::run::Watch;
use super::swept::OtherSweeps;
use crate::budgets::{BudgetError, Budgets, Claim, Pool, Share};
use crate::catalog::{JobId, NoteWeight, PointNote, UnixMillis, VmUuid};
use crate::snapshots::{
    DiskPlace, FindingKind, Hypervisor, HypervisorError, Ledger, QuiescePolicy, Severity,
    SnapshotFacts, SnapshotName, SnapshotRecord, SnapshotRequest, Vm, VmId, WorkKind, findings,
    sweep,
};
use crate::sources::vddk::{Access, Disk, Settings};

/// A VM that is backed up through its hypervisor.
#[derive(Clone, Debug)]
pub struct VmSource {
    /// Who runs it.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The VM.
    pub vm: Vm,
    /// How it is backed up.
    pub settings: VmSettings,
}

/// How VMs are backed up.
#[derive(Clone, Debug)]
pub struct VmSettings {
    /// What their hypervisor is called by whoever named it.
    pub server: String,
    /// Where their snapshots are written down.
    pub ledger: Ledger,
    /// What all jobs of this machine may take at once of hosts and datastores.
    pub budgets: Budgets,
    /// How their disks are served.
    pub vddk: Settings,
    /// Whether its data is put in order.
    pub quiesce: QuiescePolicy,
    /// How long that may take.
    pub quiesce_deadline: Option<Duration>,
    /// Whether change tracking is turned on where it is off and can be.
    pub enable_tracking: bool,
    /// The share of what is said to be unchanged that is read all the same, in percent.
    pub audit_percent: u8,
}

impl VmSource {
    /// The VM that a hypervisor finds by this word, unless that is called off.
    ///
    /// # Errors
    /// [`BackupError::Hypervisor`], [`BackupError::Cancelled`].
    pub fn find(
        hypervisor: Arc<dyn Hypervisor>,
        sought: &str,
        settings: VmSettings,
        called_off: &Cancellation,
    ) -> Result<Self, BackupError> {
        let vm = hypervisor.unless(called_off).find(sought)?;
        Ok(Self { hypervisor, vm, settings })
    }

    fn uuid(&self) -> Option<VmUuid> {
        // One that is none of ours is as good as none.
        self.vm.identity().and_then(|uuid| uuid.to_ascii_lowercase().parse().ok())
    }

    /// Refuses a VM as it is now for what would stop its backup.
    pub(super) fn look(&self) -> Result<Vm, BackupError> {
        let vm = self.hypervisor.look(&self.vm.id)?;
        match findings(&vm).into_iter().find(|finding| finding.severity == Severity::Stops) {
            Some(finding) => Err(BackupError::Unready { vm: vm.path, why: finding.to_string() }),
            None => Ok(vm),
        }
    }

    /// What would limit the backup; it is noted.
    fn limits(&self, vm: &Vm, watch: &dyn Watch) -> Vec<PointNote> {
        let mut notes = Vec::new();
        for finding in findings(vm) {
            if self.settings.enable_tracking
                && finding.kind == (FindingKind::NotTracked { can_be_enabled: true })
            {
                continue;
            }
            watch.note(&format!("VM {}: {finding}", vm.path));
            notes.push(note(NoteWeight::Warning, finding.to_string()));
        }
        notes
    }

    /// What the backup takes of the VM's host and datastores.
    pub(super) fn claim(&self, vm: &Vm, job: JobId) -> Claim {
        let named = &self.settings.server;
        // Which jobs may know by another name.
        let server = self.hypervisor.server_uuid().unwrap_or(named);
        let read = vm.disks.iter().filter(|disk| disk.left_out().is_none()).count();
        let mut shares = disk_shares(server, named, vm, read);
        let names = vm.datastore_names();
        shares.extend(vm.datastores.iter().map(|id| {
            // Which name is whose is known where there is one.
            let only = names.first().filter(|_| (names.len(), vm.datastores.len()) == (1, 1));
            share(Pool::Datastore, server, id, only.unwrap_or(&id.as_str()), 1)
        }));
        Claim { job: job.to_string(), vm: vm.path.clone(), shares }
    }

    /// Removes what dead jobs have left of the VM. Where that cannot be done there is no backup, or they
    /// would pile up until the storage is full.
    fn clear(
        &self,
        others: &mut OtherSweeps<'_>,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<(), BackupError> {
        let VmSettings { ledger, server, .. } = &self.settings;
        let (teller, path) = (Arc::clone(watch), &self.vm.path);
        let about = format!("the snapshot of a dead job of VM {path}");
        let tell = move |why: &str| teller.note(&format!("{about} is not removed yet: {why}"));
        let hypervisor = self.hypervisor.telling(Arc::new(tell), cancellation);
        let swept = others.then(|| sweep(ledger, server, &*hypervisor, Some(&self.vm)))?;
        swept.lines().iter().for_each(|line| watch.note(line));
        if cancellation.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        // Of a restore that cannot be looked at, the VM itself tells what is to be known.
        let mut failed = swept.failed.iter();
        let Some((record, why)) = failed.find(|(record, _)| record.kind == WorkKind::Backup) else {
            return Ok(());
        };
        let why = format!(
            "snapshot blockferry-{} of a dead job is not removed: {why}; no other is made beside it: \
             see to that, or remove it by hand, and back up again",
            record.job
        );
        Err(BackupError::Unready { vm: path.clone(), why })
    }

    /// Refuses a VM that has a snapshot of a backup that is not written down here: that job is at
    /// work elsewhere, for all that anybody here can tell. `above` is a snapshot of this job: of two
    /// that began at once, the one whose snapshot stands on the other's gives way.
    fn refuse_other_backup<'a>(
        &self,
        snapshots: impl IntoIterator<Item = (SnapshotName, &'a SnapshotFacts)>,
        above: Option<&SnapshotName>,
    ) -> Result<(), BackupError> {
        let own: Vec<_> = snapshots.into_iter().collect();
        let ours = above.and_then(|above| own.iter().find(|(name, _)| name == above));
        let below = |facts: &SnapshotFacts| ours.is_none_or(|(_, own)| facts.depth < own.depth);
        let written = self.settings.ledger.names()?;
        let other = own.iter().find(|(name, facts)| below(facts) && !written.contains(name));
        let Some((name, _)) = other else { return Ok(()) };
        let why = format!(
            "another backup has a snapshot of it, {name}, which is not written down in this \
             repository; wait for its end, or if it is dead, have `blockferry node sweep` with its own \
             repository remove it (with --adopt, if this repository was moved here from another file \
             system)"
        );
        Err(BackupError::Unready { vm: self.vm.path.clone(), why })
    }

    pub(super) fn wanted(&self, name: &SnapshotName) -> SnapshotRequest {
        SnapshotRequest {
            name: name.clone(),
            description: "made by blockferry for a backup, which removes it".into(),
            quiesce: self.settings.quiesce,
            quiesce_deadline: self.settings.quiesce_deadline,
        }
    }
}

impl Origin for VmSource {
    fn vm_uuid(&self) -> Option<VmUuid> {
        self.uuid()
    }

    fn freeze(
        &self,
        job: JobId,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<Frozen, BackupError> {
        // Whoever calls the job off waits for no answer but those about its snapshot.
        let source = Self { hypervisor: self.hypervisor.unless(cancellation), ..self.clone() };
        let mut others = OtherSweeps::new(self, watch, cancellation);
        self.clear(&mut others, watch, cancellation)?;
        let vm = source.look()?;
        self.refuse_other_backup(named_as_ours(&vm.snapshots), None)?;
        let name = SnapshotName::of(job);
        let record = SnapshotRecord::new(&self.settings.server, &*self.hypervisor, &vm, job);
        let (teller, about) = (Arc::clone(watch), format!("snapshot {name} of VM {}", vm.path));
        let tell = move |why: &str| teller.note(&format!("{about} is not removed yet: {why}"));
        let mut held = Held {
            source,
            hypervisor: self.hypervisor.telling(Arc::new(tell), cancellation),
            uuid: self.uuid(),
            name: name.clone(),
            // Before its turn: a second job on the VM need not wait to be refused.
            entry: Some(others.note(&record)?),
            granted: None,
            asked: false,
            snapshot: None,
            running: Vec::new(),
            disks: Vec::new(),
            notes: Vec::new(),
            instant: UnixMillis::now(),
            watch: Arc::clone(watch),
        };
        let vm = held.wait_for_turn(vm, job, cancellation)?;
        held.notes = self.limits(&vm, &**watch);
        if self.settings.enable_tracking && may_enable(&vm) {
            held.enable_tracking(&vm.id, cancellation)?;
        }
        let taken = held.made(&vm.id, &self.wanted(&name), cancellation)?;
        held.take(taken);
        let own = held.source.hypervisor.own_snapshots(&vm.id)?;
        self.refuse_other_backup(
            own.iter().map(|(name, facts)| (name.clone(), facts)),
            Some(&name),
        )?;
        // A restore that did not see the snapshot has its mark there by now.
        refuse_restored(&held.source, &vm.id)?;
        held.serve(&vm.id, cancellation)?;
        Ok(held.frozen())
    }
}

/// Refuses a VM that is restored into.
fn refuse_restored(source: &VmSource, vm: &VmId) -> Result<(), BackupError> {
    let vm = source.hypervisor.look(vm)?;
    match vm.restore_mark() {
        Some(mark) => Err(BackupError::Unready { vm: vm.path, why: mark.advice() }),
        None => Ok(()),
    }
}

fn share(pool: Pool, server: &str, id: &str, name: &str, amount: u32) -> Share {
    Share { pool, server: server.to_owned(), id: id.to_owned(), name: name.to_owned(), amount }
}

/// What so many open disks of a VM take: each is a connection of its host, and through its server,
/// which is known by `server` and told by the name that it was given.
pub(crate) fn disk_shares(server: &str, named: &str, vm: &Vm, disks: usize) -> Vec<Share> {
    let disks = u32::try_from(disks).unwrap_or(u32::MAX);
    let mut shares = vec![share(Pool::Server, server, server, named, disks)];
    let of_host = vm.host.iter();
    shares.extend(of_host.map(|host| share(Pool::Host, server, &host.id, &host.name, disks)));
    shares
}

fn named_as_ours(
    snapshots: &[SnapshotFacts],
) -> impl Iterator<Item = (SnapshotName, &SnapshotFacts)> {
    snapshots.iter().filter_map(|snapshot| Some((snapshot.name.parse().ok()?, snapshot)))
}

fn may_enable(vm: &Vm) -> bool {
    findings(vm)
        .iter()
        .any(|finding| finding.kind == (FindingKind::NotTracked { can_be_enabled: true }))
}

pub(super) fn note(weight: NoteWeight, says: String) -> PointNote {
    PointNote { weight, says }
}

/// A disk as nbdkit is told of it.
pub(crate) fn as_served(place: &DiskPlace) -> Disk {
    Disk {
        vm: place.vm.to_string(),
        file: place.file.clone(),
        access: match &place.snapshot {
            Some(snapshot) => Access::Snapshot { id: snapshot.to_string() },
            None => Access::Write,
        },
    }
}

impl From<HypervisorError> for BackupError {
    fn from(error: HypervisorError) -> Self {
        match error {
            HypervisorError::CalledOff => Self::Cancelled,
            error => Self::Hypervisor(Box::new(error)),
        }
    }
}

impl From<BudgetError> for BackupError {
    fn from(error: BudgetError) -> Self {
        match error {
            BudgetError::CalledOff => Self::Cancelled,
            error => Self::Budget(Box::new(error)),
        }
    }
}

/// The folder of a repository, or of a node, that its ledger is in.
#[must_use]
pub fn ledger_folder(repository: &Path) -> std::path::PathBuf {
    repository.join("snapshots")
}

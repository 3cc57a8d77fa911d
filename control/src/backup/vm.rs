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
use std::thread;
use std::time::Duration;

use super::cancel::Cancellation;
use super::error::{BackupError, WhichDisk};
use super::origin::{Frozen, Origin, Witness};
use super::request::{Changes, DiskRequest};
use super::run::Watch;
use super::tracker::Tracker;
use crate::budgets::{BudgetError, Budgets, Claim, Granted, Pool, Share};
use crate::catalog::{DiskName, JobId, NoteWeight, PointNote, UnixMillis, ValueError, VmUuid};
use crate::snapshots::{
    DiskPlace, FindingKind, Hypervisor, HypervisorError, Ledger, LedgerEntry, QuiescePolicy,
    Quiesced, Removal, Severity, SnapshotFacts, SnapshotId, SnapshotName, SnapshotRecord,
    SnapshotRequest, TakenSnapshot, Vm, VmDisk, VmId, WorkKind, findings, remove_written, sweep,
};
use crate::sources::vddk::{Access, Credentials, Disk, Running, Settings, VddkSource};
use crate::vsphere::PasswordFile;

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
    fn look(&self) -> Result<Vm, BackupError> {
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
    fn claim(&self, vm: &Vm, job: JobId) -> Claim {
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
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<(), BackupError> {
        let VmSettings { ledger, server, .. } = &self.settings;
        let (teller, path) = (Arc::clone(watch), &self.vm.path);
        let about = format!("the snapshot of a dead job of VM {path}");
        let tell = move |why: &str| teller.note(&format!("{about} is not removed yet: {why}"));
        let hypervisor = self.hypervisor.telling(Arc::new(tell), cancellation);
        let swept = sweep(ledger, server, &*hypervisor, Some(&self.vm))?;
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

    fn wanted(&self, name: &SnapshotName) -> SnapshotRequest {
        SnapshotRequest {
            name: name.clone(),
            description: "made by blockferry for a backup, which removes it".into(),
            quiesce: self.settings.quiesce,
            quiesce_deadline: self.settings.quiesce_deadline,
        }
    }

    fn credentials(place: &DiskPlace) -> Result<Credentials, BackupError> {
        let password = PasswordFile::at(&place.password_file)
            .and_then(|file| file.for_nbdkit())
            .map_err(|error| BackupError::Password(Box::new(error)))?;
        Ok(Credentials {
            server: place.server.clone(),
            user: place.user.clone(),
            password,
            thumbprint: place.thumbprint.clone(),
        })
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
        self.clear(watch, cancellation)?;
        let vm = source.look()?;
        self.refuse_other_backup(named_as_ours(&vm.snapshots), None)?;
        let name = SnapshotName::of(job);
        let record = SnapshotRecord::new(&self.settings.server, &*self.hypervisor, &vm, job);
        let (teller, about) = (Arc::clone(watch), format!("snapshot {name} of VM {}", vm.path));
        let tell = move |why: &str| teller.note(&format!("{about} is not removed yet: {why}"));
        let mut held = Held {
            source,
            hypervisor: self.hypervisor.telling(Arc::new(tell), cancellation),
            cancellation: cancellation.clone(),
            uuid: self.uuid(),
            name: name.clone(),
            // Before its turn: a second job on the VM need not wait to be refused.
            entry: Some(self.settings.ledger.note(record)?),
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

fn note(weight: NoteWeight, says: String) -> PointNote {
    PointNote { weight, says }
}

/// A VM's snapshot, and what serves its disks.
struct Held {
    /// Its questions are called off with the job.
    source: VmSource,
    /// Lets the VM go, whatever is called off.
    hypervisor: Arc<dyn Hypervisor>,
    cancellation: Cancellation,
    uuid: Option<VmUuid>,
    name: SnapshotName,
    /// None when all is let go.
    entry: Option<LedgerEntry>,
    granted: Option<Granted>,
    /// Whether a snapshot was asked for, so that there may be one.
    asked: bool,
    snapshot: Option<SnapshotId>,
    running: Vec<Running>,
    disks: Vec<DiskRequest>,
    notes: Vec<PointNote>,
    instant: UnixMillis,
    watch: Arc<dyn Watch>,
}

impl Held {
    /// Takes what the job needs of hosts and datastores. Returns the VM as it is then.
    fn wait_for_turn(
        &mut self,
        mut vm: Vm,
        job: JobId,
        cancellation: &Cancellation,
    ) -> Result<Vm, BackupError> {
        let budgets = &self.source.settings.budgets;
        loop {
            let claim = self.source.claim(&vm, job);
            let granted =
                budgets.take(claim.clone(), &|text| self.watch.note(text), cancellation)?;
            if granted.has_waited() {
                vm = self.source.look()?;
                if self.source.claim(&vm, job) != claim {
                    // It has moved meanwhile, and takes its turn there.
                    continue;
                }
            }
            self.granted = Some(granted);
            return Ok(vm);
        }
    }

    /// Has a snapshot made. From here on there may be one, whatever happens to this process.
    fn made(
        &mut self,
        vm: &VmId,
        wanted: &SnapshotRequest,
        cancellation: &Cancellation,
    ) -> Result<TakenSnapshot, BackupError> {
        if let Some(entry) = &mut self.entry {
            entry.asks()?;
        }
        self.asked = true;
        let made = self.source.hypervisor.take_snapshot(vm, wanted, cancellation);
        if made.as_ref().is_err_and(HypervisorError::is_unanswered) {
            return Ok(made?);
        }
        // Without it a sweep waits in vain for the snapshot of a dead job, for an hour.
        if let Some(Err(error)) = self.entry.as_mut().map(LedgerEntry::is_answered) {
            self.watch.note(&error.to_string());
        }
        Ok(made?)
    }

    /// Tracking counts from the next stun on, which a snapshot that is made and removed is.
    fn enable_tracking(
        &mut self,
        vm: &VmId,
        cancellation: &Cancellation,
    ) -> Result<(), BackupError> {
        self.source.hypervisor.track_changes(vm)?;
        let quiesce = QuiescePolicy::None;
        let wanted = SnapshotRequest { quiesce, ..self.source.wanted(&self.name) };
        let stun = self.made(vm, &wanted, cancellation)?;
        self.source.hypervisor.remove_snapshot(&stun.id)?;
        self.notes.push(note(NoteWeight::Note, "change tracking (CBT) was turned on".into()));
        Ok(())
    }

    fn take(&mut self, taken: TakenSnapshot) {
        self.instant = UnixMillis::now();
        self.snapshot = Some(taken.id);
        self.notes.push(match taken.quiesced {
            Quiesced::Done => note(NoteWeight::Note, "the guest's data was put in order".into()),
            Quiesced::PoweredOff => note(NoteWeight::Note, "the VM was off".into()),
            Quiesced::NotAsked => {
                note(NoteWeight::Note, "the snapshot is as after a power cut, as asked".into())
            }
            Quiesced::FellBack(why) => {
                let says = format!(
                    "the guest could not put its data in order, so the snapshot is as after a \
                     power cut: {why}"
                );
                self.watch.note(&says);
                note(NoteWeight::Warning, says)
            }
        });
    }

    /// Has all disks of the snapshot served that it holds.
    fn serve(&mut self, vm: &VmId, cancellation: &Cancellation) -> Result<(), BackupError> {
        let Some(snapshot) = self.snapshot.clone() else { return Ok(()) };
        let hypervisor = Arc::clone(&self.source.hypervisor);
        let mut disks: Vec<VmDisk> = hypervisor.disks_of(&snapshot)?;
        disks.retain(|disk| disk.left_out().is_none());
        forget_shared_uuids(&mut disks);
        let places: Vec<DiskPlace> =
            disks.iter().map(|disk| hypervisor.place(vm, &snapshot, disk)).collect();
        let Some(first) = places.first() else {
            let why = "its snapshot has no disk".into();
            return Err(BackupError::Unready { vm: self.source.vm.path.clone(), why });
        };
        if cancellation.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let credentials = VmSource::credentials(first)?;
        let served: Vec<Disk> = places.iter().map(as_served).collect();
        let vddk = &self.source.settings.vddk;
        let started = VddkSource::start_all_unless(cancellation, vddk, &served, &credentials);
        if cancellation.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        self.running = started?;
        for (disk, running) in disks.into_iter().zip(&self.running) {
            let name = disk_name(&disk)?;
            let (has, size) = (running.session().size, disk.capacity_bytes);
            if has != size {
                return Err(BackupError::OtherSize { disk: WhichDisk(name), has, size });
            }
            let tracker = Tracker {
                hypervisor: Arc::clone(&hypervisor),
                vm: vm.clone(),
                identity: self.source.vm.identity().map(str::to_owned),
                snapshot: snapshot.clone(),
                disk: disk.clone(),
            };
            let audit_percent = self.source.settings.audit_percent;
            let changes = Changes::Tracked { tracker: Arc::new(tracker), audit_percent };
            self.disks.push(DiskRequest {
                name,
                uuid: disk.uuid.clone(),
                source: running.endpoint(),
                changes,
            });
        }
        Ok(())
    }

    /// With what holds it.
    fn frozen(mut self) -> Frozen {
        Frozen {
            vm_uuid: self.uuid.take(),
            instant: self.instant,
            disks: std::mem::take(&mut self.disks),
            notes: std::mem::take(&mut self.notes),
            witness: Some(Arc::new(self.witness())),
            _held: Box::new(self),
        }
    }

    /// Who knows whether the snapshot is there.
    fn witness(&self) -> Still {
        let (watch, cancellation) = (Arc::clone(&self.watch), &self.cancellation);
        let (name, vm) = (self.name.clone(), self.source.vm.clone());
        let about = format!("whether snapshot {name} of VM {} is still there", vm.path);
        let tell = move |why: &str| watch.note(&format!("{about} cannot be seen: {why}"));
        let hypervisor = self.hypervisor.unless(cancellation);
        Still { hypervisor: hypervisor.telling(Arc::new(tell), cancellation), vm, name }
    }

    /// Ends the sources, for no snapshot should be removed that is read, and removes it.
    fn let_go(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        let running = std::mem::take(&mut self.running);
        thread::scope(|scope| {
            for source in running {
                let watch = &self.watch;
                scope.spawn(move || {
                    if let Err(error) = source.stop() {
                        watch.note(&error.to_string());
                    }
                });
            }
        });
        let mut granted = self.granted.take();
        let given_back = granted.as_mut().map(|all| all.give_back(&[Pool::Host, Pool::Server]));
        if let Some(Err(error)) = given_back {
            self.watch.note(&error.to_string());
        }
        let hypervisor = &self.hypervisor;
        let by_name = || remove_written(entry.record(), &**hypervisor);
        let removed = match &self.snapshot {
            None if !self.asked => Ok(Removal::Done(0)),
            // It may be there although whoever was asked for it did not say so.
            None => by_name(),
            Some(snapshot) => match hypervisor.remove_snapshot(snapshot) {
                Ok(true) => Ok(Removal::Done(1)),
                // It has another id, if its VM was registered anew.
                Ok(false) => by_name(),
                Err(error) => Err(error),
            },
        };
        let (name, vm) = (&self.name, &self.source.vm.path);
        let struck = match removed {
            Ok(Removal::Done(count)) => {
                if count == 0 && self.snapshot.is_some() {
                    self.watch.note(&format!("snapshot {name} of VM {vm} was gone already"));
                }
                entry.strike().map_err(|error| error.to_string())
            }
            Ok(Removal::Awaited(why)) => {
                return self.watch.note(&format!("snapshot {name} of VM {vm} {why}"));
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = struck {
            self.watch.note(&format!(
                "snapshot {name} of VM {vm} is not removed: {why}; `blockferry node sweep` does it \
                 later"
            ));
        }
    }
}

/// A snapshot that all that is read has to be of.
#[derive(Debug)]
struct Still {
    hypervisor: Arc<dyn Hypervisor>,
    vm: Vm,
    name: SnapshotName,
}

impl Witness for Still {
    fn confirm(&self) -> Result<(), BackupError> {
        let Self { hypervisor, vm, name } = self;
        if hypervisor.has_named(&vm.id, vm.instance_uuid.as_deref(), name)? {
            return Ok(());
        }
        let why = format!(
            "its snapshot {name} is gone, and was not removed by this backup: what was read may be of \
             another time, so there is no point; find out who removes snapshots of this VM, and back it \
             up again"
        );
        Err(BackupError::Unready { vm: vm.path.clone(), why })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
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

/// Disks that have the same UUID are known by none: a chain is that of one disk.
fn forget_shared_uuids(disks: &mut [VmDisk]) {
    let shared: Vec<bool> = disks.iter().map(|disk| disk.shares_uuid(disks)).collect();
    for (disk, _) in disks.iter_mut().zip(shared).filter(|(_, shared)| *shared) {
        disk.uuid = None;
    }
}

/// A disk is called after its device, which it keeps whatever its label and its file are.
fn disk_name(disk: &VmDisk) -> Result<DiskName, BackupError> {
    format!("disk-{}", disk.key).parse().map_err(|error: ValueError| BackupError::Unready {
        vm: disk.file.clone(),
        why: error.to_string(),
    })
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

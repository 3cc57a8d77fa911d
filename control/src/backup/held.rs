//! A VM that is held still: its snapshot, what serves its disks, and how it is let go.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::cancel::Cancellation;
use super::error::{BackupError, WhichDisk};
use super::origin::{Frozen, Witness};
use super::request::{Changes, DiskRequest};
use super::run::Watch;
use super::tracker::Tracker;
use super::vm::{VmSource, as_served, note};
use crate::budgets::{Granted, Pool};
use crate::catalog::{DiskName, JobId, NoteWeight, PointNote, UnixMillis, ValueError, VmUuid};
use crate::snapshots::{
    DiskPlace, Hypervisor, HypervisorError, LedgerEntry, QuiescePolicy, Quiesced, Removal,
    SnapshotId, SnapshotName, SnapshotRequest, TakenSnapshot, Vm, VmDisk, VmId, remove_written,
};
use crate::sources::vddk::{Credentials, Disk, Running, VddkSource};
use crate::vsphere::PasswordFile;

/// A removal that takes longer is told of when it is done.
const LONG: Duration = Duration::from_secs(5);

/// A VM's snapshot, and what serves its disks.
pub(super) struct Held {
    /// Its questions are called off with the job.
    pub(super) source: VmSource,
    /// Lets the VM go, whatever is called off.
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) uuid: Option<VmUuid>,
    pub(super) name: SnapshotName,
    /// None when all is let go.
    pub(super) entry: Option<LedgerEntry>,
    pub(super) granted: Option<Granted>,
    /// Whether a snapshot was asked for, so that there may be one.
    pub(super) asked: bool,
    pub(super) snapshot: Option<SnapshotId>,
    pub(super) running: Vec<Running>,
    pub(super) disks: Vec<DiskRequest>,
    pub(super) notes: Vec<PointNote>,
    pub(super) instant: UnixMillis,
    pub(super) watch: Arc<dyn Watch>,
}

impl Held {
    /// Takes what the job needs of hosts and datastores. Returns the VM as it is then.
    pub(super) fn wait_for_turn(
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
    pub(super) fn made(
        &mut self,
        vm: &VmId,
        wanted: &SnapshotRequest,
        cancellation: &Cancellation,
    ) -> Result<TakenSnapshot, BackupError> {
        if let Some(entry) = &mut self.entry {
            entry.asks()?;
        }
        self.asked = true;
        self.last_words("may be left");
        let made = self.source.hypervisor.take_snapshot(vm, wanted, cancellation);
        if made.as_ref().is_err_and(HypervisorError::is_unanswered) {
            return Self::amid(made, cancellation);
        }
        // Without it a sweep waits in vain for the snapshot of a dead job, for an hour.
        if let Some(Err(error)) = self.entry.as_mut().map(LedgerEntry::is_answered) {
            self.watch.note(&error.to_string());
        }
        Self::amid(made, cancellation)
    }

    /// A snapshot is waited for whatever is called off; that it was is why the job ends, also where the
    /// wait was in vain.
    fn amid(
        made: Result<TakenSnapshot, HypervisorError>,
        cancellation: &Cancellation,
    ) -> Result<TakenSnapshot, BackupError> {
        made.map_err(|error| match error {
            HypervisorError::CalledOff => BackupError::Cancelled,
            error if cancellation.is_cancelled() => BackupError::CancelledAmid(Box::new(error)),
            error => error.into(),
        })
    }

    /// Tracking counts from the next stun on, which a snapshot that is made and removed is.
    pub(super) fn enable_tracking(
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

    pub(super) fn take(&mut self, taken: TakenSnapshot) {
        self.instant = UnixMillis::now();
        self.snapshot = Some(taken.id);
        self.last_words("is left");
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

    /// What is told where the process ends at once from here on, before anything is let go.
    fn last_words(&self, left: &str) {
        let (name, vm) = (&self.name, &self.source.vm.path);
        let words =
            format!("snapshot {name} of VM {vm} {left}; `blockferry node sweep` removes it");
        self.watch.last_words(Some(&words));
    }

    /// Has all disks of the snapshot served that it holds.
    pub(super) fn serve(
        &mut self,
        vm: &VmId,
        cancellation: &Cancellation,
    ) -> Result<(), BackupError> {
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
        let credentials = credentials(first)?;
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
    pub(super) fn frozen(mut self) -> Frozen {
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
        let (name, vm) = (self.name.clone(), self.source.vm.clone());
        Still { hypervisor: Arc::clone(&self.hypervisor), vm, name }
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
        let since = Instant::now();
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
                } else if count > 0 && since.elapsed() >= LONG {
                    let took = since.elapsed().as_secs();
                    self.watch
                        .note(&format!("snapshot {name} of VM {vm} is removed, after {took} s"));
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
    fn confirm(
        &self,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<(), BackupError> {
        let Self { hypervisor, vm, name } = self;
        let (teller, path) = (Arc::clone(watch), &vm.path);
        let about = format!("whether snapshot {name} of VM {path} is still there");
        let tell = move |why: &str| teller.note(&format!("{about} cannot be seen: {why}"));
        let hypervisor = hypervisor.unless(cancellation).telling(Arc::new(tell), cancellation);
        let why = match hypervisor.has_named(&vm.id, vm.instance_uuid.as_deref(), name) {
            Ok(true) => return Ok(()),
            Ok(false) => format!(
                "its snapshot {name} is gone, and was not removed by this backup: what was read may be \
                 of another time, so there is no point; find out who removes snapshots of this VM, and \
                 back it up again"
            ),
            // Nobody waits for it any more, however the last look ended.
            Err(_) if cancellation.is_cancelled() => return Err(BackupError::Cancelled),
            Err(error) => format!(
                "all of it was read, but nobody could see whether its snapshot {name} was still there \
                 to the end, so there is no point: {error}"
            ),
        };
        Err(BackupError::Unready { vm: vm.path.clone(), why })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
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

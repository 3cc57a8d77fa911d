//! What backups and restores ask of a hypervisor.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::plan::AreaSet;

use super::error::HypervisorError;
use super::name::SnapshotName;
use super::new_vm::NewVm;
use super::vm::{SnapshotFacts, SnapshotId, Vm, VmDisk, VmId};
use crate::backup::Cancellation;
use crate::catalog::ChangeId;

/// Whether what runs in a VM is asked to put its data in order before a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuiescePolicy {
    /// It is not: the snapshot is what a power cut would leave.
    None,
    /// It is, and if it cannot, the snapshot is made without.
    #[default]
    Try,
    /// It is, and if it cannot, there is no snapshot.
    Require,
}

impl QuiescePolicy {
    const ALL: [Self; 3] = [Self::None, Self::Try, Self::Require];

    /// Its word, for people and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Try => "try",
            Self::Require => "require",
        }
    }
}

impl FromStr for QuiescePolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| "it is none, try or require".to_owned())
    }
}

/// What became of that.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quiesced {
    /// It was not asked for.
    NotAsked,
    /// The data is in order.
    Done,
    /// The VM was off, so there was nothing to put in order.
    PoweredOff,
    /// It could not be done, and the snapshot was made without: why.
    FellBack(String),
}

/// A snapshot that is to be made, of all disks of a VM, without its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// What it is called.
    pub name: SnapshotName,
    /// What people read about it.
    pub description: String,
    /// Whether data is put in order before.
    pub quiesce: QuiescePolicy,
    /// How long that may take. Without one, it is as long as the hypervisor likes.
    pub quiesce_deadline: Option<Duration>,
}

/// A snapshot that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenSnapshot {
    /// What it is known by.
    pub id: SnapshotId,
    /// Whether the data in it is in order.
    pub quiesced: Quiesced,
}

/// Where the content of a disk is read or written: what nbdkit's vddk plugin has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlace {
    /// The server's name or address.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// As whom.
    pub user: String,
    /// The file that has the password.
    pub password_file: PathBuf,
    /// SHA-1 of the server's certificate, as pairs of hexadecimal digits with colons between.
    pub thumbprint: String,
    /// The VM.
    pub vm: VmId,
    /// The snapshot that is read; none, if the VM's own disk is written.
    pub snapshot: Option<SnapshotId>,
    /// The file: that of the snapshot's disk, or the VM's own.
    pub file: String,
}

/// Whoever runs VMs. Calls block, each with deadlines of its own; they may come from several threads
/// at once, but not from one that runs a tokio reactor.
pub trait Hypervisor: Send + Sync + fmt::Debug {
    /// The same one, whose questions end in [`HypervisorError::CalledOff`] as soon as this is called
    /// off, whether they are answered or not. What changes something is carried on to its end all the
    /// same, for nobody would know how far it came, unless the call says otherwise.
    fn unless(&self, called_off: &Cancellation) -> Arc<dyn Hypervisor>;

    /// The same one, which tells what it waits for where it removes snapshots, or asks whether one is
    /// there, and a server is away or busy. It gives up soon where `hurry` is called off.
    fn telling(
        &self,
        tell: Arc<dyn Fn(&str) + Send + Sync>,
        hurry: &Cancellation,
    ) -> Arc<dyn Hypervisor>;

    /// What it is the same server by, whatever name it is reached by; none, if it has nothing of the
    /// kind, as ESXi hosts.
    fn server_uuid(&self) -> Option<&str>;

    /// How long the removal of a snapshot is waited for.
    fn removal_deadline(&self) -> Duration;

    /// All VMs, sorted by path.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn vms(&self) -> Result<Vec<Vm>, HypervisorError>;

    /// The one VM of this name, path, UUID or id. Where a name is taken for something else,
    /// `name=`, `path=`, `uuid=` or `moref=` before it says what it is.
    ///
    /// # Errors
    /// [`HypervisorError::Ambiguous`], [`HypervisorError::NotFound`], and others.
    fn find(&self, sought: &str) -> Result<Vm, HypervisorError>;

    /// A VM as it is now.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn look(&self, vm: &VmId) -> Result<Vm, HypervisorError>;

    /// The VM that has this UUID as its own, by whatever id it has now; none where there is none. Only
    /// where a server does not keep them apart, there are several. It is asked where a snapshot is to be
    /// removed, so a server that is away is waited for.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn with_instance_uuid(&self, uuid: &str) -> Result<Vec<VmId>, HypervisorError>;

    /// Has the changes of a VM's disks tracked, from the next snapshot on that is made and removed.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn track_changes(&self, vm: &VmId) -> Result<(), HypervisorError>;

    /// Has the changes of a VM's disks tracked no more, and forgets what is known of them.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn forget_changes(&self, vm: &VmId) -> Result<(), HypervisorError>;

    /// Makes a VM, which is off. Where that fails, nothing is left, unless the error says so: what is
    /// made in spite of an answer that was lost is found by its name and notes, which have to be nobody
    /// else's.
    ///
    /// # Errors
    /// [`HypervisorError::NoPlace`], [`HypervisorError::VmMayBeLeft`], and others.
    fn make_vm(&self, wanted: &NewVm, called_off: &Cancellation) -> Result<Vm, HypervisorError>;

    /// Replaces what people read about a VM.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn note(&self, vm: &VmId, note: &str) -> Result<(), HypervisorError>;

    /// Removes a VM with its disks. Only for one that [`make_vm`](Self::make_vm) has made. One that is
    /// not there any more is removed.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn destroy_vm(&self, vm: &VmId) -> Result<(), HypervisorError>;

    /// Makes a snapshot. Where that fails, it may be there nevertheless, now or in a moment:
    /// [`remove_named`](Self::remove_named) sees to that, and has to be called. One that is called off
    /// when it is nearly done is made nevertheless.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn take_snapshot(
        &self,
        vm: &VmId,
        wanted: &SnapshotRequest,
        called_off: &Cancellation,
    ) -> Result<TakenSnapshot, HypervisorError>;

    /// The disks of a snapshot: their content, files and change ids at its instant. Those that
    /// snapshots do not hold ([`VmDisk::left_out`]) are among them.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn disks_of(&self, snapshot: &SnapshotId) -> Result<Vec<VmDisk>, HypervisorError>;

    /// What changed of a snapshot's disk since then, in at most `most` areas: where there are more,
    /// neighbours are merged with what is between them. The change id `*` asks for what is in use.
    ///
    /// # Errors
    /// [`HypervisorError`]; [`HypervisorError::reaction`] says what follows.
    fn changed_areas(
        &self,
        vm: &VmId,
        snapshot: &SnapshotId,
        disk: &VmDisk,
        since: &ChangeId,
        most: usize,
    ) -> Result<AreaSet, HypervisorError>;

    /// Removes a snapshot, and no other with it, and says whether it was there.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn remove_snapshot(&self, snapshot: &SnapshotId) -> Result<bool, HypervisorError>;

    /// Removes the snapshots of this name, also one that is being made this moment, and says how many there
    /// were. A VM that is not there any more has none.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn remove_named(&self, vm: &VmId, name: &SnapshotName) -> Result<usize, HypervisorError>;

    /// Whether a VM has a snapshot of this name. The VM is the one with this UUID as its own, or else of
    /// this id; one that is not there has none. A server that is away is waited for.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn has_named(
        &self,
        vm: &VmId,
        instance_uuid: Option<&str>,
        name: &SnapshotName,
    ) -> Result<bool, HypervisorError>;

    /// The snapshots of a VM that are named as ours are, whosever job made them.
    ///
    /// # Errors
    /// [`HypervisorError`].
    fn own_snapshots(
        &self,
        vm: &VmId,
    ) -> Result<Vec<(SnapshotName, SnapshotFacts)>, HypervisorError>;

    /// Where the content of a snapshot's disk is read.
    fn place(&self, vm: &VmId, snapshot: &SnapshotId, disk: &VmDisk) -> DiskPlace;

    /// Where a VM's own disk is written, while the VM is off and has no snapshot.
    fn place_to_write(&self, vm: &VmId, disk: &VmDisk) -> DiskPlace;
}

//! What is written down of a VM and its snapshot, and where that was written.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::hypervisor::Hypervisor;
use super::ledger::LedgerError;
use super::name::SnapshotName;
use super::vm::Vm;
use crate::catalog::{JobId, UnixMillis};

/// How long a server may take for a call that it did not answer: many times as long as any that
/// recovers at all.
pub(super) const UNANSWERED_MS: u64 = 60 * 60 * 1000;
/// How long a VM that is not there is remembered.
const ABSENT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// What is done with a VM of which something is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WorkKind {
    /// It is backed up, which takes a snapshot.
    #[default]
    Backup,
    /// It is restored into, without a snapshot.
    Restore,
}

/// What is written of a VM and its snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    /// The server, as its settings name it.
    pub server: String,
    /// What it is the same server by, where it has something of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_uuid: Option<String>,
    /// What that knows the VM by.
    pub vm: String,
    /// What the VM is the same VM by, also when it is registered anew and known by something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_uuid: Option<String>,
    /// What is done with the VM.
    #[serde(default)]
    pub kind: WorkKind,
    /// Where the VM stood, for people.
    pub vm_path: String,
    /// The job, after which the snapshot is named.
    pub job: String,
    /// When it was written: milliseconds since 1970.
    pub since_ms: u64,
    /// Where it was made. Where that is another place, a copy of it came here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<Place>,
    /// When the snapshot was asked for, as long as nobody has answered: milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_ms: Option<u64>,
}

impl SnapshotRecord {
    /// For a snapshot that is about to be made.
    #[must_use]
    pub fn new(server: &str, hypervisor: &dyn Hypervisor, vm: &Vm, job: JobId) -> Self {
        Self {
            server: server.to_owned(),
            server_uuid: hypervisor.server_uuid().map(str::to_owned),
            vm: vm.id.to_string(),
            vm_uuid: vm.instance_uuid.clone(),
            kind: WorkKind::Backup,
            vm_path: vm.path.clone(),
            job: job.to_string(),
            since_ms: UnixMillis::now().get(),
            made_at: None,
            asked_ms: None,
        }
    }

    /// The same for a VM that is about to be restored into.
    #[must_use]
    pub fn of_restore(server: &str, hypervisor: &dyn Hypervisor, vm: &Vm, job: JobId) -> Self {
        Self { kind: WorkKind::Restore, ..Self::new(server, hypervisor, vm, job) }
    }

    /// Whether its VM is at this server, which settings name so. One of the same name has taken its
    /// place, if it is another one.
    #[must_use]
    pub fn is_at(&self, server: &str, hypervisor: &dyn Hypervisor) -> bool {
        self.is_of_server(server, hypervisor.server_uuid())
    }

    pub(super) fn is_of_server(&self, server: &str, uuid: Option<&str>) -> bool {
        self.server == server || (uuid.is_some() && self.server_uuid.as_deref() == uuid)
    }

    /// Whether it is about this VM of its server.
    #[must_use]
    pub fn is_of(&self, vm: &Vm) -> bool {
        self.is_about(vm.id.as_str(), vm.instance_uuid.as_deref())
    }

    pub(super) fn is_about(&self, vm: &str, uuid: Option<&str>) -> bool {
        match (&self.vm_uuid, uuid) {
            (Some(ours), Some(theirs)) => ours.eq_ignore_ascii_case(theirs),
            // One of an older program.
            _ => self.vm == vm,
        }
    }

    /// Whether a VM that is not there may come back: people take VMs out of an inventory for a while.
    /// One of which no more is known than its id comes back as another.
    #[must_use]
    pub fn may_return(&self) -> bool {
        let age = UnixMillis::now().get().abs_diff(self.since_ms);
        self.vm_uuid.is_some() && age < ABSENT_MS
    }

    /// Whether the snapshot may still come where it is not there: it was asked for less than an hour
    /// ago, and nobody has answered.
    #[must_use]
    pub fn may_come(&self) -> bool {
        let now = UnixMillis::now().get();
        // Either way: clocks are set back, too.
        self.asked_ms.is_some_and(|asked| now.abs_diff(asked) < UNANSWERED_MS)
    }

    /// Whether this file is the one that it was written to.
    pub(super) fn is_made_here(&self, file: &File) -> bool {
        let Ok(metadata) = file.metadata() else { return false };
        self.made_at.as_ref().is_some_and(|made_at| made_at.is(&Place::of(&metadata)))
    }

    /// What the snapshot is called.
    ///
    /// # Errors
    /// A record that was not written here.
    pub fn name(&self) -> Result<SnapshotName, LedgerError> {
        self.job.parse().map(SnapshotName::of).map_err(|_| LedgerError::Strange(self.job.clone()))
    }
}

/// What a file is the same file by, also when it is renamed and when the machine is started anew: no
/// number of a device is, nor the time of a change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its inode.
    pub(super) inode: u64,
    /// When that was made, where the file system knows: nanoseconds since 1970, as text, for JSON has no
    /// numbers of that size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) born_ns: Option<String>,
    /// A digest of what the machine is the same one by, where it has something of the kind: copies of
    /// whole file systems have the same inodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) machine: Option<String>,
}

impl Place {
    pub(super) fn of(file: &Metadata) -> Self {
        let born = file.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Self {
            inode: file.ino(),
            born_ns: born.map(|born| born.as_nanos().to_string()),
            machine: machine(),
        }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        let same = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => one == other,
            // A kernel may know less than the one before.
            _ => true,
        };
        self.inode == other.inode
            && same(&self.born_ns, &other.born_ns)
            && same(&self.machine, &other.machine)
    }
}

/// machine-id(5), which no file that leaves the machine should have as it is.
fn machine() -> Option<String> {
    let id = fs::read_to_string("/etc/machine-id").ok()?;
    let id = id.trim();
    (!id.is_empty())
        .then(|| blake3::derive_key("blockferry ledger of snapshots", id.as_bytes()))
        .map(|key| key[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

//! What a hypervisor says of a VM.

use std::collections::BTreeSet;
use std::fmt;

use super::mark::RestoreMark;
use crate::catalog::{ChangeId, DiskUuid};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The one that is called so.
            #[must_use]
            pub fn new(id: &str) -> Self {
                Self(id.to_owned())
            }

            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}
id! {
    /// What a hypervisor knows a VM by (`vm-57`). It is not a VM's own: one that is registered anew
    /// gets another.
    VmId
}
id! {
    /// What a hypervisor knows a snapshot by (`snapshot-64`).
    SnapshotId
}

/// A disk's device in its VM: it stays when others are added or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey(pub i32);

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PowerState {
    /// It runs.
    On,
    /// It does not.
    Off,
    /// It sleeps.
    Suspended,
}

impl PowerState {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Suspended => "suspended",
        }
    }
}

/// Whether a hypervisor can reach what it speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Connection {
    /// It can.
    Connected,
    /// It cannot: in its own word, `disconnected`, `inaccessible`, `orphaned`.
    Lost(String),
}

/// The host that a VM is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// What the hypervisor knows it by: what budgets are kept for.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it is reached.
    pub connection: Connection,
    /// Whether it is in maintenance.
    pub in_maintenance: bool,
}

/// A snapshot of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// What it is known by.
    pub id: SnapshotId,
    /// What it is called; anybody's choice, and not unique.
    pub name: String,
    /// Snapshots that it stands on.
    pub depth: usize,
}

/// A VM as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// What the hypervisor knows it by.
    pub id: VmId,
    /// Its name, as the hypervisor has it: vSphere writes `%2f`, `%5c` and `%25` for / \ and %.
    pub name: String,
    /// Where it stands, folders and name with slashes between.
    pub path: String,
    /// Its BIOS's UUID, which copies of a VM may share.
    pub uuid: Option<String>,
    /// The UUID that the hypervisor keeps unique, and keeps for as long as the VM is its own.
    pub instance_uuid: Option<String>,
    /// Its host, if it has one.
    pub host: Option<HostFacts>,
    /// The storage that it lies on, by the hypervisor's ids: what budgets are kept for.
    pub datastores: Vec<String>,
    /// Whether it runs.
    pub power: PowerState,
    /// Whether it is reached.
    pub connection: Connection,
    /// The privilege that the user lacks to read all of this; what is unread is empty.
    pub denied: Option<String>,
    /// Whether it is a template, which nothing can be done with but make VMs of it.
    pub is_template: bool,
    /// The version of its hardware: 19 of `vmx-19`.
    pub hardware_version: Option<u32>,
    /// Which system it is made for, in the hypervisor's words: `debian11_64Guest`.
    pub guest: Option<String>,
    /// Whether its changes are tracked.
    pub tracks_changes: bool,
    /// Whether layers of removed snapshots are left that want to be merged.
    pub needs_consolidation: bool,
    /// What people, and restores, have written about it.
    pub notes: String,
    /// Its disks, as they are now: what a snapshot has of them is read from the snapshot.
    pub disks: Vec<VmDisk>,
    /// Its snapshots, those below before those that stand on them.
    pub snapshots: Vec<SnapshotFacts>,
}

impl Vm {
    /// What it is the same VM by: the UUID that is unique, or its BIOS's.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.instance_uuid.as_deref().or(self.uuid.as_deref())
    }

    /// The restore into it that has not ended well, if there is one.
    #[must_use]
    pub fn restore_mark(&self) -> Option<RestoreMark> {
        RestoreMark::of_notes(&self.notes)
    }

    /// The names of the datastores that its disks are on.
    #[must_use]
    pub fn datastore_names(&self) -> BTreeSet<&str> {
        self.disks.iter().filter_map(VmDisk::datastore).collect()
    }
}

/// What a disk's content is kept in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backing {
    /// A file, the common kind.
    FlatVer2,
    /// A file that grows in grains.
    SparseVer2,
    /// A LUN, through a file that leads to it.
    RawDiskMappingVer1 {
        /// Whether the guest reaches the LUN itself; snapshots are impossible then.
        physical: bool,
    },
    /// A disk of the host.
    RawDiskVer2,
    /// Another one, in the hypervisor's word.
    Other(String),
}

/// Why a disk is in no snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftOut {
    /// It is independent of snapshots.
    Independent,
    /// It is a LUN that the guest reaches itself.
    PhysicalRdm,
    /// Several VMs write it.
    MultiWriter,
    /// Its mode is one that snapshots do not know.
    Mode(String),
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Independent => f.write_str("it is independent, and so in no snapshot"),
            Self::PhysicalRdm => {
                f.write_str("it is a raw device in physical mode, and so in no snapshot")
            }
            Self::MultiWriter => {
                f.write_str("several VMs can write it (multi-writer), and so it is in no snapshot")
            }
            Self::Mode(mode) => write!(f, "its mode is {mode}, which snapshots do not hold"),
        }
    }
}

/// A disk of a VM, or of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDisk {
    /// Its device.
    pub key: DeviceKey,
    /// What people call it: `Hard disk 1`.
    pub label: String,
    /// The file that its content is in: `[datastore] folder/name.vmdk`.
    pub file: String,
    /// What it is the same disk by.
    pub uuid: Option<DiskUuid>,
    /// How it behaves, in the hypervisor's word: `persistent`.
    pub mode: String,
    /// Whether several VMs can write it.
    pub is_shared: bool,
    /// What its content is kept in.
    pub backing: Backing,
    /// Exact size in bytes.
    pub capacity_bytes: u64,
    /// Up to where its changes are known. Only that of a snapshot's disk means anything.
    pub change: Option<ChangeId>,
}

impl VmDisk {
    /// Why it is in no snapshot, if so.
    #[must_use]
    pub fn left_out(&self) -> Option<LeftOut> {
        if self.mode.starts_with("independent") {
            return Some(LeftOut::Independent);
        }
        if self.backing == (Backing::RawDiskMappingVer1 { physical: true }) {
            return Some(LeftOut::PhysicalRdm);
        }
        if self.is_shared {
            return Some(LeftOut::MultiWriter);
        }
        (self.mode != "persistent").then(|| LeftOut::Mode(self.mode.clone()))
    }

    /// Whether another of these disks has the same UUID: copies of files may, and nothing tells them
    /// apart for sure then.
    #[must_use]
    pub(crate) fn shares_uuid(&self, disks: &[Self]) -> bool {
        let Some(uuid) = &self.uuid else { return false };
        let same = |other: &&Self| {
            let other = other.uuid.as_ref();
            other.is_some_and(|other| other.as_str().eq_ignore_ascii_case(uuid.as_str()))
        };
        disks.iter().filter(same).count() > 1
    }

    /// The name of the datastore that its file is on.
    #[must_use]
    pub fn datastore(&self) -> Option<&str> {
        let (name, _path) = self.file.strip_prefix('[')?.split_once(']')?;
        Some(name)
    }
}

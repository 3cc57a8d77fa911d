//! What would stop or limit a VM's backup.

use std::fmt;

use super::mark::RestoreMark;
use super::name::SnapshotName;
use super::vm::{Connection, LeftOut, PowerState, Vm, VmDisk};

/// The oldest hardware whose changes can be tracked.
const TRACKING_HARDWARE: u32 = 7;
/// Snapshots on top of each other that vSphere makes at most.
const MAX_SNAPSHOTS: usize = 32;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// A backup is made, and lacks something or takes longer.
    Warns,
    /// No backup can be made.
    Stops,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindingKind {
    /// A template cannot be snapshotted.
    Template,
    /// The user may not read the VM's settings: the privilege that is missing.
    Unreadable(String),
    /// A restore writes it, or was cut off.
    Restored(RestoreMark),
    /// The hypervisor does not reach the VM.
    VmLost(String),
    /// The hypervisor does not reach its host.
    HostLost {
        /// The host.
        host: String,
        /// How it stands.
        state: String,
    },
    /// Its host is in maintenance.
    HostInMaintenance {
        /// The host.
        host: String,
    },
    /// There is no disk that a snapshot would hold.
    NoDisk,
    /// So many snapshots stand on each other that there can be no more.
    TooManySnapshots(usize),
    /// Hardware too old for change tracking.
    OldHardware(u32),
    /// Changes are not tracked.
    NotTracked {
        /// Whether tracking can be turned on without care for snapshots that are there.
        can_be_enabled: bool,
    },
    /// A disk that a snapshot does not hold.
    DiskLeftOut {
        /// What it is called.
        label: String,
        /// Why.
        why: LeftOut,
    },
    /// A disk that cannot be told from others for sure.
    DiskWithoutUuid {
        /// What it is called.
        label: String,
    },
    /// A disk whose UUID another one has too.
    DiskSharesUuid {
        /// What it is called.
        label: String,
    },
    /// Snapshots of others.
    HasSnapshots(Vec<String>),
    /// Snapshots that jobs of ours left, or have.
    HasOwnSnapshots(Vec<String>),
    /// Layers of removed snapshots want to be merged.
    NeedsConsolidation,
    /// A VM that sleeps: its memory is not in the backup.
    Suspended,
}

/// Something that would stop or limit a backup. It shows as a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// How much it weighs.
    pub severity: Severity,
}

impl From<FindingKind> for Finding {
    fn from(kind: FindingKind) -> Self {
        let severity = match kind {
            FindingKind::Template
            | FindingKind::Unreadable(_)
            | FindingKind::Restored(_)
            | FindingKind::VmLost(_)
            | FindingKind::HostLost { .. }
            | FindingKind::NoDisk
            | FindingKind::TooManySnapshots(_) => Severity::Stops,
            _ => Severity::Warns,
        };
        Self { kind, severity }
    }
}

/// What there is to say of a VM, the weightiest first.
#[must_use]
pub fn findings(vm: &Vm) -> Vec<Finding> {
    if let Some(privilege) = &vm.denied {
        // What is unread would be found wanting.
        return vec![FindingKind::Unreadable(privilege.clone()).into()];
    }
    let mut kinds = Vec::new();
    standing(vm, &mut kinds);
    snapshots(vm, &mut kinds);
    tracking(vm, &mut kinds);
    disks(vm, &mut kinds);
    let mut found: Vec<Finding> = kinds.into_iter().map(Finding::from).collect();
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

fn standing(vm: &Vm, kinds: &mut Vec<FindingKind>) {
    if vm.is_template {
        kinds.push(FindingKind::Template);
    }
    if let Some(mark) = vm.restore_mark() {
        kinds.push(FindingKind::Restored(mark));
    }
    if let Connection::Lost(state) = &vm.connection {
        kinds.push(FindingKind::VmLost(state.clone()));
    }
    if let Some(host) = &vm.host {
        let name = host.name.clone();
        if let Connection::Lost(state) = &host.connection {
            kinds.push(FindingKind::HostLost { host: name.clone(), state: state.clone() });
        }
        if host.in_maintenance {
            kinds.push(FindingKind::HostInMaintenance { host: name });
        }
    }
    if vm.power == PowerState::Suspended {
        kinds.push(FindingKind::Suspended);
    }
}

fn snapshots(vm: &Vm, kinds: &mut Vec<FindingKind>) {
    let deep = vm.snapshots.iter().map(|snapshot| snapshot.depth + 1).max().unwrap_or(0);
    if deep >= MAX_SNAPSHOTS {
        kinds.push(FindingKind::TooManySnapshots(deep));
    }
    let names = vm.snapshots.iter().map(|snapshot| snapshot.name.clone());
    let (own, others): (Vec<String>, Vec<String>) =
        names.partition(|name| name.parse::<SnapshotName>().is_ok());
    if !others.is_empty() {
        kinds.push(FindingKind::HasSnapshots(others));
    }
    if !own.is_empty() {
        kinds.push(FindingKind::HasOwnSnapshots(own));
    }
    if vm.needs_consolidation {
        kinds.push(FindingKind::NeedsConsolidation);
    }
}

fn tracking(vm: &Vm, kinds: &mut Vec<FindingKind>) {
    match vm.hardware_version {
        Some(version) if version < TRACKING_HARDWARE => {
            kinds.push(FindingKind::OldHardware(version));
        }
        _ if !vm.tracks_changes => {
            kinds.push(FindingKind::NotTracked { can_be_enabled: vm.snapshots.is_empty() });
        }
        _ => {}
    }
}

fn disks(vm: &Vm, kinds: &mut Vec<FindingKind>) {
    if vm.disks.iter().all(|disk| disk.left_out().is_some()) {
        kinds.push(FindingKind::NoDisk);
    }
    let held: Vec<VmDisk> =
        vm.disks.iter().filter(|disk| disk.left_out().is_none()).cloned().collect();
    for disk in &vm.disks {
        let label = disk.label.clone();
        match disk.left_out() {
            Some(why) => kinds.push(FindingKind::DiskLeftOut { label, why }),
            None if disk.uuid.is_none() => kinds.push(FindingKind::DiskWithoutUuid { label }),
            None if disk.shares_uuid(&held) => kinds.push(FindingKind::DiskSharesUuid { label }),
            None => {}
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FindingKind::Template => {
                f.write_str("it is a template, of which no snapshot can be made")
            }
            FindingKind::Unreadable(privilege) => {
                write!(f, "the user may not read it; give them the privilege {privilege}")
            }
            FindingKind::Restored(mark) => f.write_str(&mark.advice()),
            FindingKind::VmLost(state) => {
                write!(f, "it is {state}; look at its host and its storage")
            }
            FindingKind::HostLost { host, state } => {
                write!(f, "its host {host} is {state}; connect it again")
            }
            FindingKind::HostInMaintenance { host } => {
                write!(f, "its host {host} is in maintenance, and may refuse to be read from")
            }
            FindingKind::NoDisk => f.write_str("it has no disk that a snapshot would hold"),
            FindingKind::TooManySnapshots(count) => write!(
                f,
                "{count} snapshots stand on each other, and there can be no more than \
                 {MAX_SNAPSHOTS}; remove some"
            ),
            FindingKind::OldHardware(version) => write!(
                f,
                "its hardware has version {version}, and changes are tracked from \
                 {TRACKING_HARDWARE} on; each backup reads it whole until it is upgraded"
            ),
            FindingKind::NotTracked { can_be_enabled: true } => f.write_str(
                "change tracking (CBT) is off: each backup reads it whole until it is turned on",
            ),
            FindingKind::NotTracked { can_be_enabled: false } => f.write_str(
                "change tracking (CBT) is off, and not turned on while there are snapshots: each \
                 backup reads it whole until then",
            ),
            FindingKind::DiskLeftOut { label, why } => {
                write!(f, "{label} is left out: {why}")
            }
            FindingKind::DiskWithoutUuid { label } => {
                write!(f, "{label} has no UUID: each backup reads it whole")
            }
            FindingKind::DiskSharesUuid { label } => write!(
                f,
                "{label} has the UUID of another disk of this VM: each backup reads it whole, until \
                 the copy is given one of its own"
            ),
            FindingKind::HasSnapshots(names) => {
                write!(f, "it has snapshots already: {}", listed(names))
            }
            FindingKind::HasOwnSnapshots(names) => write!(
                f,
                "it has snapshots of backups: {}; those whose job is dead are removed by a sweep",
                listed(names)
            ),
            FindingKind::NeedsConsolidation => f.write_str(
                "its disks need consolidation: layers of removed snapshots are left; consolidate \
                 them, or they grow",
            ),
            FindingKind::Suspended => {
                f.write_str("it is suspended: what is only in its memory is not in a backup")
            }
        }
    }
}

/// The first few, in quotes, and how many more.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests;

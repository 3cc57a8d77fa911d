//! What a disk's next backup can stand on: the rules of changed block tracking.
//!
//! In doubt it is a full: that costs time, and the other mistake a restore point.

use std::fmt;

use super::vm::VmDisk;
use crate::catalog::{ChangeId, DiskUuid};

/// What is recorded of a disk with its newest published layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Of which VM: [`Vm::identity`](super::Vm::identity), as it was then.
    pub vm: Option<String>,
    /// Of which disk.
    pub uuid: Option<DiskUuid>,
    /// Its size then, in bytes.
    pub size_bytes: u64,
    /// Up to where its changes are in the layer.
    pub change: Option<ChangeId>,
}

/// How a disk is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// What changed since then.
    Delta {
        /// What is to be asked for.
        since: ChangeId,
    },
    /// All of it.
    Full(FullReason),
}

/// Why a disk is read in full.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullReason {
    /// The base was made without change tracking.
    BaseHasNoChangeId,
    /// The snapshot's disk has no change id: its changes are not tracked.
    NoChangeId,
    /// A change id has another form than `UUID/counter`.
    StrangeChangeId {
        /// The change id.
        change: ChangeId,
    },
    /// Tracking began anew: the UUID half of the change id is another.
    TrackingBeganAnew,
    /// The counter of the change id is no higher than the base's: the disk was set back.
    CounterFell {
        /// The base's.
        from: u64,
        /// The snapshot's.
        to: u64,
    },
    /// The disk has another size.
    CapacityChanged {
        /// The base's, in bytes.
        from: u64,
        /// The snapshot's, in bytes.
        to: u64,
    },
    /// It is another disk.
    OtherDisk,
    /// It has no UUID, or one that another disk of its VM has too.
    NoDiskUuid,
    /// It is the disk of another VM, or nobody can tell.
    OtherVm,
    /// The hypervisor does not know the base any more: what it said.
    Refused(String),
}

impl fmt::Display for FullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BaseHasNoChangeId => f.write_str("the last point was made without a change id"),
            Self::NoChangeId => {
                f.write_str(
                    "the snapshot's disk has no change id: change tracking is off, or begins only \
                     after this snapshot",
                )
            }
            Self::StrangeChangeId { change } => {
                write!(f, "the change id {change:.60} has another form than UUID/counter")
            }
            Self::TrackingBeganAnew => {
                f.write_str("change tracking began anew since the last point (another UUID)")
            }
            Self::CounterFell { from, to } => write!(
                f,
                "the change id's counter went from {from} to {to}: the disk was set back since the \
                 last point"
            ),
            Self::CapacityChanged { from, to } => {
                write!(f, "the disk has {to} bytes, and had {from} in the last point")
            }
            Self::OtherDisk => f.write_str("the disk's UUID is another than in the last point"),
            Self::NoDiskUuid => f.write_str(
                "the disk has no UUID of its own: nobody can tell whether it is that of the last point",
            ),
            Self::OtherVm => f.write_str("the VM's UUID is another than in the last point"),
            Self::Refused(said) => {
                write!(f, "the hypervisor cannot tell what changed since the last point: {said}")
            }
        }
    }
}

impl Base {
    /// Full or delta, for the disk of this VM as a snapshot has it.
    #[must_use]
    pub fn decide(&self, vm: Option<&str>, disk: &VmDisk) -> Decision {
        match self.since(vm, disk) {
            Ok(since) => Decision::Delta { since: since.clone() },
            Err(reason) => Decision::Full(reason),
        }
    }

    fn since(&self, vm: Option<&str>, disk: &VmDisk) -> Result<&ChangeId, FullReason> {
        if !is_same(self.vm.as_deref(), vm) {
            return Err(FullReason::OtherVm);
        }
        if disk.uuid.is_none() {
            return Err(FullReason::NoDiskUuid);
        }
        let uuids = [&self.uuid, &disk.uuid].map(|uuid| uuid.as_ref().map(DiskUuid::as_str));
        if !is_same(uuids[0], uuids[1]) {
            return Err(FullReason::OtherDisk);
        }
        if self.size_bytes != disk.capacity_bytes {
            let (from, to) = (self.size_bytes, disk.capacity_bytes);
            return Err(FullReason::CapacityChanged { from, to });
        }
        let was = self.change.as_ref().ok_or(FullReason::BaseHasNoChangeId)?;
        let is = disk.change.as_ref().ok_or(FullReason::NoChangeId)?;
        let ((old, from), (new, to)) = (halves(was)?, halves(is)?);
        if !old.eq_ignore_ascii_case(new) {
            return Err(FullReason::TrackingBeganAnew);
        }
        // Each snapshot counts up. One that has the same number is not a later one.
        if to <= from {
            return Err(FullReason::CounterFell { from, to });
        }
        Ok(was)
    }
}

/// Whether two are known, and the same. The case of UUIDs differs between the places they are read from.
fn is_same(one: Option<&str>, other: Option<&str>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one.eq_ignore_ascii_case(other))
}

/// The UUID of the tracking, and its counter.
fn halves(change: &ChangeId) -> Result<(&str, u64), FullReason> {
    let strange = || FullReason::StrangeChangeId { change: change.clone() };
    let (uuid, counter) = change.as_str().rsplit_once('/').ok_or_else(strange)?;
    let uuid = uuid.trim();
    match counter.trim().parse() {
        Ok(counter) if !uuid.is_empty() => Ok((uuid, counter)),
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests;

//! What a hub and its nodes tell each other, as JSON. A field that is added is optional.

mod extent;

use std::str::FromStr;

use blockferry_dataplane::{Endpoint, Fault, Side};
use serde::{Deserialize, Serialize};

use crate::backup::{BackupError, CarryError, LoadFault, target_words};
use crate::catalog::{DiskName, FailureKind, ValueError};
use crate::record::{BytesRecord, ChoiceRecord, NoteRecord};
use crate::snapshots::Base;
pub(crate) use extent::{ExtentRecord, MAX_ASKED_BYTES};

/// `GET /health`: that it is there.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HealthRecord {
    /// Its version.
    pub version: String,
    /// Backups that it reads for.
    pub jobs: usize,
    /// Its memory in bytes, what it shares with others in proportion (PSS).
    pub memory_bytes: u64,
}

/// `POST /look`: what these sources are.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LookAsked {
    /// The job whose snapshot has the disks, if they are in one.
    #[serde(default)]
    pub(crate) snapshot_of: Option<String>,
    pub(crate) disks: Vec<SoughtRecord>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct SoughtRecord {
    pub(crate) disk: String,
    /// An NBD URI, as the node sees it.
    pub(crate) source: String,
    pub(crate) bitmap: Option<String>,
}

/// The answer: all of them, or why not.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LookAnswer {
    /// In the order in which they were asked for.
    Looked(Vec<LookedRecord>),
    Fault(FaultRecord),
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LookedRecord {
    pub(crate) size: u64,
    pub(crate) has_bitmap: bool,
}

/// `POST /jobs/{job}`: lanes to be run. Asked for again, it is the same job; `JOB.2` is the second
/// pass of one, which is another.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct JobAsked {
    /// Connections a side at most, for that is what the exports are made for.
    pub(crate) connections: u16,
    pub(crate) disks: Vec<LoadRecord>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LoadRecord {
    pub(crate) disk: String,
    /// An NBD URI, as the node sees it; or nothing for a disk of the job's snapshot.
    pub(crate) source: String,
    /// The NBD URI of an export, as the hub sees it.
    pub(crate) target: String,
    /// Bytes that the source has to have still.
    pub(crate) size: u64,
    pub(crate) extent: ExtentRecord,
    /// Whether the digests of what the export holds already were sent before
    /// (`PUT /jobs/{job}/disks/{place}/base`).
    pub(crate) base: bool,
}

/// `GET /jobs/{job}?seen=N`: how a job gets on. It is answered when there is a word that was not
/// seen, when the job is over, and after half a second.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct JobProgress {
    /// Words from the Nth on.
    pub(crate) words: Vec<WordRecord>,
    /// In the order of its disks.
    pub(crate) bytes: Vec<BytesRecord>,
    /// Once it is over.
    pub(crate) end: Option<EndRecord>,
}

/// Something that was said of a job.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WordRecord {
    /// For everybody.
    Note(String),
    /// For who wants to know all.
    Detail(String),
}

/// How a job ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EndRecord {
    /// All disks are carried and flushed; `GET /jobs/{job}/disks/{place}/manifest` has the digests.
    Carried(Vec<CarriedRecord>),
    /// It was called off.
    Cancelled,
    Fault(FaultRecord),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct CarriedRecord {
    pub(crate) bytes: BytesRecord,
    pub(crate) elapsed_ms: u64,
    /// Length of its manifest in bytes, and what tells its content from all others.
    pub(crate) manifest_bytes: u64,
    pub(crate) manifest_id: String,
}

/// What went wrong with one disk, or with all.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct FaultRecord {
    /// The place of the disk in the order, from 0 on.
    pub(crate) disk: Option<usize>,
    pub(crate) side: Option<SideRecord>,
    /// As in a job: whose fault it is.
    pub(crate) failure: String,
    pub(crate) said: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SideRecord {
    Source,
    Target,
}

/// `POST /vms/find`: which VM is meant.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct FindAsked {
    /// Its name, or another word that hypervisors find VMs by.
    pub(crate) vm: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FindAnswer {
    Found(FoundVmRecord),
    Fault(FaultRecord),
}

/// A VM that was found.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct FoundVmRecord {
    /// What its hypervisor knows it by.
    pub(crate) vm: String,
    pub(crate) name: String,
    /// Those that a snapshot holds.
    pub(crate) disks: Vec<FoundDiskRecord>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct FoundDiskRecord {
    pub(crate) name: String,
}

/// `POST /jobs/{job}/snapshot`: a VM to be held still.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct SnapshotAsked {
    /// What its hypervisor knows it by.
    pub(crate) vm: String,
    /// What this backup has otherwise than others of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) choice: Option<ChoiceRecord>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SnapshotAnswer {
    /// To be asked for again; with what was said until now, as what it waits for.
    Working {
        words: Vec<String>,
    },
    Held(HeldRecord),
    /// With what was said meanwhile.
    Gone {
        words: Vec<String>,
    },
    Fault(FaultRecord),
}

/// A VM that is held still.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct HeldRecord {
    /// Whether what was chosen for it was heeded: a node of an earlier version knows of no choice.
    #[serde(default)]
    pub(crate) has_choice: bool,
    pub(crate) vm_uuid: Option<String>,
    /// The instant that its disks show: milliseconds since 1970.
    pub(crate) instant_ms: u64,
    /// What was said until now.
    pub(crate) words: Vec<String>,
    pub(crate) notes: Vec<NoteRecord>,
    pub(crate) disks: Vec<HeldDiskRecord>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct HeldDiskRecord {
    pub(crate) name: String,
    pub(crate) uuid: Option<String>,
    pub(crate) change: Option<String>,
    pub(crate) audit_percent: u8,
}

/// `POST /jobs/{job}/snapshot/disks/{disk}/changed`: what the disk's newest layer is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct BaseRecord {
    pub(crate) vm: Option<String>,
    pub(crate) uuid: Option<String>,
    pub(crate) size: u64,
    pub(crate) change: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChangedAnswer {
    /// To be asked for again.
    Working,
    /// Start and length of each, in bytes.
    Areas(Vec<(u64, u64)>),
    /// It cannot be told, and why.
    Unknown(String),
    Fault(FaultRecord),
}

impl From<&Base> for BaseRecord {
    fn from(base: &Base) -> Self {
        Self {
            vm: base.vm.clone(),
            uuid: base.uuid.as_ref().map(ToString::to_string),
            size: base.size_bytes,
            change: base.change.as_ref().map(ToString::to_string),
        }
    }
}

impl BaseRecord {
    /// It, checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn base(self) -> Result<Base, String> {
        let wrong = |error: ValueError| error.to_string();
        Ok(Base {
            vm: self.vm,
            uuid: self.uuid.as_deref().map(str::parse).transpose().map_err(wrong)?,
            size_bytes: self.size,
            change: self.change.as_deref().map(str::parse).transpose().map_err(wrong)?,
        })
    }
}

/// What a node has: `GET /jobs`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct JobsRecord {
    /// The names of passes, of which each has lanes.
    pub(crate) jobs: Vec<String>,
    /// The jobs that VMs are held still for.
    #[serde(default)]
    pub(crate) snapshots: Vec<String>,
}

/// An answer without content.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Done {}

impl From<SideRecord> for Side {
    fn from(side: SideRecord) -> Self {
        match side {
            SideRecord::Source => Self::Source,
            SideRecord::Target => Self::Target,
        }
    }
}

impl From<Side> for SideRecord {
    fn from(side: Side) -> Self {
        match side {
            Side::Source => Self::Source,
            Side::Target => Self::Target,
        }
    }
}

impl FaultRecord {
    /// What looking at sources met.
    pub(super) fn of_look(error: &BackupError, disks: &[DiskName]) -> Self {
        let place = |name: &DiskName| disks.iter().position(|disk| disk == name);
        match error {
            BackupError::Disk { disk, fault, .. } => Self::of_fault(place(&disk.0), fault),
            BackupError::Empty { disk } => Self {
                disk: place(&disk.0),
                side: Some(SideRecord::Source),
                failure: error.failure().to_string(),
                said: "its source has a size of 0 bytes; is it the right one, and is its medium \
                       there?"
                    .into(),
            },
            other => Self::of_all(other),
        }
    }

    /// A source that cannot be had at all.
    pub(super) fn of_source(said: &str) -> Self {
        Self {
            disk: None,
            side: Some(SideRecord::Source),
            failure: FailureKind::Source.to_string(),
            said: said.to_owned(),
        }
    }

    pub(super) fn of_all(error: &BackupError) -> Self {
        let side = error.side().map(SideRecord::from);
        Self { disk: None, side, failure: error.failure().to_string(), said: error.to_string() }
    }

    fn of_fault(disk: Option<usize>, fault: &Fault) -> Self {
        let said = match fault.side() {
            Some(Side::Target) => target_words(fault, ""),
            _ => fault.to_string(),
        };
        let failure = match (fault, fault.side()) {
            (Fault::Request(_), _) => FailureKind::Request,
            (_, Some(Side::Source)) => FailureKind::Source,
            (_, Some(Side::Target)) => FailureKind::Target,
            (_, None) => FailureKind::Other,
        };
        Self { disk, side: fault.side().map(SideRecord::from), failure: failure.to_string(), said }
    }

    /// It in the words of whoever asked.
    pub(crate) fn fault(&self) -> LoadFault {
        LoadFault::AtNode {
            side: self.side.map(Side::from),
            // One of a later version is somebody's fault nevertheless.
            failure: FailureKind::from_str(&self.failure).unwrap_or(FailureKind::Other),
            said: self.said.clone(),
        }
    }
}

impl From<CarryError> for EndRecord {
    fn from(error: CarryError) -> Self {
        match error {
            CarryError::All(BackupError::Cancelled) => Self::Cancelled,
            CarryError::All(error) => Self::Fault(FaultRecord::of_all(&error)),
            CarryError::Load(disk, LoadFault::Here(fault)) => {
                Self::Fault(FaultRecord::of_fault(Some(disk), &fault))
            }
            CarryError::Load(disk, LoadFault::AtNode { side, failure, said }) => {
                let (side, failure) = (side.map(SideRecord::from), failure.to_string());
                Self::Fault(FaultRecord { disk: Some(disk), side, failure, said })
            }
        }
    }
}

/// The source of a disk, as an end of a lane.
///
/// # Errors
/// What is wrong with it.
pub(super) fn source(uri: &str) -> Result<Endpoint, String> {
    uri.parse().map(Endpoint::nbd).map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_an_earlier_version_is_told_nothing_that_it_does_not_know_and_heeds_no_choice() {
        let asked = SnapshotAsked { vm: "vm-1".into(), choice: None };
        assert_eq!(serde_json::to_string(&asked).unwrap(), r#"{"vm":"vm-1"}"#);
        let answer = r#"{"held":{"vm_uuid":null,"instant_ms":1,"words":[],"notes":[],"disks":[]}}"#;
        let SnapshotAnswer::Held(held) = serde_json::from_str(answer).unwrap() else {
            panic!("{answer}")
        };
        assert!(!held.has_choice);
    }
}

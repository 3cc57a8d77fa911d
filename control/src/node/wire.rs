//! What a hub and its nodes tell each other, as JSON. A field that is added is optional.

use std::str::FromStr;

use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Endpoint, Extent, Fault, Side};
use serde::{Deserialize, Serialize};

use crate::backup::{BackupError, CarryError, LoadFault, target_words};
use crate::catalog::{DiskName, FailureKind};
use crate::record::BytesRecord;

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

/// `POST /jobs/{job}`: lanes to be run. Asked for again, it is the same job.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct JobAsked {
    /// Connections a side at most, for that is what the exports are made for.
    pub(crate) connections: u16,
    pub(crate) disks: Vec<LoadRecord>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LoadRecord {
    pub(crate) disk: String,
    /// An NBD URI, as the node sees it.
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

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExtentRecord {
    Whole,
    /// Start and length of each, in bytes.
    Areas(Vec<(u64, u64)>),
    Bitmap(String),
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

/// The names of the jobs that a node has: `GET /jobs`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct JobsRecord {
    pub(crate) jobs: Vec<String>,
}

/// An answer without content.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Done {}

impl From<&Extent> for ExtentRecord {
    fn from(extent: &Extent) -> Self {
        match extent {
            Extent::Whole => Self::Whole,
            Extent::Areas(areas) => {
                Self::Areas(areas.iter().map(|area| (area.start, area.length)).collect())
            }
            Extent::Bitmap(name) => Self::Bitmap(name.clone()),
        }
    }
}

impl ExtentRecord {
    /// What is to be moved.
    ///
    /// # Errors
    /// Areas that are none.
    pub(super) fn extent(self) -> Result<Extent, String> {
        Ok(match self {
            Self::Whole => Extent::Whole,
            Self::Areas(areas) => {
                let areas = areas.into_iter().map(|(start, length)| Area::new(start, length));
                let areas = AreaSet::from_unsorted(areas, u64::MAX);
                Extent::Areas(areas.map_err(|error| error.to_string())?)
            }
            Self::Bitmap(name) => Extent::Bitmap(name),
        })
    }
}

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

    fn of_all(error: &BackupError) -> Self {
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

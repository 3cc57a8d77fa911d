//! What a verification found, as it is told.

use blockferry_dataplane::plan::AreaSet;
use blockferry_dataplane::{Counts, Fault};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::BytesRecord;
use crate::catalog::{FailureKind, PointId};
use crate::reading::{
    Against, AgainstOutcome, CatalogFault, Content, Damage, DamageKind, VerifiedDisk,
    VerifiedPoint, VerifyReport,
};

/// Ranges that are told of each damage.
const MAX_RANGES: usize = 100;

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct VerifyRecord {
    /// Time that it took.
    pub seconds: f64,
    /// What was read.
    pub bytes: BytesRecord,
    /// The points, in the order in which they were looked at.
    pub points: Vec<VerifiedPointRecord>,
    /// All damage, by layer and file.
    pub damage: Vec<DamageRecord>,
    /// What is wrong with the catalog, or with what it says beside what is there.
    #[serde(default)]
    pub catalog: Vec<CatalogFaultRecord>,
    /// The comparisons with live sources.
    pub against: Vec<AgainstRecord>,
}

/// Something that is wrong with the catalog.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct CatalogFaultRecord {
    /// A word for it: `catalog_damaged`, `folder_without_point`,
    /// `point_without_folder` or `chain_broken`.
    pub kind: String,
    /// In words.
    pub says: String,
    /// The point that it is about.
    pub point: Option<String>,
}

/// A point that was looked at.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct VerifiedPointRecord {
    /// Its id.
    pub id: String,
    /// The VM.
    pub vm: String,
    /// The instant that it shows: milliseconds since 1970.
    pub created_ms: u64,
    /// No damage touches it.
    pub whole: bool,
    /// Its disks that were looked at, by their names.
    pub disks: Vec<VerifiedDiskRecord>,
}

/// A disk of such a point.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct VerifiedDiskRecord {
    /// Its name.
    pub name: String,
    /// Its layer.
    pub layer: String,
    /// Exact size in bytes.
    pub size: u64,
    /// Layers of its chain.
    pub chain: usize,
    /// `same`, `differs` or `unknown`.
    pub content: String,
    /// Why it is unknown.
    pub reason: Option<String>,
}

/// Something that is wrong with a layer.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct DamageRecord {
    /// A word for it.
    pub kind: String,
    /// In words.
    pub says: String,
    /// The layer.
    pub layer: String,
    /// The point that it belongs to.
    pub point: String,
    /// The disk.
    pub disk: String,
    /// The file, in the repository.
    pub file: String,
    /// Where, if it is the content.
    #[serde(flatten)]
    pub ranges: RangesRecord,
    /// All points that it touches.
    pub points: Vec<String>,
}

/// A disk and a live source that should hold the same.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct AgainstRecord {
    /// The point.
    pub point: String,
    /// The disk.
    pub disk: String,
    /// The source, in words.
    pub source: String,
    /// `same`, `differs`, `size`, `unread` or `failed`.
    pub result: String,
    /// In words.
    pub says: String,
    /// Of one that failed, whether what was asked for was wrong (wrong_usage) or the source.
    #[serde(default)]
    pub failure: Option<String>,
    /// Where they differ.
    #[serde(flatten)]
    pub ranges: RangesRecord,
}

/// The first ranges, how many there are, and their bytes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct RangesRecord {
    /// A hundred of them at most.
    pub ranges: Vec<RangeRecord>,
    /// How many there are.
    pub ranges_total: usize,
    /// Bytes of all.
    pub bytes: u64,
}

/// A range of a disk.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
pub struct RangeRecord {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

impl From<&VerifyReport> for VerifyRecord {
    fn from(report: &VerifyReport) -> Self {
        let disks = report.points.iter().flat_map(|point| &point.disks);
        let totals = disks.fold(Counts::default(), |sum, disk| sum.plus(&disk.counts));
        Self {
            seconds: report.elapsed.as_secs_f64(),
            bytes: totals.into(),
            points: report.points.iter().map(|point| verified(point, report)).collect(),
            damage: report.damage.iter().map(DamageRecord::from).collect(),
            catalog: report.catalog.iter().map(CatalogFaultRecord::from).collect(),
            against: report.against.iter().map(AgainstRecord::from).collect(),
        }
    }
}

fn verified(point: &VerifiedPoint, report: &VerifyReport) -> VerifiedPointRecord {
    let touched = report.damage.iter().any(|damage| damage.touched.contains(&point.point.id));
    VerifiedPointRecord {
        id: point.point.id.to_string(),
        vm: point.point.vm.to_string(),
        created_ms: point.point.created.get(),
        whole: !touched && point.disks.iter().all(|disk| disk.content == Content::Same),
        disks: point.disks.iter().map(VerifiedDiskRecord::from).collect(),
    }
}

impl From<&VerifiedDisk> for VerifiedDiskRecord {
    fn from(disk: &VerifiedDisk) -> Self {
        let (content, reason) = match &disk.content {
            Content::Same => ("same", None),
            Content::Differs => ("differs", None),
            Content::Unknown(why) => ("unknown", Some(why.clone())),
        };
        let layer = &disk.chain[0];
        Self {
            name: layer.disk_name.to_string(),
            layer: layer.facts.id.to_string(),
            size: layer.facts.size_bytes,
            chain: disk.chain.len(),
            content: content.into(),
            reason,
        }
    }
}

impl From<&Damage> for DamageRecord {
    fn from(damage: &Damage) -> Self {
        Self {
            kind: damage.kind.word().into(),
            says: damage.kind.to_string(),
            layer: damage.layer.facts.id.to_string(),
            point: damage.layer.point.to_string(),
            disk: damage.layer.disk_name.to_string(),
            file: damage.path.to_string(),
            ranges: match &damage.kind {
                DamageKind::Content(areas) => RangesRecord::from(areas),
                _ => RangesRecord::default(),
            },
            points: damage.touched.iter().map(PointId::to_string).collect(),
        }
    }
}

impl From<&CatalogFault> for CatalogFaultRecord {
    fn from(fault: &CatalogFault) -> Self {
        Self {
            kind: fault.word().into(),
            says: fault.to_string(),
            point: fault.point().map(|point| point.to_string()),
        }
    }
}

impl From<&Against> for AgainstRecord {
    fn from(against: &Against) -> Self {
        let (result, ranges, failure) = match &against.outcome {
            AgainstOutcome::Same => ("same", RangesRecord::default(), None),
            AgainstOutcome::Differs(areas) => ("differs", areas.into(), None),
            AgainstOutcome::Size { .. } => ("size", RangesRecord::default(), None),
            AgainstOutcome::Unread => ("unread", RangesRecord::default(), None),
            AgainstOutcome::Failed(Fault::Request(_)) => {
                ("failed", RangesRecord::default(), Some(FailureKind::Request))
            }
            AgainstOutcome::Failed(_) => {
                ("failed", RangesRecord::default(), Some(FailureKind::Source))
            }
        };
        Self {
            point: against.point.to_string(),
            disk: against.disk.to_string(),
            source: against.source.clone(),
            result: result.into(),
            says: against_words(&against.outcome),
            failure: failure.map(|kind| kind.to_string()),
            ranges,
        }
    }
}

fn against_words(outcome: &AgainstOutcome) -> String {
    match outcome {
        AgainstOutcome::Same => "the same".into(),
        AgainstOutcome::Differs(ranges) => {
            let first = ranges.as_slice().first();
            let first =
                first.map(|first| format!(", first at bytes {} to {}", first.start, first.end()));
            format!(
                "the content differs, {} bytes in {} ranges{}",
                ranges.total(),
                ranges.len(),
                first.unwrap_or_default()
            )
        }
        AgainstOutcome::Size { disk_bytes, live_bytes } => format!(
            "the sizes differ: the disk has {disk_bytes} bytes in the point, and the source \
             {live_bytes}"
        ),
        AgainstOutcome::Unread => "the disk could not be read, so nothing was compared".into(),
        AgainstOutcome::Failed(fault) => fault.to_string(),
    }
}

impl From<&AreaSet> for RangesRecord {
    fn from(areas: &AreaSet) -> Self {
        let first = areas.iter().take(MAX_RANGES);
        Self {
            ranges: first
                .map(|area| RangeRecord { start: area.start, length: area.length })
                .collect(),
            ranges_total: areas.len(),
            bytes: areas.total(),
        }
    }
}

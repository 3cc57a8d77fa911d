//! What happens while a hub reads a point, as it is told.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::BytesRecord;
use super::verify::VerifyRecord;
use crate::hub::{ReadEvent, ServedDisk, ServedPoint};

/// Something that happened to a verification, or to an export of a point.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReadingRecord {
    /// Something that a person should know.
    Note {
        /// In words.
        text: String,
    },
    /// Something for who wants to know all.
    Detail {
        /// In words.
        text: String,
    },
    /// How far it is. Some of these are left out for who does not read fast enough.
    Progress {
        /// All disks of all points together.
        bytes: BytesRecord,
    },
    /// The disks are served from now on, until the stream ends.
    Served(ExportRecord),
    /// What was found; the end.
    Verified(VerifyRecord),
    /// It came to nothing, or goes on no more; the end.
    Failed {
        /// Whose fault it is: wrong_usage, source_fault, target_fault or failed.
        failure: String,
        /// Why.
        reason: String,
    },
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

/// A point that is served.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ExportRecord {
    /// The job that has the ports; `DELETE /exports/{job}` ends it.
    #[schema(example = "01kat0h4m2f6q8r0s2")]
    pub job: String,
    /// The point.
    pub point: String,
    /// The VM.
    pub vm: String,
    /// Its disks, by their names.
    pub disks: Vec<ExportedDiskRecord>,
}

/// A disk of it.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ExportedDiskRecord {
    /// Its name.
    pub disk: String,
    /// Its layer.
    pub layer: String,
    /// Exact size in bytes; what is served is rounded up to 512 bytes.
    pub size: u64,
    /// The port, on 127.0.0.1 of the hub.
    pub port: u16,
    /// Name of the export there.
    pub export_name: String,
    /// The process that serves it.
    pub pid: u32,
}

impl ReadingRecord {
    /// Its name in a stream, which is its `type` too.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Note { .. } => "note",
            Self::Detail { .. } => "detail",
            Self::Progress { .. } => "progress",
            Self::Served(_) => "served",
            Self::Verified(_) => "verified",
            Self::Failed { .. } => "failed",
            Self::Unknown => "unknown",
        }
    }
}

impl From<ReadEvent> for ReadingRecord {
    fn from(event: ReadEvent) -> Self {
        match event {
            ReadEvent::Note(text) => Self::Note { text },
            ReadEvent::Detail(text) => Self::Detail { text },
            ReadEvent::Progress(counts) => Self::Progress { bytes: counts.into() },
            ReadEvent::Served(served) => Self::Served((&served).into()),
            ReadEvent::Verified(report) => Self::Verified(report.as_ref().into()),
            ReadEvent::Failed { failure, reason } => {
                Self::Failed { failure: failure.to_string(), reason }
            }
        }
    }
}

impl From<&ServedPoint> for ExportRecord {
    fn from(served: &ServedPoint) -> Self {
        Self {
            job: served.job.to_string(),
            point: served.point.id.to_string(),
            vm: served.point.vm.to_string(),
            disks: served.disks.iter().map(ExportedDiskRecord::from).collect(),
        }
    }
}

impl From<&ServedDisk> for ExportedDiskRecord {
    fn from(disk: &ServedDisk) -> Self {
        Self {
            disk: disk.layer.disk_name.to_string(),
            layer: disk.layer.facts.id.to_string(),
            size: disk.layer.facts.size_bytes,
            port: disk.lease.port,
            export_name: disk.lease.export_name(),
            pid: disk.pid,
        }
    }
}

//! What happens to a job, as it is told.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::{BytesRecord, ProgressRecord};
use crate::catalog::JobStep;
use crate::hub::JobEvent;

/// Something that happened to a job.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventRecord {
    /// It took a state.
    State {
        /// Which.
        state: String,
        /// When: milliseconds since 1970.
        at_ms: u64,
        /// Why.
        reason: String,
    },
    /// It was decided what becomes of a disk.
    Plan {
        /// The disk.
        disk: String,
        /// full or incremental.
        mode: String,
        /// Why.
        reason: String,
        /// Its size in bytes.
        size: u64,
    },
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
        /// Its disks.
        disks: Vec<ProgressRecord>,
    },
    /// Its point is published: what was moved for it.
    Moved {
        /// Time since it began to run.
        seconds: f64,
        /// Its disks.
        disks: Vec<MovedRecord>,
    },
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

/// What was moved for a disk.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct MovedRecord {
    /// The disk.
    pub disk: String,
    /// Time that it took.
    pub seconds: f64,
    /// Its bytes.
    pub bytes: BytesRecord,
}

impl EventRecord {
    /// Its name in a stream, which is its `type` too.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::State { .. } => "state",
            Self::Plan { .. } => "plan",
            Self::Note { .. } => "note",
            Self::Detail { .. } => "detail",
            Self::Progress { .. } => "progress",
            Self::Moved { .. } => "moved",
            Self::Unknown => "unknown",
        }
    }
}

impl From<JobStep> for EventRecord {
    fn from(step: JobStep) -> Self {
        Self::State { state: step.state.to_string(), at_ms: step.at.get(), reason: step.reason }
    }
}

impl From<JobEvent> for EventRecord {
    fn from(event: JobEvent) -> Self {
        match event {
            JobEvent::State { state, at, reason } => {
                Self::State { state: state.to_string(), at_ms: at.get(), reason }
            }
            JobEvent::Planned { disk, mode, reason, size_bytes } => Self::Plan {
                disk: disk.to_string(),
                mode: mode.to_string(),
                reason,
                size: size_bytes,
            },
            JobEvent::Note(text) => Self::Note { text },
            JobEvent::Detail(text) => Self::Detail { text },
            JobEvent::Progress(disks) => {
                Self::Progress { disks: disks.iter().map(ProgressRecord::from).collect() }
            }
            JobEvent::Moved { elapsed, disks } => Self::Moved {
                seconds: elapsed.as_secs_f64(),
                disks: disks
                    .into_iter()
                    .map(|(disk, counts, elapsed)| MovedRecord {
                        disk: disk.to_string(),
                        seconds: elapsed.as_secs_f64(),
                        bytes: counts.into(),
                    })
                    .collect(),
            },
        }
    }
}

//! Jobs, as they are told.

use blockferry_dataplane::Counts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::catalog::{Job, JobKind, JobStep, UnixMillis, ValueError};
use crate::hub::{DiskProgress, QueuePlace};

/// A backup of a hub.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct JobRecord {
    /// Its id.
    #[schema(example = "01kat0h4m2f6q8r0s2")]
    pub id: String,
    /// The VM.
    pub vm: String,
    /// What was asked for: auto, full or incremental.
    pub mode: String,
    /// queued, planning, copying, publishing, done, failed or cancelled.
    #[schema(example = "copying")]
    pub state: String,
    /// Why it has that state.
    pub reason: String,
    /// Of one that failed, whose fault it was: wrong_usage, source_fault, target_fault or failed.
    pub failure: Option<String>,
    /// The key that it was asked for with.
    pub idempotency_key: Option<String>,
    /// When it was asked for: milliseconds since 1970.
    pub created_ms: u64,
    /// When it took its state.
    pub changed_ms: u64,
    /// Where its point goes, while it waits or runs, and where that is, when it is done.
    pub repository: Option<String>,
    /// Its point, when it is done and the point was not deleted.
    pub point: Option<String>,
    /// While it waits, where it stands.
    pub queue: Option<QueueRecord>,
    /// While it waits or runs, what was said last since it took its state, as what its VM waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<SaidRecord>,
    /// The states that it has had; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRecord>,
    /// While it copies, how far each disk is; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<ProgressRecord>,
}

/// Where a job stands that waits for ports.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct QueueRecord {
    /// From 1 on.
    pub position: usize,
    /// Ports that it waits for, one for each disk.
    pub ports_needed: usize,
    /// Ports that are free now.
    pub ports_free: usize,
}

/// Something that was said of a job.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct SaidRecord {
    /// When: milliseconds since 1970.
    pub at_ms: u64,
    /// What, for a person.
    #[schema(
        example = "VM dc/db1 waits for disks of host esx1: 2, where 8 of 8 are taken by VM dc/db2"
    )]
    pub text: String,
}

/// A state that a job took.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct StepRecord {
    /// The state.
    pub state: String,
    /// When: milliseconds since 1970.
    pub at_ms: u64,
    /// Why.
    pub reason: String,
}

/// How far a disk is.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ProgressRecord {
    /// The disk.
    pub disk: String,
    /// Its bytes so far.
    pub bytes: BytesRecord,
}

/// Bytes of a copy, apart.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
#[serde(default)]
pub struct BytesRecord {
    /// What the copy is about: the disk, or the changed areas; 0 until that is known.
    pub planned: u64,
    /// Read from the source.
    pub read: u64,
    /// Found to be zero.
    pub zero: u64,
    /// Sent as data.
    pub sent: u64,
    /// Acknowledged, data and zeros.
    pub acknowledged: u64,
    /// Left alone, for they are there already.
    pub skipped: u64,
    /// Done again after a connection broke.
    pub redone: u64,
}

impl JobRecord {
    /// A job, without what only a hub knows of it.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        Self {
            id: job.id.to_string(),
            vm: job.vm.to_string(),
            mode: job.mode.to_string(),
            state: job.state.to_string(),
            reason: job.reason.clone(),
            failure: job.failure.map(|kind| kind.to_string()),
            idempotency_key: job.key.as_ref().map(ToString::to_string),
            created_ms: job.created.get(),
            changed_ms: job.changed.get(),
            repository: None,
            point: None,
            queue: None,
            said: None,
            steps: Vec::new(),
            disks: Vec::new(),
        }
    }

    /// The job that it tells of.
    ///
    /// # Errors
    /// When a value is not one that this version knows.
    pub fn job(&self) -> Result<Job, ValueError> {
        let time = |millis| UnixMillis::new(millis).unwrap_or(UnixMillis::MAX);
        Ok(Job {
            kind: JobKind::Backup,
            id: self.id.parse()?,
            vm: self.vm.parse()?,
            mode: self.mode.parse()?,
            state: self.state.parse()?,
            key: self.idempotency_key.as_deref().map(str::parse).transpose()?,
            asked: None,
            created: time(self.created_ms),
            changed: time(self.changed_ms),
            reason: self.reason.clone(),
            failure: self.failure.as_deref().map(str::parse).transpose()?,
        })
    }
}

impl From<JobStep> for StepRecord {
    fn from(step: JobStep) -> Self {
        Self { state: step.state.to_string(), at_ms: step.at.get(), reason: step.reason }
    }
}

impl From<QueuePlace> for QueueRecord {
    fn from(place: QueuePlace) -> Self {
        let QueuePlace { position, ports_needed, ports_free } = place;
        Self { position, ports_needed, ports_free }
    }
}

impl From<&DiskProgress> for ProgressRecord {
    fn from(progress: &DiskProgress) -> Self {
        Self { disk: progress.disk.to_string(), bytes: progress.counts.into() }
    }
}

impl From<Counts> for BytesRecord {
    fn from(counts: Counts) -> Self {
        Self {
            planned: counts.planned,
            read: counts.read,
            zero: counts.zero,
            sent: counts.sent,
            acknowledged: counts.acknowledged,
            skipped: counts.skipped,
            redone: counts.redone,
        }
    }
}

impl From<BytesRecord> for Counts {
    fn from(bytes: BytesRecord) -> Self {
        let mut counts = Self::default();
        counts.planned = bytes.planned;
        counts.read = bytes.read;
        counts.zero = bytes.zero;
        counts.sent = bytes.sent;
        counts.acknowledged = bytes.acknowledged;
        counts.skipped = bytes.skipped;
        counts.redone = bytes.redone;
        counts
    }
}

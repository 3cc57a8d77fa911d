//! Jobs: what is being done, how far it is, and why it ended.

use super::error::CatalogError;
use super::id::JobId;
use super::name::{IdempotencyKey, RequestHash, VmName};
use super::time::UnixMillis;
use super::word::words;

words! {
    /// What was asked for. What each disk became stands with its layer.
    BackupMode, "mode" {
        /// Deltas where it can be told what changed, else fulls.
        Auto = "auto",
        /// Fulls.
        Full = "full",
        /// Deltas, or an error.
        Incremental = "incremental",
    }
}

words! {
    /// What a job is for.
    JobKind, "kind of job" {
        /// A restore point of a VM.
        Backup = "backup",
        /// Disks of a point, served by a hub to somebody until they are called off. It has
        /// `copying` for its state while it serves, and makes no point.
        Export = "export",
    }
}

words! {
    /// How far a job is.
    JobState, "state" {
        /// Waits for its turn.
        Queued = "queued",
        /// Decides full or delta, takes leases, snapshot and images.
        Planning = "planning",
        /// Moves blocks.
        Copying = "copying",
        /// All blocks are safe; images are checked and given their names.
        Publishing = "publishing",
        /// Its point is published.
        Done = "done",
        /// It ended without a point, for its reason.
        Failed = "failed",
        /// Somebody called it off.
        Cancelled = "cancelled",
    }
}

impl JobState {
    /// Whether a job that is here stays here.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// Whether a job may go from here to `next`: one state on, or out of any that is not the end.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match next {
            Self::Queued => false,
            Self::Planning => self == Self::Queued,
            Self::Copying => self == Self::Planning,
            Self::Publishing => self == Self::Copying,
            Self::Done => self == Self::Publishing,
            Self::Failed | Self::Cancelled => !self.is_over(),
        }
    }
}

words! {
    /// Whose fault it was that a job failed.
    FailureKind, "kind of failure" {
        /// What was asked for cannot be done as it was asked.
        Request = "wrong_usage",
        /// A source's.
        Source = "source_fault",
        /// The repository's, or what is below it.
        Target = "target_fault",
        /// Neither side's.
        Other = "failed",
    }
}

/// A job that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// What for.
    pub kind: JobKind,
    /// Of which VM.
    pub vm: VmName,
    /// How.
    pub mode: BackupMode,
    /// Asking again with the same key gives the same job.
    pub key: Option<IdempotencyKey>,
    /// All else that is asked for, where a key has to stand for it.
    pub asked: Option<RequestHash>,
}

/// A job as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it is for.
    pub kind: JobKind,
    /// Of which VM.
    pub vm: VmName,
    /// What was asked for.
    pub mode: BackupMode,
    /// How far it is.
    pub state: JobState,
    /// The key that it was asked for with.
    pub key: Option<IdempotencyKey>,
    /// All else that was asked for with the key, if that was noted.
    pub asked: Option<RequestHash>,
    /// When it was asked for.
    pub created: UnixMillis,
    /// When it took its state.
    pub changed: UnixMillis,
    /// Why it has its state.
    pub reason: String,
    /// Of one that failed, whose fault it was, if that was noted.
    pub failure: Option<FailureKind>,
}

/// A state that a job took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStep {
    /// The state.
    pub state: JobState,
    /// When.
    pub at: UnixMillis,
    /// Why.
    pub reason: String,
}

/// What asking for a job gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A new job, queued.
    New(Job),
    /// The job that the same key gave before, in whatever state it is.
    Known(Job),
}

impl Admission {
    /// The job, new or not.
    #[must_use]
    pub fn into_job(self) -> Job {
        match self {
            Self::New(job) | Self::Known(job) => job,
        }
    }
}

/// Which jobs; all where nothing is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Of this kind.
    pub kind: Option<JobKind>,
    /// Of this VM.
    pub vm: Option<VmName>,
    /// In one of these states; in any where there are none.
    pub states: Vec<JobState>,
    /// No more than so many, the newest ones.
    pub newest: Option<u32>,
}

/// The jobs of a catalog.
pub trait Jobs {
    /// Adds a job, queued, or gives back the one that its key gave before.
    ///
    /// # Errors
    /// [`CatalogError::KeyReused`] when the key was used for another VM, mode or kind, or for
    /// something else.
    fn add_job(&self, job: NewJob) -> Result<Admission, CatalogError>;

    /// One job.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchJob`].
    fn job(&self, job: JobId) -> Result<Job, CatalogError>;

    /// The job that a key gave, if it gave one.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn job_of_key(&self, key: &IdempotencyKey) -> Result<Option<Job>, CatalogError>;

    /// Jobs in the order in which they were added.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, CatalogError>;

    /// Moves a job to another state, for a reason that is kept. Leases stay with it: who ends a
    /// job gives back what it holds when that is really free.
    ///
    /// # Errors
    /// [`CatalogError::IllegalStep`] when that state does not follow on the job's.
    fn advance(&self, job: JobId, state: JobState, reason: &str) -> Result<Job, CatalogError>;

    /// Ends a job that failed, with whose fault that was; as [`advance`](Self::advance).
    ///
    /// # Errors
    /// [`CatalogError::IllegalStep`] when it is over.
    fn fail(&self, job: JobId, failure: FailureKind, reason: &str) -> Result<Job, CatalogError>;

    /// The states that a job has had, first to last.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchJob`].
    fn steps(&self, job: JobId) -> Result<Vec<JobStep>, CatalogError>;
}

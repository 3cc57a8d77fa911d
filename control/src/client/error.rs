//! Why a hub did not do what it was asked for.

use std::time::Duration;

use super::address::HubAddress;
use crate::api::{DAMAGED, WHICH_REPOSITORY};
use crate::catalog::{FailureKind, JobId, PointId};

/// One line that says what went wrong, and what to do. None has the token in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A token that cannot be sent.
    #[error("the token has characters that no token has; make one with `blockferry hub token`")]
    Token,
    /// No connection, or no answer over it.
    #[error("the hub at {address} cannot be reached: {what}; does it run there?")]
    Unreachable {
        /// Where.
        address: HubAddress,
        /// What happened.
        what: String,
    },
    /// It was there before, and did not come back.
    #[error(
        "the hub at {address} has not answered for {waited:?} ({what}); job {job} goes on if the hub runs: GET /api/v1/backups/{job} tells what became of it"
    )]
    Lost {
        /// Where.
        address: HubAddress,
        /// The job.
        job: JobId,
        /// For how long it was waited.
        waited: Duration,
        /// What happened last.
        what: String,
    },
    /// Called off here, and the hub could not be told, or did not tell what became of it.
    #[error("{}", left(address, job.as_ref(), what))]
    Left {
        /// Where.
        address: HubAddress,
        /// The job, if the hub told which it is.
        job: Option<JobId>,
        /// What happened last.
        what: String,
    },
    /// It said no.
    #[error("the hub refused: {message} ({hint})")]
    Refused {
        /// The status of its answer.
        status: u16,
        /// A word for programs.
        code: String,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
        /// When to ask again.
        retry_after: Option<Duration>,
    },
    /// Its answer is not one of a hub.
    #[error("what answers at {address} is no hub of this version: {what}")]
    NoHub {
        /// Where.
        address: HubAddress,
        /// What came.
        what: String,
    },
    /// The job has failed.
    #[error("{reason} (job {job})")]
    JobFailed {
        /// The job.
        job: JobId,
        /// Whose fault it was.
        failure: FailureKind,
        /// Why.
        reason: String,
    },
    /// The job was called off, here or by somebody else.
    #[error("job {job} was called off: {reason}")]
    Cancelled {
        /// The job.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// Called off before there was a job, or of what has none.
    #[error("interrupted")]
    NotAsked,
    /// A point could not be read, or goes on being read no more.
    #[error("{reason}")]
    ReadFailed {
        /// Whose fault it was.
        failure: FailureKind,
        /// Why.
        reason: String,
    },
    /// Its answer ended before all was said.
    #[error("the hub at {address} broke off its answer; has it ended? ask again when it runs")]
    Cut {
        /// Where.
        address: HubAddress,
    },
    /// The point of the job is gone.
    #[error("job {job} is done, and its point was deleted since")]
    NoPoint {
        /// The job.
        job: JobId,
    },
    /// A point whose description cannot be understood.
    #[error(
        "point {point} is published, and the hub tells of it in a way that this version does not know: {what}"
    )]
    PointUnknown {
        /// The point.
        point: PointId,
        /// What is wrong.
        what: String,
    },
}

fn left(address: &HubAddress, job: Option<&JobId>, what: &str) -> String {
    match job {
        Some(job) => format!(
            "interrupted, and the hub at {address} cannot be asked ({what}): job {job} may still run there"
        ),
        None => format!(
            "interrupted before the hub at {address} had answered ({what}): {}",
            maybe_asked()
        ),
    }
}

/// Of a job that was asked for, and perhaps not heard of.
pub(super) fn maybe_asked() -> &'static str {
    "GET /api/v1/backups tells whether there is a job of it"
}

impl ClientError {
    /// Whether it was called off.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled { .. } | Self::Left { .. } | Self::NotAsked)
    }

    /// Whose fault it is.
    #[must_use]
    pub fn failure(&self) -> FailureKind {
        /// Refusals of something that is right, and cannot be done now.
        const CONFLICT: u16 = 409;
        const TOO_MANY: u16 = 429;
        match self {
            Self::JobFailed { failure, .. } | Self::ReadFailed { failure, .. } => *failure,
            Self::Token => FailureKind::Request,
            Self::Refused { code, .. } if code == DAMAGED => FailureKind::Source,
            Self::Refused { code, .. } if code == WHICH_REPOSITORY => FailureKind::Request,
            Self::Refused { status, .. } => match *status {
                CONFLICT | TOO_MANY => FailureKind::Other,
                400..500 => FailureKind::Request,
                _ => FailureKind::Other,
            },
            _ => FailureKind::Other,
        }
    }

    /// Whether the same request can do better a while later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { retry_after, .. } => retry_after.is_some(),
            _ => false,
        }
    }
}

//! What our snapshots are called.

use std::fmt;
use std::str::FromStr;

use crate::catalog::JobId;

/// Before the id of the job.
const PREFIX: &str = "blockferry-";

/// The name of a job's snapshot: `blockferry-` and the id of the job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotName(JobId);

/// A snapshot that is somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the name of a snapshot of ours")]
pub struct NotOurs;

impl SnapshotName {
    /// That of this job.
    #[must_use]
    pub fn of(job: JobId) -> Self {
        Self(job)
    }

    /// Whose it is.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.0
    }
}

impl FromStr for SnapshotName {
    type Err = NotOurs;

    fn from_str(name: &str) -> Result<Self, NotOurs> {
        let job = name.strip_prefix(PREFIX).ok_or(NotOurs)?;
        job.parse().map(Self).map_err(|_| NotOurs)
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_jobs() {
        let job = JobId::new();
        let name = SnapshotName::of(job).to_string();
        assert_eq!(name.parse::<SnapshotName>().map(|name| name.job()), Ok(job));
    }

    #[test]
    fn names_that_only_look_like_ours_are_not() {
        for name in ["", "blockferry-", "blockferry-nightly", "before update", "Blockferry-x"] {
            assert_eq!(name.parse::<SnapshotName>(), Err(NotOurs), "{name}");
        }
    }
}

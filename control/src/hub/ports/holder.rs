//! Who holds a port.

use std::fmt;
use std::str::FromStr;

use crate::catalog::{IdempotencyKey, JobId, ValueError};

/// A job as a caller names it: by its id, or by a name that the caller has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(IdempotencyKey);

impl Holder {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// As the id that it may be.
    pub(super) fn id(&self) -> Option<JobId> {
        self.as_str().parse().ok()
    }

    /// As a name.
    pub(super) fn name(&self) -> &IdempotencyKey {
        &self.0
    }
}

impl FromStr for Holder {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self)
    }
}

impl From<JobId> for Holder {
    fn from(job: JobId) -> Self {
        Self(job.as_str().parse().expect("an id is made of few visible ASCII characters"))
    }
}

impl From<IdempotencyKey> for Holder {
    fn from(name: IdempotencyKey) -> Self {
        Self(name)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

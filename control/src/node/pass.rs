//! Which lanes of a backup are meant: a backup that audits may carry its disks twice.

use std::fmt;
use std::str::FromStr;

use crate::catalog::{JobId, ValueError};

/// Lanes of a backup that run at once: `JOB` of those that it begins with, and `JOB.2` and so on of
/// those after them. So a word about the ones before, or one of theirs that was lost, is none about
/// these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PassId {
    pub(crate) job: JobId,
    /// From 1 on.
    pub(crate) pass: u32,
}

impl fmt::Display for PassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pass {
            1 => self.job.fmt(f),
            pass => write!(f, "{}.{pass}", self.job),
        }
    }
}

impl FromStr for PassId {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let named = text.split_once('.').and_then(|(job, pass)| Some((job, pass.parse().ok()?)));
        let (job, pass) = named.filter(|(_, pass)| *pass > 1).unwrap_or((text, 1));
        Ok(Self { job: job.parse()?, pass })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_read_as_it_is_written_and_nothing_else_is_one() {
        let job = JobId::new();
        for pass in [1, 2, 17] {
            let id = PassId { job, pass };
            assert_eq!(id.to_string().parse::<PassId>().unwrap(), id);
        }
        for text in [format!("{job}.1"), format!("{job}.x"), format!("{job}."), String::from(".2")]
        {
            text.parse::<PassId>().unwrap_err();
        }
    }
}

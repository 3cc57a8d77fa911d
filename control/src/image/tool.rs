//! qemu-img: which one, how long it may take, and what its failures mean.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::error::ImageError;
use super::refusal::{Refusal, in_one_line};
use crate::child::{self, Finished, Launch, LaunchError, RunError, how_it_ended};

/// Time for making an image, or for reading its header: milliseconds, unless the storage hangs.
const QUICK_DEADLINE: Duration = Duration::from_secs(30);
/// Time for a check, which reads all tables: 16 GiB of a slow disk's random reads, and more.
const CHECK_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// How qemu-img is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTool {
    /// Its name or path.
    pub program: OsString,
    /// Deadline for making an image, and for reading what its header says.
    pub quick_deadline: Duration,
    /// Deadline for a check, which grows with the image.
    pub check_deadline: Duration,
}

impl Default for ImageTool {
    fn default() -> Self {
        Self {
            program: "qemu-img".into(),
            quick_deadline: QUICK_DEADLINE,
            check_deadline: CHECK_DEADLINE,
        }
    }
}

/// One run of it.
#[derive(Debug)]
pub(super) struct ToolRun<'a> {
    pub(super) tool: &'a ImageTool,
    pub(super) action: &'static str,
    pub(super) path: &'a Path,
    pub(super) deadline: Duration,
}

impl ToolRun<'_> {
    /// Runs it with these arguments behind the subcommand.
    pub(super) fn run(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Finished, ImageError> {
        let mut launch = Launch::new(&self.tool.program);
        launch.killed_with_us();
        // Its words are sorted by what they say.
        launch.env("LC_ALL", "C").arg(self.action).args(arguments);
        let finished = child::run(launch, self.deadline).map_err(|error| match error {
            RunError::Launch(LaunchError::NotFound { program }) => {
                ImageError::ToolMissing { program }
            }
            RunError::Launch(LaunchError::System { what, error, .. }) => {
                ImageError::System { path: self.path.to_owned(), what, error }
            }
            RunError::TimedOut { said } => ImageError::TimedOut {
                program: self.program(),
                action: self.action,
                path: self.path.to_owned(),
                deadline: self.deadline,
                said: in_one_line(&said),
            },
        })?;
        if finished.status.code().is_none() {
            return Err(ImageError::Killed {
                program: self.program(),
                action: self.action,
                path: self.path.to_owned(),
                how: how_it_ended(finished.status),
                said: in_one_line(&finished.said),
            });
        }
        Ok(finished)
    }

    /// What a run that failed means.
    pub(super) fn failure(&self, finished: &Finished) -> ImageError {
        let path = self.path.to_owned();
        let said = in_one_line(&finished.said);
        match Refusal::of(&finished.said) {
            Some(Refusal::Locked) => ImageError::Locked { path, said },
            Some(Refusal::BackingMissing) => ImageError::BackingMissing { path, said },
            Some(Refusal::Missing) => ImageError::Missing { path },
            Some(Refusal::NoSpace) => ImageError::NoSpace { path, said },
            Some(Refusal::Forbidden) => ImageError::Forbidden { path, said },
            None => ImageError::Failed {
                program: self.program(),
                action: self.action,
                path,
                how: how_it_ended(finished.status),
                said,
            },
        }
    }

    /// Its answer, which is JSON.
    pub(super) fn answer<T: DeserializeOwned>(&self, finished: &Finished) -> Result<T, ImageError> {
        serde_json::from_slice(&finished.output).map_err(|error| ImageError::Answer {
            program: self.program(),
            action: self.action,
            path: self.path.to_owned(),
            error,
        })
    }

    fn program(&self) -> String {
        self.tool.program.to_string_lossy().into_owned()
    }
}

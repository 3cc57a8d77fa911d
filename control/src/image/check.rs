//! Whether an image is whole.

use serde::Deserialize;

use super::Image;
use super::error::ImageError;
use super::tool::ToolRun;

/// Exit codes of `qemu-img check` (docs/tools/qemu-img.rst of QEMU).
const EXIT_CLEAN: i32 = 0;
const EXIT_NOT_COMPLETED: i32 = 1;
const EXIT_CORRUPTIONS: i32 = 2;
const EXIT_LEAKS: i32 = 3;

/// What a check found. It looks at the tables of the image itself: its content, and the files below
/// it, are another matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// The worst of it.
    pub verdict: CheckVerdict,
    /// Clusters in use.
    pub allocated_clusters: u64,
    /// Clusters that the disk has.
    pub total_clusters: u64,
}

/// How an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckVerdict {
    /// Nothing is wrong.
    Clean,
    /// Space is lost, and no data.
    Leaks {
        /// How many clusters nobody refers to.
        clusters: u64,
    },
    /// Data is lost or will be: the image must not be used.
    Corrupt {
        /// How many faults.
        corruptions: u64,
        /// How many clusters nobody refers to, besides.
        leaks: u64,
    },
    /// Parts of the image could not be read, so nobody knows.
    Incomplete {
        /// How many reads failed.
        errors: u64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    #[serde(default)]
    corruptions: u64,
    #[serde(default)]
    leaks: u64,
    #[serde(default)]
    check_errors: u64,
    #[serde(default)]
    allocated_clusters: u64,
    #[serde(default)]
    total_clusters: u64,
}

impl Image {
    /// Checks the tables of the image, and mends nothing. It must not be open for writing
    /// elsewhere.
    ///
    /// # Errors
    /// [`ImageError`] when it cannot be checked: missing, in use, no qcow2 file. What a check finds
    /// is no error.
    pub fn check(&self) -> Result<CheckReport, ImageError> {
        let deadline = self.tool.check_deadline;
        let run = ToolRun { tool: &self.tool, action: "check", path: &self.path, deadline };
        let arguments = ["--output=json", "-f", "qcow2"];
        let path = self.path.as_os_str();
        let finished = run.run(arguments.map(AsRef::as_ref).into_iter().chain([path]))?;
        let code = finished.status.code();
        let checked =
            matches!(code, Some(EXIT_CLEAN | EXIT_NOT_COMPLETED | EXIT_CORRUPTIONS | EXIT_LEAKS));
        // One that it could not even open has the code of a check that was not completed.
        if !checked || (code == Some(EXIT_NOT_COMPLETED) && finished.output.is_empty()) {
            return Err(run.failure(&finished));
        }
        let answer: Answer = run.answer(&finished)?;
        let Answer { corruptions, leaks, check_errors, .. } = answer;
        let verdict = if corruptions > 0 || code == Some(EXIT_CORRUPTIONS) {
            CheckVerdict::Corrupt { corruptions, leaks }
        } else if check_errors > 0 || code == Some(EXIT_NOT_COMPLETED) {
            CheckVerdict::Incomplete { errors: check_errors }
        } else if leaks > 0 || code == Some(EXIT_LEAKS) {
            CheckVerdict::Leaks { clusters: leaks }
        } else {
            CheckVerdict::Clean
        };
        Ok(CheckReport {
            verdict,
            allocated_clusters: answer.allocated_clusters,
            total_clusters: answer.total_clusters,
        })
    }
}

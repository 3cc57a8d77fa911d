//! Exit codes.

use std::fmt;
use std::process::ExitCode;

use blockferry_control::catalog::FailureKind;
use blockferry_control::reading::ReadError;
use blockferry_control::repository::RepositoryError;
use blockferry_dataplane::nbd::without_passwords;
use blockferry_dataplane::{Fault, Side};

/// How a command ended, for the caller's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done.
    Done = 0,
    /// Failed for a reason that belongs to neither side.
    Failed = 1,
    /// What was asked for cannot be done as it was asked.
    Usage = 2,
    /// Some lanes of many failed.
    Partly = 3,
    /// The source failed.
    Source = 4,
    /// The target failed.
    Target = 5,
    /// The content differs from what it should be.
    Differs = 6,
    /// Stopped by a signal; what is safe is safe.
    Interrupted = 7,
}

impl Exit {
    /// The number that the process exits with.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// Its word in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "wrong_usage",
            Self::Partly => "partly_done",
            Self::Source => "source_fault",
            Self::Target => "target_fault",
            Self::Differs => "content_differs",
            Self::Interrupted => "interrupted",
        }
    }

    /// The side whose fault it is.
    pub(crate) fn of_side(side: Side) -> Self {
        match side {
            Side::Source => Self::Source,
            Side::Target => Self::Target,
        }
    }

    /// How one lane ended.
    pub(crate) fn of_lane(outcome: &Result<(), Fault>) -> Self {
        match outcome {
            Ok(()) => Self::Done,
            Err(Fault::Side { side, .. }) => Self::of_side(*side),
            Err(Fault::Request(_)) => Self::Usage,
            Err(Fault::Interrupted) => Self::Interrupted,
            Err(_) => Self::Failed,
        }
    }

    /// How a run ended whose lanes ended so. An interruption goes first, since it says that the
    /// rest can be had by running the command again.
    pub(crate) fn of_lanes(lanes: impl Iterator<Item = Self> + Clone) -> Self {
        let first = lanes.clone().next().unwrap_or(Self::Done);
        let has = |exit| lanes.clone().any(|lane| lane == exit);
        if has(Self::Interrupted) {
            Self::Interrupted
        } else if lanes.clone().all(|lane| lane == first) {
            first
        } else if has(Self::Done) {
            Self::Partly
        } else {
            Self::Failed
        }
    }

    /// How a command ended that the repository did not serve.
    pub(crate) fn of_repository(error: &RepositoryError) -> Self {
        Self::of_failure(error.failure())
    }

    /// How a job ended.
    pub(crate) fn of_failure(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Request => Self::Usage,
            FailureKind::Source => Self::Source,
            FailureKind::Target => Self::Target,
            _ => Self::Failed,
        }
    }

    /// How a command ended that could not read what was kept, or not write it where it was wanted.
    pub(crate) fn of_read(error: &ReadError) -> Self {
        match error.root() {
            ReadError::Cancelled => Self::Interrupted,
            ReadError::Differs { .. } | ReadError::ReadBack { .. } => Self::Differs,
            other => Self::of_failure(other.failure()),
        }
    }

    /// How a command ended that gave up with `error`.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        error.downcast_ref::<Refusal>().map_or(Self::Failed, |refusal| refusal.exit)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command did not start, with the code to exit with.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) exit: Exit,
    message: String,
    /// The long names of the options whose values it is about.
    options: Vec<String>,
}

impl Refusal {
    /// The command has to be changed.
    pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
        Self::of(Exit::Usage, message)
    }

    /// Any other code. What a user wrote may be in the message, and a password in that.
    pub(crate) fn of(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        let message = without_passwords(&message.into());
        Self { exit, message, options: Vec::new() }.into()
    }

    /// The long names of the options whose values it is about, where that is known.
    pub(crate) fn options(&self) -> &[String] {
        &self.options
    }
}

/// What says of an error which option it is about, so that it is told with the place of the value
/// where that stands in a file.
pub(crate) trait About<T> {
    /// About the value of the option of this long name.
    ///
    /// # Errors
    /// The same, as a [`Refusal`].
    fn about(self, option: &str) -> anyhow::Result<T>;

    /// About those of these options that are there.
    ///
    /// # Errors
    /// The same, as a [`Refusal`].
    fn about_any(self, options: Vec<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> About<T> for Result<T, E> {
    fn about(self, option: &str) -> anyhow::Result<T> {
        self.about_any(vec![option.to_owned()])
    }

    fn about_any(self, options: Vec<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            match error.downcast_ref::<Refusal>() {
                // Who was nearer to it knows better.
                Some(refusal) if !refusal.options.is_empty() => return error,
                _ => {}
            }
            let (exit, message) =
                (Exit::of_error(&error), without_passwords(&format!("{error:#}")));
            Refusal { exit, message, options }.into()
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lanes: &[Exit]) -> Exit {
        Exit::of_lanes(lanes.iter().copied())
    }

    #[test]
    fn one_lane_decides_alone() {
        for exit in [Exit::Done, Exit::Failed, Exit::Usage, Exit::Source, Exit::Interrupted] {
            assert_eq!(of(&[exit]), exit);
        }
        assert_eq!(of(&[]), Exit::Done);
    }

    #[test]
    fn some_of_many_is_partly_done() {
        assert_eq!(of(&[Exit::Done, Exit::Target]), Exit::Partly);
        assert_eq!(of(&[Exit::Target, Exit::Done, Exit::Source]), Exit::Partly);
    }

    #[test]
    fn all_failed_alike_keeps_the_side() {
        assert_eq!(of(&[Exit::Target, Exit::Target]), Exit::Target);
        assert_eq!(of(&[Exit::Source, Exit::Target]), Exit::Failed);
    }

    #[test]
    fn an_interruption_goes_before_all() {
        assert_eq!(of(&[Exit::Done, Exit::Target, Exit::Interrupted]), Exit::Interrupted);
    }
}

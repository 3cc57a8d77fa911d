//! Which nbdkit it is, and what has to be done about that.

use std::ffi::OsStr;
use std::fmt;
use std::time::Duration;

use super::error::SourceError;
use crate::child::{self, Launch, LaunchError, RunError};

/// nbdkit prints its version at once.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// The oldest that will do: `compression` came with it, and 1.22 had its plugin hand the password
/// on when it runs nbdkit again.
const OLDEST: NbdkitVersion = NbdkitVersion { major: 1, minor: 24, patch: 0 };
/// From this on a client can hang up while its requests are under way. Before, nbdkit aborted in 35
/// of 40 runs, and a reply could reach the next client; not with one thread for requests.
const HEEDS_HANG_UP: NbdkitVersion = NbdkitVersion { major: 1, minor: 33, patch: 10 };

/// A version of nbdkit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NbdkitVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

impl NbdkitVersion {
    /// Asks a program for its version, and refuses one that is too old.
    pub(super) fn of(program: &OsStr) -> Result<Self, SourceError> {
        let mut launch = Launch::new(program);
        launch.arg("--version").only_env(super::command::ENVIRONMENT);
        let shown = || program.to_string_lossy().into_owned();
        let finished = child::run(launch, ASK_DEADLINE).map_err(|error| match error {
            RunError::Launch(LaunchError::NotFound { program }) => {
                SourceError::ProgramMissing { program }
            }
            RunError::Launch(LaunchError::System { what, error, .. }) => {
                SourceError::System { what, error }
            }
            RunError::TimedOut { .. } => {
                SourceError::VersionUnknown { program: shown(), said: "nothing in time".into() }
            }
        })?;
        let text = String::from_utf8_lossy(&finished.output);
        let version = Self::parse(&text).ok_or_else(|| SourceError::VersionUnknown {
            program: shown(),
            said: text.lines().chain(finished.said.iter().map(String::as_str)).take(1).collect(),
        })?;
        if version < OLDEST {
            return Err(SourceError::TooOld { program: shown(), found: version, oldest: OLDEST });
        }
        Ok(version)
    }

    /// The version in `nbdkit 1.32.5`, which may be followed by the packager's name for it.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.strip_prefix("nbdkit ")?.split_whitespace().next()?.split('.');
        let mut number = || {
            let digits = numbers.next()?;
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            digits[..end].parse().ok()
        };
        Some(Self { major: number()?, minor: number()?, patch: number().unwrap_or(0) })
    }

    /// Why this one has to serve one request after another; `None` where it has not.
    #[must_use]
    pub fn one_request_at_a_time(self) -> Option<&'static str> {
        (self < HEEDS_HANG_UP).then_some(
            "nbdkit before 1.33.10 aborts when a client hangs up while its requests are under way, \
             unless it has one thread for them",
        )
    }
}

impl fmt::Display for NbdkitVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32, patch: u32) -> NbdkitVersion {
        NbdkitVersion { major, minor, patch }
    }

    #[test]
    fn a_version_is_read_as_packagers_write_it() {
        for (text, expected) in [
            ("nbdkit 1.32.5\n", Some(version(1, 32, 5))),
            ("nbdkit 1.42.2 (nbdkit-1.42.2-1.el9)\n", Some(version(1, 42, 2))),
            ("nbdkit 1.46.1-rc1", Some(version(1, 46, 1))),
            ("nbdkit 2.0", Some(version(2, 0, 0))),
            ("qemu-nbd 10.0.2", None),
            ("nbdkit one", None),
            ("", None),
        ] {
            assert_eq!(NbdkitVersion::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn only_those_that_abort_serve_one_request_at_a_time() {
        assert!(version(1, 32, 5).one_request_at_a_time().is_some());
        assert!(version(1, 33, 9).one_request_at_a_time().is_some());
        assert!(version(1, 33, 10).one_request_at_a_time().is_none());
        assert!(version(1, 34, 0).one_request_at_a_time().is_none());
        assert!(version(2, 0, 0).one_request_at_a_time().is_none());
    }
}

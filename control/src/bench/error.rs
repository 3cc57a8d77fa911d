//! Why nothing was measured.

use std::io;
use std::time::Duration;

use blockferry_dataplane::Fault;

use crate::child::LaunchError;
use crate::export::ExportError;
use crate::image::ImageError;
use crate::tunnel::TunnelError;

/// One line that says what went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A program is not there.
    #[error("cannot run {program}: no such command; install {package}")]
    Missing {
        /// The name that was looked for.
        program: String,
        /// The package that has it.
        package: &'static str,
    },
    /// A server did not start.
    #[error("{program} does not serve: {why}")]
    Server {
        /// Its name.
        program: String,
        /// Its last words, or what was awaited.
        why: String,
    },
    /// An export did not start.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An image could not be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A lane failed.
    #[error("lane {}: {fault}", lane + 1)]
    Lane {
        /// Which, from 0.
        lane: usize,
        /// Why.
        fault: Fault,
    },
    /// There is no tunnel.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The target does not answer.
    #[error("target {what}: {error}")]
    Target {
        /// Its URI.
        what: String,
        /// What the system or the server said.
        error: io::Error,
    },
    /// No lane could be started.
    #[error("no lane could be started: {0}")]
    Mover(Fault),
    /// What was asked for cannot be measured.
    #[error("{0}")]
    Request(String),
    /// Nobody answered in time.
    #[error("{what} did not come within {deadline:?}")]
    Late {
        /// What was awaited, and of whom.
        what: String,
        /// For how long.
        deadline: Duration,
    },
    /// It was called off.
    #[error("interrupted")]
    Interrupted,
    /// The system could not do it.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        error: io::Error,
    },
}

impl BenchError {
    /// For a call of the system.
    pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |error| Self::System { what, error }
    }

    /// A program that did not start, with the package that has it.
    pub(super) fn launch(error: LaunchError, package: &'static str) -> Self {
        match error {
            LaunchError::NotFound { program } => Self::Missing { program, package },
            LaunchError::System { program, what, error } => {
                Self::System { what: format!("cannot run {program}: {what}"), error }
            }
        }
    }
}

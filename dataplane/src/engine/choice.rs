//! Which engine a mover uses, and why.

use std::fmt;
use std::io;
use std::str::FromStr;

use super::{Engine, poll, uring};

/// The wish: `auto` takes the ring where it works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// Probes for io_uring, falls back to readiness.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Readiness (epoll).
    Poll,
}

/// The engine in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring.
    Uring,
    /// Readiness (epoll).
    Poll,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Poll => "poll",
        })
    }
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "poll" => Ok(Self::Poll),
            _ => Err(format!(
                "no engine is called '{text}': use auto, uring or poll"
            )),
        }
    }
}

/// The outcome of a choice, with the reason in words for log and report.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    pub(crate) kind: EngineKind,
    pub(crate) reason: String,
}

/// Decides once, before threads start, by setting a ring up and giving it back.
pub(crate) fn select(choice: EngineChoice) -> io::Result<Selected> {
    match choice {
        EngineChoice::Poll => Ok(Selected {
            kind: EngineKind::Poll,
            reason: "asked for".into(),
        }),
        EngineChoice::Uring => {
            uring::Uring::new().map_err(|e| {
                io::Error::new(
                    e.kind(),
                    format!("{}; use --engine auto or poll", refusal(&e)),
                )
            })?;
            Ok(Selected {
                kind: EngineKind::Uring,
                reason: "asked for".into(),
            })
        }
        EngineChoice::Auto => Ok(match uring::Uring::new() {
            Ok(_) => Selected {
                kind: EngineKind::Uring,
                reason: "the kernel offers io_uring".into(),
            },
            Err(e) => Selected {
                kind: EngineKind::Poll,
                reason: refusal(&e),
            },
        }),
    }
}

/// Sets the engine of one thread up.
pub(crate) fn start(kind: EngineKind) -> io::Result<Box<dyn Engine>> {
    Ok(match kind {
        EngineKind::Uring => Box::new(uring::Uring::new()?),
        EngineKind::Poll => Box::new(poll::Poll::new()?),
    })
}

fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!(
                "io_uring is forbidden here ({error}): see sysctl kernel.io_uring_disabled, or the container's seccomp profile"
            )
        }
        Some(libc::ENOSYS) => "the kernel has no io_uring".into(),
        Some(libc::ENOMEM) => {
            format!("io_uring could not lock its memory ({error}): raise ulimit -l")
        }
        _ => format!("io_uring could not be set up: {error}"),
    }
}

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
            _ => Err(format!("no engine is called '{text}': use auto, uring or poll")),
        }
    }
}

/// The outcome of a choice, with the reason in words for log and report.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    pub(crate) kind: EngineKind,
    pub(crate) reason: String,
    /// Nobody insists on `kind`.
    may_fall_back: bool,
}

/// Decides once, before threads start, by setting a ring up and giving it back.
pub(crate) fn select(choice: EngineChoice) -> io::Result<Selected> {
    match choice {
        EngineChoice::Poll => Ok(Selected {
            kind: EngineKind::Poll,
            reason: "asked for".into(),
            may_fall_back: false,
        }),
        EngineChoice::Uring => {
            uring::Uring::new().map_err(|e| {
                io::Error::new(e.kind(), format!("{}; use --engine auto or poll", refusal(&e)))
            })?;
            Ok(Selected {
                kind: EngineKind::Uring,
                reason: "asked for".into(),
                may_fall_back: false,
            })
        }
        EngineChoice::Auto => Ok(match uring::Uring::new() {
            Ok(_) => Selected {
                kind: EngineKind::Uring,
                reason: "the kernel offers io_uring".into(),
                may_fall_back: true,
            },
            Err(e) => {
                Selected { kind: EngineKind::Poll, reason: refusal(&e), may_fall_back: false }
            }
        }),
    }
}

/// Sets the engine of one thread up. Where the ring was not asked for and this thread cannot have
/// one although the probe could (each locks memory of its own), it takes readiness; then the
/// reason comes too.
pub(crate) fn start(selected: &Selected) -> io::Result<(Box<dyn Engine>, Option<String>)> {
    let poll = || -> io::Result<Box<dyn Engine>> {
        let poll = poll::Poll::new();
        Ok(Box::new(poll.map_err(|e| io::Error::new(e.kind(), with_advice(&e)))?))
    };
    if selected.kind == EngineKind::Poll {
        return Ok((poll()?, None));
    }
    match uring::Uring::new() {
        Ok(uring) => Ok((Box::new(uring), None)),
        Err(e) if selected.may_fall_back => Ok((poll()?, Some(refusal(&e)))),
        Err(e) => Err(io::Error::new(e.kind(), refusal(&e))),
    }
}

/// An error, with what to raise.
fn with_advice(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMFILE) => format!("{error}: raise ulimit -n"),
        _ => error.to_string(),
    }
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
        _ => format!("io_uring could not be set up: {}", with_advice(error)),
    }
}

//! Programs that run beside us, and do not outlive us.
//!
//! ```text
//!  Launch ──start──► Child ── try_exited, exit_reason, end
//!                      │
//!                      └─ its starter: a thread that is its parent, reads its stderr line by line,
//!                         and lives until the Child is dropped
//! ```
//!
//! The kernel's signal for "the parent died" (`PR_SET_PDEATHSIG`) comes when the *thread* that
//! started the child ends, not the process. So each child is started by a thread of its own, which
//! stays for as long as the child is held, whoever asked for it: a worker of a pool may come and go.
//!
//! Without unsafe code: what has to happen between fork and exec is done by programs that every
//! Linux system has. setpriv(1) of util-linux asks the kernel for the signal. Then a shell looks
//! whether we are still its parent, for we may have died before; learns its process id (systemd's
//! socket activation wants `LISTEN_PID` to be that of the server, which exec keeps); and execs.
//! `pre_exec` would do the same at the price of code that runs in a forked child of a process with
//! threads.

mod each;
mod launch;
mod process;
mod run;
mod stderr;

pub(crate) use each::each;
pub(crate) use launch::{Launch, LaunchError, SECRET_DESCRIPTOR, Streams};
pub(crate) use process::{Child, Ending, how_it_ended};
pub(crate) use run::{Finished, RunError, run};

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mutex guards here is whole after every step, also after a panic.
pub(crate) fn held<T: fmt::Debug>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

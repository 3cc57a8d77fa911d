//! A running child: whether it is there, why it is not, and its end.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::time::Timespec;

use super::held;
use super::stderr::Said;

/// How long the last words of a child that is gone may take to come through the pipe.
const LAST_WORDS_GRACE: Duration = Duration::from_millis(300);
/// How long the kernel may take to end a process that was killed: long, for it may be in the middle
/// of I/O that cannot be called off.
const KILL_GRACE: Duration = Duration::from_secs(10);
/// Time from SIGTERM to SIGKILL for a child that nobody has ended.
const DROP_DEADLINE: Duration = Duration::from_secs(2);
/// Longest pause between two looks at a child, where the kernel does not tell of its end.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// How a child ended when it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was gone already.
    Earlier,
    /// By SIGTERM, in time.
    InTime,
    /// By SIGKILL, after the deadline.
    Killed,
    /// Not even so: the kernel keeps it.
    Stuck,
}

/// A child. It is ended when this is dropped; whoever has a deadline for that ends it before.
#[derive(Debug)]
pub(crate) struct Child {
    program: String,
    process: Mutex<Process>,
    said: Said,
    /// Disconnected when all of the child's stderr was read.
    last_words: Mutex<mpsc::Receiver<Infallible>>,
    /// Holds the thread that is the child's parent.
    _starter: mpsc::Sender<()>,
}

impl Child {
    pub(super) fn new(
        program: String,
        process: Process,
        said: Said,
        last_words: mpsc::Receiver<Infallible>,
        starter: mpsc::Sender<()>,
    ) -> Self {
        Self {
            program,
            process: Mutex::new(process),
            said,
            last_words: Mutex::new(last_words),
            _starter: starter,
        }
    }

    /// The name that it was started by.
    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// Its process id, which means something until it is gone.
    pub(crate) fn id(&self) -> u32 {
        held(&self.process).child.id()
    }

    /// Readable when it has exited; `None` where the kernel has no such thing.
    pub(crate) fn exit_descriptor(&self) -> Option<Arc<OwnedFd>> {
        held(&self.process).exit.clone()
    }

    /// What it wrote to stderr.
    pub(crate) fn said(&self) -> &Said {
        &self.said
    }

    /// Its status, if it exits within `deadline`.
    pub(crate) fn wait(&self, deadline: Duration) -> Option<ExitStatus> {
        held(&self.process).wait(deadline)
    }

    /// Waits for the rest of its stderr, once it is gone. A child of its own may hold the pipe open
    /// for longer: then what is there has to do.
    pub(crate) fn hear_out(&self) {
        let _all_or_timeout = held(&self.last_words).recv_timeout(LAST_WORDS_GRACE);
    }

    /// What became of it, with the last line that it wrote; `None` if it still runs after `grace`.
    pub(crate) fn exit_reason(&self, grace: Duration) -> Option<String> {
        let status = self.wait(grace)?;
        let program = &self.program;
        let how = how_it_ended(status);
        self.hear_out();
        Some(match self.said.last() {
            Some(line) => format!("{program} {how}: {line}"),
            None => format!("{program} {how}"),
        })
    }

    /// Ends it: SIGTERM to its process group, which goes on for it if it was stopped; then, when
    /// `deadline` has passed, SIGKILL.
    pub(crate) fn end(&self, deadline: Duration) -> Ending {
        let mut process = held(&self.process);
        if process.wait(Duration::ZERO).is_some() {
            return Ending::Earlier;
        }
        process.signal(Signal::TERM);
        // One that is stopped, by itself or by others, takes no signal before it goes on.
        process.signal(Signal::CONT);
        if process.wait(deadline).is_some() {
            return Ending::InTime;
        }
        process.signal(Signal::KILL);
        match process.wait(KILL_GRACE) {
            Some(_) => Ending::Killed,
            None => Ending::Stuck,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end(DROP_DEADLINE);
    }
}

/// An exit status in words.
pub(crate) fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[derive(Debug)]
pub(super) struct Process {
    child: process::Child,
    exit: Option<Arc<OwnedFd>>,
    /// Set once it is reaped; its process id means nothing after that.
    status: Option<ExitStatus>,
}

impl Process {
    pub(super) fn new(child: process::Child) -> Self {
        let exit = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok().map(Arc::new);
        Self { child, exit, status: None }
    }

    fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + deadline;
        while self.status.is_none() {
            // An error means that someone else reaped it: it is gone, by an unknown status.
            self.status = self.child.try_wait().unwrap_or(Some(ExitStatus::default()));
            let left = end.saturating_duration_since(Instant::now());
            if self.status.is_some() || left.is_zero() {
                break;
            }
            match &self.exit {
                Some(exit) => {
                    let timeout = Timespec::try_from(left).ok();
                    // What interrupts it, if anything, leads to another look.
                    let _ = poll(&mut [PollFd::new(exit, PollFlags::IN)], timeout.as_ref());
                }
                None => thread::sleep(left.min(LOOK_PAUSE)),
            }
        }
        self.status
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(group), None) = (group, self.status) {
            // It may be gone already, which is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

//! Why a server did not do what was asked.

use super::fault::{Fault, FaultKind};
use super::password::PasswordError;

/// One line that says what went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VsphereError {
    /// The password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// What the server is known by, or its name.
    #[error("vSphere server {server}: {problem}")]
    Settings {
        /// The server.
        server: String,
        /// What is wrong.
        problem: String,
    },
    /// It shows another certificate.
    #[error(
        "vSphere server {server} shows a certificate that is not trusted: {why}; compare it with the \
         one that the server itself shows on its console"
    )]
    Untrusted {
        /// The server.
        server: String,
        /// What is wrong with it.
        why: String,
    },
    /// No connection, or one that broke off.
    #[error(
        "vSphere server {server} cannot be reached for {call}: {problem}; is it up, and does the way there let its port through?"
    )]
    Unreachable {
        /// The server.
        server: String,
        /// What was asked.
        call: &'static str,
        /// What happened.
        problem: String,
    },
    /// No answer in time.
    #[error("vSphere server {server} did not answer {call} within {deadline_s} s")]
    Late {
        /// The server.
        server: String,
        /// What was asked.
        call: &'static str,
        /// The deadline, in seconds.
        deadline_s: u64,
    },
    /// It answers, and not as vSphere does.
    #[error("{server} answers {call} with HTTP status {status}; is it a vSphere server?")]
    Status {
        /// The server.
        server: String,
        /// What was asked.
        call: &'static str,
        /// The status.
        status: u16,
    },
    /// An answer that is none.
    #[error("the answer of vSphere server {server} to {call} cannot be used: {problem}")]
    Strange {
        /// The server.
        server: String,
        /// What was asked.
        call: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A server from before what is asked of it.
    #[error("vSphere server {server} speaks {version}; 6.5 or newer is needed")]
    TooOld {
        /// The server.
        server: String,
        /// The newest version that it speaks.
        version: String,
    },
    /// It said no.
    #[error("vSphere server {server} refuses {call}: {fault}")]
    Fault {
        /// The server.
        server: String,
        /// What was asked.
        call: &'static str,
        /// What it said.
        fault: Box<Fault>,
    },
    /// It began, and failed.
    #[error("vSphere server {server}: {call} ({task}) failed: {fault}")]
    TaskFailed {
        /// The server.
        server: String,
        /// What was asked.
        call: &'static str,
        /// The task.
        task: String,
        /// What it said.
        fault: Box<Fault>,
    },
    /// It took too long, and was cancelled.
    #[error(
        "vSphere server {server}: {call} ({task}) was not done within {deadline_s} s, and was cancelled"
    )]
    TaskLate {
        /// The server.
        server: String,
        /// What was asked.
        call: &'static str,
        /// The task.
        task: String,
        /// The deadline, in seconds.
        deadline_s: u64,
    },
    /// It takes too long, and cannot be cancelled.
    #[error(
        "vSphere server {server}: {call} ({task}) sticks: it is not done after {deadline_s} s, and \
         does not end when it is cancelled; look at the task in the vSphere client"
    )]
    TaskStuck {
        /// The server.
        server: String,
        /// What was asked.
        call: &'static str,
        /// The task.
        task: String,
        /// The deadline, in seconds.
        deadline_s: u64,
    },
    /// The one who asked does not want it any more.
    #[error("it was called off")]
    CalledOff,
    /// Changed areas that do not come to an end.
    #[error(
        "vSphere server {server} does not come to an end with what changed of {disk}: after \
         {deadline_s} s it has told of {told} of {capacity} bytes; give it more time \
         (--vcenter-changes-deadline), or take a full backup"
    )]
    AreasLate {
        /// The server.
        server: String,
        /// The disk.
        disk: String,
        /// The deadline of all pages, in seconds.
        deadline_s: u64,
        /// The bytes of the disk that its pages were about.
        told: u64,
        /// The bytes of the disk.
        capacity: u64,
    },
    /// Changed areas that cannot be the truth.
    #[error(
        "vSphere server {server} tells nonsense of what changed of {disk}: {problem}; take a full \
         backup, and turn change tracking off and on again if it stays so"
    )]
    Areas {
        /// The server.
        server: String,
        /// The disk.
        disk: String,
        /// What is wrong.
        problem: String,
    },
}

impl VsphereError {
    /// The fault that it is, if it is one.
    #[must_use]
    pub fn fault(&self) -> Option<&FaultKind> {
        match self {
            Self::Fault { fault, .. } | Self::TaskFailed { fault, .. } => Some(&fault.kind),
            _ => None,
        }
    }

    /// Whether the same may succeed in a while.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        /// What a proxy says of a server that is just starting, and a vCenter of its services.
        const PASSING: [u16; 3] = [502, 503, 504];
        match self {
            Self::Unreachable { .. } | Self::Late { .. } => true,
            Self::Status { status, .. } => PASSING.contains(status),
            _ => matches!(
                self.fault(),
                Some(FaultKind::HostCommunication | FaultKind::NotAuthenticated)
            ),
        }
    }

    /// Whether nobody knows if a task was begun, or will be: its call came to no answer.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::Unreachable { call, .. }
            | Self::Late { call, .. }
            | Self::Status { call, .. }
            | Self::Strange { call, .. } => call.ends_with("_Task"),
            _ => false,
        }
    }

    /// What the server says, if it is that it does not know the base of a question for changes.
    pub(crate) fn disowns_base(&self) -> Option<String> {
        match self {
            Self::Fault { fault, .. } => match fault.kind {
                FaultKind::FileFault { .. } | FaultKind::InvalidArgument { .. } => {
                    Some(format!("{}: {}", fault.name, fault.message))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a login is what is missing.
    pub(super) fn is_logged_out(&self) -> bool {
        self.fault() == Some(&FaultKind::NotAuthenticated)
    }

    /// Whether what was asked for is not there.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.fault(), Some(FaultKind::ManagedObjectNotFound { .. }))
    }
}

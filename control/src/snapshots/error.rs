//! Why a hypervisor did not do what was asked.

use super::base::FullReason;
use super::vm::VmId;
use crate::vsphere::VsphereError;

/// One line that says what went wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HypervisorError {
    /// No such VM.
    #[error("{server} has no VM {sought:?}{}; list them to see which there are", or_rather(near))]
    NotFound {
        /// Whose VMs they are.
        server: String,
        /// What was asked for.
        sought: String,
        /// Paths of VMs whose names are close to it.
        near: Vec<String>,
    },
    /// Several.
    #[error("{sought:?} is several VMs: {}; name one by its path, or by moref=ID", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        sought: String,
        /// Their paths, with their ids.
        candidates: Vec<String>,
    },
    /// It is not there any more.
    #[error("VM {0} is not there any more; was it removed, or registered anew?")]
    Gone(VmId),
    /// A new VM has no place, or several.
    #[error("{}", no_place(what, named.as_deref(), has))]
    NoPlace {
        /// What is missing: `host`.
        what: &'static str,
        /// Which was asked for, if one was.
        named: Option<String>,
        /// Those that there are.
        has: Vec<String>,
    },
    /// A new VM that nobody knows of whether it is made, or will be.
    #[error("{error}; {left}")]
    VmMayBeLeft {
        /// What went wrong first.
        error: Box<HypervisorError>,
        /// By what it is known, if it is there, and what to do then.
        left: String,
    },
    /// A new VM that is made, of no use, and there.
    #[error("{error}; the new VM {name:?} ({vm}) is not removed again: {why}; remove it")]
    VmIsLeft {
        /// What went wrong first.
        error: Box<HypervisorError>,
        /// Why it is not removed.
        why: String,
        /// Its name.
        name: String,
        /// What it is known by.
        vm: VmId,
    },
    /// The one who asked does not want it any more.
    #[error("it was called off")]
    CalledOff,
    /// A snapshot was to be made only with data in order.
    #[error(
        "the guest cannot put its data in order: {why}; look at its tools, or let the snapshot be \
         made without (quiesce try)"
    )]
    NotQuiesced {
        /// What the hypervisor said.
        why: String,
    },
    /// What vSphere said, or why it said nothing.
    #[error(transparent)]
    Vsphere(VsphereError),
}

impl From<VsphereError> for HypervisorError {
    fn from(error: VsphereError) -> Self {
        match error {
            VsphereError::CalledOff => Self::CalledOff,
            error => Self::Vsphere(error),
        }
    }
}

/// What follows of an error of [`changed_areas`](super::Hypervisor::changed_areas).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// The same again, in a while.
    Retry,
    /// The disk in full.
    Full(FullReason),
    /// The job fails.
    Fail,
}

impl HypervisorError {
    /// Whether whoever asked named something that is not there, or several.
    #[must_use]
    pub fn is_wrong_request(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Ambiguous { .. } | Self::NoPlace { .. })
    }

    /// Whether nobody knows if what was asked for was done, or will be.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Vsphere(error) if error.is_unanswered())
    }

    /// What follows, if it came of a question for changed areas.
    #[must_use]
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Vsphere(error) if error.is_passing() => Reaction::Retry,
            Self::Vsphere(error) => match error.disowns_base() {
                Some(said) => Reaction::Full(FullReason::Refused(said)),
                None => Reaction::Fail,
            },
            _ => Reaction::Fail,
        }
    }
}

fn or_rather(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(" (did you mean {}?)", near.join(", ")) }
}

fn no_place(what: &str, named: Option<&str>, has: &[String]) -> String {
    let there = match has {
        [] => format!("there is no {what} that could take it"),
        has => format!("there is {}", has.join(", ")),
    };
    match named {
        Some(named) => {
            format!("a new VM needs one {what}, and {named:?} is none or several: {there}")
        }
        None => format!("a new VM needs one {what}; name it: {there}"),
    }
}

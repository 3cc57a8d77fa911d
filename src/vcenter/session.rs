//! All that backups have to know of a vCenter, and a session that several of them share.

use std::sync::{Arc, Mutex, PoisonError};

use blockferry_control::backup::Cancellation;
use blockferry_control::snapshots::Hypervisor;
use blockferry_control::vsphere::VsphereError;
use clap::Parser;

use super::options::{INTERRUPTED, ServerOptions, SnapshotOptions};
use super::vddk::VddkOptions;
use crate::exit::{Exit, Refusal};

/// Where the VMs are, how their snapshots are made, and how their disks are read.
#[derive(Clone, Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub(crate) struct VcenterOptions {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[command(flatten)]
    pub(crate) snapshot: SnapshotOptions,
    #[command(flatten)]
    pub(crate) vddk: VddkOptions,
}

/// A session that is begun when it is first wanted. It ends with the last who has it.
#[derive(Debug)]
pub(crate) struct VcenterSession {
    pub(crate) options: VcenterOptions,
    begun: Mutex<Begun>,
}

#[derive(Debug)]
enum Begun {
    NotYet,
    At(Arc<dyn Hypervisor>),
    /// It was refused, and would be again; servers lock users out who try too often.
    Refused(String),
}

impl VcenterSession {
    pub(crate) fn new(options: VcenterOptions) -> Self {
        Self { options, begun: Mutex::new(Begun::NotYet) }
    }

    /// The session, unless nobody wants it any more. A server that is out of reach is asked again by
    /// the next who wants it.
    ///
    /// # Errors
    /// Wrong usage, or why there is none.
    pub(crate) fn get(&self, called_off: &Cancellation) -> anyhow::Result<Arc<dyn Hypervisor>> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        match &*begun {
            Begun::At(session) => return Ok(Arc::clone(session)),
            Begun::Refused(why) => return Err(Refusal::of(Exit::Source, why)),
            Begun::NotYet => {}
        }
        if called_off.is_cancelled() {
            return Err(Refusal::of(Exit::Interrupted, INTERRUPTED));
        }
        match self.options.server.log_in(called_off)? {
            Ok(session) => {
                *begun = Begun::At(Arc::clone(&session));
                Ok(session)
            }
            // Nobody knows what it would have come to.
            Err(VsphereError::CalledOff) => Err(Refusal::of(Exit::Interrupted, INTERRUPTED)),
            Err(error) => {
                let why = error.to_string();
                if !error.is_passing() {
                    *begun = Begun::Refused(why.clone());
                }
                Err(Refusal::of(Exit::Source, why))
            }
        }
    }

    /// The session, if there is one.
    pub(crate) fn begun(&self) -> Option<Arc<dyn Hypervisor>> {
        match &*self.begun.lock().unwrap_or_else(PoisonError::into_inner) {
            Begun::At(session) => Some(Arc::clone(session)),
            Begun::NotYet | Begun::Refused(_) => None,
        }
    }
}

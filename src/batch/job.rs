//! A VM of the file, with what is to be done to it.

use std::path::Path;
use std::sync::Arc;

use blockferry_control::backup::{BackupReport, Cancellation};
use blockferry_control::catalog::BackupMode;

use super::turns::{MAX_DISKS, Turns};
use crate::backup::{Asked, AskedVm, Telling};
use crate::exit::{Exit, Refusal};
use crate::vcenter::VcenterSession;

/// By its disks, or by its vCenter, which knows them.
#[derive(Debug)]
pub(super) enum Job {
    Disks(Asked),
    Vm(AskedVm, Arc<VcenterSession>),
}

impl Job {
    /// What it is called in the file.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Disks(asked) => asked.vm.as_str(),
            Self::Vm(asked, _) => asked.name.as_ref().map_or(&*asked.vm, |name| name.as_str()),
        }
    }

    /// What tells it from others of its repository, as far as the file knows.
    pub(super) fn known_as(&self) -> String {
        match self {
            // No name, but what one server knows it by.
            Self::Vm(asked, vcenter) if asked.name.is_none() && asked.vm.contains(['=', '/']) => {
                format!("{} at {}", asked.vm, vcenter.options.server.name())
            }
            _ => self.name().to_owned(),
        }
    }

    pub(super) fn mode(&self) -> BackupMode {
        match self {
            Self::Disks(asked) => asked.mode,
            Self::Vm(asked, _) => asked.mode,
        }
    }

    pub(super) fn repository(&self) -> &Path {
        match self {
            Self::Disks(asked) => &asked.repository,
            Self::Vm(asked, _) => &asked.repository,
        }
    }

    /// How many disks it has, where the file knows.
    pub(super) fn disks(&self) -> Option<usize> {
        match self {
            Self::Disks(asked) => Some(asked.disks.len()),
            Self::Vm(..) => None,
        }
    }

    /// Makes the backup. About `disks_at_once` are being backed up by this process, its own among
    /// them.
    ///
    /// # Errors
    /// Why there is no new point, with the code to exit with.
    pub(super) fn back_up(
        &self,
        telling: &Arc<Telling>,
        cancellation: &Cancellation,
        disks_at_once: usize,
        turns: &Turns,
    ) -> anyhow::Result<BackupReport> {
        let (asked, vcenter) = match self {
            Self::Disks(asked) => return asked.back_up(telling, cancellation, disks_at_once),
            Self::Vm(asked, vcenter) => (asked, vcenter),
        };
        let found = asked.find(&vcenter.options, || vcenter.get(cancellation), cancellation)?;
        let disks = found.disks();
        if disks > MAX_DISKS {
            return Err(Refusal::of(
                Exit::Usage,
                format!("it has {disks} disks; {MAX_DISKS} are the most at once"),
            ));
        }
        let _room = turns.room(disks);
        found.back_up(telling, cancellation, disks_at_once.max(disks))
    }
}

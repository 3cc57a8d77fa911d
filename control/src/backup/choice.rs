//! What is asked for of one VM, over what holds for all of a hypervisor.

use super::vm::VmSettings;
use crate::catalog::{BackupMode, VmName};
use crate::snapshots::QuiescePolicy;

/// What one backup has otherwise than the settings say; what is not chosen here is as they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotChoice {
    /// Whether its data is put in order.
    pub quiesce: Option<QuiescePolicy>,
    /// The share of what is said to be unchanged that is read all the same: up to 100 percent.
    pub audit_percent: Option<u8>,
    /// Whether change tracking is turned on where it is off and can be.
    pub enable_tracking: Option<bool>,
}

impl SnapshotChoice {
    /// Whether nothing is chosen.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The settings, with what is chosen here.
    #[must_use]
    pub fn over(self, settings: VmSettings) -> VmSettings {
        VmSettings {
            quiesce: self.quiesce.unwrap_or(settings.quiesce),
            audit_percent: self.audit_percent.unwrap_or(settings.audit_percent),
            enable_tracking: self.enable_tracking.unwrap_or(settings.enable_tracking),
            ..settings
        }
    }
}

/// A VM to back up that the hypervisor of a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRequest {
    /// Its name, or another word that it is found by.
    pub vm: String,
    /// What it is called in the repository, if not as at the hypervisor.
    pub name: Option<VmName>,
    /// Fulls, deltas, or what fits.
    pub mode: BackupMode,
    /// What it has otherwise than other VMs of the node.
    pub choice: SnapshotChoice,
}

impl VmRequest {
    /// What the VM is called, if the word is a name: that of a UUID or a moref has to be asked for.
    pub(crate) fn name_in_word(&self) -> &str {
        self.vm.strip_prefix("name=").unwrap_or(&self.vm)
    }
}

//! Whether a VM that is there can be restored into.

use crate::reading::error::ReadError;
use crate::snapshots::{Connection, PowerState, Vm};

/// Sees whether the disks of a VM can be written.
pub(super) fn check(vm: &Vm) -> Result<(), ReadError> {
    match unfit(vm) {
        Some(why) => Err(ReadError::UnfitVm { vm: vm.path.clone(), why }),
        None => Ok(()),
    }
}

fn unfit(vm: &Vm) -> Option<String> {
    if let Some(privilege) = &vm.denied {
        return Some(format!("the user may not read it; give them the privilege {privilege}"));
    }
    if vm.is_template {
        return Some("it is a template; make a VM of it first".into());
    }
    if let Connection::Lost(state) = &vm.connection {
        return Some(format!("it is {state}; look at its host and its storage"));
    }
    if let Some(host) = &vm.host
        && let Connection::Lost(state) = &host.connection
    {
        return Some(format!("its host {} is {state}; connect it again", host.name));
    }
    match vm.power {
        PowerState::Off => {}
        PowerState::On => return Some("it is on; shut it down first".into()),
        PowerState::Suspended => {
            return Some("it is suspended; switch it off first, which loses its memory".into());
        }
    }
    if !vm.snapshots.is_empty() {
        let names: Vec<String> =
            vm.snapshots.iter().map(|snapshot| format!("{:?}", snapshot.name)).collect();
        let names = names.join(", ");
        return Some(format!(
            "it has snapshots ({names}), which would be ruined; remove them first"
        ));
    }
    vm.needs_consolidation.then(|| {
        "its disks need consolidation: layers of removed snapshots are left; consolidate them first"
            .into()
    })
}

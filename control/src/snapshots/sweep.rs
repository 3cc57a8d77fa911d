//! Removing what dead jobs have left at a hypervisor.

use std::fmt;

use super::error::HypervisorError;
use super::hypervisor::Hypervisor;
use super::ledger::{Ledger, LedgerEntry, LedgerError, SnapshotRecord, WorkKind};
use super::vm::{Vm, VmId};

/// What a sweep found, and did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Snapshots of dead jobs that are gone now, each with how many of its name there were.
    pub removed: Vec<(SnapshotRecord, usize)>,
    /// Those that are not there and may still come, and why. They stay in the ledger.
    pub awaited: Vec<(SnapshotRecord, Awaited)>,
    /// Those that could not be removed, and why. They stay in the ledger.
    pub failed: Vec<(SnapshotRecord, String)>,
    /// Those of jobs that are at work.
    pub alive: Vec<SnapshotRecord>,
    /// Those of dead jobs at other servers.
    pub elsewhere: Vec<SnapshotRecord>,
    /// Those that a copy of the ledger has brought, of whose jobs nothing is known here.
    pub copied: Vec<SnapshotRecord>,
    /// What the ledger has besides.
    pub strange: Vec<LedgerError>,
}

/// Removes the snapshots of dead jobs at this server, of all VMs or of one, and no others: a snapshot
/// that is not in the ledger is somebody else's, whatever it is called. What is not there and may come
/// stays written down.
///
/// # Errors
/// [`LedgerError`]: the ledger cannot be read.
pub fn sweep(
    ledger: &Ledger,
    server: &str,
    hypervisor: &dyn Hypervisor,
    of_vm: Option<&Vm>,
) -> Result<Swept, LedgerError> {
    // Another server may know another VM by the same words.
    let is_meant = |record: &SnapshotRecord| {
        of_vm.is_none_or(|vm| record.is_at(server, hypervisor) && record.is_of(vm))
    };
    let page = ledger.page_of(is_meant)?;
    let mut swept = Swept { alive: page.alive, strange: page.strange, ..Swept::default() };
    swept.copied = page.copied.into_iter().map(|entry| entry.record().clone()).collect();
    for entry in page.dead {
        let record = entry.record().clone();
        if !record.is_at(server, hypervisor) {
            swept.elsewhere.push(record);
            continue;
        }
        match remove(entry, hypervisor) {
            Ok(Removal::Done(count)) => swept.removed.push((record, count)),
            Ok(Removal::Awaited(why)) => swept.awaited.push((record, why)),
            Err(why) => swept.failed.push((record, why)),
        }
    }
    Ok(swept)
}

/// What became of a snapshot that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is gone: how many of its name there were.
    Done(usize),
    /// It is not there, and may come.
    Awaited(Awaited),
}

/// What a snapshot may come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Awaited {
    /// Its creation, which nobody has answered.
    Answer,
    /// Its VM, which the server does not have now.
    Vm,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => {
                "is not there, and may still come, for the answer to its creation was lost: it stays \
                 written down, and each sweep of the next hour looks for it (that before a backup of \
                 the VM, and `blockferry node sweep`)"
            }
            Self::Vm => {
                "cannot be looked for, for the server does not have this VM now: it stays written down \
                 for 30 days, and goes with the first sweep that finds the VM again (`blockferry node \
                 sweep`)"
            }
        })
    }
}

fn remove(entry: LedgerEntry, hypervisor: &dyn Hypervisor) -> Result<Removal, String> {
    entry.record().name().map_err(|error| error.to_string())?;
    let removal = remove_written(entry.record(), hypervisor).map_err(|error| error.to_string())?;
    if let Removal::Done(_) = removal {
        entry.strike().map_err(|error| error.to_string())?;
    }
    Ok(removal)
}

/// Removes a snapshot by what is written down of it.
///
/// # Errors
/// [`HypervisorError`].
pub(crate) fn remove_written(
    record: &SnapshotRecord,
    hypervisor: &dyn Hypervisor,
) -> Result<Removal, HypervisorError> {
    // Nobody who restores makes a snapshot.
    if record.kind == WorkKind::Restore {
        return Ok(Removal::Done(0));
    }
    let Ok(name) = record.name() else { return Ok(Removal::Done(0)) };
    // Its VM has another id by now, if it was registered anew.
    let mut vms = match &record.vm_uuid {
        Some(uuid) => hypervisor.with_instance_uuid(uuid)?,
        None => Vec::new(),
    };
    let is_there = !vms.is_empty();
    if !is_there {
        // Or another UUID. Whichever VM it is, a snapshot is known by its name.
        vms.push(VmId::new(&record.vm));
    }
    let mut count = 0;
    for vm in &vms {
        count += hypervisor.remove_named(vm, &name)?;
    }
    Ok(match count {
        0 if record.may_come() => Removal::Awaited(Awaited::Answer),
        0 if !is_there && record.may_return() => Removal::Awaited(Awaited::Vm),
        count => Removal::Done(count),
    })
}

impl Swept {
    /// All of it for people, a line for each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (record, count) in &self.removed {
            let (name, vm) = (name(record), &record.vm_path);
            lines.push(match count {
                _ if record.kind == WorkKind::Restore => format!(
                    "job {}, which restored into VM {vm}, is dead: if it was cut off, restore again \
                     before the VM is started; a new VM that is not whole says so in its notes",
                    record.job
                ),
                0 => format!("snapshot {name} of VM {vm} was gone already"),
                _ => format!("snapshot {name} of VM {vm} is removed: its job is dead"),
            });
        }
        for (record, why) in &self.awaited {
            let (name, vm) = (name(record), &record.vm_path);
            lines.push(format!("snapshot {name} of VM {vm} {why}"));
        }
        for (record, why) in &self.failed {
            let (name, vm) = (name(record), &record.vm_path);
            lines.push(format!("snapshot {name} of VM {vm} is not removed: {why}"));
        }
        for record in &self.elsewhere {
            let (name, server) = (name(record), &record.server);
            lines.push(format!("snapshot {name} of a dead job is at {server}: sweep there"));
        }
        for record in &self.copied {
            let (name, vm) = (name(record), &record.vm_path);
            lines.push(format!(
                "snapshot {name} of VM {vm} is left alone: its record is not where it was made, but came \
                 with a copy or a move of its folder, and its job may be alive; sweep where it was made, \
                 or, if that is gone, here with `blockferry node sweep --adopt`"
            ));
        }
        lines.extend(self.strange.iter().map(ToString::to_string));
        lines
    }
}

/// For people: one whose job is no id is told all the same.
fn name(record: &SnapshotRecord) -> String {
    format!("blockferry-{}", record.job)
}

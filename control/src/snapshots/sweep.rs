//! Removing what dead jobs have left at a hypervisor, and telling what has to be mended.

use std::fmt;

use super::error::HypervisorError;
use super::hypervisor::Hypervisor;
use super::ledger::{Ledger, LedgerEntry, LedgerError};
use super::mark::RestoreMark;
use super::record::{SnapshotRecord, WorkKind};
use super::vm::{Vm, VmId};

/// What a sweep found, and did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Snapshots of dead jobs that are gone now, each with how many of its name there were.
    pub removed: Vec<(SnapshotRecord, usize)>,
    /// Restores that are dead, each with what it has left.
    pub restores: Vec<(SnapshotRecord, DeadRestore)>,
    /// Those that are not there and may still come, and why. They stay in the ledger.
    pub awaited: Vec<(SnapshotRecord, Awaited)>,
    /// Those that could not be removed, and why. They stay in the ledger.
    pub failed: Vec<(SnapshotRecord, String)>,
    /// Those of jobs that are at work.
    pub alive: Vec<SnapshotRecord>,
    /// Those of dead jobs that another sweep is at work with.
    pub others: Vec<SnapshotRecord>,
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
    // Another server may know another VM by the same words; but what the VM has is its own, however
    // its server was called then.
    let has = |vm: &Vm, record: &SnapshotRecord| {
        vm.snapshots.iter().any(|snapshot| snapshot.name == name(record))
    };
    let is_here = |record: &SnapshotRecord| {
        record.is_at(server, hypervisor) || of_vm.is_some_and(|vm| has(vm, record))
    };
    let is_meant =
        |record: &SnapshotRecord| of_vm.is_none_or(|vm| is_here(record) && record.is_of(vm));
    let page = ledger.page_of(is_meant)?;
    let mut swept =
        Swept { alive: page.alive, others: page.swept, strange: page.strange, ..Swept::default() };
    swept.copied = page.copied.into_iter().map(|entry| entry.record().clone()).collect();
    // Each is held while it is its turn and no longer: jobs of those VMs wait for it.
    let dead: Vec<SnapshotRecord> = page.dead.iter().map(|entry| entry.record().clone()).collect();
    drop(page.dead);
    for record in dead {
        if !is_here(&record) {
            swept.elsewhere.push(record);
            continue;
        }
        let is_it = |other: &SnapshotRecord| other.job == record.job;
        let mut page = ledger.page_of(is_it)?;
        let Some(entry) = page.dead.pop() else {
            // Another sweep was faster, and has removed it or is about to.
            swept.others.extend(page.swept.into_iter().filter(is_it));
            continue;
        };
        if record.kind == WorkKind::Restore {
            match look_after(entry, hypervisor) {
                Ok(left) => swept.restores.push((record, left)),
                Err(why) => swept.failed.push((record, why)),
            }
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

/// What a restore has left that is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadRestore {
    /// It was cut off: what is not right.
    CutOff(RestoreMark),
    /// Nothing: it had not begun to write, or had ended, or somebody has seen to it since.
    Nothing,
    /// Its VM is not there.
    Gone,
}

impl fmt::Display for DeadRestore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff(mark) => f.write_str(&mark.advice_for_dead()),
            Self::Nothing => f.write_str("has left nothing that is to be mended"),
            Self::Gone => f.write_str("has left nothing: the VM is not there"),
        }
    }
}

/// Sees what a dead restore has left, which the VM itself tells from then on.
fn look_after(entry: LedgerEntry, hypervisor: &dyn Hypervisor) -> Result<DeadRestore, String> {
    let left = left_by(entry.record(), hypervisor).map_err(|error| error.to_string())?;
    entry.strike().map_err(|error| error.to_string())?;
    Ok(left)
}

fn left_by(
    record: &SnapshotRecord,
    hypervisor: &dyn Hypervisor,
) -> Result<DeadRestore, HypervisorError> {
    let mut vms = match &record.vm_uuid {
        Some(uuid) => hypervisor.with_instance_uuid(uuid)?,
        None => Vec::new(),
    };
    if vms.is_empty() {
        vms.push(VmId::new(&record.vm));
    }
    let mut left = DeadRestore::Gone;
    for vm in &vms {
        let vm = match hypervisor.look(vm) {
            Ok(vm) => vm,
            Err(HypervisorError::Gone(_)) => continue,
            Err(error) => return Err(error),
        };
        let is_its = |mark: &RestoreMark| mark.job.is_some_and(|job| job.to_string() == record.job);
        match vm.restore_mark().filter(is_its) {
            Some(mark) => return Ok(DeadRestore::CutOff(mark)),
            None => left = DeadRestore::Nothing,
        }
    }
    Ok(left)
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
                0 => format!("snapshot {name} of VM {vm} was gone already"),
                _ => format!("snapshot {name} of VM {vm} is removed: its job is dead"),
            });
        }
        lines.extend(self.restores.iter().map(|(record, left)| format!("{} {left}", what(record))));
        for (record, why) in &self.awaited {
            let (name, vm) = (name(record), &record.vm_path);
            lines.push(format!("snapshot {name} of VM {vm} {why}"));
        }
        for (record, why) in &self.failed {
            lines.push(match record.kind {
                WorkKind::Backup => format!("{} is not removed: {why}", what(record)),
                WorkKind::Restore => {
                    format!("{} is dead, and what it has left cannot be seen: {why}", what(record))
                }
            });
        }
        lines.extend(self.elsewhere.iter().map(sweep_there));
        for record in &self.copied {
            lines.push(format!(
                "{} is left alone: its record is not where it was made, but came with a copy or a move \
                 of its folder, and its job may be alive; sweep where it was made, or, if that is gone, \
                 here with `blockferry node sweep --adopt`",
                what(record)
            ));
        }
        lines.extend(self.strange.iter().map(ToString::to_string));
        lines
    }
}

impl Swept {
    /// What stays, for somebody is at work with it: a line for each.
    #[must_use]
    pub fn at_work(&self) -> Vec<String> {
        let alive = self.alive.iter();
        let alive = alive.map(|record| format!("{} stays: its job is at work", what(record)));
        let others = self.others.iter().map(|record| match record.kind {
            WorkKind::Backup => format!("{} is left alone: another sweep removes it", what(record)),
            WorkKind::Restore => {
                format!("{} is dead, and another sweep looks at what it has left", what(record))
            }
        });
        alive.chain(others).collect()
    }
}

/// For people, of a record that is at a server which was not swept.
#[must_use]
pub fn sweep_there(record: &SnapshotRecord) -> String {
    format!("{}, whose job is dead, is at {}: sweep there", what(record), record.server)
}

/// What is written down, for people.
fn what(record: &SnapshotRecord) -> String {
    let vm = &record.vm_path;
    match record.kind {
        WorkKind::Backup => format!("snapshot {} of VM {vm}", name(record)),
        WorkKind::Restore => format!("restore {} into VM {vm}", record.job),
    }
}

/// For people: one whose job is no id is told all the same.
fn name(record: &SnapshotRecord) -> String {
    format!("blockferry-{}", record.job)
}

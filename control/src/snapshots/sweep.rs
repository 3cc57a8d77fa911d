//! Removing what dead jobs have left at a hypervisor.

use super::hypervisor::Hypervisor;
use super::ledger::{Ledger, LedgerEntry, LedgerError, SnapshotRecord};
use super::vm::VmId;

/// What a sweep found, and did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Snapshots of dead jobs that are gone now, each with how many of its name there were.
    pub removed: Vec<(SnapshotRecord, usize)>,
    /// Those that could not be removed, and why. They stay in the ledger.
    pub failed: Vec<(SnapshotRecord, String)>,
    /// Those of jobs that are at work.
    pub alive: Vec<SnapshotRecord>,
    /// Those of dead jobs at other servers.
    pub elsewhere: Vec<SnapshotRecord>,
    /// What the ledger has besides.
    pub strange: Vec<LedgerError>,
}

/// Removes the snapshots of dead jobs at this server, of all VMs or of one, and no others: a snapshot that is not in the
/// ledger is somebody else's, whatever it is called.
///
/// # Errors
/// [`LedgerError`]: the ledger cannot be read.
pub fn sweep(
    ledger: &Ledger,
    server: &str,
    hypervisor: &dyn Hypervisor,
    of_vm: Option<&VmId>,
) -> Result<Swept, LedgerError> {
    // Another server may know another VM by the same word.
    let is_meant = |record: &SnapshotRecord| {
        of_vm.is_none_or(|vm| (&*record.server, &*record.vm) == (server, vm.as_str()))
    };
    let page = ledger.page_of(is_meant)?;
    let mut swept = Swept { alive: page.alive, strange: page.strange, ..Swept::default() };
    for entry in page.dead {
        let record = entry.record().clone();
        if record.server != server {
            swept.elsewhere.push(record);
            continue;
        }
        match remove(entry, hypervisor) {
            Ok(count) => swept.removed.push((record, count)),
            Err(why) => swept.failed.push((record, why)),
        }
    }
    Ok(swept)
}

fn remove(entry: LedgerEntry, hypervisor: &dyn Hypervisor) -> Result<usize, String> {
    let name = entry.record().name().map_err(|error| error.to_string())?;
    let vm = VmId::new(&entry.record().vm);
    let count = hypervisor.remove_named(&vm, &name).map_err(|error| error.to_string())?;
    entry.strike().map_err(|error| error.to_string())?;
    Ok(count)
}

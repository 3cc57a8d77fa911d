//! `blockferry node sweep`: removes the snapshots of jobs that are dead.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blockferry_control::backup::{Cancellation, ledger_folder};
use blockferry_control::repository::{CleanedUp, Repository, RepositoryError};
use blockferry_control::snapshots::{
    Awaited, DeadRestore, Hypervisor, Ledger, LedgerError, SnapshotRecord, Swept, Vm, sweep,
};
use blockferry_control::sources::vddk::{Settings, VddkSource};
use clap::Args;
use serde::Serialize;

use super::options::ServerOptions;
use super::vddk::RuntimeOption;
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::output::{json, line};

#[derive(Args, Debug)]
pub(crate) struct SweepOptions {
    #[command(flatten)]
    server: ServerOptions,

    /// The repository whose backups made the snapshots: they are written down there
    #[arg(long, value_name = "DIR", required_unless_present = "state")]
    repository: Option<PathBuf>,

    /// The folder of a node, in place of a repository: its snapshots are written down there
    #[arg(long, value_name = "DIR", conflicts_with = "repository")]
    state: Option<PathBuf>,

    /// Take records that came with a copy of the folder for its own
    ///
    /// For a folder that was moved from one file system or machine to another. Where the old one is still
    /// used, that would remove snapshots that its backups read.
    #[arg(long)]
    adopt: bool,

    #[command(flatten)]
    runtime: RuntimeOption,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `blockferry node sweep`.
///
/// # Errors
/// Why some are not removed.
pub(crate) fn command(options: &SweepOptions) -> anyhow::Result<Exit> {
    let folder = options.state.as_ref().or(options.repository.as_ref());
    let folder = ledger_folder(folder.map_or(Path::new("."), |folder| folder));
    if !folder.is_dir() {
        return Err(Refusal::usage(format!(
            "there is no {}: no backup of a VM was ever made from there",
            folder.display()
        )));
    }
    let ledger = Ledger::open(&folder).map_err(|error| Refusal::usage(error.to_string()))?;
    // Whoever reads a snapshot that is to go ends first. Without such a folder nobody has any there.
    if let Ok(runtime) = options.runtime.folder() {
        VddkSource::clean_up(&Settings::new(runtime));
    }
    let hypervisor = options.server.connect()?;
    let failed = |error: LedgerError| Refusal::of(Exit::Failed, error.to_string());
    if options.adopt {
        ledger.adopt().map_err(failed)?;
    }
    let swept = sweep(&ledger, &options.server.name(), &*hypervisor, None).map_err(failed)?;
    tell(&swept, &line);
    swept.at_work().iter().for_each(|told| line(told));
    let cleaned = options.repository.as_deref().map(clean_up);
    if let Some(Ok(cleaned)) = &cleaned
        && *cleaned != CleanedUp::default()
    {
        let CleanedUp { jobs, folders, files } = cleaned;
        line(&format!(
            "{} jobs of the repository were dead: {folders} folders and {files} files of them are removed",
            jobs.len()
        ));
    }
    if options.json {
        let cleaned = cleaned.as_ref().and_then(|cleaned| cleaned.as_ref().ok());
        json::print(&Json::of(&swept, cleaned))?;
    }
    if let Some(Err(error)) = cleaned {
        return Err(Refusal::of(Exit::of_repository(&error), error.to_string()));
    }
    if interrupt::was_asked() {
        return Ok(Exit::Interrupted);
    }
    match swept.failed.len() {
        // Of what cannot be read nobody knows whether its snapshot is left.
        0 if !swept.strange.is_empty() => Ok(Exit::Failed),
        0 => Ok(Exit::Done),
        all if all == swept.failed.len() + swept.removed.len() => Ok(Exit::Source),
        _ => Ok(Exit::Partly),
    }
}

/// Removes what dead backups have left in a repository.
fn clean_up(root: &Path) -> Result<CleanedUp, RepositoryError> {
    Repository::open(root)?.clean_up()
}

/// The same beside other work, of all VMs or of one; what goes wrong, and what is waited for, is told,
/// and keeps nothing. Once it is called off it does not wait for servers that are away. What is at other
/// servers is not told but returned: whoever sweeps several knows which of it is at none of them.
pub(crate) fn of_dead_jobs(
    ledger: &Ledger,
    server: &str,
    hypervisor: &Arc<dyn Hypervisor>,
    of: Option<&Vm>,
    cancellation: &Cancellation,
    say: &Arc<dyn Fn(&str) + Send + Sync>,
) -> Vec<SnapshotRecord> {
    let teller = Arc::clone(say);
    let wait =
        move |why: &str| teller(&format!("what dead jobs have left is not removed yet: {why}"));
    let hypervisor = hypervisor.telling(Arc::new(wait), cancellation);
    match sweep(ledger, server, &*hypervisor, of) {
        Ok(mut swept) => {
            let elsewhere = mem::take(&mut swept.elsewhere);
            tell(&swept, &**say);
            elsewhere
        }
        Err(error) => {
            say(&error.to_string());
            Vec::new()
        }
    }
}

/// Where the snapshots of backups into a repository, or by a node with this folder, are written down.
///
/// # Errors
/// It cannot be had.
pub(crate) fn ledger_of(repository: &Path) -> anyhow::Result<Ledger> {
    Ledger::open(&ledger_folder(repository))
        .map_err(|error| Refusal::of(Exit::Target, error.to_string()))
}

fn tell(swept: &Swept, say: &dyn Fn(&str)) {
    swept.lines().iter().for_each(|told| say(told));
}

#[derive(Debug, Serialize)]
struct Json<'a> {
    removed: Vec<&'a SnapshotRecord>,
    /// Not there, and may still come.
    awaited: Vec<Waiting<'a>>,
    /// Restores that are dead.
    restores: Vec<Dead<'a>>,
    failed: Vec<Failed<'a>>,
    /// Of jobs that are at work.
    alive: &'a [SnapshotRecord],
    /// Of dead jobs, and another sweep is at work with them.
    others: &'a [SnapshotRecord],
    elsewhere: &'a [SnapshotRecord],
    /// That a copy of the folder has brought.
    copied: &'a [SnapshotRecord],
    /// Jobs of the repository that were found dead and tidied up after; null where none was named, or
    /// it cannot be had.
    dead_jobs: Option<Vec<String>>,
    /// What cannot be read of what is written down.
    strange: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Failed<'a> {
    snapshot: &'a SnapshotRecord,
    error: &'a str,
}

#[derive(Debug, Serialize)]
struct Dead<'a> {
    restore: &'a SnapshotRecord,
    cut_off: bool,
    says: String,
}

#[derive(Debug, Serialize)]
struct Waiting<'a> {
    snapshot: &'a SnapshotRecord,
    because: String,
}

impl<'a> Json<'a> {
    fn of(swept: &'a Swept, cleaned: Option<&CleanedUp>) -> Self {
        let failed = |(snapshot, error): &'a (SnapshotRecord, String)| Failed { snapshot, error };
        let waiting = |(snapshot, why): &'a (SnapshotRecord, Awaited)| Waiting {
            snapshot,
            because: why.to_string(),
        };
        let dead = |(restore, left): &'a (SnapshotRecord, DeadRestore)| Dead {
            restore,
            cut_off: matches!(left, DeadRestore::CutOff(_)),
            says: left.to_string(),
        };
        Self {
            removed: swept.removed.iter().map(|(record, _)| record).collect(),
            awaited: swept.awaited.iter().map(waiting).collect(),
            restores: swept.restores.iter().map(dead).collect(),
            failed: swept.failed.iter().map(failed).collect(),
            alive: &swept.alive,
            others: &swept.others,
            elsewhere: &swept.elsewhere,
            copied: &swept.copied,
            dead_jobs: cleaned
                .map(|cleaned| cleaned.jobs.iter().map(ToString::to_string).collect()),
            strange: swept.strange.iter().map(ToString::to_string).collect(),
        }
    }
}

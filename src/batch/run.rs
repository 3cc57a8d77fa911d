//! Backs up the VMs of a file, and tells how it went.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use blockferry_control::backup::{BackupReport, Cancellation};
use blockferry_control::repository::{BatchLock, Repository, RepositoryError};
use blockferry_control::snapshots::{SnapshotRecord, sweep_there};

use super::file::Jobs;
use super::job::Job;
use super::options::BatchOptions;
use super::telling::{BatchJson, Ended, summary};
use super::turns::{disks_at_once, take_turns};
use crate::backup::{Display, SoFar, Telling, totals};
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::output::{Console, Progress, json, line};
use crate::vcenter::{INTERRUPTED, ledger_of, of_dead_jobs};

/// `blockferry batch`.
///
/// # Errors
/// What kept it from starting. What happened to VMs is in the exit code, and was told.
pub(crate) fn command(options: &BatchOptions) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let ended = back_up_all(options);
    match ended {
        Ok((jobs, ended)) => {
            let exit = Exit::of_lanes(ended.iter().map(Ended::exit));
            let elapsed = started.elapsed();
            if options.output.json {
                json::print(&BatchJson::of(exit, &jobs.vms, &ended, elapsed))?;
            } else {
                let text = summary(&jobs.vms, &ended, elapsed);
                writeln!(io::stdout().lock(), "{text}").context("writing to standard output")?;
            }
            Ok(exit)
        }
        Err(error) => {
            if options.output.json {
                let told = BatchJson::of_refusal(Exit::of_error(&error), format!("{error:#}"));
                if let Err(untold) = json::print(&told) {
                    line(&format!("{untold:#}"));
                }
            }
            Err(error)
        }
    }
}

fn back_up_all(options: &BatchOptions) -> anyhow::Result<(Jobs, Vec<Ended>)> {
    let jobs = Jobs::read(&options.jobs)?;
    let _locks = lock(&jobs.vms)?;
    let at_once = options.concurrency.or(jobs.concurrency).unwrap_or(NonZeroUsize::MIN);
    let disks: Vec<Option<usize>> = jobs.vms.iter().map(Job::disks).collect();
    let exports = disks_at_once(&disks, at_once);

    let progress = Progress::of(options.output.progress());
    let console = Arc::new(Console::new(progress.bar(), options.output.verbose));
    let display = disks.iter().map(|disks| disks.unwrap_or(1));
    let display = Arc::new(Display::new(progress, display));
    let cancellations: Vec<Cancellation> = jobs.vms.iter().map(|_| Default::default()).collect();
    let calling_off = cancellations.clone();
    interrupt::listen(Arc::clone(&console), move || {
        calling_off.iter().for_each(Cancellation::cancel);
        true
    })?;

    let ended = take_turns(&disks, at_once, |number, turns| {
        let job = &jobs.vms[number];
        let (console, display) = (Arc::clone(&console), Arc::clone(&display));
        let telling = Arc::new(Telling::of_one(job.name(), console, display, number));
        let cancellation = &cancellations[number];
        let backed_up = || job.back_up(&telling, cancellation, exports, turns);
        end_of(backed_up, &telling, cancellation)
    });
    // All are called off together.
    if let Some(cancellation) = cancellations.first().filter(|one| !one.is_cancelled()) {
        sweep(&jobs.vms, &console, cancellation);
    }
    let done = ended.iter().all(|ended| ended.exit() == Exit::Done);
    display.finish(done, &totals(ended.iter().map(Ended::counts)));
    Ok((jobs, ended))
}

/// Backs up one VM. Whatever happens to it is nobody else's matter.
fn end_of(
    back_up: impl FnOnce() -> anyhow::Result<BackupReport>,
    telling: &Telling,
    cancellation: &Cancellation,
) -> Ended {
    if cancellation.is_cancelled() {
        return Ended::Failed {
            exit: Exit::Interrupted,
            error: INTERRUPTED.into(),
            so_far: SoFar::default(),
        };
    }
    match back_up() {
        Ok(report) => {
            telling.detail(&format!("point {} is published", report.point.id));
            Ended::Done(Box::new(report))
        }
        Err(error) => {
            let (exit, error) = (Exit::of_error(&error), format!("{error:#}"));
            telling.say(&error);
            Ended::Failed { exit, error, so_far: telling.so_far() }
        }
    }
}

/// Removes what dead jobs have left of VMs that are in no file any more, and what this batch could
/// not remove. At the end, for it may take long, and no backup should wait for it.
fn sweep(vms: &[Job], console: &Arc<Console>, cancellation: &Cancellation) {
    let teller = Arc::clone(console);
    let say: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(move |text| teller.note(text));
    let mut swept = HashSet::new();
    // By repository, what is at none of the servers that were swept.
    let mut elsewhere: BTreeMap<&Path, Vec<SnapshotRecord>> = BTreeMap::new();
    for job in vms {
        let Job::Vm(asked, vcenter) = job else { continue };
        let server = &vcenter.options.server;
        let Some(hypervisor) = vcenter.begun() else { continue };
        // The same server as another user is another session, and may have other rights.
        if !swept.insert((Arc::as_ptr(vcenter), &asked.repository)) {
            continue;
        }
        // One that cannot be had was told of with its VMs.
        let Ok(ledger) = ledger_of(&asked.repository) else { continue };
        let others = of_dead_jobs(&ledger, &server.name(), &hypervisor, None, cancellation, &say);
        match elsewhere.entry(&asked.repository) {
            Entry::Vacant(free) => {
                free.insert(others);
            }
            Entry::Occupied(mut so_far) => so_far.get_mut().retain(|one| others.contains(one)),
        }
    }
    elsewhere.values().flatten().for_each(|record| say(&sweep_there(record)));
}

/// Keeps other batches out of all repositories. One that cannot be had is a matter of its VMs.
fn lock(vms: &[Job]) -> anyhow::Result<Vec<BatchLock>> {
    let mut locks = Vec::new();
    let mut known = HashSet::new();
    for job in vms {
        let Ok(repository) = Repository::open_or_create(job.repository()) else { continue };
        // By whichever path it was named.
        let Ok(folder) = fs::metadata(repository.root()) else { continue };
        if !known.insert((folder.dev(), folder.ino())) {
            continue;
        }
        match repository.lock_for_batch() {
            Ok(lock) => locks.push(lock),
            Err(error @ RepositoryError::OtherBatch { .. }) => {
                return Err(Refusal::of(Exit::Failed, error.to_string()));
            }
            Err(_) => {}
        }
    }
    Ok(locks)
}

//! Backs up the VMs of a file, and tells how it went.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use blockferry_control::backup::Cancellation;
use blockferry_control::repository::{BatchLock, Repository, RepositoryError};

use super::file::Jobs;
use super::options::BatchOptions;
use super::telling::{BatchJson, Ended, summary};
use super::turns::{disks_at_once, take_turns};
use crate::backup::{Asked, Display, Telling, totals};
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::output::{Console, Progress, json, line};

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
    let disks: Vec<usize> = jobs.vms.iter().map(|vm| vm.disks.len()).collect();
    let exports = disks_at_once(&disks, at_once);

    let progress = Progress::of(options.output.progress());
    let console = Arc::new(Console::new(progress.bar(), options.output.verbose));
    let display = Arc::new(Display::new(progress, disks.iter().sum()));
    let cancellations: Vec<Cancellation> = jobs.vms.iter().map(|_| Default::default()).collect();
    let calling_off = cancellations.clone();
    interrupt::listen(Arc::clone(&console), move || {
        calling_off.iter().for_each(Cancellation::cancel);
        true
    })?;

    let ended = take_turns(&disks, at_once, |number| {
        let asked = &jobs.vms[number];
        let first = disks[..number].iter().sum();
        let (console, display) = (Arc::clone(&console), Arc::clone(&display));
        let telling = Arc::new(Telling::of_one(&asked.vm, console, display, first));
        back_up(asked, &telling, &cancellations[number], exports)
    });
    let done = ended.iter().all(|ended| ended.exit() == Exit::Done);
    display.finish(done, &totals(ended.iter().flat_map(Ended::counts)));
    Ok((jobs, ended))
}

/// Backs up one VM. Whatever happens to it is nobody else's matter.
fn back_up(
    asked: &Asked,
    telling: &Arc<Telling>,
    cancellation: &Cancellation,
    exports: usize,
) -> Ended {
    if cancellation.is_cancelled() {
        return Ended::Failed {
            exit: Exit::Interrupted,
            error: "interrupted before it began".into(),
        };
    }
    match asked.back_up(telling, cancellation, exports) {
        Ok(report) => {
            telling.detail(&format!("point {} is published", report.point.id));
            Ended::Done(Box::new(report))
        }
        Err(error) => {
            let (exit, error) = (Exit::of_error(&error), format!("{error:#}"));
            telling.say(&error);
            Ended::Failed { exit, error }
        }
    }
}

/// Keeps other batches out of all repositories. One that cannot be had is a matter of its VMs.
fn lock(vms: &[Asked]) -> anyhow::Result<Vec<BatchLock>> {
    let mut locks = Vec::new();
    let mut known = HashSet::new();
    for asked in vms {
        let Ok(repository) = Repository::open_or_create(&asked.repository) else { continue };
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

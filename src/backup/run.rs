//! Makes the backup, and tells how it went.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context as _;
use blockferry_control::backup::{BackupReport, Cancellation, Watch};

use super::options::BackupOptions;
use super::request;
use super::telling::{Json, Telling, counts, summary, totals};
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{Console, Progress, json, line};
use crate::remote::refusal;

/// `blockferry backup`.
///
/// # Errors
/// Why there is no new point.
pub(crate) fn command(options: &BackupOptions) -> anyhow::Result<Exit> {
    let ended = back_up_as_asked(options);
    let told = match &ended {
        Ok(report) if options.output.json => json::print(&Json::of(report)),
        Ok(report) => {
            let mut output = io::stdout().lock();
            writeln!(output, "{}", summary(report)).context("writing to standard output")
        }
        Err(error) if options.output.json => {
            let (exit, words) = (Exit::of_error(error), format!("{error:#}"));
            json::print(&Json::of_failure(exit, words, options.vm.as_str(), options.mode))
        }
        Err(_) => Ok(()),
    };
    match (ended, told) {
        // The point stands, and its id is what nobody got to see.
        (Ok(report), Err(untold)) => Err(untold
            .context(format!("point {} is published, and could not be told", report.point.id))),
        (Ok(_), Ok(())) => Ok(Exit::Done),
        (Err(error), told) => {
            if let Err(untold) = told {
                line(&format!("{untold:#}"));
            }
            Err(error)
        }
    }
}

/// Here, or by a hub: what differs is who does it.
fn back_up_as_asked(options: &BackupOptions) -> anyhow::Result<BackupReport> {
    let Some(hub) = options.remote.client()? else {
        let asked = request::of(options)?;
        let disks = asked.disks.len();
        return watched(options, |telling, cancellation| {
            asked.back_up(telling, cancellation, disks)
        });
    };
    options.lane.refuse_for_hub()?;
    let submission = request::for_hub(options)?;
    watched(options, |telling, cancellation| {
        let watch: Arc<dyn Watch> = Arc::clone(telling) as _;
        hub.back_up(&submission, &watch, cancellation).map_err(|error| refusal(&error))
    })
}

/// Runs it, shows how it gets on, and calls it off at a signal.
fn watched(
    options: &BackupOptions,
    work: impl FnOnce(&Arc<Telling>, &Cancellation) -> anyhow::Result<BackupReport>,
) -> anyhow::Result<BackupReport> {
    let progress = Progress::of(options.output.progress());
    let console = Arc::new(Console::new(progress.bar(), options.output.verbose));
    let cancellation = Cancellation::default();
    let calling_off = cancellation.clone();
    interrupt::listen(Arc::clone(&console), move || {
        calling_off.cancel();
        true
    })?;
    let telling = Arc::new(Telling::new(console, progress));
    let ended = work(&telling, &cancellation);
    telling.finish(ended.is_ok(), &totals(ended.iter().flat_map(counts)));
    ended
}

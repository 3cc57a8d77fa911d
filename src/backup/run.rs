//! Makes the backup, and tells how it went.

use std::sync::Arc;

use blockferry_control::backup::{BackupReport, Cancellation, Watch};
use blockferry_dataplane::nbd::without_passwords;

use super::options::BackupOptions;
use super::request;
use super::telling::{Json, Telling, counts, summary, totals};
use super::vm;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::{Console, Progress, json, tell};
use crate::remote::refusal;

/// `blockferry backup`.
///
/// # Errors
/// Why there is no new point.
pub(crate) fn command(options: &BackupOptions) -> anyhow::Result<Exit> {
    let as_json = |ended: Result<&BackupReport, (Exit, String)>| match ended {
        Ok(report) => json::print(&Json::of(report)),
        Err((exit, words)) => {
            let vm = without_passwords(&options.vm);
            json::print(&Json::of_failure(exit, words, &vm, options.mode))
        }
    };
    // The point stands, and its id is what nobody got to see.
    let untold = |report: &BackupReport| {
        format!("point {} is published, and could not be told", report.point.id)
    };
    tell(back_up_as_asked(options), options.output.json, as_json, summary, untold)?;
    Ok(Exit::Done)
}

/// Here, or by a hub: what differs is who does it.
fn back_up_as_asked(options: &BackupOptions) -> anyhow::Result<BackupReport> {
    if options.server.is_named() {
        return vm::back_up(options);
    }
    options.refuse_for_other_sources()?;
    match options.remote.client()? {
        Some(hub) => {
            options.lane.refuse_for_hub()?;
            let submission = request::for_hub(options)?;
            watched(options, |telling, cancellation| {
                let watch: Arc<dyn Watch> = Arc::clone(telling) as _;
                hub.back_up(&submission, &watch, cancellation).map_err(|error| refusal(&error))
            })
        }
        None => {
            let asked = request::of(options)?;
            let disks = asked.disks.len();
            watched(options, |telling, cancellation| asked.back_up(telling, cancellation, disks))
        }
    }
}

/// Runs it, shows how it gets on, and calls it off at a signal.
pub(super) fn watched(
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

//! Makes the backup, and tells how it went.

use std::cell::RefCell;
use std::sync::Arc;

use blockferry_control::backup::{BackupReport, Cancellation, Watch};
use blockferry_control::catalog::VmName;
use blockferry_dataplane::nbd::without_passwords;

use super::options::BackupOptions;
use super::request;
use super::telling::{Json, SoFar, Telling, counts, summary, totals};
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
    let so_far = RefCell::default();
    let as_json = |ended: Result<&BackupReport, (Exit, String)>| match ended {
        Ok(report) => json::print(&Json::of(report)),
        Err((exit, words)) => {
            let name = options.name.as_ref().map_or(options.vm.as_str(), VmName::as_str);
            let vm = without_passwords(name);
            let so_far = so_far.borrow();
            json::print(&Json::of_failure(exit, words, &vm, options.mode, &so_far))
        }
    };
    // The point stands, and its id is what nobody got to see.
    let untold = |report: &BackupReport| {
        format!("point {} is published, and could not be told", report.point.id)
    };
    let ended = back_up_as_asked(options, &so_far);
    tell(ended, options.output.json, as_json, summary, untold)?;
    Ok(Exit::Done)
}

/// Here, or by a hub: what differs is who does it.
fn back_up_as_asked(
    options: &BackupOptions,
    so_far: &RefCell<SoFar>,
) -> anyhow::Result<BackupReport> {
    if options.server.is_named() {
        return vm::back_up(options, so_far);
    }
    options.refuse_for_other_sources()?;
    match options.remote.client()? {
        Some(hub) => {
            options.lane.refuse_for_hub()?;
            let submission = request::for_hub(options)?;
            watched(options, so_far, |telling, cancellation| {
                let watch: Arc<dyn Watch> = Arc::clone(telling) as _;
                hub.back_up(&submission, &watch, cancellation).map_err(|error| refusal(&error))
            })
        }
        None => {
            let asked = request::of(options)?;
            let disks = asked.disks.len();
            watched(options, so_far, |telling, cancellation| {
                asked.back_up(telling, cancellation, disks)
            })
        }
    }
}

/// Runs it, shows how it gets on, and calls it off at a signal. `so_far` is how far it was at its end.
pub(super) fn watched(
    options: &BackupOptions,
    so_far: &RefCell<SoFar>,
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
    so_far.replace(telling.so_far());
    telling.finish(ended.is_ok(), &totals(ended.iter().flat_map(counts)));
    ended
}

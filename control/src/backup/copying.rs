//! All lanes of a job, and the exports that they write to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blockferry_dataplane::{Event, Fault, Lane, LaneReport, LaneSettings, Mover, Side};

use super::cancel::Cancellation;
use super::error::{BackupError, WhichDisk};
use super::plan::Planned;
use super::request::{BackupRequest, BackupSettings, DIGEST};
use super::run::Watch;
use super::stage::Staged;
use crate::child::held;
use crate::repository::Work;

/// How often progress is told, and exports are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the exports of one job are started anew before it is given up: something kills them.
const MAX_REVIVALS: u32 = 8;

/// Copies all disks at once. The first that fails ends the others, for there is no point without
/// it.
#[allow(clippy::too_many_arguments, reason = "what a copy is made of")]
pub(super) fn copy(
    request: &BackupRequest,
    plans: &[Planned],
    staged: &mut [Staged],
    work: &Work,
    settings: &BackupSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<Vec<LaneReport>, BackupError> {
    let mut lanes = Vec::with_capacity(plans.len());
    for ((disk, planned), staged) in request.disks.iter().zip(plans).zip(&*staged) {
        let lane = lane_settings(planned, work, settings);
        lanes.push(Lane::new(disk.source.clone(), staged.export.endpoint()).with_settings(lane));
    }
    // The first lane that failed by itself.
    let failed: Arc<Mutex<Option<usize>>> = Arc::default();
    let (told, noting) = (Arc::clone(watch), Arc::clone(&failed));
    let names: Vec<_> = plans.iter().map(|planned| planned.plan.name.clone()).collect();
    let mover = Mover::new(settings.mover.clone()).on_event(move |event| {
        if let Event::Finished { lane, fault: Some(fault), .. } = event
            && !matches!(fault, Fault::Interrupted)
        {
            held(&noting).get_or_insert(*lane);
        }
        let (Event::Started { lane, .. }
        | Event::Note { lane, .. }
        | Event::Reconnecting { lane, .. }
        | Event::Finished { lane, .. }) = event
        else {
            return;
        };
        told.lane(&names[*lane], event);
    });
    let running = mover.start(lanes).map_err(|fault| BackupError::Mover(Box::new(fault)))?;
    let canceller = running.canceller();
    cancellation.lanes(Some(canceller.clone()));
    let mut revivals = 0;
    while !running.wait_for(TICK) {
        let counts: Vec<_> = (0..plans.len()).map(|lane| running.lane_progress(lane)).collect();
        watch.progress(&counts);
        if held(&failed).is_some() {
            canceller.cancel();
            continue;
        }
        for (staged, planned) in staged.iter_mut().zip(plans) {
            // The lane finds another process at the same address, and does again what the dead
            // one had not made safe.
            if revivals < MAX_REVIVALS
                && let Ok(Some(exited)) = staged.export.revive()
            {
                revivals += 1;
                watch.note(&format!(
                    "disk {}: its export was started anew, for {exited}",
                    planned.plan.name
                ));
            }
        }
    }
    cancellation.lanes(None);
    let reports = running.wait().lanes;
    let failed = *held(&failed);
    ended(reports, failed, plans, staged, cancellation)
}

fn ended(
    mut reports: Vec<LaneReport>,
    failed: Option<usize>,
    plans: &[Planned],
    staged: &[Staged],
    cancellation: &Cancellation,
) -> Result<Vec<LaneReport>, BackupError> {
    if let Some(lane) = failed {
        let report = reports.swap_remove(lane);
        if let Err(fault) = report.outcome {
            let exports = match fault.side() {
                Some(Side::Target) => staged[lane].export.said(),
                _ => String::new(),
            };
            let disk = WhichDisk(plans[lane].plan.name.clone());
            return Err(BackupError::Disk { disk, fault: Box::new(fault), exports });
        }
    }
    if cancellation.is_cancelled() {
        return Err(BackupError::Cancelled);
    }
    // A thread that was lost tells of its lanes in their reports only.
    let lost = reports.iter().position(|report| report.outcome.is_err());
    if let Some(lane) = lost
        && let Err(fault) = reports.swap_remove(lane).outcome
    {
        let disk = WhichDisk(plans[lane].plan.name.clone());
        return Err(BackupError::Disk { disk, fault: Box::new(fault), exports: String::new() });
    }
    Ok(reports)
}

fn lane_settings(planned: &Planned, work: &Work, settings: &BackupSettings) -> LaneSettings {
    LaneSettings {
        extent: planned.extent.clone(),
        digest: Some(DIGEST),
        base: planned.base.clone(),
        manifest: Some(work.manifest(planned.plan.layer)),
        journal: None,
        ..settings.lane.clone()
    }
}

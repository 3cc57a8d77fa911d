//! All disks of a job on their way, and the exports that take them.

use std::sync::Arc;
use std::time::Duration;

use super::cancel::Cancellation;
use super::carrier::{Carried, Carrier, Load};
use super::error::BackupError;
use super::plan::Planned;
use super::request::BackupRequest;
use super::run::Watch;
use super::stage::Staged;
use crate::repository::Work;

/// How often progress is told, and exports are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the exports of one job are started anew before it is given up: something kills them.
const MAX_REVIVALS: u32 = 8;

/// Carries all disks at once. The first that fails ends the others, for there is no point without
/// it.
pub(super) fn copy(
    request: &BackupRequest,
    plans: &[Planned],
    staged: &mut [Staged],
    work: &Work,
    carrier: &dyn Carrier,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<Vec<Carried>, BackupError> {
    let loads = request.disks.iter().zip(plans).zip(&*staged);
    let loads = loads.map(|((disk, planned), staged)| Load {
        disk: planned.plan.name.clone(),
        source: disk.source.clone(),
        target: staged.export.endpoint(),
        size: planned.plan.size_bytes,
        extent: planned.extent.clone(),
        base: planned.base.clone(),
        manifest: work.manifest(planned.plan.layer),
    });
    let mut carrying = carrier.start(loads.collect(), watch, cancellation)?;
    let mut revivals = 0;
    let mut called_off = false;
    while !carrying.wait_for(TICK) {
        watch.progress(&carrying.progress());
        if !called_off && cancellation.is_cancelled() {
            called_off = true;
            carrying.cancel();
        }
        for (staged, planned) in staged.iter_mut().zip(plans) {
            // The lane finds another process at the same address, and does again what the dead
            // one had not made safe.
            if !called_off
                && revivals < MAX_REVIVALS
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
    carrying.end().map_err(|error| {
        let name = |lane: usize| plans[lane].plan.name.clone();
        error.of_disks(name, |lane| staged[lane].export.said())
    })
}

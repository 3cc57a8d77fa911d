//! Lanes over exports that are kept going, and the exports' deaths.

use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::{Counts, Lane, LaneReport, Mover};

use super::error::ReadError;
use super::settings::ReadSettings;
use crate::backup::{Cancellation, Watch, lane_teller};
use crate::catalog::DiskName;
use crate::hub::KeptExport;

/// How often progress is told, and exports are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the exports of one run are started anew before it is given up: something kills them.
const MAX_REVIVALS: u32 = 8;

/// Starts exports anew that die, so often and no more.
pub(crate) struct Reviver<'a> {
    watch: &'a Arc<dyn Watch>,
    left: u32,
}

impl<'a> Reviver<'a> {
    pub(crate) fn new(watch: &'a Arc<dyn Watch>) -> Self {
        Self { watch, left: MAX_REVIVALS }
    }

    /// Who wants to know what happens.
    pub(crate) fn watch(&self) -> &Arc<dyn Watch> {
        self.watch
    }

    /// Looks after an export. A lane finds another process at the same address, and goes on.
    pub(super) fn revive(
        &mut self,
        disk: &DiskName,
        served: &mut KeptExport,
    ) -> Result<(), ReadError> {
        if self.left == 0 {
            return Ok(());
        }
        let failed = |error| ReadError::Export { disk: disk.clone(), error: Box::new(error) };
        if let Some(exited) = served.revive().map_err(failed)? {
            self.left -= 1;
            self.watch.note(&format!("disk {disk}: its export was started anew, for {exited}"));
        }
        Ok(())
    }
}

/// Runs a lane for each of `disks`, all at once; `keep` is called now and then, to look after what
/// they stand on. Lanes that fail leave the others alone.
pub(super) fn run(
    disks: &[DiskName],
    lanes: Vec<Lane>,
    keep: &mut dyn FnMut(&mut Reviver<'_>) -> Result<(), ReadError>,
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    progress: &dyn Fn(&[Counts]),
    cancellation: &Cancellation,
) -> Result<Vec<LaneReport>, ReadError> {
    if cancellation.is_cancelled() {
        return Err(ReadError::Cancelled);
    }
    let tell = lane_teller(watch, disks.to_vec());
    let mover = Mover::new(settings.mover.clone()).on_event(tell);
    let running = mover.start(lanes).map_err(ReadError::Mover)?;
    cancellation.lanes(Some(running.canceller()));
    let mut reviver = Reviver::new(watch);
    let mut lost = None;
    while !running.wait_for(TICK) {
        let counts: Vec<_> = (0..disks.len()).map(|lane| running.lane_progress(lane)).collect();
        progress(&counts);
        if lost.is_none()
            && let Err(error) = keep(&mut reviver)
        {
            running.canceller().cancel();
            lost = Some(error);
        }
    }
    cancellation.lanes(None);
    let reports = running.wait().lanes;
    match lost {
        _ if cancellation.is_cancelled() => Err(ReadError::Cancelled),
        Some(error) => Err(error),
        None => Ok(reports),
    }
}

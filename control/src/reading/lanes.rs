//! Lanes over exports that are kept going, and the exports' deaths.

use std::sync::Arc;
use std::time::Duration;

use blockferry_dataplane::{Counts, Event, Lane, LaneReport, Mover};

use super::error::ReadError;
use super::serve::Served;
use super::settings::ReadSettings;
use crate::backup::{Cancellation, Watch};
use crate::catalog::DiskName;

/// How often progress is told, and exports are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the exports of one run are started anew before it is given up: something kills them.
const MAX_REVIVALS: u32 = 8;

/// Runs a lane for each of `disks`, all at once; `exports` are all that they stand on, each with
/// the disk that it is of. Lanes that fail leave the others alone.
pub(super) fn run(
    disks: &[DiskName],
    lanes: Vec<Lane>,
    exports: &mut [(DiskName, &mut Served)],
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    progress: &dyn Fn(&[Counts]),
    cancellation: &Cancellation,
) -> Result<Vec<LaneReport>, ReadError> {
    if cancellation.is_cancelled() {
        return Err(ReadError::Cancelled);
    }
    let (told, names) = (Arc::clone(watch), disks.to_vec());
    let mover = Mover::new(settings.mover.clone()).on_event(move |event| {
        let (Event::Started { lane, .. }
        | Event::Note { lane, .. }
        | Event::Reconnecting { lane, .. }
        | Event::Finished { lane, .. }) = event
        else {
            return;
        };
        told.lane(&names[*lane], event);
    });
    let running = mover.start(lanes).map_err(ReadError::Mover)?;
    cancellation.lanes(Some(running.canceller()));
    let mut revivals = 0;
    let mut lost = None;
    while !running.wait_for(TICK) {
        let counts: Vec<_> = (0..disks.len()).map(|lane| running.lane_progress(lane)).collect();
        progress(&counts);
        for (disk, served) in exports.iter_mut() {
            if lost.is_some() || revivals == MAX_REVIVALS {
                break;
            }
            // The lane finds another process at the same address, and goes on.
            match served.revive(&settings.exports) {
                Ok(None) => {}
                Ok(Some(exited)) => {
                    revivals += 1;
                    watch.note(&format!("disk {disk}: its export was started anew, for {exited}"));
                }
                Err(error) => {
                    running.canceller().cancel();
                    lost = Some(ReadError::Export { disk: disk.clone(), error: Box::new(error) });
                }
            }
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

//! Looking at sources, before anything is decided.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blockferry_dataplane::plan::AreaSet;
use blockferry_dataplane::{Cause, Endpoint, Event, Extent, Fault, Lane, LaneSettings, Mover};

use super::cancel::Cancellation;
use super::carrier::{Here, Sought};
use super::error::{BackupError, WhichDisk};
use crate::child::held;

/// How often it is looked whether all sources have answered. They tell by events.
const TICK: Duration = Duration::from_millis(1);

/// What a source is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    /// Size in bytes.
    pub(crate) size: u64,
    /// Whether it has the bitmap that was named, where one was.
    pub(crate) has_bitmap: bool,
}

/// Opens all sources at once, as lanes will, and reads nothing that is needed.
pub(super) fn look(
    disks: &[Sought],
    settings: &Here,
    cancellation: &Cancellation,
) -> Result<Vec<Looked>, BackupError> {
    let first = lanes_over(disks, settings, cancellation, |disk| match &disk.bitmap {
        Some(name) => Extent::Bitmap(name.clone()),
        None => Extent::Areas(AreaSet::new()),
    })?;
    let lacking: Vec<usize> = first
        .iter()
        .enumerate()
        .filter(|(_, ended)| {
            matches!(ended, Err(Fault::Side { cause: Cause::NoBitmap { .. }, .. }))
        })
        .map(|(index, _)| index)
        .collect();
    // Those have a size nevertheless.
    let again: Vec<Sought> = lacking.iter().map(|index| disks[*index].clone()).collect();
    let mut sizes =
        lanes_over(&again, settings, cancellation, |_| Extent::Areas(AreaSet::new()))?.into_iter();
    let mut looked = Vec::with_capacity(disks.len());
    for (index, ended) in first.into_iter().enumerate() {
        let has_bitmap = !lacking.contains(&index);
        let ended = if has_bitmap { ended } else { sizes.next().unwrap_or(ended) };
        let size = ended.map_err(|fault| BackupError::Disk {
            disk: WhichDisk(disks[index].disk.clone()),
            fault: Box::new(fault),
            exports: String::new(),
        })?;
        if size == 0 {
            return Err(BackupError::Empty { disk: WhichDisk(disks[index].disk.clone()) });
        }
        looked.push(Looked { size, has_bitmap });
    }
    Ok(looked)
}

/// The sizes that lanes of these extents find, or why they do not even begin.
fn lanes_over(
    disks: &[Sought],
    settings: &Here,
    cancellation: &Cancellation,
    extent: impl Fn(&Sought) -> Extent,
) -> Result<Vec<Result<u64, Fault>>, BackupError> {
    if disks.is_empty() {
        return Ok(Vec::new());
    }
    let lanes = disks.iter().map(|disk| {
        let settings = LaneSettings { extent: extent(disk), digest: None, ..settings.lane.clone() };
        Lane::new(disk.source.clone(), Endpoint::Null).with_settings(settings)
    });
    let known: Arc<Mutex<HashSet<usize>>> = Arc::default();
    let noting = Arc::clone(&known);
    let mover = Mover::new(settings.mover.clone()).on_event(move |event| match event {
        Event::Started { lane, .. } | Event::Finished { lane, .. } => {
            held(&noting).insert(*lane);
        }
        _ => {}
    });
    let running =
        mover.start(lanes.collect()).map_err(|fault| BackupError::Mover(Box::new(fault)))?;
    let canceller = running.canceller();
    cancellation.lanes(Some(canceller.clone()));
    while !running.wait_for(TICK) {
        // What a bitmap marks is not wanted now.
        if held(&known).len() == disks.len() {
            canceller.cancel();
        }
    }
    cancellation.lanes(None);
    if cancellation.is_cancelled() {
        return Err(BackupError::Cancelled);
    }
    let ended = running.wait().lanes.into_iter().map(|lane| match (lane.outcome, lane.size) {
        (Ok(()) | Err(Fault::Interrupted), Some(size)) => Ok(size),
        (Err(fault), _) => Err(fault),
        (Ok(()), None) => Err(Fault::Request("a disk has a size, and a stream has none".into())),
    });
    Ok(ended.collect())
}

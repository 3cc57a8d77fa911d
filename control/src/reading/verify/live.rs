//! Live sources, to compare with.

use std::sync::Arc;

use blockferry_dataplane::plan::AreaSet;
use blockferry_dataplane::{Endpoint, Extent, Fault, Lane, LaneSettings};

use super::Run;
use super::report::{Against, AgainstOutcome};
use crate::catalog::DiskName;
use crate::reading::error::ReadError;
use crate::reading::lanes;
use crate::repository::HeldPoint;

/// Unit of sizes in qemu: a source that it serves may be rounded up to it.
const SECTOR_BYTES: u64 = 512;

/// A live source that is as large as its disk.
#[derive(Debug)]
pub(super) struct Live {
    /// The disk, as its place in the point.
    pub(super) disk: usize,
    pub(super) source: Endpoint,
}

impl Run<'_> {
    /// Looks at the live sources of a point's disks; those that cannot be compared are done with.
    pub(super) fn look_at_live(
        &self,
        held: &HeldPoint,
        done: &mut Vec<Against>,
    ) -> Result<Vec<Live>, ReadError> {
        let mut wanted = Vec::new();
        for (name, source) in &self.request.against {
            let disk = held.layers.iter().position(|held| held.layer().disk_name == *name);
            wanted.extend(disk.map(|disk| Live { disk, source: source.clone() }));
        }
        if wanted.is_empty() {
            return Ok(wanted);
        }
        let names: Vec<DiskName> =
            wanted.iter().map(|live| held.layers[live.disk].layer().disk_name.clone()).collect();
        let lanes = wanted.iter().map(|live| {
            let extent = Extent::Areas(AreaSet::new());
            let settings = LaneSettings { extent, ..self.settings.lane.clone() };
            Lane::new(live.source.clone(), Endpoint::Null).with_settings(settings)
        });
        let watch = Arc::clone(self.watch);
        let reports = lanes::run(
            &names,
            lanes.collect(),
            &mut |_reviver| Ok(()),
            self.settings,
            &watch,
            &|_| {},
            self.cancellation,
        )?;
        let mut fit = Vec::with_capacity(wanted.len());
        for ((live, report), name) in wanted.into_iter().zip(reports).zip(names) {
            let disk_bytes = held.layers[live.disk].layer().facts.size_bytes;
            let outcome = match (report.outcome, report.size) {
                (Err(fault), _) => AgainstOutcome::Failed(fault),
                (Ok(()), None) => AgainstOutcome::Failed(Fault::Request(
                    "a disk has a size, and a stream has none".into(),
                )),
                (Ok(()), Some(size))
                    if size == disk_bytes
                        || Some(size) == disk_bytes.checked_next_multiple_of(SECTOR_BYTES) =>
                {
                    fit.push(live);
                    continue;
                }
                (Ok(()), Some(live_bytes)) => AgainstOutcome::Size { disk_bytes, live_bytes },
            };
            let source = live.source.to_string();
            done.push(Against { point: held.point.id, disk: name, source, outcome });
        }
        Ok(fit)
    }
}

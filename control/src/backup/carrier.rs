//! Who opens the sources of a job and runs its lanes: this process, or a node.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{
    Counts, Endpoint, Event, Extent, Fault, Lane, LaneReport, LaneSettings, Mover, MoverSettings,
    Running, Side,
};

use super::cancel::Cancellation;
use super::error::{BackupError, WhichDisk};
use super::look::{Looked, look};
use super::request::{BackupSettings, DIGEST};
use super::run::{Watch, lane_teller};
use crate::catalog::{DiskName, FailureKind};
use crate::child::held;

/// A source to be looked at.
#[derive(Clone, Debug)]
pub(crate) struct Sought {
    /// The disk.
    pub(crate) disk: DiskName,
    /// Where it is read, as the carrier sees it.
    pub(crate) source: Endpoint,
    /// A dirty bitmap that it may have.
    pub(crate) bitmap: Option<String>,
}

/// A disk to be carried.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// The disk.
    pub(crate) disk: DiskName,
    /// Where it is read, as the carrier sees it.
    pub(crate) source: Endpoint,
    /// The export that takes it, as this process sees it.
    pub(crate) target: Endpoint,
    /// Its size in bytes, as it was planned with. A source that has another one has changed.
    pub(crate) size: u64,
    /// What is to be moved.
    pub(crate) extent: Extent,
    /// What the target's chain holds already.
    pub(crate) base: Option<Arc<Manifest>>,
    /// Where the digests go.
    pub(crate) manifest: PathBuf,
}

/// A disk that was carried: acknowledged, flushed, with its digests in their file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    /// What its lane moved.
    pub(crate) counts: Counts,
    /// Time that it took.
    pub(crate) elapsed: Duration,
}

/// Why a disk was not carried.
#[derive(Debug)]
pub(crate) enum LoadFault {
    /// What the lane here met.
    Here(Box<Fault>),
    /// What the lane of a node met, in its words. Of the target, without saying which it is.
    AtNode {
        /// The side at fault, if it is one.
        side: Option<Side>,
        /// Whose fault it is.
        failure: FailureKind,
        /// What happened.
        said: String,
    },
}

/// Why not all were carried.
#[derive(Debug)]
pub(crate) enum CarryError {
    /// The first disk that failed, by its place in the order.
    Load(usize, LoadFault),
    /// Something that concerns all of them.
    All(BackupError),
}

/// Opens sources and runs lanes.
pub(crate) trait Carrier: Send + Sync + fmt::Debug {
    /// Opens all sources at once, as lanes will, and reads nothing that is needed.
    ///
    /// # Errors
    /// [`BackupError`]: the first source that cannot be had.
    fn look(
        &self,
        sought: &[Sought],
        cancellation: &Cancellation,
    ) -> Result<Vec<Looked>, BackupError>;

    /// Starts a lane for each disk, all at once. What was
    /// started is called off by its own handle; `cancellation` is for the time before.
    ///
    /// # Errors
    /// When none was started.
    fn start(
        &self,
        loads: Vec<Load>,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<Box<dyn Carrying>, BackupError>;
}

/// Lanes at work. Dropping it calls them off.
pub(crate) trait Carrying {
    /// Waits for the end of all, for this time at most; whether it is there. The first lane that
    /// failed ends the others, when this is called next.
    fn wait_for(&mut self, time: Duration) -> bool;

    /// The counts so far, in the order of the disks.
    fn progress(&self) -> Vec<Counts>;

    /// Calls all off; they drain and end. Once is enough.
    fn cancel(&self);

    /// What became of the disks, in their order, once all have ended.
    ///
    /// # Errors
    /// [`CarryError`].
    fn end(self: Box<Self>) -> Result<Vec<Carried>, CarryError>;
}

/// Lanes of this process.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    /// What all lanes have in common.
    pub(crate) lane: LaneSettings,
    /// How they are run.
    pub(crate) mover: MoverSettings,
}

impl Carrier for Here {
    fn look(
        &self,
        sought: &[Sought],
        cancellation: &Cancellation,
    ) -> Result<Vec<Looked>, BackupError> {
        look(sought, self, cancellation)
    }

    fn start(
        &self,
        loads: Vec<Load>,
        watch: &Arc<dyn Watch>,
        _cancellation: &Cancellation,
    ) -> Result<Box<dyn Carrying>, BackupError> {
        let names: Vec<DiskName> = loads.iter().map(|load| load.disk.clone()).collect();
        let count = names.len();
        let lanes = loads.into_iter().map(|load| self.lane(load)).collect();
        let failed: Arc<Mutex<Option<usize>>> = Arc::default();
        let (tell, noting) = (lane_teller(watch, names), Arc::clone(&failed));
        let mover = Mover::new(self.mover.clone()).on_event(move |event| {
            if let Event::Finished { lane, fault: Some(fault), .. } = event
                && !matches!(fault, Fault::Interrupted)
            {
                held(&noting).get_or_insert(*lane);
            }
            tell(event);
        });
        let running = mover.start(lanes).map_err(|fault| BackupError::Mover(Box::new(fault)))?;
        Ok(Box::new(CarryingHere { running, count, failed }))
    }
}

impl Here {
    /// As backups are made here.
    pub(crate) fn with(settings: &BackupSettings) -> Self {
        Self { lane: settings.lane.clone(), mover: settings.mover.clone() }
    }

    fn lane(&self, load: Load) -> Lane {
        let settings = LaneSettings {
            expected_bytes: Some(load.size),
            extent: load.extent,
            digest: Some(DIGEST),
            base: load.base,
            manifest: Some(load.manifest),
            journal: None,
            ..self.lane.clone()
        };
        Lane::new(load.source, load.target).with_settings(settings)
    }
}

struct CarryingHere {
    running: Running,
    count: usize,
    /// The first lane that failed by itself.
    failed: Arc<Mutex<Option<usize>>>,
}

impl Carrying for CarryingHere {
    fn wait_for(&mut self, time: Duration) -> bool {
        let over = self.running.wait_for(time);
        if !over && held(&self.failed).is_some() {
            self.cancel();
        }
        over
    }

    fn progress(&self) -> Vec<Counts> {
        (0..self.count).map(|lane| self.running.lane_progress(lane)).collect()
    }

    fn cancel(&self) {
        self.running.canceller().cancel();
    }

    fn end(self: Box<Self>) -> Result<Vec<Carried>, CarryError> {
        let mut reports = self.running.wait().lanes;
        let first = *held(&self.failed);
        // A thread that was lost tells of its lanes in their reports only.
        let of = |interrupted: bool| {
            reports.iter().position(|report| match &report.outcome {
                Ok(()) => false,
                Err(fault) => matches!(fault, Fault::Interrupted) == interrupted,
            })
        };
        let failed = first.or_else(|| of(false)).or_else(|| of(true));
        if let Some(lane) = failed
            && let Err(fault) = reports.swap_remove(lane).outcome
        {
            return Err(match fault {
                Fault::Interrupted => CarryError::All(BackupError::Cancelled),
                fault => CarryError::Load(lane, LoadFault::Here(Box::new(fault))),
            });
        }
        let carried =
            |report: LaneReport| Carried { counts: report.counts, elapsed: report.elapsed };
        Ok(reports.into_iter().map(carried).collect())
    }
}

impl CarryError {
    /// As the error of the job. `exports` are the last words of the export of a disk.
    pub(crate) fn of_disks(
        self,
        name: impl Fn(usize) -> DiskName,
        exports: impl Fn(usize) -> String,
    ) -> BackupError {
        match self {
            Self::All(error) => error,
            Self::Load(at, LoadFault::Here(fault)) => {
                let exports = match fault.side() {
                    Some(Side::Target) => exports(at),
                    _ => String::new(),
                };
                BackupError::Disk { disk: WhichDisk(name(at)), fault, exports }
            }
            Self::Load(at, LoadFault::AtNode { side, failure, said }) => {
                let exports = match side {
                    Some(Side::Target) => exports(at),
                    _ => String::new(),
                };
                BackupError::DiskAtNode { disk: WhichDisk(name(at)), side, failure, said, exports }
            }
        }
    }
}

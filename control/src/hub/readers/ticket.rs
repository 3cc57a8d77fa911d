//! One reading, for those who call it off.

use std::sync::{Mutex, OnceLock};

use crate::backup::Cancellation;
use crate::catalog::{DiskName, JobId, PointId};
use crate::child::held;
use crate::repository::{HeldLayer, Repository};

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Verification,
    Export,
}

/// A reading that runs.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) kind: Kind,
    pub(super) cancellation: Cancellation,
    /// Why it was called off; the first reason counts.
    why: Mutex<Option<&'static str>>,
    /// Of an export whose disks are held.
    pub(super) opened: OnceLock<OpenExport>,
}

/// What others may ask of an export while it lives.
#[derive(Debug)]
pub(super) struct OpenExport {
    pub(super) job: JobId,
    pub(super) point: PointId,
    pub(super) repository: Repository,
    pub(super) layers: Vec<HeldLayer>,
}

impl OpenExport {
    pub(super) fn layer(&self, disk: &DiskName) -> Option<&HeldLayer> {
        self.layers.iter().find(|held| held.layer().disk_name == *disk)
    }
}

impl Ticket {
    pub(super) fn new(kind: Kind) -> Self {
        let (cancellation, why, opened) = Default::default();
        Self { kind, cancellation, why, opened }
    }

    pub(super) fn call_off(&self, why: &'static str) {
        held(&self.why).get_or_insert(why);
        self.cancellation.cancel();
    }

    /// Why it was called off.
    pub(super) fn why(&self) -> &'static str {
        held(&self.why).unwrap_or("it was called off")
    }
}

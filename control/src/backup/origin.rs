//! Where the disks of a job come from, if not from whoever asks: something that has to be held
//! still for the time of the copy.

use std::fmt;
use std::sync::Arc;

use blockferry_dataplane::plan::AreaSet;

use super::cancel::Cancellation;
use super::error::BackupError;
use super::request::DiskRequest;
use super::run::Watch;
use crate::catalog::{ChangeId, JobId, PointNote, UnixMillis, VmUuid};
use crate::snapshots::Base;

/// Something whose disks can be held still.
pub(crate) trait Origin: Send + Sync + fmt::Debug {
    /// What it is known by, if that is known before it is held.
    fn vm_uuid(&self) -> Option<VmUuid>;

    /// Holds all disks still, at one instant, and has them served.
    ///
    /// # Errors
    /// [`BackupError`]. Nothing is held then.
    fn freeze(
        &self,
        job: JobId,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<Frozen, BackupError>;
}

/// Disks that are held still. They are let go when this is dropped.
pub(crate) struct Frozen {
    /// What they are part of, if that has a name that stays.
    pub(crate) vm_uuid: Option<VmUuid>,
    /// The instant that they show.
    pub(crate) instant: UnixMillis,
    /// The disks; their sources hold for as long as this does.
    pub(crate) disks: Vec<DiskRequest>,
    /// What whoever restores them should know.
    pub(crate) notes: Vec<PointNote>,
    /// Who knows whether they were still all the time; nobody where whoever reads them asks that.
    pub(crate) witness: Option<Arc<dyn Witness>>,
    /// What holds them still, and lets them go.
    pub(crate) _held: Box<dyn Send>,
}

/// Who knows whether what is read was held still.
pub(crate) trait Witness: Send + Sync + fmt::Debug {
    /// Sees whether it was, up to now. Asked when all is read, and before it is believed. What is waited
    /// for is told to `watch`, and not waited for once it is called off.
    ///
    /// # Errors
    /// [`BackupError`]: it was not, or nobody can tell.
    fn confirm(
        &self,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<(), BackupError>;
}

/// Who knows what changed on a disk.
pub trait ChangeTracker: Send + Sync + fmt::Debug {
    /// Up to where its changes are in what is read now; a base of later backups.
    fn now(&self) -> Option<&ChangeId>;

    /// What changed since the base; or why that cannot be told, so that the disk has to be read in
    /// full.
    ///
    /// # Errors
    /// [`BackupError`]: nobody can be asked.
    fn changed_since(
        &self,
        base: &Base,
        watch: &dyn Watch,
        cancellation: &Cancellation,
    ) -> Result<Result<AreaSet, String>, BackupError>;
}

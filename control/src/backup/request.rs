//! What is asked for.

use std::collections::HashSet;
use std::sync::Arc;

use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::nbd::{Address, NbdUri};
use blockferry_dataplane::plan::AreaSet;
use blockferry_dataplane::{Endpoint, LaneSettings, MoverSettings};

use super::carrier::Sought;
use super::error::BackupError;
use super::origin::ChangeTracker;
use crate::catalog::{BackupMode, DiskName, DiskUuid, VmName};
use crate::export::ExportSettings;
use crate::image::ImageTool;

/// How it can be told what has changed since the newest point. Whoever says so vouches for it.
#[derive(Clone, Debug, Default)]
pub enum Changes {
    /// By reading all, and comparing with the digests of the newest point.
    #[default]
    Compared,
    /// These areas and no others.
    Areas(AreaSet),
    /// What this dirty bitmap of the source marks; by comparing, if the source has no such one.
    Bitmap(String),
    /// By asking who tracks the disk's changes.
    Tracked {
        /// Who that is.
        tracker: Arc<dyn ChangeTracker>,
        /// The share of what it calls unchanged that is read all the same, in percent.
        audit_percent: u8,
    },
}

/// A disk to back up.
#[derive(Clone, Debug)]
pub struct DiskRequest {
    /// What it is called.
    pub name: DiskName,
    /// What it is known by, if its source has that.
    pub uuid: Option<DiskUuid>,
    /// Where its content is read. It must not change meanwhile.
    pub source: Endpoint,
    /// How it can be told what changed.
    pub changes: Changes,
}

impl DiskRequest {
    /// It, to be looked at.
    pub(super) fn sought(&self) -> Sought {
        let bitmap = match &self.changes {
            Changes::Bitmap(name) => Some(name.clone()),
            Changes::Compared | Changes::Areas(_) | Changes::Tracked { .. } => None,
        };
        Sought { disk: self.name.clone(), source: self.source.clone(), bitmap }
    }
}

/// A VM to back up: all disks into one point.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// Which VM.
    pub vm: VmName,
    /// Its disks, each of another name; one at least.
    pub disks: Vec<DiskRequest>,
    /// Fulls, deltas, or what fits.
    pub mode: BackupMode,
}

impl BackupRequest {
    /// Refuses what cannot become a point, whatever its sources are.
    ///
    /// # Errors
    /// [`BackupError::NoDisk`] and [`BackupError::NameTwice`].
    pub fn check(&self) -> Result<(), BackupError> {
        if self.disks.is_empty() {
            return Err(BackupError::NoDisk(self.vm.clone()));
        }
        let mut names = HashSet::new();
        match self.disks.iter().find(|disk| !names.insert(&disk.name)) {
            Some(twice) => {
                Err(BackupError::NameTwice { vm: self.vm.clone(), disk: twice.name.clone() })
            }
            None => Ok(()),
        }
    }
}

/// Whether whoever reads this source opens files of its own machine for it: a socket, or keys and
/// certificates.
pub(crate) fn names_files(uri: &NbdUri) -> bool {
    matches!(uri.address, Address::Unix { .. }) || uri.tls_params.certificates.is_some()
}

/// How backups are made.
#[derive(Clone, Debug)]
pub struct BackupSettings {
    /// What all lanes have in common: deadlines, retries, connections, requests. What they copy
    /// and note is set by the plan.
    pub lane: LaneSettings,
    /// How they are run.
    pub mover: MoverSettings,
    /// How exports are run.
    pub exports: ExportSettings,
    /// How images are made and checked.
    pub image_tool: ImageTool,
}

impl BackupSettings {
    /// The settings for as many disks at once.
    #[must_use]
    pub fn for_disks(disks: u16) -> Self {
        Self {
            lane: LaneSettings { digest: Some(DIGEST), ..LaneSettings::default() },
            mover: MoverSettings::default(),
            exports: ExportSettings::for_exports(disks),
            image_tool: ImageTool::default(),
        }
    }
}

/// The digests of a repository. They decide what is equal, so they have to be of a kind that
/// nobody can make two contents for.
pub(crate) const DIGEST: DigestAlgorithm = DigestAlgorithm::Blake3;

//! A backup as it was asked for, by options or in a file of many, and its way to a point.

use std::path::PathBuf;
use std::sync::Arc;

use blockferry_control::backup::{
    BackupError, BackupReport, BackupRequest, BackupSettings, Cancellation, Changes, DiskRequest,
    Watch, back_up,
};
use blockferry_control::catalog::{BackupMode, DiskName, VmName};
use blockferry_control::repository::Repository;
use blockferry_dataplane::nbd::without_passwords;
use blockferry_dataplane::{Endpoint, LaneSettings, MoverSettings, Side};

use super::telling::Telling;
use crate::copy::{Place, areas, named_place};
use crate::exit::{Exit, Refusal};
use crate::output::hint;

/// Changed areas of one disk at most; a longer list is merged over its smallest gaps.
const MAX_AREAS: usize = 1 << 20;

/// One VM, with what is to be done to it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) vm: VmName,
    pub(crate) disks: Vec<AskedDisk>,
    pub(crate) mode: BackupMode,
    pub(crate) repository: PathBuf,
    pub(crate) lane: LaneSettings,
    pub(crate) mover: MoverSettings,
}

/// One of its disks.
#[derive(Clone, Debug)]
pub(crate) struct AskedDisk {
    pub(crate) name: DiskName,
    pub(crate) source: Endpoint,
    pub(crate) changes: AskedChanges,
}

/// How it can be told what changed.
#[derive(Clone, Debug)]
pub(crate) enum AskedChanges {
    Compared,
    /// A list of areas, which is read when the backup begins.
    Areas(PathBuf),
    /// A dirty bitmap, with or without the prefix that nbdinfo shows.
    Bitmap(String),
}

impl Asked {
    /// Makes the backup. `disks_at_once` are being backed up by this process, its own among them.
    ///
    /// # Errors
    /// Why there is no new point, with the code to exit with.
    pub(crate) fn back_up(
        &self,
        telling: &Arc<Telling>,
        cancellation: &Cancellation,
        disks_at_once: usize,
    ) -> anyhow::Result<BackupReport> {
        let request = self.request()?;
        let settings = BackupSettings {
            lane: self.lane.clone(),
            mover: self.mover.clone(),
            ..BackupSettings::for_disks(u16::try_from(disks_at_once).unwrap_or(u16::MAX))
        };
        let watch: Arc<dyn Watch> = Arc::clone(telling) as _;
        Repository::open_or_create(&self.repository)
            .map_err(BackupError::from)
            .and_then(|repository| back_up(&repository, &request, &settings, &watch, cancellation))
            .map_err(|error| refusal(&error))
    }

    fn request(&self) -> anyhow::Result<BackupRequest> {
        let disks = self.disks.iter().map(AskedDisk::request).collect::<anyhow::Result<_>>()?;
        Ok(BackupRequest { vm: self.vm.clone(), disks, mode: self.mode })
    }
}

impl AskedDisk {
    /// With its list of changed areas, which is read now.
    ///
    /// # Errors
    /// A list that cannot be read.
    pub(crate) fn request(&self) -> anyhow::Result<DiskRequest> {
        let changes = match &self.changes {
            AskedChanges::Compared => Changes::Compared,
            AskedChanges::Areas(file) => Changes::Areas(areas(file, MAX_AREAS)?),
            AskedChanges::Bitmap(name) => {
                let name = name.strip_prefix("qemu:dirty-bitmap:").unwrap_or(name);
                Changes::Bitmap(name.to_owned())
            }
        };
        let (name, source) = (self.name.clone(), self.source.clone());
        Ok(DiskRequest { name, uuid: None, source, changes })
    }
}

/// The source that a word names.
///
/// # Errors
/// What is wrong with it, for a message that names the disk.
pub(crate) fn source_from(word: &str) -> Result<Endpoint, String> {
    match named_place(word.as_ref())? {
        Place::Uri(uri) => Ok(Endpoint::nbd(*uri)),
        Place::Path(path) => Ok(Endpoint::File(path)),
        Place::Command(_) | Place::Standard | Place::Null => {
            let shown = without_passwords(word);
            Err(format!("a source is an NBD URI, a file or a block device, and not {shown}"))
        }
    }
}

/// The error of a backup here, with its exit code.
pub(super) fn refusal(error: &BackupError) -> anyhow::Error {
    // What to do about a repository is in the error itself.
    let source = match error {
        BackupError::Disk { fault, .. } if fault.side() == Some(Side::Source) => hint(fault),
        _ => None,
    };
    let advice = source.map(|hint| format!("; {hint}")).unwrap_or_default();
    Refusal::of(exit_of(error), format!("{error}{advice}"))
}

fn exit_of(error: &BackupError) -> Exit {
    match error {
        error if error.is_cancelled() => Exit::Interrupted,
        other => Exit::of_failure(other.failure()),
    }
}

//! Where restored disks go.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use blockferry_dataplane::Endpoint;
use rustix::fs::OFlags;

use super::error::ReadError;
use super::opened::OpenedDisk;
use super::partial::PartialFile;
use super::serve::serve_to_write;
use super::settings::{DiskFormat, ReadSettings};
use crate::catalog::DiskName;
use crate::hub::KeptExport;
use crate::image::{CheckVerdict, Image};

/// Where disks are to go.
#[derive(Clone, Debug)]
pub enum RestoreTarget {
    /// Each into a file `<disk>.raw` or `<disk>.qcow2` of a folder, which is made if it is not
    /// there.
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the files are.
        format: DiskFormat,
        /// Files that are there are replaced, each when the new one is whole.
        force: bool,
    },
    /// One disk over an export or a block device that is as large as the disk, or larger. What
    /// it has behind the end of the disk stays.
    Whole(Endpoint),
    /// Each disk over an export of its own, which is as large. What they hold afterwards is read
    /// back.
    Each(BTreeMap<DiskName, WholeDisk>),
}

/// An export that takes a disk as a whole.
#[derive(Clone, Debug)]
pub struct WholeDisk {
    /// Where it is written.
    pub endpoint: Endpoint,
    /// What people call it.
    pub named: String,
    /// Whether it holds nothing but zeros.
    pub is_new: bool,
}

/// The target of one disk, ready to be written.
#[derive(Debug)]
pub(super) enum Target {
    /// A raw file.
    Raw(PartialFile),
    /// An image, and the export that writes it.
    Image {
        /// The file.
        file: PartialFile,
        /// The export. Boxed: it is many times as large as the others.
        served: Box<KeptExport>,
    },
    /// An export or a device of the caller's.
    Whole {
        /// It.
        endpoint: Endpoint,
        /// Keeps a device from being mounted meanwhile.
        _device: Option<File>,
    },
    /// An export of its own.
    Each(WholeDisk),
}

impl RestoreTarget {
    /// Makes ready for one disk.
    pub(super) fn prepare(
        &self,
        disk: &OpenedDisk,
        settings: &ReadSettings,
    ) -> Result<Target, ReadError> {
        match self {
            Self::Whole(endpoint) => {
                let device = match endpoint {
                    Endpoint::File(path) => hold_device(path)?,
                    _ => None,
                };
                Ok(Target::Whole { endpoint: endpoint.clone(), _device: device })
            }
            Self::Each(targets) => {
                let target = targets.get(&disk.name);
                let target = target.expect("each disk that is restored has its target");
                Ok(Target::Each(target.clone()))
            }
            Self::Folder { path, format, force } => {
                let name = format!("{}.{}", disk.name, format.as_str());
                let file = PartialFile::create(path.join(name), *force)?;
                match format {
                    DiskFormat::Raw => Ok(Target::Raw(file)),
                    DiskFormat::Qcow2 => new_image(file, disk, settings),
                }
            }
        }
    }
}

fn new_image(
    mut file: PartialFile,
    disk: &OpenedDisk,
    settings: &ReadSettings,
) -> Result<Target, ReadError> {
    let name = || disk.name.clone();
    file.make_anew(|path| {
        Image::create(path, disk.size_bytes, None, settings.image_tool.clone())
            .map(|_made| ())
            .map_err(|error| ReadError::NewImage { disk: name(), what: error.to_string() })
    })?;
    let served = serve_to_write(file.partial(), settings)
        .map_err(|error| ReadError::NewImage { disk: name(), what: error.to_string() })?;
    Ok(Target::Image { file, served: Box::new(served) })
}

impl Target {
    /// The end of a lane.
    pub(super) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Raw(file) => Endpoint::File(file.held()),
            Self::Image { served, .. } => served.endpoint(),
            Self::Whole { endpoint, .. } => endpoint.clone(),
            Self::Each(disk) => disk.endpoint.clone(),
        }
    }

    /// What it is called when something goes wrong with it: a file, and not what serves it meanwhile.
    pub(super) fn named(&self) -> String {
        match self {
            Self::Raw(file) | Self::Image { file, .. } => file.partial().display().to_string(),
            Self::Whole { endpoint, .. } => endpoint.to_string(),
            Self::Each(disk) => disk.named.clone(),
        }
    }

    /// Whether it is new, so that nothing has to be written for zeros to be there.
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Self::Raw(_) | Self::Image { .. } => true,
            Self::Whole { .. } => false,
            Self::Each(disk) => disk.is_new,
        }
    }

    /// Whether what it holds is read back: it is not ours, and lies behind a library that is not
    /// either.
    pub(super) fn is_read_back(&self) -> bool {
        matches!(self, Self::Each(_))
    }

    /// Its export, if it has one of ours.
    pub(super) fn served(&mut self) -> Option<&mut KeptExport> {
        match self {
            Self::Image { served, .. } => Some(served),
            Self::Raw(_) | Self::Whole { .. } | Self::Each(_) => None,
        }
    }

    /// All is written, flushed, and what it should be: gives it its name, in words.
    pub(super) fn finish(
        self,
        disk: &DiskName,
        settings: &ReadSettings,
    ) -> Result<String, ReadError> {
        let finished = match self {
            Self::Whole { endpoint, .. } => return Ok(endpoint.to_string()),
            Self::Each(disk) => return Ok(disk.named),
            Self::Raw(file) => file.finish()?,
            Self::Image { file, served } => {
                let failed = |what: String| ReadError::NewImage { disk: disk.clone(), what };
                served.end().map_err(|error| failed(error.to_string()))?;
                let image = Image::at(file.partial(), settings.image_tool.clone());
                let checked = image.and_then(|image| image.check());
                match checked.map_err(|error| failed(error.to_string()))?.verdict {
                    CheckVerdict::Clean | CheckVerdict::Leaks { .. } => file.finish()?,
                    verdict => {
                        return Err(failed(format!("the new image is not whole: {verdict:?}")));
                    }
                }
            }
        };
        Ok(finished.display().to_string())
    }
}

/// Makes the folder, if it is not there.
pub(super) fn make_folder(path: &Path) -> Result<(), ReadError> {
    fs::create_dir_all(path).map_err(|error| ReadError::system(path, "making the folder", error))
}

/// Takes a block device for us alone, as mount(2) does: it fails where it is mounted, or part of a
/// volume.
fn hold_device(path: &Path) -> Result<Option<File>, ReadError> {
    let failed = |error| ReadError::system(path, "taking the device for this alone", error);
    let is_device = fs::metadata(path).map_err(failed)?.file_type().is_block_device();
    if !is_device {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlags::EXCL.bits().cast_signed());
    options.open(path).map(Some).map_err(failed)
}

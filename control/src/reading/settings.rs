//! How points are read.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use blockferry_dataplane::{LaneSettings, MoverSettings};

use super::scratch::Scratch;
use crate::export::ExportSettings;
use crate::hub::Exports;
use crate::image::ImageTool;

/// How points are read.
#[derive(Clone, Debug)]
pub struct ReadSettings {
    /// What all lanes have in common: deadlines, retries, connections, requests.
    pub lane: LaneSettings,
    /// How they are run.
    pub mover: MoverSettings,
    /// How exports are run.
    pub exports: ExportSettings,
    /// Where those that run are listed: those of a hub are seen from outside.
    pub running: Arc<Exports>,
    /// How images are made and checked.
    pub image_tool: ImageTool,
    /// Where the folder is made for the sockets of exports, and for the digests of what was read:
    /// 33 bytes for each 64 KiB of data. What a killed process left there is removed.
    pub folder: PathBuf,
}

impl Default for ReadSettings {
    /// With the temporary folder of the system. How many exports share the memory of all is set
    /// when it is known how many disks there are.
    fn default() -> Self {
        Self {
            lane: LaneSettings::default(),
            mover: MoverSettings::default(),
            exports: ExportSettings::for_exports(1),
            running: Arc::default(),
            image_tool: ImageTool::default(),
            folder: env::temp_dir(),
        }
    }
}

impl ReadSettings {
    /// The same, with the memory of exports shared by as many as there will be, if that is more
    /// than was foreseen.
    pub(crate) fn at_once(&self, exports: usize) -> Self {
        let exports = u16::try_from(exports).unwrap_or(u16::MAX);
        let exports_at_once = self.exports.exports_at_once.max(exports);
        let exports = ExportSettings { exports_at_once, ..self.exports.clone() };
        Self { exports, ..self.clone() }
    }

    /// The same, with the folder that was made.
    pub(crate) fn within(self, scratch: &Scratch) -> Self {
        Self { folder: scratch.path().to_owned(), ..self }
    }
}

/// What a file holds a disk in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFormat {
    /// Byte for byte, of exactly the size of the disk.
    #[default]
    Raw,
    /// An image of qemu, whose size is rounded up to 512 bytes.
    Qcow2,
}

impl DiskFormat {
    /// Its word, which also is the ending of a file's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl std::str::FromStr for DiskFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(format!("no format is called '{text}': use raw or qcow2")),
        }
    }
}

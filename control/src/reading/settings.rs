//! How points are read.

use std::env;
use std::path::PathBuf;

use blockferry_dataplane::{LaneSettings, MoverSettings};

use crate::export::ExportSettings;
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
    /// How images are made and checked.
    pub image_tool: ImageTool,
    /// A folder for the sockets of exports, and for the digests of what was read: 33 bytes for
    /// each 64 KiB of data.
    pub folder: PathBuf,
}

impl ReadSettings {
    /// The settings for as many disks at once, with the temporary folder of the system.
    #[must_use]
    pub fn for_disks(disks: u16) -> Self {
        Self {
            lane: LaneSettings::default(),
            mover: MoverSettings::default(),
            exports: ExportSettings::for_exports(disks),
            image_tool: ImageTool::default(),
            folder: env::temp_dir(),
        }
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

//! What the header of an image says.

use std::path::PathBuf;

use serde::Deserialize;

use super::Image;
use super::error::ImageError;
use super::tool::ToolRun;

/// Unit of the size of an image.
const SECTOR_BYTES: u64 = 512;

/// The header of an image, and the size of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// Size of the disk in bytes, a multiple of 512.
    pub virtual_bytes: u64,
    /// What the file takes of its file system, in bytes.
    pub actual_bytes: u64,
    /// Size of its clusters in bytes.
    pub cluster_bytes: u32,
    /// The backing file as the header names it.
    pub backing_file: Option<PathBuf>,
    /// The backing file, found from the image's folder.
    pub full_backing_file: Option<PathBuf>,
    /// Format of the backing file, as the header names it.
    pub backing_format: Option<String>,
    /// It was not closed in order and keeps its reference counts lazily, so they are not right.
    pub dirty: bool,
    /// qemu found it corrupt, and marked it.
    pub corrupt: bool,
}

impl ImageInfo {
    /// Whether it is the image of a disk of so many bytes: its size is that, rounded up.
    #[must_use]
    pub fn is_of(&self, size_bytes: u64) -> bool {
        size_bytes.checked_next_multiple_of(SECTOR_BYTES) == Some(self.virtual_bytes)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    filename: PathBuf,
    virtual_size: u64,
    #[serde(default)]
    actual_size: u64,
    cluster_size: u32,
    backing_filename: Option<PathBuf>,
    full_backing_filename: Option<PathBuf>,
    backing_filename_format: Option<String>,
    #[serde(default)]
    dirty_flag: bool,
    format_specific: FormatSpecific,
}

#[derive(Deserialize)]
struct FormatSpecific {
    data: FormatData,
}

#[derive(Deserialize)]
struct FormatData {
    #[serde(default)]
    corrupt: bool,
}

impl From<Answer> for ImageInfo {
    fn from(answer: Answer) -> Self {
        Self {
            virtual_bytes: answer.virtual_size,
            actual_bytes: answer.actual_size,
            cluster_bytes: answer.cluster_size,
            backing_file: answer.backing_filename,
            full_backing_file: answer.full_backing_filename,
            backing_format: answer.backing_filename_format,
            dirty: answer.dirty_flag,
            corrupt: answer.format_specific.data.corrupt,
        }
    }
}

impl Image {
    /// Reads the header. Another process may have the image open: what it has not written yet is
    /// not seen then.
    ///
    /// # Errors
    /// [`ImageError`], in one line with what to do.
    pub fn info(&self) -> Result<ImageInfo, ImageError> {
        let deadline = self.tool.quick_deadline;
        let run = ToolRun { tool: &self.tool, action: "info", path: &self.path, deadline };
        let arguments = ["--force-share", "--output=json", "-f", "qcow2"];
        let path = self.path.as_os_str();
        let finished = run.run(arguments.map(AsRef::as_ref).into_iter().chain([path]))?;
        if !finished.status.success() {
            return Err(run.failure(&finished));
        }
        let answer: Answer = run.answer(&finished)?;
        Ok(answer.into())
    }

    /// Reads the headers of the image and of all below it, by one process, each with the file that
    /// it is in: this one first.
    ///
    /// # Errors
    /// [`ImageError`] when one of them cannot be read. It may be any of them.
    pub fn chain_info(&self) -> Result<Vec<(PathBuf, ImageInfo)>, ImageError> {
        let deadline = self.tool.quick_deadline;
        let run = ToolRun { tool: &self.tool, action: "info", path: &self.path, deadline };
        let arguments = ["--backing-chain", "--force-share", "--output=json", "-f", "qcow2"];
        let path = self.path.as_os_str();
        let finished = run.run(arguments.map(AsRef::as_ref).into_iter().chain([path]))?;
        if !finished.status.success() {
            return Err(run.failure(&finished));
        }
        let answers: Vec<Answer> = run.answer(&finished)?;
        Ok(answers.into_iter().map(|answer| (answer.filename.clone(), answer.into())).collect())
    }
}

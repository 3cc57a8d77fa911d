//! Images: qcow2 files, made and looked at by qemu-img.
//!
//! ```text
//!  Image::create ──► qemu-img create      exact size in, the rounded one of the file told apart
//!  Image::info   ──► qemu-img info        sizes, backing file, dirty flag; of a served image too
//!  Image::map    ──► qemu-img map         which image of a chain has a range
//!  Image::check  ──► qemu-img check       clean, leaks, corruptions, errors
//!                        │
//!                        └─ a deadline on each; its words sorted by what a person has to do
//! ```
//!
//! A path is made absolute before qemu sees it: it reads `name:rest` as a protocol otherwise.

mod check;
mod create;
mod error;
mod info;
mod map;
mod refusal;
mod tool;

#[cfg(test)]
mod tests;

pub use check::{CheckReport, CheckVerdict};
pub use create::{DEFAULT_CLUSTER_BYTES, NewImage};
pub use error::ImageError;
pub use info::ImageInfo;
pub use tool::ImageTool;

pub(crate) use refusal::{Refusal, in_one_line};

use std::path::{Path, PathBuf};

/// A qcow2 file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    path: PathBuf,
    tool: ImageTool,
}

impl Image {
    /// The image at `path`, which is not looked at yet.
    ///
    /// # Errors
    /// When the path cannot be made absolute, because it is empty or the current folder is gone.
    pub fn at(path: &Path, tool: ImageTool) -> Result<Self, ImageError> {
        let path = std::path::absolute(path)
            .map_err(|error| ImageError::file(path, "finding its folder", error))?;
        Ok(Self { path, tool })
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

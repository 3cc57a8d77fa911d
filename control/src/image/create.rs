//! Making an image.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use super::Image;
use super::error::ImageError;
use super::tool::{ImageTool, ToolRun};

/// Size of a cluster: the unit in which an image grows, and in which a delta shadows its parent.
pub const DEFAULT_CLUSTER_BYTES: u32 = 64 << 10;
/// Unit of sizes in qemu: it rounds any other size up, in raw files and in qcow2's header alike.
const SECTOR_BYTES: u64 = 512;
/// Longest backing name that a qcow2 header holds (docs/interop/qcow2.rst of QEMU).
const MAX_BACKING_NAME_BYTES: usize = 1023;
/// Mode of an image: it holds what is on somebody's disk.
const FILE_MODE: u32 = 0o600;

/// An image that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// The file.
    pub image: Image,
    /// The size that was asked for, in bytes. The file cannot hold it if it is no multiple of 512:
    /// whoever restores the disk has to keep it, and to cut there.
    pub size_bytes: u64,
    /// The size that the image has, and an export of it: rounded up to a multiple of 512. What lies
    /// beyond `size_bytes` reads as zeros unless somebody writes it.
    pub virtual_bytes: u64,
    /// Size of its clusters, which an export does not tell.
    pub cluster_bytes: u32,
}

impl Image {
    /// Makes an image of `size_bytes` in clusters of 64 KiB. Over a `parent`, another qcow2 file,
    /// it is a delta: it names the parent by a path relative to itself, so that the repository can
    /// be moved, and with its format, so that nobody guesses it from content that a guest wrote.
    ///
    /// Nothing is written over, and nothing is left of an image that could not be made.
    ///
    /// # Errors
    /// [`ImageError`], in one line with what to do.
    pub fn create(
        path: &Path,
        size_bytes: u64,
        parent: Option<&Path>,
        tool: ImageTool,
    ) -> Result<NewImage, ImageError> {
        Self::create_in_clusters(path, size_bytes, DEFAULT_CLUSTER_BYTES, parent, tool)
    }

    /// The same with another size of clusters, a power of two from 512 bytes to 2 MiB.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_in_clusters(
        path: &Path,
        size_bytes: u64,
        cluster_bytes: u32,
        parent: Option<&Path>,
        tool: ImageTool,
    ) -> Result<NewImage, ImageError> {
        if !cluster_bytes.is_power_of_two() || !(512..=2 << 20).contains(&cluster_bytes) {
            return Err(ImageError::ClusterSize { cluster_bytes });
        }
        let virtual_bytes = rounded(size_bytes)?;
        let image = Self::at(path, tool)?;
        let path = image.path();
        let backing = parent.map(|parent| backing_name(path, parent)).transpose()?;

        let mut arguments: Vec<OsString> = vec!["-q".into(), "-f".into(), "qcow2".into()];
        arguments.push("-o".into());
        let options = "compat=1.1,lazy_refcounts=off,preallocation=off,extended_l2=off";
        arguments.push(format!("{options},cluster_size={cluster_bytes}").into());
        if let Some(backing) = &backing {
            arguments.extend(["-b".into(), backing.clone(), "-F".into(), "qcow2".into()]);
        }
        arguments.push(path.into());
        arguments.push(virtual_bytes.to_string().into());

        // qemu-img would write over a file that is there.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)
            .map_err(|error| ImageError::file(path, "making the file", error))?;
        let deadline = image.tool.quick_deadline;
        let run = ToolRun { tool: &image.tool, action: "create", path, deadline };
        let made = run.run(arguments).and_then(|finished| match finished.status.success() {
            true => Ok(()),
            false => Err(run.failure(&finished)),
        });
        if let Err(error) = made {
            // The error that is told is the one that led here.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(NewImage { image, size_bytes, virtual_bytes, cluster_bytes })
    }
}

/// The size that qemu makes of it.
fn rounded(size_bytes: u64) -> Result<u64, ImageError> {
    let refused = |hint| ImageError::Size { size_bytes, hint };
    if size_bytes == 0 {
        return Err(refused("a disk has one byte at least"));
    }
    let most = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    let rounded = size_bytes.checked_next_multiple_of(SECTOR_BYTES).filter(|bytes| *bytes <= most);
    rounded.ok_or_else(|| refused("it is more than a file can have"))
}

/// `parent` as a path from the folder of `image`.
fn backing_name(image: &Path, parent: &Path) -> Result<OsString, ImageError> {
    let refused = |reason| ImageError::BackingName { path: parent.to_owned(), reason };
    let name = parent.file_name().ok_or_else(|| refused("it is no file"))?;
    if !parent.is_file() {
        let said = format!("there is no file {}", parent.display());
        return Err(ImageError::BackingMissing { path: image.to_owned(), said });
    }
    // The folders may be reached through links; the file may be one itself and stays so.
    let folder = |path: &Path| {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        fs::canonicalize(folder).map_err(|error| ImageError::file(folder, "finding it", error))
    };
    let name = relative(&folder(image)?, &folder(parent)?).join(name);
    if name.as_os_str().len() > MAX_BACKING_NAME_BYTES {
        return Err(refused("its path from the image is longer than 1023 bytes"));
    }
    Ok(name.into_os_string())
}

/// The way from one folder to another, both absolute and without links. It begins with a dot, or
/// qemu would take a name with a colon for a protocol.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let mut way: PathBuf = up.chain(to.components().skip(shared)).collect();
    if !way.starts_with("..") {
        way = Path::new(".").join(way);
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_named_from_the_folder_of_its_image() {
        for (from, to, way) in [
            ("/r/vm", "/r/vm", "./base"),
            ("/r/vm", "/r/other", "../other/base"),
            ("/r/vm", "/r/vm/old:er", "./old:er/base"),
            ("/r/vm/a", "/", "../../../base"),
        ] {
            let found = relative(Path::new(from), Path::new(to)).join("base");
            assert_eq!(found.as_os_str(), way, "from {from} to {to}");
        }
    }
}

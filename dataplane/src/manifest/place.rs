//! Where a manifest may be written: in the place of nothing, of an empty file, of an older manifest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::write::{ManifestWriter, io_error, partial_path};
use super::{ManifestError, format, partial};

impl ManifestWriter {
    /// Whether a manifest can be written to `path` without the loss of anything else: what is there,
    /// or where it is in the making, is replaced only if it is one of ours, or empty. Makes nothing.
    ///
    /// # Errors
    /// [`ManifestError::Occupied`] for a link, a folder, a device or any other file; what cannot be
    /// looked at.
    pub fn check_place(path: &Path) -> Result<(), ManifestError> {
        check(path, &[format::MAGIC])?;
        // A run that died between the header and the name leaves a complete one there.
        check(&partial_path(path), &[partial::MAGIC, format::MAGIC])
    }
}

fn check(path: &Path, beginnings: &[[u8; 16]]) -> Result<(), ManifestError> {
    let occupied = |what| Err(ManifestError::Occupied { path: path.to_owned(), what });
    let failed = |source| io_error("look at", path, source);
    // Of a link it is the link that would be replaced.
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if found.is_symlink() {
        return occupied("a symbolic link");
    } else if found.is_dir() {
        return occupied("a folder");
    } else if !found.is_file() {
        return occupied("a device, a pipe or a socket");
    }
    let mut beginning = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(16).read_to_end(&mut beginning).map_err(failed)?;
    if beginning.is_empty() || beginnings.iter().any(|magic| magic[..] == beginning[..]) {
        Ok(())
    } else {
        occupied("something else")
    }
}

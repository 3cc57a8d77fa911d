//! Room that is kept for deleting: a deletion has to be written down before its files are removed,
//! and on a full file system nothing can be written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Repository;
use crate::catalog::CATALOG_FILE;

/// The index of the catalog's log takes 32 KiB, and the log a few pages of 4 KiB for each point and
/// file that goes; the rest is for file systems that count in large blocks.
const RESERVE_BYTES: usize = 1 << 20;
/// Whoever can read the repository may read this too.
const FILE_MODE: u32 = 0o600;

impl Repository {
    /// Makes the reserve, where it is not. Where there is no room, there is none for it either.
    pub(super) fn keep_reserve(&self) {
        let path = reserve(self.root());
        let has = fs::symlink_metadata(&path).map_or(0, |data| data.len());
        if usize::try_from(has) != Ok(RESERVE_BYTES) && fill(&path).is_err() {
            let _ = fs::remove_file(&path);
        }
    }

    /// Gives the reserve up; says whether there was one.
    pub(super) fn give_up_reserve(root: &Path) -> bool {
        fs::remove_file(reserve(root)).is_ok()
    }
}

fn reserve(root: &Path) -> PathBuf {
    root.join(format!("{CATALOG_FILE}-reserve"))
}

/// Writes what no file system can make smaller, for else it would keep no room.
fn fill(path: &Path) -> io::Result<()> {
    let mut content = vec![0; RESERVE_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    let mut file: File = options.open(path)?;
    // Not written out: a file system that has taken it has the room.
    file.write_all(&content)
}

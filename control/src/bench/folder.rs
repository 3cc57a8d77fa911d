//! The private folder of a measurement: images, keys, sockets.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::getuid;
use tempfile::TempDir;

use super::error::BenchError;

/// What the names of such folders begin with.
const PREFIX: &str = "blockferry-bench-";
/// Its mode: there are keys in it, and sockets that lead to disks.
const MODE: u32 = 0o700;
/// The file in it that is locked for as long as it is in use.
const LOCK: &str = "in-use";

/// A folder that nobody else can enter. It goes with this value; after a kill, with the next one
/// that is made beside it.
#[derive(Debug)]
pub(super) struct Folder {
    folder: TempDir,
    _lock: File,
}

impl Folder {
    /// Makes one in `parent`, and removes what others left there that were killed.
    pub(super) fn make(parent: &Path) -> Result<Self, BenchError> {
        let failed = || BenchError::system(format!("making a folder in {}", parent.display()));
        sweep(parent);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(MODE))
            .tempdir_in(parent)
            .map_err(failed())?;
        let lock = File::create_new(folder.path().join(LOCK)).map_err(failed())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed()(error.into()))?;
        Ok(Self { folder, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Removes folders of this user whose lock nobody holds. One that has no lock yet is in the making.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            // Whatever keeps one from being removed keeps it for the next time.
            let _left = remove_if_left(&entry.path());
        }
    }
}

fn remove_if_left(folder: &Path) -> io::Result<()> {
    let data = fs::symlink_metadata(folder)?;
    if !data.is_dir() || data.uid() != getuid().as_raw() {
        return Ok(());
    }
    let lock = File::open(folder.join(LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    fs::remove_dir_all(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_goes_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let in_use = Folder::make(parent.path()).unwrap();
        let left = parent.path().join(format!("{PREFIX}left"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("disk.qcow2"), "much").unwrap();
        let other = parent.path().join("other");
        fs::create_dir(&other).unwrap();
        let second = Folder::make(parent.path()).unwrap();
        assert!(!left.exists() && other.exists() && in_use.path().exists());
        let paths = [in_use.path().to_owned(), second.path().to_owned()];
        drop((in_use, second));
        assert!(paths.iter().all(|path| !path.exists()));
    }
}

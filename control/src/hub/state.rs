//! The folder of a hub's state, and the one hub that has it.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::HubError;

/// Others have nothing to look for in it.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const LOCK_FILE: &str = "hub.lock";

/// A folder that belongs to this hub until it is dropped, or its process is gone.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// The lock goes with it, however the process ends.
    _lock: File,
}

impl StateFolder {
    /// Makes the folder where it is missing, and takes it.
    ///
    /// # Errors
    /// [`HubError::InUse`] while another hub has it, [`HubError::Folder`] when it cannot be used.
    pub fn take(path: &Path) -> Result<Self, HubError> {
        let failed = |error| HubError::Folder { path: path.to_owned(), error };
        make(path).map_err(failed)?;
        let mut lock = lock_file(&path.join(LOCK_FILE)).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => {
                let mut pid = String::new();
                let said = lock.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let pid = said.then(|| pid.trim().to_owned());
                return Err(HubError::InUse { path: path.to_owned(), pid });
            }
            Err(error) => return Err(failed(error.into())),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a hub has the folder.
pub(super) fn is_taken(path: &Path) -> io::Result<bool> {
    let lock = match File::open(path.join(LOCK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        lock => lock?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        tried => tried.map(|()| false),
    }
}

/// Makes a folder that its user alone can enter. One that is there stays as it is.
pub(super) fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

/// A file to hold a lock on.
pub(crate) fn lock_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)
}

//! Folders and their owners.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::error::RepositoryError;

/// Pause between two attempts: flock(2) has no deadline, and the steps of others are short.
const PAUSE: Duration = Duration::from_millis(5);

/// A folder that this process has, alone or with other readers, until this is dropped. The lock is
/// on the folder itself and stays on it when it is renamed.
#[derive(Debug)]
pub(super) struct HeldFolder {
    _lock: Option<File>,
}

impl HeldFolder {
    /// Where nothing is to be had that could be held.
    pub(super) fn not_at_all() -> Self {
        Self { _lock: None }
    }

    /// Takes the folder alone; `None` when somebody has it, or it is not there (any more).
    pub(super) fn alone(path: &Path) -> Result<Option<Self>, RepositoryError> {
        Self::take(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the folder with other readers; `None` as with [`alone`](Self::alone).
    pub(super) fn shared(path: &Path) -> Result<Option<Self>, RepositoryError> {
        Self::take(path, FlockOperation::NonBlockingLockShared)
    }

    /// Takes a folder that always is there alone, once others let go of it.
    pub(super) fn wait(path: &Path, deadline: Duration) -> Result<Self, RepositoryError> {
        let end = Instant::now() + deadline;
        // What is not there will not come by waiting.
        fs::metadata(path).map_err(|error| failed(path, error))?;
        loop {
            if let Some(held) = Self::alone(path)? {
                return Ok(held);
            }
            if Instant::now() >= end {
                return Err(RepositoryError::Busy { folder: path.to_owned(), deadline });
            }
            thread::sleep(PAUSE);
        }
    }

    fn take(path: &Path, how: FlockOperation) -> Result<Option<Self>, RepositoryError> {
        let lock = match File::open(path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(path, error)),
        };
        match flock(&lock, how) {
            Ok(()) => {}
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => return Ok(None),
            Err(error) => return Err(failed(path, error.into())),
        }
        // Its last owner may have renamed or removed it meanwhile.
        let mine = lock.metadata().map_err(|error| failed(path, error))?;
        let same = fs::metadata(path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino()));
        Ok(same.then_some(Self { _lock: Some(lock) }))
    }
}

fn failed(path: &Path, error: io::Error) -> RepositoryError {
    RepositoryError::system(path, "locking the folder", error)
}

/// Makes durable which files a folder has.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The names in a folder, in their order.
pub(super) fn names(path: &Path) -> Result<Vec<String>, RepositoryError> {
    let failed = |error| RepositoryError::system(path, "listing it", error);
    let entries = fs::read_dir(path).map_err(failed)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<io::Result<Vec<String>>>().map_err(failed)?;
    names.sort_unstable();
    Ok(names)
}

/// How long a program of a process that was killed may go on: the kernel ends it, in its own time.
const DYING_DEADLINE: Duration = Duration::from_secs(5);

/// Removes a folder with all that is in it; one that is gone is no error.
pub(super) fn remove(path: &Path) -> Result<(), RepositoryError> {
    let end = Instant::now() + DYING_DEADLINE;
    let removed = loop {
        match fs::remove_dir_all(path) {
            // Its owner is dead, and one of its programs has just made another file.
            Err(error)
                if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < end => {}
            other => break other,
        }
    };
    let removed = removed.and_then(|()| match path.parent() {
        Some(parent) => sync(parent),
        None => Ok(()),
    });
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RepositoryError::system(path, "removing it", error))
        }
        _ => Ok(()),
    }
}

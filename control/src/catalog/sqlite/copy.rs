//! A copy of the catalog while it is in use.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::failure::storage;
use super::open::{reader, sync_folder};
use super::{BUSY_DEADLINE, SqliteCatalog};
use crate::catalog::Catalog;
use crate::catalog::error::{CatalogError, StorageError};

/// Between attempts while another process holds the file.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

impl Catalog for SqliteCatalog {
    fn copy_to(&self, path: &Path) -> Result<(), CatalogError> {
        if path.symlink_metadata().is_ok() {
            return Err(StorageError::Exists { path: path.to_owned() }.into());
        }
        // A connection of its own: readers go on meanwhile.
        let source = reader(&self.path, BUSY_DEADLINE)?;
        // Made under another name, so that nothing stands at `path` before it is whole. Whoever
        // is killed here leaves a file that no catalog is looked for in.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let failed = |error: io::Error| at_place(path, &error);
        let part = tempfile::Builder::new()
            .prefix(".catalog-copy-")
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .map_err(failed)?;
        fill(&source, &self.path, part.path(), path)?;
        part.as_file().sync_all().map_err(failed)?;
        part.persist_noclobber(path).map_err(|error| at_place(path, &error.error))?;
        sync_folder(path).map_err(failed)?;
        Ok(())
    }
}

/// Copies all pages in one step, which is one instant of the source.
fn fill(source: &Connection, from: &Path, part: &Path, to: &Path) -> Result<(), StorageError> {
    let failed = |error| storage(to, &error);
    let mut target = Connection::open(part).map_err(failed)?;
    {
        let copy = Backup::new(source, &mut target).map_err(failed)?;
        let until = Instant::now() + BUSY_DEADLINE;
        loop {
            match copy.step(-1).map_err(failed)? {
                StepResult::Done => break,
                _ if Instant::now() < until => thread::sleep(RETRY_PAUSE),
                _ => {
                    let waited_s = BUSY_DEADLINE.as_secs();
                    return Err(StorageError::Busy { path: from.to_owned(), waited_s });
                }
            }
        }
    }
    // The header says that there is a log beside it; a copy is a single file.
    target.pragma_update(None, "journal_mode", "DELETE").map_err(failed)?;
    target.close().map_err(|(_, error)| failed(error))
}

/// What the system said, told apart as SQLite's words are.
fn at_place(path: &Path, error: &io::Error) -> StorageError {
    let (path, detail) = (path.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::AlreadyExists => StorageError::Exists { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { path },
        io::ErrorKind::ReadOnlyFilesystem => StorageError::ReadOnly { path, detail },
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            StorageError::Denied { path, detail }
        }
        _ => StorageError::Disk { path, detail },
    }
}

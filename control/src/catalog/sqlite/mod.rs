//! The catalog as one SQLite file.
//!
//! ```text
//!   any thread ──ask──▶ Writer: one thread, one connection     all that waits, in one
//!       │                 └ transaction ▸ savepoint each ▸ commit ▸ answers
//!       └─────read──▶ one connection behind a lock             what is committed
//! ```
//!
//! One transaction for all that waits, because each commit waits for the disk: 64 clients that
//! lease at once share a few of those waits instead of standing in line for 64. Other processes
//! may use the same file; SQLite's locks order them.
//!
//! The file is never opened but by SQLite: closing any other descriptor of it would drop the
//! locks of this process (fcntl(2), POSIX record locks).

mod copy;
mod failure;
mod faults;
mod jobs;
mod leases;
mod open;
mod points;
mod publish;
mod rows;
mod schema;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use self::failure::{Failure, Outcome};
use self::writer::Writer;
use super::error::{CatalogError, StorageError};

/// The name of a repository's catalog in its folder.
pub const CATALOG_FILE: &str = "catalog.db";
/// How long a process waits for the others that have the file open.
pub const BUSY_DEADLINE: Duration = Duration::from_secs(15);

/// A catalog in a file. Cheap to share (`Arc`), to be used from any thread.
#[derive(Debug)]
pub struct SqliteCatalog {
    path: PathBuf,
    reader: Mutex<Connection>,
    /// None of a catalog that cannot be written, with the reason.
    writer: Result<Writer, StorageError>,
}

impl SqliteCatalog {
    /// Opens the catalog at `path`, and migrates it when an older program made it.
    ///
    /// # Errors
    /// [`StorageError`]: missing, no catalog, newer than this program, or not to be had.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Self::start(path, open::existing(path, BUSY_DEADLINE)?)
    }

    /// As [`open`](Self::open); one that this user can read and not write, or that is on a full file
    /// system, is opened as it is at this moment, and [`unwritable`](Self::unwritable) says so.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_read(path: &Path) -> Result<Self, StorageError> {
        use StorageError::{Corrupt, Denied, Full, Newer, NoLog, NotACatalog, ReadOnly};
        match Self::open(path) {
            Err(why @ (ReadOnly { .. } | Denied { .. } | Full { .. } | NoLog { .. })) => {
                match snapshot::snapshot(path) {
                    Ok(taken) => {
                        let (path, reader) = (path.to_owned(), Mutex::new(taken));
                        Ok(Self { path, reader, writer: Err(why) })
                    }
                    // It says more about the file.
                    Err(found @ (Newer { .. } | NotACatalog { .. } | Corrupt { .. })) => Err(found),
                    Err(_) => Err(why),
                }
            }
            opened => opened,
        }
    }

    /// Why it cannot be written, if it cannot: it was opened to be read.
    #[must_use]
    pub fn unwritable(&self) -> Option<&StorageError> {
        self.writer.as_ref().err()
    }

    /// As [`open`](Self::open); where nothing is, it makes a catalog that its user alone can
    /// read. The folder has to be there.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for missing files.
    pub fn open_or_create(path: &Path) -> Result<Self, StorageError> {
        Self::start(path, open::existing_or_new(path, BUSY_DEADLINE)?)
    }

    fn start(path: &Path, connection: Connection) -> Result<Self, StorageError> {
        let reader = open::reader(path, BUSY_DEADLINE)?;
        let writer = Writer::start(path, connection)?;
        Ok(Self { path: path.to_owned(), reader: Mutex::new(reader), writer: Ok(writer) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All that `work` reads is of one instant.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Outcome<T>) -> Result<T, CatalogError> {
        let connection = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = connection.unchecked_transaction().map_err(Failure::from);
        instant.and_then(|instant| work(&instant)).map_err(|failure| failure.at(&self.path))
    }

    /// `work` is done as a whole and durable when this returns `Ok`, else not at all.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        match &self.writer {
            Ok(writer) => writer.ask(work),
            Err(why) => Err(why.clone().into()),
        }
    }
}

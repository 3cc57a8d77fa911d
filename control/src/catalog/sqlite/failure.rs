//! What SQLite says, told apart.

use std::path::Path;

use rusqlite::ErrorCode;

use super::BUSY_DEADLINE;
use crate::catalog::error::{CatalogError, StorageError};
use crate::catalog::name::ValueError;

/// The result of work inside a transaction.
pub(super) type Outcome<T> = Result<T, Failure>;

/// Why work inside a transaction ended.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite could not do it.
    Sql(rusqlite::Error),
    /// The catalog's rules are against it.
    Refused(CatalogError),
}

impl Failure {
    pub(super) fn at(self, path: &Path) -> CatalogError {
        match self {
            Self::Sql(error) => storage(path, &error).into(),
            Self::Refused(error) => error,
        }
    }

    /// Whether a value was refused because it is there already.
    pub(super) fn is_duplicate(&self) -> bool {
        use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
        matches!(self, Self::Sql(rusqlite::Error::SqliteFailure(error, _))
            if [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE]
                .contains(&error.extended_code))
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        Self::Refused(error)
    }
}

impl From<ValueError> for Failure {
    fn from(error: ValueError) -> Self {
        Self::Refused(error.into())
    }
}

/// Sorts by what a person has to do.
pub(super) fn storage(path: &Path, error: &rusqlite::Error) -> StorageError {
    let path = path.to_owned();
    let detail = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StorageError::Busy { path, waited_s: BUSY_DEADLINE.as_secs() }
        }
        Some(ErrorCode::DiskFull) => StorageError::Full { path },
        // What cannot be had then is the log beside the file, or the index of it.
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)
            if lacks_an_index(error) || has_no_room(&path) =>
        {
            StorageError::Full { path }
        }
        Some(ErrorCode::ReadOnly) => StorageError::ReadOnly { path, detail },
        // The log beside the file is what cannot be opened then.
        Some(ErrorCode::CannotOpen) if on_read_only_media(&path) => {
            StorageError::ReadOnly { path, detail: "its file system is read-only".into() }
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            StorageError::Denied { path, detail }
        }
        Some(ErrorCode::DatabaseCorrupt) => StorageError::Corrupt { path, detail },
        Some(ErrorCode::NotADatabase) => {
            StorageError::NotACatalog { path, what: "it is not a database" }
        }
        Some(ErrorCode::SystemIoFailure) => StorageError::Disk { path, detail },
        // A value that no program of ours wrote: `rows` checks each.
        None if matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        ) =>
        {
            StorageError::Corrupt { path, detail }
        }
        _ => StorageError::Other { path, detail },
    }
}

fn lacks_an_index(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

/// Whether the file system could not even take the index of a log.
fn has_no_room(path: &Path) -> bool {
    /// What SQLite makes of it at once.
    const INDEX_BYTES: u64 = 32 << 10;
    let there = rustix::fs::statvfs(path.parent().unwrap_or(path));
    there.is_ok_and(|there| {
        !there.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
            && there.f_bavail.saturating_mul(there.f_frsize) < INDEX_BYTES
    })
}

fn on_read_only_media(path: &Path) -> bool {
    use rustix::fs::{StatVfsMountFlags, statvfs};
    let folder = path.parent().unwrap_or(path);
    statvfs(folder).is_ok_and(|there| there.f_flag.contains(StatVfsMountFlags::RDONLY))
}

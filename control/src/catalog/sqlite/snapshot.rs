//! A catalog that may be read and not written: on a file system that is read-only or full, or of
//! another user. SQLite's readers take part in the index of the log beside the file, which they
//! would have to write; so all of it is taken into memory, with one look that needs no locks.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::BUSY_DEADLINE;
use super::failure::storage;
use super::open::{log_of, migrate, settle};
use super::schema::MIGRATIONS;
use crate::catalog::error::StorageError;

/// Looks that are taken until none is met by somebody's writing: a few milliseconds each.
const ATTEMPTS: u32 = 50;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// All that the catalog at `path` has, as this program's version, in a connection that only reads.
pub(super) fn snapshot(path: &Path) -> Result<Connection, StorageError> {
    let failed = |error| storage(path, &error);
    let mut copy = taken(path)?;
    settle(&copy, BUSY_DEADLINE).map_err(failed)?;
    // One that an older program made, too: it is brought up in memory.
    migrate(&mut copy, path, MIGRATIONS)?;
    copy.pragma_update(None, "query_only", true).map_err(failed)?;
    Ok(copy)
}

fn taken(path: &Path) -> Result<Connection, StorageError> {
    let failed = |error| storage(path, &error);
    for _ in 0..ATTEMPTS {
        let before = written(path);
        let source = unlocked(path).map_err(failed)?;
        let mut copy = Connection::open_in_memory().map_err(failed)?;
        let step = Backup::new(&source, &mut copy).and_then(|copy| copy.step(-1));
        drop(source);
        // Somebody may write it after all, whom the locks that are not held here do not keep off.
        if written(path) == before {
            match step.map_err(failed)? {
                StepResult::Done => return Ok(copy),
                _ => return Err(busy(path)),
            }
        }
        thread::sleep(PAUSE);
    }
    Err(busy(path))
}

fn busy(path: &Path) -> StorageError {
    StorageError::Busy { path: path.to_owned(), waited_s: (PAUSE * ATTEMPTS).as_secs() }
}

/// Opens the file for one look, with no lock and no file beside it that would have to be made.
fn unlocked(path: &Path) -> rusqlite::Result<Connection> {
    let only_read = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let has_log = fs::metadata(log_of(path)).is_ok_and(|log| log.len() > 0);
    if !has_log {
        return Connection::open_with_flags(
            immutable(path),
            only_read | OpenFlags::SQLITE_OPEN_URI,
        );
    }
    // What is in the log belongs to it. In this mode its index is kept in memory.
    let source = Connection::open_with_flags_and_vfs(path, only_read, c"unix-none")?;
    source.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    Ok(source)
}

/// The file as SQLite names one that nobody changes (<https://sqlite.org/uri.html>).
fn immutable(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri + "?immutable=1"
}

/// What changes when somebody writes the file, or the log beside it.
fn written(path: &Path) -> [Option<(u64, u64, i64, i64)>; 2] {
    let of = |data: Metadata| (data.ino(), data.len(), data.mtime(), data.mtime_nsec());
    [path.to_owned(), log_of(path)].map(|path| fs::metadata(path).ok().map(of))
}

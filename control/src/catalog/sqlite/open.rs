//! Opening: whose file it is, which version it has, and how it is kept.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::failure::storage;
use super::schema::{APPLICATION_ID, MIGRATIONS};
use crate::catalog::error::StorageError;

/// Between attempts at what SQLite does not wait for by itself.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// The smallest page that a database can have.
const SMALLEST_BYTES: u64 = 512;
/// Statements that a connection keeps ready: about all that there are.
const KEPT_STATEMENTS: usize = 64;

/// A connection that writes, to a catalog of this program's version.
pub(super) fn existing(path: &Path, deadline: Duration) -> Result<Connection, StorageError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(StorageError::Missing { path: path.to_owned() })
        }
        Err(error) => {
            Err(StorageError::Denied { path: path.to_owned(), detail: error.to_string() })
        }
        Ok(facts) if !facts.is_file() => Err(not_a_catalog(path, "it is not a file")),
        // SQLite would take it for empty, and write over it.
        Ok(facts) if (1..SMALLEST_BYTES).contains(&facts.len()) => {
            Err(not_a_catalog(path, "it is too short"))
        }
        // What is left when its maker is killed at the very start; nothing was in it.
        Ok(facts) if facts.len() == 0 && !log_of(path).exists() => {
            Err(StorageError::Missing { path: path.to_owned() })
        }
        Ok(_) => connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, deadline, MIGRATIONS),
    }
}

/// As [`existing`], and a new catalog where nothing is.
pub(super) fn existing_or_new(path: &Path, deadline: Duration) -> Result<Connection, StorageError> {
    match existing(path, deadline) {
        Err(StorageError::Missing { .. }) => {}
        other => return other,
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = connect(path, flags, deadline, MIGRATIONS)?;
    let disk =
        |error: io::Error| StorageError::Disk { path: path.to_owned(), detail: error.to_string() };
    sync_folder(path).map_err(disk)?;
    Ok(connection)
}

/// A connection that reads what [`existing`] or [`existing_or_new`] has opened before.
pub(super) fn reader(path: &Path, deadline: Duration) -> Result<Connection, StorageError> {
    let failed = |error| storage(path, &error);
    // Not read-only to the system: a reader of a write-ahead log takes part in its index.
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    settle(&connection, deadline).map_err(failed)?;
    connection.pragma_update(None, "query_only", true).map_err(failed)?;
    Ok(connection)
}

/// Makes the name of a new file durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What holds for one connection, and has to be said to each.
pub(super) fn settle(connection: &Connection, deadline: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(deadline)?;
    connection.set_prepared_statement_cache_capacity(KEPT_STATEMENTS);
    connection.pragma_update(None, "foreign_keys", true)?;
    // A commit is on the disk when it returns; NORMAL would lose the last ones with the power.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Neither a schema nor a page that somebody prepared is trusted.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)
}

pub(super) fn connect(
    path: &Path,
    flags: OpenFlags,
    deadline: Duration,
    migrations: &[&str],
) -> Result<Connection, StorageError> {
    let failed = |error| storage(path, &error);
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(deadline).map_err(failed)?;
    // Before anything is changed in a file that may be somebody else's.
    let version = version(&connection, path, migrations)?;
    if version == 0 {
        // SQLite gives the files beside it the same permissions. By path, for no descriptor of
        // the file may be closed here.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|error| {
            StorageError::Denied { path: path.to_owned(), detail: error.to_string() }
        })?;
    }
    settle(&connection, deadline).map_err(failed)?;
    keep_log(&connection, path, deadline)?;
    migrate(&mut connection, path, migrations)?;
    Ok(connection)
}

/// The version of a catalog, 0 for an empty file.
fn version(
    connection: &Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<usize, StorageError> {
    let failed = |error| storage(path, &error);
    let (application, found, tables): (i32, i32, i64) = connection
        .query_row(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
             FROM pragma_application_id, pragma_user_version",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(failed)?;
    match (application, usize::try_from(found)) {
        (0, Ok(0)) if tables == 0 => Ok(0),
        (APPLICATION_ID, Ok(version @ 1..)) if version <= migrations.len() => Ok(version),
        (APPLICATION_ID, Ok(1..)) => Err(StorageError::Newer {
            path: path.to_owned(),
            found: found.unsigned_abs(),
            known: u32::try_from(migrations.len()).unwrap_or(u32::MAX),
        }),
        (APPLICATION_ID, _) => Err(not_a_catalog(path, "it has no version")),
        _ => Err(not_a_catalog(path, "it is the database of another program")),
    }
}

/// Switches the file to a write-ahead log, for which SQLite does not wait by itself.
fn keep_log(connection: &Connection, path: &Path, deadline: Duration) -> Result<(), StorageError> {
    let until = Instant::now() + deadline;
    loop {
        let mode = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err(StorageError::NoLog { path: path.to_owned() }),
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < until =>
            {
                thread::sleep(RETRY_PAUSE);
            }
            Err(error) => return Err(storage(path, &error)),
        }
    }
}

/// Brings an older catalog to this version, in one transaction.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), StorageError> {
    if version(connection, path, migrations)? == migrations.len() {
        return Ok(());
    }
    let failed = |error| storage(path, &error);
    let step =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    // Another process may have done it meanwhile.
    let from = version(&step, path, migrations)?;
    for migration in &migrations[from..] {
        step.execute_batch(migration).map_err(failed)?;
    }
    let last = i32::try_from(migrations.len()).expect("there are few migrations");
    step.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    step.pragma_update(None, "user_version", last).map_err(failed)?;
    step.commit().map_err(failed)
}

fn not_a_catalog(path: &Path, what: &'static str) -> StorageError {
    StorageError::NotACatalog { path: path.to_owned(), what }
}

/// The log beside a file.
pub(super) fn log_of(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

//! Faults of the file itself: a flipped bit may hide a row from those who look for it by an index,
//! and everything else goes on as if the row had never been.

use rusqlite::ErrorCode;

use super::SqliteCatalog;
use super::failure::{Failure, Outcome};
use super::rows::Ask;
use crate::catalog::error::CatalogError;

/// Faults that are told at most: one is cause enough to put a copy in the place of the file.
const MAX_TOLD: usize = 20;

impl SqliteCatalog {
    /// What SQLite finds wrong with the file: its pages, what its indexes say beside its tables, its
    /// values, and rows that lead nowhere. It is read as a whole for that.
    ///
    /// # Errors
    /// [`StorageError`](crate::catalog::StorageError) where that could not be found out.
    pub fn faults(&self) -> Result<Vec<String>, CatalogError> {
        self.read(|tables| {
            let mut faults =
                told(tables.all(&format!("PRAGMA integrity_check({MAX_TOLD})"), [], |row| {
                    row.get::<_, String>(0)
                }))?;
            faults.retain(|line| line != "ok");
            faults.extend(told(tables.all("PRAGMA foreign_key_check", [], |row| {
                let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
                Ok(format!("a row of {table} leads to none of {parent}"))
            }))?);
            faults.truncate(MAX_TOLD);
            Ok(faults)
        })
    }
}

/// The lines; a file in which they cannot even be looked for has that as its fault.
fn told(lines: Outcome<Vec<String>>) -> Outcome<Vec<String>> {
    match lines {
        Err(Failure::Sql(error))
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ) =>
        {
            Ok(vec![error.to_string()])
        }
        other => other,
    }
}

//! Lists on standard output.

use std::io::{self, Write};

use anyhow::Context as _;

/// Prints a list for people.
///
/// # Errors
/// Standard output does not take it; a pager that has seen enough is no error.
pub(crate) fn print(list: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{list}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}

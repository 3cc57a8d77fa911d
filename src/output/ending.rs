//! How a command ended, on standard output: for programs or in words.

use std::io::{self, Write};

use anyhow::Context as _;

use super::console::line;
use crate::exit::Exit;

/// Tells what came of a command: one JSON object of `as_json`, also of a failure, or `in_words` of
/// what was done. Gives back the same, unless what was done could not be told: `untold` says then
/// what nobody got to see.
///
/// # Errors
/// The command's own, or that standard output did not take the report.
pub(crate) fn tell<T>(
    ended: anyhow::Result<T>,
    json: bool,
    as_json: impl FnOnce(Result<&T, (Exit, String)>) -> anyhow::Result<()>,
    in_words: impl FnOnce(&T) -> String,
    untold: impl FnOnce(&T) -> String,
) -> anyhow::Result<T> {
    let told = match &ended {
        Ok(done) if json => as_json(Ok(done)),
        Ok(done) => writeln!(io::stdout().lock(), "{}", in_words(done))
            .context("writing to standard output"),
        Err(error) if json => as_json(Err((Exit::of_error(error), format!("{error:#}")))),
        Err(_) => Ok(()),
    };
    match (ended, told) {
        (Ok(done), Err(error)) => Err(error.context(untold(&done))),
        (Err(error), Err(unprinted)) => {
            line(&format!("{unprinted:#}"));
            Err(error)
        }
        (ended, Ok(())) => ended,
    }
}

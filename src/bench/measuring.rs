//! What all benches have in common: signals, progress, and what is told at the end.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use blockferry_control::backup::Cancellation;
use blockferry_control::bench::{BenchError, Observer, Run};
use blockferry_dataplane::Counts;

use super::options::FileOptions;
use super::plot::{self, Panel};
use super::report::Report;
use super::{csv, report};
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::lane_options::OutputOptions;
use crate::output::{Console, Progress, json, line};

const INTERRUPTED: &str =
    "interrupted: ending the servers and removing what they had; once more to stop at once";

/// What a bench is, for those who read about it.
pub(super) struct About<'a> {
    /// Its name.
    pub(super) bench: &'static str,
    /// What was asked for, for the JSON.
    pub(super) settings: serde_json::Value,
    /// What was measured, as a table.
    pub(super) table: &'a dyn Fn(&[Run]) -> String,
    /// The same as pictures.
    pub(super) panels: &'a dyn Fn(&[Run]) -> Vec<Panel>,
}

/// What is at hand while it is measured.
pub(super) struct Ground<'a> {
    pub(super) cancellation: &'a Cancellation,
    pub(super) observer: Observer<'a>,
    pub(super) console: &'a Arc<Console>,
}

/// Measures, and tells what came of it; also what was measured before it failed.
///
/// # Errors
/// Why it could not be measured, or not be told.
pub(super) fn measured(
    output: &OutputOptions,
    files: &FileOptions,
    about: &About<'_>,
    measure: impl FnOnce(&Ground<'_>, &mut dyn FnMut(Run)) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let progress = Progress::of(output.progress());
    let console = Arc::new(Console::new(progress.bar(), output.verbose));
    let cancellation = Cancellation::default();
    let calling_off = cancellation.clone();
    interrupt::listen_and_say(Arc::clone(&console), INTERRUPTED, move || {
        calling_off.cancel();
        true
    })?;
    let progress = RefCell::new(progress);
    progress.borrow_mut().start();
    let observer = |share: f64, bytes: u64| {
        let mut counts = Counts::default();
        counts.acknowledged = bytes;
        progress.borrow_mut().update(share, &counts);
    };
    let mut runs = Vec::new();
    let ground = Ground { cancellation: &cancellation, observer: &observer, console: &console };
    let ended = measure(&ground, &mut |run| {
        console.detail(&report::run_words(&run));
        runs.push(run);
    });
    console.clear();
    tell(output, files, about, &runs, ended)
}

/// Tells of a bench that was asked for wrongly, before it begins; gives back why.
pub(super) fn refused(
    output: &OutputOptions,
    bench: &'static str,
    error: anyhow::Error,
) -> anyhow::Error {
    let none = serde_json::Value::Null;
    let report = Report::of(bench, Exit::of_error(&error), Some(&error), &none, &[]);
    if output.json
        && let Err(unprinted) = json::print(&report)
    {
        line(&format!("{unprinted:#}"));
    }
    error
}

/// Tells of the runs first, then of what went wrong.
fn tell(
    output: &OutputOptions,
    files: &FileOptions,
    about: &About<'_>,
    runs: &[Run],
    ended: anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let error = ended.as_ref().err();
    let exit = error.map_or(Exit::Done, Exit::of_error);
    let written = write_files(files, about, runs);
    let told = if output.json {
        json::print(&Report::of(about.bench, exit, error, &about.settings, runs))
    } else if runs.is_empty() {
        Ok(())
    } else {
        writeln!(io::stdout().lock(), "{}", (about.table)(runs))
            .context("writing to standard output")
    };
    match ended {
        Ok(()) => written.and(told).map(|()| exit),
        Err(error) => {
            for untold in [written, told].into_iter().filter_map(Result::err) {
                line(&format!("{untold:#}"));
            }
            Err(error)
        }
    }
}

/// Nothing is written where nothing was measured: what is there from before stays.
fn write_files(files: &FileOptions, about: &About<'_>, runs: &[Run]) -> anyhow::Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    if let Some(path) = &files.csv {
        write(path, &csv::text(runs))?;
    }
    if let Some(path) = &files.plot {
        let svg = plot::svg(&(about.panels)(runs)).context("drawing the plot")?;
        write(path, &svg)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Why nothing was measured, with the code to exit with.
pub(super) fn refusal(error: &BenchError) -> anyhow::Error {
    let exit = match error {
        BenchError::Interrupted => Exit::Interrupted,
        BenchError::Request(_) => Exit::Usage,
        BenchError::Tunnel(error) if error.is_usage() => Exit::Usage,
        BenchError::Export(_)
        | BenchError::Image(_)
        | BenchError::Tunnel(_)
        | BenchError::Target { .. } => Exit::Target,
        BenchError::Lane { fault, .. } => fault.side().map_or(Exit::Failed, Exit::of_side),
        _ => Exit::Failed,
    };
    Refusal::of(exit, error.to_string())
}

//! What the commands have in common that read points.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use blockferry_control::backup::{Cancellation, Watch};
use blockferry_control::hub::RepositoryName;
use blockferry_control::reading::{ReadError, ReadSettings};
use blockferry_control::repository::{Repository, RepositoryError};
use blockferry_dataplane::Counts;
use clap::Args;

use crate::backup::Telling;
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::lane_options::{LaneOptions, OutputOptions};
use crate::output::{Console, Progress, line};
use crate::remote::{HubOption, repository_name};

/// Where points are kept.
#[derive(Args, Debug)]
pub(crate) struct RepositoryOption {
    /// The repository
    #[arg(long, value_name = "DIR", required_unless_present = "hub")]
    repository: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) remote: HubOption,
}

impl RepositoryOption {
    /// Opens it.
    ///
    /// # Errors
    /// When there is none, or it cannot be had; with the exit code for a reader.
    pub(crate) fn open(&self) -> anyhow::Result<Repository> {
        let root = self.repository.as_deref().context("--repository is required")?;
        open(root).map_err(|error| refusal(&error.into()))
    }

    /// Its name, where a hub has it.
    ///
    /// # Errors
    /// When what was named is no name.
    pub(crate) fn name(&self) -> anyhow::Result<Option<RepositoryName>> {
        repository_name(self.repository.as_ref())
    }
}

/// Opens a repository to read points of it, and tells if nothing in it can be written.
///
/// # Errors
/// When there is none, or it cannot be had.
pub(crate) fn open(root: &Path) -> Result<Repository, RepositoryError> {
    let repository = Repository::open_to_read(root)?;
    if let Some(why) = repository.unwritable() {
        line(&format!("note: the repository is only read, and what is found is not kept: {why}"));
    }
    Ok(repository)
}

/// The settings that these options make.
///
/// # Errors
/// When there is no folder for what is kept meanwhile.
pub(crate) fn settings(lane: &LaneOptions) -> anyhow::Result<ReadSettings> {
    Ok(ReadSettings { lane: lane.lane(), mover: lane.mover(), ..usual_settings()? })
}

/// The same without options.
///
/// # Errors
/// When there is no folder for what is kept meanwhile: neither the source's fault nor the target's.
pub(crate) fn usual_settings() -> anyhow::Result<ReadSettings> {
    let settings = ReadSettings::default();
    let folder = settings.folder.display();
    match fs::metadata(&settings.folder) {
        Ok(data) if data.is_dir() => Ok(settings),
        Ok(_) => Err(no_temporary(&format!("{folder} is no folder"))),
        Err(error) => Err(no_temporary(&format!("{folder}: {error}"))),
    }
}

fn no_temporary(what: &str) -> anyhow::Error {
    let said = format!("no folder for temporary files: {what}; make it, or set TMPDIR to another");
    Refusal::of(Exit::Failed, said)
}

/// Runs work that can be called off, and shows how it gets on; `totals` says what it moved.
///
/// # Errors
/// What the work fails with.
pub(crate) fn watched<T>(
    output: &OutputOptions,
    totals: impl FnOnce(&T) -> Counts,
    work: impl FnOnce(&Arc<dyn Watch>, &Cancellation) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let progress = Progress::of(output.progress());
    let console = Arc::new(Console::new(progress.bar(), output.verbose));
    let cancellation = Cancellation::default();
    let calling_off = cancellation.clone();
    interrupt::listen(Arc::clone(&console), move || {
        calling_off.cancel();
        true
    })?;
    let telling = Arc::new(Telling::new(console, progress));
    let watch: Arc<dyn Watch> = Arc::clone(&telling) as _;
    let ended = work(&watch, &cancellation);
    let counts = ended.as_ref().map_or_else(|_| Counts::default(), totals);
    telling.finish(ended.is_ok(), &counts);
    ended
}

/// The error, with its exit code.
pub(crate) fn refusal(error: &ReadError) -> anyhow::Error {
    Refusal::of(Exit::of_read(error), error.to_string())
}

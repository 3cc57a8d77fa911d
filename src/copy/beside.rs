//! The files beside a copy: what they say is read, and what they are to be is checked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::plan::AreaSet;

use crate::exit::Refusal;

/// The changed areas in a file, merged to a number of them.
pub(crate) fn areas(path: &Path, limit: usize) -> anyhow::Result<AreaSet> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| {
        Refusal::usage(format!("cannot read the changed areas {shown}: {error}"))
    })?;
    // The size of the disk is not known yet; the lane checks the areas against it.
    AreaSet::read_json(file, u64::MAX, limit)
        .map_err(|error| Refusal::usage(format!("{shown}: {error}")))
}

/// The manifest of what the target holds.
pub(super) fn base(path: &Path) -> anyhow::Result<Arc<Manifest>> {
    match Manifest::open(path) {
        Ok(manifest) => Ok(Arc::new(manifest)),
        Err(error) if error.is_wrong_request() => Err(Refusal::usage(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// A file for one lane, which is no folder.
pub(super) fn single_file(option: &str, path: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    match path {
        Some(path) if path.is_dir() => Err(Refusal::usage(format!(
            "{option} takes a file, and {} is a folder, as it is wanted with --lanes",
            path.display()
        ))),
        other => Ok(other.map(Path::to_owned)),
    }
}

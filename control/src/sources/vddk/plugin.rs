//! Whether nbdkit has the plugin, whether that is one for VMware's disks, and whether it has what it
//! needs.
//!
//! nbdkit hands a plugin its parameters before that tells of itself (`--dump-plugin`), so all that a
//! disk will be served with is tried, but for the password: no server is asked.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::cause::{self, Refusal};
use super::command;
use super::error::SourceError;
use super::settings::Settings;
use crate::child::{self, Finished, LaunchError, RunError};

/// It loads the plugin, and VMware's library if it is there.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// How the names of VMware's library begin; a number follows.
const LIBRARY: &str = "libvixDiskLib.so";
/// Where it is in the folder that VDDK is unpacked to; some have it in the folder itself.
const LIBRARY_FOLDERS: [&str; 2] = ["lib64", "."];
/// Words of nbdkit about parameters that a plugin does not take, or about any.
const NOT_TAKEN: [&str; 2] = ["unknown parameter", "does not need command line configuration"];

/// Has nbdkit load it with the parameters of a disk, and tell of it.
pub(super) fn look_at(settings: &Settings) -> Result<(), SourceError> {
    if let Some(folder) = &settings.libdir {
        let data = fs::metadata(folder);
        let is_folder = data.and_then(|data| match data.is_dir() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        });
        is_folder.map_err(|error| no_library(folder, error.to_string()))?;
    }
    let deadline = ASK_DEADLINE.min(settings.start_deadline);
    match child::run(command::look(settings), deadline) {
        Ok(Finished { status, output, .. }) if status.success() => {
            look_for_library(settings, &String::from_utf8_lossy(&output))
        }
        Ok(Finished { said, .. }) => Err(refused(settings, &said)),
        Err(RunError::TimedOut { .. }) => {
            Err(missing(settings, format!("it does not end within {deadline:?}")))
        }
        Err(RunError::Launch(LaunchError::NotFound { program })) => {
            Err(SourceError::ProgramMissing { program })
        }
        Err(RunError::Launch(LaunchError::System { what, error, .. })) => {
            Err(SourceError::System { what, error })
        }
    }
}

/// What nbdkit's words come down to.
fn refused(settings: &Settings, lines: &[String]) -> SourceError {
    let plugin = || settings.plugin.to_string_lossy().into_owned();
    let (refusal, said) = match lines.iter().find(|line| is_not_taken(line)) {
        Some(line) => cause::told(std::slice::from_ref(line)),
        None => cause::told(lines),
    };
    if refusal == Refusal::PluginMissing {
        return missing(settings, said);
    }
    let added = settings.extra.iter().find(|parameter| {
        said.contains(&format!("'{0}'", parameter.key()))
            || said.contains(&format!("\"{0}\"", parameter.key()))
    });
    match added {
        Some(parameter) => {
            let parameter = parameter.key().to_owned();
            SourceError::ParameterRefused { plugin: plugin(), parameter, said }
        }
        None if is_not_taken(&said) => SourceError::OtherPlugin { plugin: plugin(), said },
        // A value that it does not take, if it loads; and the values that are not added are right.
        None if !settings.extra.is_empty() => {
            let keys: Vec<&str> = settings.extra.iter().map(|parameter| parameter.key()).collect();
            let parameter = keys.join(", ");
            SourceError::ParameterRefused { plugin: plugin(), parameter, said }
        }
        None => missing(settings, said),
    }
}

fn is_not_taken(line: &str) -> bool {
    NOT_TAKEN.iter().any(|words| line.contains(words))
}

/// Looks for VMware's library, if the plugin is one that needs it and has not loaded it: `told` is
/// what it says of itself.
fn look_for_library(settings: &Settings, told: &str) -> Result<(), SourceError> {
    let said = |key: &str| told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if said("vddk_dll").is_some() {
        return Ok(());
    }
    let Some(usual) = said("vddk_default_libdir") else { return Ok(()) };
    let folder = settings.libdir.as_deref().unwrap_or(Path::new(usual));
    if LIBRARY_FOLDERS.iter().any(|place| has_library(&folder.join(place))) {
        return Ok(());
    }
    Err(no_library(folder, format!("it has no lib64/{LIBRARY}.N")))
}

fn has_library(folder: &Path) -> bool {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(LIBRARY))
}

fn no_library(folder: &Path, why: String) -> SourceError {
    SourceError::LibraryMissing { folder: folder.to_owned(), why }
}

fn missing(settings: &Settings, said: String) -> SourceError {
    SourceError::PluginMissing { plugin: settings.plugin.to_string_lossy().into_owned(), said }
}

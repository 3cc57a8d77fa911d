//! Whether nbdkit has the plugin.

use std::time::Duration;

use super::error::SourceError;
use super::settings::Settings;
use crate::child::{self, Finished, Launch, LaunchError, RunError};

/// It loads the plugin, and asks nobody.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// Has nbdkit load it, and tell of it.
pub(super) fn look_for(settings: &Settings) -> Result<(), SourceError> {
    let mut launch = Launch::new(&settings.nbdkit);
    launch.arg(&settings.plugin).arg("--dump-plugin").only_env(super::command::ENVIRONMENT);
    let said = match child::run(launch, ASK_DEADLINE) {
        Ok(Finished { status, .. }) if status.success() => return Ok(()),
        Ok(Finished { said, .. }) => said,
        Err(RunError::TimedOut { .. }) => vec!["it does not end in time".into()],
        Err(RunError::Launch(LaunchError::NotFound { program })) => {
            return Err(SourceError::ProgramMissing { program });
        }
        Err(RunError::Launch(LaunchError::System { what, error, .. })) => {
            return Err(SourceError::System { what, error });
        }
    };
    Err(SourceError::PluginMissing {
        plugin: settings.plugin.to_string_lossy().into_owned(),
        // What follows is advice to read nbdkit's manual.
        said: said.into_iter().next().unwrap_or_else(|| "it does not say why".into()),
    })
}

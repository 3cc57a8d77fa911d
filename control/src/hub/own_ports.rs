//! Which ports a hub has for itself, for commands on its folder: what leads elsewhere cannot be on
//! one of them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::state;
use super::state_file::{StateFile, StateFileError};

const FILE: &str = "own_ports";

/// Ports on 127.0.0.1 that are a hub's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnPorts {
    /// Where it listens itself.
    listeners: Vec<u16>,
    /// The first and the last one that it hands out.
    handed_out: Option<(u16, u16)>,
}

impl OwnPorts {
    /// Those of a hub that listens there and hands out these.
    #[must_use]
    pub fn new(
        listeners: impl IntoIterator<Item = SocketAddr>,
        handed_out: RangeInclusive<u16>,
    ) -> Self {
        let here = |at: &SocketAddr| at.ip().is_loopback() || at.ip().is_unspecified();
        let listeners = listeners.into_iter().filter(here).map(|at| at.port());
        Self { listeners: listeners.collect(), handed_out: Some(handed_out.into_inner()) }
    }

    /// Whether the port is one of them.
    #[must_use]
    pub fn has(&self, port: u16) -> bool {
        let handed_out =
            self.handed_out.is_some_and(|(first, last)| (first..=last).contains(&port));
        handed_out || self.listeners.contains(&port)
    }

    /// Writes them down for the hub that has the folder.
    ///
    /// # Errors
    /// What kept them from being written.
    pub fn keep(self, folder: &Path) -> Result<(), StateFileError> {
        StateFile::new(folder, FILE).change(|kept| {
            *kept = self;
            Ok(())
        })
    }

    /// Whether the port is one of a hub that runs on the folder. Those of one that is gone may be
    /// free, and it tells at its next start.
    pub(super) fn of_running(folder: &Path, port: u16) -> Result<bool, StateFileError> {
        let file = StateFile::<Self>::new(folder, FILE);
        let failed = |error| StateFileError::File { path: file.path(), error };
        // The lock is tried last, and seldom: a hub that starts at this moment would be refused.
        Ok(file.read()?.has(port) && state::is_taken(folder).map_err(failed)?)
    }
}

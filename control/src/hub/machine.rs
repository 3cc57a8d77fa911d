//! The hub as a whole.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DEFAULT_PORTS;
use super::error::HubError;
use super::exports::Exports;
use super::ports::{Ports, Recovery};
use super::state::StateFolder;
use super::token::TokenCheck;
use crate::catalog::SqliteCatalog;

/// Jobs of this hub.
const HUB_FILE: &str = "hub.db";
/// Jobs that callers named.
const CALLERS_FILE: &str = "callers.db";

/// How a hub is run.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The folder of its state.
    pub state: PathBuf,
    /// The ports that it hands out.
    pub ports: RangeInclusive<u16>,
}

impl HubSettings {
    /// A hub on this folder, with the [`DEFAULT_PORTS`].
    #[must_use]
    pub fn on(state: &Path) -> Self {
        Self { state: state.to_owned(), ports: DEFAULT_PORTS }
    }
}

/// A hub. Its exports end with it; its folder is free when it is dropped.
#[derive(Debug)]
pub struct Hub {
    exports: Arc<Exports>,
    ports: Arc<Ports>,
    catalog: Arc<SqliteCatalog>,
    tokens: TokenCheck,
    started: Instant,
    // The last one: whoever takes the folder next finds all else closed.
    folder: StateFolder,
}

impl Hub {
    /// Takes the folder, opens what is in it, and adopts or undoes the leases of an earlier run.
    ///
    /// # Errors
    /// [`HubError`], in one line with what to do.
    pub fn open(settings: &HubSettings) -> Result<(Self, Recovery), HubError> {
        let (first, last) = settings.ports.clone().into_inner();
        if first == 0 || first > last {
            return Err(HubError::NoPorts { first, last });
        }
        let folder = StateFolder::take(&settings.state)?;
        let catalog = Arc::new(SqliteCatalog::open_or_create(&folder.path().join(HUB_FILE))?);
        let callers = SqliteCatalog::open_or_create(&folder.path().join(CALLERS_FILE))?;
        let (ports, recovery) =
            Ports::open(settings.ports.clone(), Arc::clone(&catalog), Arc::new(callers))?;
        let hub = Self {
            exports: Arc::default(),
            ports: Arc::new(ports),
            catalog,
            tokens: TokenCheck::of(folder.path()),
            started: Instant::now(),
            folder,
        };
        Ok((hub, recovery))
    }

    /// The folder of its state.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its jobs, and what they hold.
    #[must_use]
    pub fn catalog(&self) -> &Arc<SqliteCatalog> {
        &self.catalog
    }

    /// Its ports.
    #[must_use]
    pub fn ports(&self) -> &Arc<Ports> {
        &self.ports
    }

    /// Its exports.
    #[must_use]
    pub fn exports(&self) -> &Arc<Exports> {
        &self.exports
    }

    /// Who may use its API.
    #[must_use]
    pub fn tokens(&self) -> &TokenCheck {
        &self.tokens
    }

    /// Since it was opened.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

//! The readings that run.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use super::error::ReaderError;
use super::feed::{Reading, Told};
use super::ticket::{Kind, Ticket};
use crate::catalog::{PointId, Points, SqliteCatalog};
use crate::child::held;
use crate::export::ExportSettings;
use crate::hub::{Backups, Hub, Ports, RepositoryName, SubmitError, state};
use crate::reading::ReadSettings;
use crate::repository::Repository;

/// Exports of points at once. Each has a thread, and a port for each of its disks, of which backups
/// need theirs.
pub const MAX_EXPORTS: usize = 16;
/// Verifications at once: each reads as fast as the storage can.
pub const MAX_VERIFICATIONS: usize = 4;

/// In the folder of the hub's state: sockets, and digests of what is read.
const FOLDER: &str = "reading";
const STOPPED: &str = "the hub is being stopped";

/// Who reads points through a hub.
#[derive(Debug)]
pub struct Readers {
    pub(super) shared: Arc<Shared>,
}

/// What its threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) backups: Arc<Backups>,
    pub(super) catalog: Arc<SqliteCatalog>,
    pub(super) ports: Arc<Ports>,
    pub(super) settings: ReadSettings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// A thread is taken out by who waits for its end; the reading stays until then.
    running: BTreeMap<u64, (Arc<Ticket>, Option<JoinHandle<()>>)>,
    stopping: bool,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderCounts {
    /// Exports of points.
    pub exports: usize,
    /// Verifications.
    pub verifications: usize,
}

impl Readers {
    /// For the points of a hub's repositories. What earlier readers have left in the hub's folder
    /// goes.
    ///
    /// # Errors
    /// When that folder cannot be written.
    pub fn start(hub: &Hub, backups: Arc<Backups>) -> Result<Self, ReaderError> {
        let folder = hub.folder().join(FOLDER);
        // The hub has its folder to itself, so nobody is at work there.
        if folder.exists() {
            let failed = failing(&folder, "removing what earlier readers have left");
            fs::remove_dir_all(&folder).map_err(failed)?;
        }
        state::make(&folder).map_err(failing(&folder, "making the folder"))?;
        let ports = Arc::clone(hub.ports());
        let most = ports.metrics().total.saturating_add(MAX_VERIFICATIONS);
        let settings = ReadSettings {
            exports: ExportSettings::for_exports(u16::try_from(most).unwrap_or(u16::MAX)),
            running: Arc::clone(hub.exports()),
            folder,
            ..ReadSettings::default()
        };
        let (catalog, state) = (Arc::clone(hub.catalog()), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { backups, catalog, ports, settings, state }) })
    }

    /// How many run.
    #[must_use]
    pub fn counts(&self) -> ReaderCounts {
        let state = self.shared.state();
        let count = |kind| state.of_kind(kind);
        ReaderCounts { exports: count(Kind::Export), verifications: count(Kind::Verification) }
    }

    /// Calls off all of them, and waits for their end. No other begins from then on.
    pub fn stop(&self) {
        let mut state = self.shared.state();
        state.stopping = true;
        let mut threads = Vec::new();
        for (ticket, thread) in state.running.values_mut() {
            ticket.call_off(STOPPED);
            threads.extend(thread.take());
        }
        drop(state);
        for thread in threads {
            // What one that panicked held is undone at the next start.
            let _ = thread.join();
        }
    }

    /// Begins one, on a thread of its own.
    pub(super) fn begin(
        &self,
        kind: Kind,
        work: impl FnOnce(&Shared, &Ticket, Told) + Send + 'static,
    ) -> Result<Reading, ReaderError> {
        let mut state = self.shared.state();
        if state.stopping {
            return Err(SubmitError::Stopping.into());
        }
        let (most, what) = match kind {
            Kind::Export => (MAX_EXPORTS, "exports of points"),
            Kind::Verification => (MAX_VERIFICATIONS, "verifications"),
        };
        let running = state.of_kind(kind);
        if running >= most {
            return Err(ReaderError::TooMany { running, what });
        }
        state.last += 1;
        let number = state.last;
        let ticket = Arc::new(Ticket::new(kind));
        let (reading, told) = Reading::of(Arc::clone(&ticket));
        let (shared, ours) = (Arc::clone(&self.shared), Arc::clone(&ticket));
        let thread = thread::Builder::new().name(format!("reader-{number}")).spawn(move || {
            let place = Place { shared: &shared, number };
            work(&shared, &ours, told);
            drop(place);
        });
        let failed = failing(&self.shared.settings.folder, "starting a thread");
        let thread = thread.map_err(failed)?;
        // Its thread waits for the lock that is held here before it takes itself out.
        state.running.insert(number, (ticket, Some(thread)));
        Ok(reading)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn of_kind(&self, kind: Kind) -> usize {
        self.running.values().filter(|(ticket, _)| ticket.kind == kind).count()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        held(&self.state)
    }

    /// Those that run.
    pub(super) fn tickets(&self) -> Vec<Arc<Ticket>> {
        self.state().running.values().map(|(ticket, _)| Arc::clone(ticket)).collect()
    }

    /// The repository that has a point: the one of this name, if it is named.
    pub(super) fn with_point(
        &self,
        point: PointId,
        name: Option<&RepositoryName>,
    ) -> Result<Repository, ReaderError> {
        let all = self.backups.repositories();
        let repository = match name {
            Some(name) => {
                let (_, repository) = all.named(Some(name))?;
                repository.catalog().point(point)?;
                repository
            }
            None => all.with_point(point)?.1,
        };
        Ok(repository.clone())
    }
}

/// Its place among those that run; free again however its thread ends.
struct Place<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.state().running.remove(&self.number);
    }
}

fn failing(
    path: &std::path::Path,
    what: &'static str,
) -> impl FnOnce(std::io::Error) -> ReaderError {
    let path: PathBuf = path.to_owned();
    move |error| ReaderError::System { path, what, error }
}

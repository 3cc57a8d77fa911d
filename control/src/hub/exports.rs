//! The exports that run now.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::nbd::NbdUri;

use super::ports::PortUse;
use crate::export::{Exited, Export, ExportError, ExportSettings, ExportSpec, ExportUsage};

/// What runs, for whoever wants to see it, and to be ended when the hub stops.
#[derive(Debug, Default)]
pub struct Exports {
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    last: u64,
    /// Set when the hub stops: no other is started from then on.
    stopped: bool,
    entries: BTreeMap<u64, Arc<Entry>>,
}

#[derive(Debug)]
struct Entry {
    pid: u32,
    uri: NbdUri,
    endpoint: Endpoint,
    image: PathBuf,
    started: Instant,
    /// Taken out by whoever ends it.
    export: Mutex<Option<Export>>,
    /// Keeps the port from being released.
    port: Mutex<Option<PortUse>>,
    port_number: Option<u16>,
}

/// A process as it is seen from outside.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExportFacts {
    /// Its process id.
    pub pid: u32,
    /// Its port, where it is on one.
    pub port: Option<u16>,
    /// Name of the export.
    pub name: String,
    /// What it serves.
    pub image: PathBuf,
    /// Since its start.
    pub uptime: Duration,
    /// What it takes of the machine; nothing once it is gone.
    pub usage: Option<ExportUsage>,
    /// What became of it, if it ended by itself.
    pub exited: Option<Exited>,
}

impl Exports {
    /// Starts an export, waits until it is ready, and keeps it in the list until it has ended.
    /// `port` is what its listener was had from, if it was leased.
    ///
    /// # Errors
    /// As [`Export::start`]; and [`ExportError::Exited`] when the hub stops.
    pub fn start(
        self: &Arc<Self>,
        spec: ExportSpec,
        port: Option<PortUse>,
        settings: &ExportSettings,
    ) -> Result<RunningExport, ExportError> {
        let started = Instant::now();
        let export = Export::start(spec, settings)?;
        let entry = Arc::new(Entry {
            pid: export.pid(),
            uri: export.uri().clone(),
            endpoint: export.endpoint(),
            image: export.image().to_owned(),
            started,
            export: Mutex::new(Some(export)),
            port_number: port.as_ref().map(|port| port.lease().port),
            port: Mutex::new(port),
        });
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.stopped {
            drop(running);
            let image = entry.image.clone();
            entry.end()?;
            return Err(ExportError::Exited { image, reason: "the hub stops".to_owned() });
        }
        running.last += 1;
        let number = running.last;
        running.entries.insert(number, Arc::clone(&entry));
        drop(running);
        Ok(RunningExport { number, entry, exports: Arc::clone(self) })
    }

    /// Those that run, oldest first. Reading what they use takes about a millisecond each.
    #[must_use]
    pub fn list(&self) -> Vec<ExportFacts> {
        let entries: Vec<_> = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.entries.values().cloned().collect()
        };
        entries.iter().filter_map(|entry| entry.facts()).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).entries.len()
    }

    /// Ends all of them at once, lets no other start, and says which did not end as they should.
    #[must_use]
    pub fn end_all(&self) -> Vec<ExportError> {
        let entries = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.stopped = true;
            std::mem::take(&mut running.entries)
        };
        thread::scope(|scope| {
            let ending: Vec<_> =
                entries.values().map(|entry| scope.spawn(move || entry.end())).collect();
            let ended = ending.into_iter().filter_map(|thread| thread.join().ok());
            ended.filter_map(Result::err).collect()
        })
    }

    fn forget(&self, number: u64) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.entries.remove(&number);
    }
}

impl Entry {
    /// Nothing once it is being ended.
    fn facts(&self) -> Option<ExportFacts> {
        let export = self.export.lock().unwrap_or_else(PoisonError::into_inner);
        let export = export.as_ref()?;
        Some(ExportFacts {
            pid: self.pid,
            port: self.port_number,
            name: self.uri.export.clone(),
            image: self.image.clone(),
            uptime: self.started.elapsed(),
            usage: export.usage().ok(),
            exited: export.try_exited(),
        })
    }

    fn end(&self) -> Result<(), ExportError> {
        let export = self.export.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = export.map_or(Ok(()), Export::end);
        // Only now can the port be given to another.
        drop(self.port.lock().unwrap_or_else(PoisonError::into_inner).take());
        ended
    }
}

/// An export in the list. It is ended when this is dropped; [`end`](Self::end) tells how it went.
#[derive(Debug)]
pub struct RunningExport {
    number: u64,
    entry: Arc<Entry>,
    exports: Arc<Exports>,
}

impl RunningExport {
    /// Where to find it.
    #[must_use]
    pub fn uri(&self) -> &NbdUri {
        &self.entry.uri
    }

    /// The same as an end of a lane.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.entry.endpoint.clone()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.entry.pid
    }

    /// The last lines that it wrote to stderr, oldest first; none once the hub has ended it.
    #[must_use]
    pub fn stderr_tail(&self) -> Vec<String> {
        let export = self.entry.export.lock().unwrap_or_else(PoisonError::into_inner);
        export.as_ref().map(Export::stderr_tail).unwrap_or_default()
    }

    /// What became of it, if it ended by itself; at once.
    #[must_use]
    pub fn try_exited(&self) -> Option<Exited> {
        let export = self.entry.export.lock().unwrap_or_else(PoisonError::into_inner);
        export.as_ref().and_then(Export::try_exited)
    }

    /// Ends it, as [`Export::end`] does. One that the hub has ended before is well ended.
    ///
    /// # Errors
    /// As [`Export::end`].
    pub fn end(self) -> Result<(), ExportError> {
        self.entry.end()
    }
}

impl Drop for RunningExport {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `end`.
        let _ = self.entry.end();
        self.exports.forget(self.number);
    }
}

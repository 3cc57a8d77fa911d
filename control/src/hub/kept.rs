//! An export that is kept going: for a backup that writes, for who reads a point, for who is served
//! one.

use std::path::PathBuf;
use std::sync::Arc;

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::nbd::NbdUri;

use super::address::ExportAddress;
use super::exports::{Exports, RunningExport};
use crate::export::{ExportAccess, ExportError, ExportSettings, ExportSpec};

/// What is to be exported, and where.
#[derive(Clone, Debug)]
pub(crate) struct KeptSpec {
    /// A qcow2 file.
    pub(crate) image: PathBuf,
    /// Where it is, under which name, whichever process serves it.
    pub(crate) address: ExportAddress,
    /// What may be done to it.
    pub(crate) access: ExportAccess,
    /// Connections that it is made for.
    pub(crate) connections: u16,
}

/// An export that is started anew, at the same address, when it dies. It ends with this value.
#[derive(Debug)]
pub(crate) struct KeptExport {
    spec: KeptSpec,
    exports: Arc<Exports>,
    settings: ExportSettings,
    running: RunningExport,
}

impl KeptExport {
    /// Starts it, in the list of those that run here.
    ///
    /// # Errors
    /// As [`Exports::start`].
    pub(crate) fn start(
        spec: KeptSpec,
        exports: &Arc<Exports>,
        settings: &ExportSettings,
    ) -> Result<Self, ExportError> {
        let running = start(&spec, exports, settings)?;
        Ok(Self { spec, exports: Arc::clone(exports), settings: settings.clone(), running })
    }

    /// Starts it anew if its process is gone; says what became of it then. Its clients find another
    /// process at the same address.
    ///
    /// # Errors
    /// As [`start`](Self::start); it can be tried again.
    pub(crate) fn revive(&mut self) -> Result<Option<String>, ExportError> {
        let Some(exited) = self.exited() else { return Ok(None) };
        self.running = start(&self.spec, &self.exports, &self.settings)?;
        Ok(Some(exited))
    }

    /// It as an end of a lane.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.running.endpoint()
    }

    /// Where others find it.
    pub(crate) fn uri(&self) -> &NbdUri {
        self.running.uri()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// What it said last, in one line.
    pub(crate) fn said(&self) -> String {
        self.running.stderr_tail().join(" / ")
    }

    /// What became of it, if it is gone.
    pub(crate) fn exited(&self) -> Option<String> {
        Some(self.running.try_exited()?.to_string())
    }

    /// Ends it. What it served is free then.
    ///
    /// # Errors
    /// As [`RunningExport::end`].
    pub(crate) fn end(self) -> Result<(), ExportError> {
        self.running.end()
    }
}

fn start(
    spec: &KeptSpec,
    exports: &Arc<Exports>,
    settings: &ExportSettings,
) -> Result<RunningExport, ExportError> {
    // Only who has let go of the lease meets this.
    let (listener, name, port) = spec.address.take().map_err(|error| {
        let (image, reason) = (spec.image.clone(), error.to_string());
        ExportError::Exited { image, reason }
    })?;
    let spec = ExportSpec {
        image: spec.image.clone(),
        name,
        listener,
        access: spec.access.clone(),
        connections: spec.connections,
    };
    exports.start(spec, port, settings)
}

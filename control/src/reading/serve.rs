//! Exports that lanes read from or write to, kept going.

use std::path::{Path, PathBuf};

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::nbd::NbdUri;

use super::settings::ReadSettings;
use crate::export::{ExportAccess, ExportError, ExportSpec, Listener};
use crate::hub::{ExportAddress, RunningExport};
use crate::repository::HeldLayer;

/// Its clients are our own lanes, each of which knows which it is.
const EXPORT_NAME: &str = "disk";

/// An export that is started anew, at the same address, when it dies.
#[derive(Debug)]
pub(super) struct Served {
    image: PathBuf,
    address: ExportAddress,
    access: ExportAccess,
    connections: u16,
    export: Option<RunningExport>,
}

impl Served {
    /// Starts an export of an image.
    pub(super) fn start(
        image: &Path,
        address: ExportAddress,
        access: ExportAccess,
        connections: u16,
        settings: &ReadSettings,
    ) -> Result<Self, ExportError> {
        let image = image.to_owned();
        let mut served = Self { image, address, access, connections, export: None };
        served.start_again(settings)?;
        Ok(served)
    }

    fn start_again(&mut self, settings: &ReadSettings) -> Result<(), ExportError> {
        // Only who has let go of the lease meets this.
        let (listener, name, port) = self.address.take().map_err(|error| {
            let (image, reason) = (self.image.clone(), error.to_string());
            ExportError::Exited { image, reason }
        })?;
        let spec = ExportSpec {
            image: self.image.clone(),
            name,
            listener,
            access: self.access.clone(),
            connections: self.connections,
        };
        self.export = Some(settings.running.start(spec, port, &settings.exports)?);
        Ok(())
    }

    fn export(&self) -> &RunningExport {
        self.export.as_ref().expect("it is started when it is made, and ended last")
    }

    /// It as an end of a lane.
    pub(super) fn endpoint(&self) -> Endpoint {
        self.export().endpoint()
    }

    /// Where others find it.
    pub(super) fn uri(&self) -> &NbdUri {
        self.export().uri()
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.export().pid()
    }

    /// What it said last, in one line.
    pub(super) fn said(&self) -> String {
        self.export().stderr_tail().join(" / ")
    }

    /// What became of it, if it is gone.
    pub(super) fn exited(&self) -> Option<String> {
        Some(self.export().try_exited()?.to_string())
    }

    /// Starts it anew if it is gone; says what became of it then.
    pub(super) fn revive(
        &mut self,
        settings: &ReadSettings,
    ) -> Result<Option<String>, ExportError> {
        let Some(exited) = self.exited() else { return Ok(None) };
        self.start_again(settings)?;
        Ok(Some(exited))
    }

    /// Ends it. What it served is free then.
    pub(super) fn end(mut self) -> Result<(), ExportError> {
        self.export.take().map_or(Ok(()), RunningExport::end)
    }
}

/// Serves one disk to one of our own lanes, which reads it through its chain.
pub(super) fn serve_to_read(
    held: &HeldLayer,
    settings: &ReadSettings,
) -> Result<Served, ExportError> {
    serve_to_us(&held.image, ExportAccess::ReadOnly, settings)
}

/// Serves a new image to one of our own lanes, which writes it.
pub(super) fn serve_to_write(image: &Path, settings: &ReadSettings) -> Result<Served, ExportError> {
    serve_to_us(image, ExportAccess::Writable, settings)
}

fn serve_to_us(
    image: &Path,
    access: ExportAccess,
    settings: &ReadSettings,
) -> Result<Served, ExportError> {
    let listener = Listener::unix(&settings.folder)?;
    let address = ExportAddress::Own { listener, name: EXPORT_NAME.into() };
    Served::start(image, address, access, settings.lane.connections, settings)
}

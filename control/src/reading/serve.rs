//! Exports that lanes read from or write to, kept going.

use std::path::Path;

use super::settings::ReadSettings;
use crate::export::{ExportAccess, ExportError, Listener};
use crate::hub::{ExportAddress, KeptExport, KeptSpec};
use crate::repository::HeldLayer;

/// Its clients are our own lanes, each of which knows which it is.
const EXPORT_NAME: &str = "disk";

/// Serves one disk to one of our own lanes, which reads it through its chain.
pub(super) fn serve_to_read(
    held: &HeldLayer,
    settings: &ReadSettings,
) -> Result<KeptExport, ExportError> {
    serve_to_us(&held.image, ExportAccess::ReadOnly, settings)
}

/// Serves a new image to one of our own lanes, which writes it.
pub(super) fn serve_to_write(
    image: &Path,
    settings: &ReadSettings,
) -> Result<KeptExport, ExportError> {
    serve_to_us(image, ExportAccess::Writable, settings)
}

fn serve_to_us(
    image: &Path,
    access: ExportAccess,
    settings: &ReadSettings,
) -> Result<KeptExport, ExportError> {
    let listener = Listener::unix(&settings.folder)?;
    let address = ExportAddress::Own { listener, name: EXPORT_NAME.into() };
    let (image, connections) = (image.to_owned(), settings.lane.connections);
    let spec = KeptSpec { image, address, access, connections };
    KeptExport::start(spec, &settings.running, &settings.exports)
}

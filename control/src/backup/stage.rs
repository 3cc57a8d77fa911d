//! Images and exports of a job, ready for its lanes.

use super::error::BackupError;
use super::ground::Ground;
use super::plan::Planned;
use super::request::BackupSettings;
use crate::child::each;
use crate::export::{ExportAccess, ExportError, ExportSpec};
use crate::hub::{ExportAddress, RunningExport};
use crate::image::Image;
use crate::repository::Work;

/// An export of a new image. It is started anew when it dies, at the same address.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) image: Image,
    address: ExportAddress,
    export: RunningExport,
}

impl Staged {
    /// The export.
    pub(super) fn export(&self) -> &RunningExport {
        &self.export
    }

    /// Starts the export anew if its process is gone; says what became of it then.
    pub(super) fn revive(
        &mut self,
        ground: &Ground,
        settings: &BackupSettings,
    ) -> Result<Option<String>, BackupError> {
        let Some(exited) = self.export.try_exited() else { return Ok(None) };
        self.export = start(&self.image, &self.address, ground, settings)?;
        Ok(Some(exited.to_string()))
    }

    /// Ends the export and takes its socket away.
    pub(super) fn end(self) -> Result<(), ExportError> {
        self.export.end()
    }
}

/// Makes an image and starts an export for each disk.
pub(super) fn stage(
    plans: &[Planned],
    work: &Work,
    ground: &Ground,
    settings: &BackupSettings,
) -> Result<Vec<Staged>, BackupError> {
    let numbered: Vec<(usize, &Planned)> = plans.iter().enumerate().collect();
    each(&numbered, |(disk, planned)| {
        let path = work.image(planned.plan.layer);
        let parent = planned.parent_image.as_deref();
        let size = planned.plan.size_bytes;
        let image = Image::create(&path, size, parent, settings.image_tool.clone())?.image;
        let address = ground.address(*disk, work.path())?;
        let export = start(&image, &address, ground, settings)?;
        Ok(Staged { image, address, export })
    })
}

fn start(
    image: &Image,
    address: &ExportAddress,
    ground: &Ground,
    settings: &BackupSettings,
) -> Result<RunningExport, BackupError> {
    let (listener, name, port) = address.take()?;
    let spec = ExportSpec {
        image: image.path().to_owned(),
        name,
        listener,
        access: ExportAccess::Writable,
        connections: settings.lane.connections,
    };
    Ok(ground.exports.start(spec, port, &settings.exports)?)
}

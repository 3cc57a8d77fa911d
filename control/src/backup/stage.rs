//! Images and exports of a job, ready for its lanes.

use super::error::BackupError;
use super::ground::Ground;
use super::plan::Planned;
use super::request::BackupSettings;
use crate::child::each;
use crate::export::ExportAccess;
use crate::hub::{KeptExport, KeptSpec};
use crate::image::Image;
use crate::repository::Work;

/// A new image, and the export that writes it.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) image: Image,
    pub(super) export: KeptExport,
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
        let spec = KeptSpec {
            image: image.path().to_owned(),
            address: ground.address(*disk, work.path())?,
            access: ExportAccess::Writable,
            connections: settings.lane.connections,
        };
        let export = KeptExport::start(spec, &ground.exports, &settings.exports)?;
        Ok(Staged { image, export })
    })
}

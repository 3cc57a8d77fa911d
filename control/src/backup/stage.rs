//! Images and exports of a job, ready for its lanes.

use super::error::BackupError;
use super::plan::Planned;
use super::request::BackupSettings;
use crate::child::each;
use crate::export::{Export, ExportAccess, ExportError, ExportSpec, Listener};
use crate::image::Image;
use crate::repository::Work;

/// An export of a new image. It is started anew when it dies, at the same address.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) image: Image,
    listener: Listener,
    connections: u16,
    export: Option<Export>,
}

impl Staged {
    fn start(&mut self, settings: &BackupSettings) -> Result<(), ExportError> {
        let spec = ExportSpec {
            image: self.image.path().to_owned(),
            name: EXPORT_NAME.into(),
            listener: self.listener.clone(),
            access: ExportAccess::Writable,
            connections: self.connections,
        };
        self.export = Some(Export::start(spec, &settings.exports)?);
        Ok(())
    }

    /// The export, which is there until it is ended.
    pub(super) fn export(&self) -> &Export {
        self.export.as_ref().expect("it is started when it is staged, and ended last")
    }

    /// Starts the export anew if its process is gone; says what became of it then.
    pub(super) fn revive(
        &mut self,
        settings: &BackupSettings,
    ) -> Result<Option<String>, ExportError> {
        let Some(exited) = self.export().try_exited() else { return Ok(None) };
        self.start(settings)?;
        Ok(Some(exited.to_string()))
    }

    /// Ends the export and takes its socket away.
    pub(super) fn end(mut self) -> Result<Image, ExportError> {
        self.export.take().map_or(Ok(()), Export::end)?;
        Ok(self.image)
    }
}

/// Its clients are our own lanes, each of which knows which it is.
const EXPORT_NAME: &str = "disk";

/// Makes an image and starts an export for each disk.
pub(super) fn stage(
    plans: &[Planned],
    work: &Work,
    settings: &BackupSettings,
) -> Result<Vec<Staged>, BackupError> {
    each(plans, |planned| {
        let path = work.image(planned.plan.layer);
        let parent = planned.parent_image.as_deref();
        let size = planned.plan.size_bytes;
        let new = Image::create(&path, size, parent, settings.image_tool.clone())?;
        let mut staged = Staged {
            image: new.image,
            listener: Listener::unix(work.path())?,
            connections: settings.lane.connections,
            export: None,
        };
        staged.start(settings)?;
        Ok(staged)
    })
}

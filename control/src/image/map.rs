//! Which image of a chain has what.

use serde::Deserialize;

use super::Image;
use super::error::ImageError;
use super::tool::ToolRun;

/// A range of a disk that comes from one image of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Mapped {
    /// First byte.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// How many images below this one it is that has it.
    pub(crate) depth: usize,
}

impl Image {
    /// Which images have a range of the disk, this one or those below it.
    ///
    /// # Errors
    /// [`ImageError`], also where the tables lead nowhere.
    pub(crate) fn map(&self, start: u64, length: u64) -> Result<Vec<Mapped>, ImageError> {
        let deadline = self.tool.quick_deadline;
        let run = ToolRun { tool: &self.tool, action: "map", path: &self.path, deadline };
        let range = [format!("--start-offset={start}"), format!("--max-length={length}")];
        let arguments = ["--force-share", "--output=json", "-f", "qcow2", &range[0], &range[1]];
        let path = self.path.as_os_str();
        let finished = run.run(arguments.map(AsRef::as_ref).into_iter().chain([path]))?;
        if !finished.status.success() {
            return Err(run.failure(&finished));
        }
        run.answer(&finished)
    }
}

//! What a chain holds: the manifests of its layers laid over each other.
//!
//! ```text
//!   newest   . D . . Z Z . .        D a digest, Z zeros, . absent
//!   older    D D . . . . Z .
//!   oldest   D D D . D D D .
//!            ───────────────
//!   result   D D D . Z Z Z .        of each block what the first layer has that has it
//! ```
//!
//! All layers are gone through side by side. A long stretch that is zeros, or that nobody has, is
//! taken in one step: runs of zeros are in the trailers, and what a delta does not have is a hole
//! of its file. The rest is read [`WINDOW_BLOCKS`] at a time, and of no more layers than it takes.

use std::borrow::Borrow;
use std::path::Path;

use super::format::is_absent;
use super::read::Manifest;
use super::write::ManifestWriter;
use super::{Entry, ManifestError};

/// Blocks that are looked at one by one at a time: 1,024 * 33 bytes of entries at most.
const WINDOW_BLOCKS: u64 = 1024;

/// What came of laying manifests over each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overlaid {
    /// Blocks of the disk.
    pub blocks: u64,
    /// Blocks of which no manifest says anything. Of a chain that has a full layer there are none.
    pub absent: u64,
}

impl Manifest {
    /// Writes what the layers of a chain hold together to `path`, from their manifests, the newest
    /// first. Of each block the first manifest counts that is not [`Entry::Absent`] there. Memory:
    /// the runs of zeros of all manifests, and one window of entries.
    ///
    /// `path` may be that of one of the manifests: it is replaced at the end.
    ///
    /// # Errors
    /// No manifests at all; manifests with another algorithm or another size of the disk; a
    /// damaged entry; failures of the file system. There is no new file then.
    pub fn overlay(
        newest_first: &[impl Borrow<Self>],
        path: &Path,
    ) -> Result<Overlaid, ManifestError> {
        let mut manifests = newest_first.iter().map(Borrow::borrow);
        let newest: &Self = manifests.next().ok_or(ManifestError::NoLayers)?;
        for older in manifests {
            newest.check_comparable(older)?;
        }
        let writer = ManifestWriter::create(path, newest.algorithm(), newest.disk_size())?;
        let layers = newest_first.iter().map(|manifest| Layer::of(manifest.borrow())).collect();
        let blocks = newest.blocks();
        let pile =
            Pile { layers, blocks, writer, window: Vec::new(), chunk: Vec::new(), absent: 0 };
        pile.merge()
    }
}

/// The layers, and where what they come to goes.
struct Pile<'a> {
    layers: Vec<Layer<'a>>,
    blocks: u64,
    writer: ManifestWriter,
    /// What is found of the blocks in hand.
    window: Vec<Entry>,
    /// The entries of one layer, as bytes.
    chunk: Vec<u8>,
    absent: u64,
}

/// What can be said of the blocks from some block on, up to another.
enum Stretch {
    Zero(u64),
    Absent(u64),
    /// They have to be looked at one by one.
    Mixed,
}

impl Pile<'_> {
    fn merge(mut self) -> Result<Overlaid, ManifestError> {
        let mut at = 0;
        while at < self.blocks {
            at = match self.stretch(at) {
                Stretch::Zero(end) => {
                    self.writer.record_zero(at..end)?;
                    end
                }
                Stretch::Absent(end) => {
                    self.absent += end - at;
                    end
                }
                Stretch::Mixed => self.take_window(at)?,
            };
        }
        self.writer.finish()?;
        Ok(Overlaid { blocks: self.blocks, absent: self.absent })
    }

    /// What all layers together say from `at` on, where it is worth a step of its own.
    fn stretch(&mut self, at: u64) -> Stretch {
        let mut end = self.blocks;
        let least = (at + WINDOW_BLOCKS).min(self.blocks);
        for layer in &mut self.layers {
            let found = layer.stretch(at);
            match found {
                Stretch::Zero(to) if end.min(to) >= least => return Stretch::Zero(end.min(to)),
                Stretch::Absent(to) if end.min(to) >= least => end = end.min(to),
                Stretch::Zero(_) | Stretch::Absent(_) | Stretch::Mixed => return Stretch::Mixed,
            }
        }
        Stretch::Absent(end)
    }

    /// Looks at the blocks from `at` on one by one; returns the first that it did not look at.
    fn take_window(&mut self, at: u64) -> Result<u64, ManifestError> {
        let end = (at + WINDOW_BLOCKS).min(self.blocks);
        let count = usize::try_from(end - at).unwrap_or(usize::MAX);
        self.window.clear();
        self.window.resize(count, Entry::Absent);
        let mut left = count;
        for layer in &mut self.layers {
            if left == 0 {
                break;
            }
            left -= layer.fill(at, &mut self.window, &mut self.chunk)?;
        }
        self.absent += u64::try_from(left).unwrap_or(u64::MAX);
        self.writer.record_entries(at, &self.window)?;
        Ok(end)
    }
}

/// One manifest, gone through from its start.
struct Layer<'a> {
    manifest: &'a Manifest,
    /// The first run of zeros that does not end before where we are.
    run: usize,
}

impl<'a> Layer<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        Self { manifest, run: 0 }
    }

    fn stretch(&mut self, at: u64) -> Stretch {
        let zeros = self.manifest.zeros.as_slice();
        while zeros.get(self.run).is_some_and(|run| run.end() <= at) {
            self.run += 1;
        }
        let next_zero = match zeros.get(self.run) {
            Some(run) if run.start <= at => return Stretch::Zero(run.end()),
            Some(run) => run.start,
            None => self.manifest.blocks(),
        };
        match self.manifest.absent_until(at).min(next_zero) {
            end if end > at => Stretch::Absent(end),
            _ => Stretch::Mixed,
        }
    }

    /// Puts what the layer has of the blocks from `at` on into the window where that has nothing
    /// yet; returns of how many blocks that was.
    fn fill(
        &mut self,
        at: u64,
        window: &mut [Entry],
        chunk: &mut Vec<u8>,
    ) -> Result<usize, ManifestError> {
        let count = u64::try_from(window.len()).unwrap_or(u64::MAX);
        let stretch = self.stretch(at);
        match stretch {
            Stretch::Absent(end) if end >= at + count => return Ok(0),
            Stretch::Zero(end) if end >= at + count => chunk.clear(),
            _ => self.manifest.read_chunk(at, count, chunk)?,
        }
        let stride = self.manifest.stride();
        let zeros = &self.manifest.zeros.as_slice()[self.run..];
        let mut zeros = zeros.iter().peekable();
        let mut filled = 0;
        let mut entries = chunk.chunks_exact(stride);
        for (index, place) in (at..).zip(window) {
            let entry = entries.next().unwrap_or_default();
            while zeros.next_if(|run| run.end() <= index).is_some() {}
            if !matches!(place, Entry::Absent) {
                continue;
            }
            if zeros.peek().is_some_and(|run| run.start <= index) {
                *place = Entry::Zero;
            } else if is_absent(entry) {
                continue;
            } else {
                *place = self.manifest.read_entry(index, entry)?;
            }
            filled += 1;
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests;

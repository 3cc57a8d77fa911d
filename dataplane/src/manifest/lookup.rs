//! Looking entries up by their blocks.

use std::sync::Arc;

use super::read::Manifest;
use super::{Entry, ManifestError};

/// Blocks whose entries are read at a time: those of 64 MiB of a disk, 34 KiB with BLAKE3.
const WINDOW_BLOCKS: u64 = 1024;

/// Answers for blocks in roughly ascending order: reads are answered in any order, but no further
/// apart than what is in flight.
///
/// Two windows of entries are held, so that two places next to each other do not take turns in
/// pushing the other one out. They are read when they are first needed, one system call each.
#[derive(Debug)]
pub(crate) struct Lookup {
    manifest: Arc<Manifest>,
    /// That of an even number, and that of an odd one.
    windows: [Window; 2],
}

#[derive(Debug, Default)]
struct Window {
    number: u64,
    /// Its entries, as bytes; empty: none yet.
    chunk: Vec<u8>,
}

impl Lookup {
    pub(crate) fn new(manifest: Arc<Manifest>) -> Self {
        Self { manifest, windows: Default::default() }
    }

    /// Bytes of the disk in a block.
    pub(crate) fn block_bytes(&self, index: u64) -> usize {
        self.manifest.block_bytes(index)
    }

    /// What the manifest says of a block; of zeros that were digested, that they are zeros.
    ///
    /// # Errors
    /// A block behind the end of the disk, a failed read, a damaged entry.
    pub(crate) fn entry(&mut self, index: u64) -> Result<Entry, ManifestError> {
        let blocks = self.manifest.blocks();
        if index >= blocks {
            return Err(ManifestError::NoSuchBlock { index, blocks });
        }
        if self.manifest.zeros_until(index).is_some() {
            return Ok(Entry::Zero);
        }
        let number = index / WINDOW_BLOCKS;
        let first = number * WINDOW_BLOCKS;
        let window = &mut self.windows[usize::from(number % 2 == 1)];
        if window.number != number || window.chunk.is_empty() {
            let count = WINDOW_BLOCKS.min(blocks - first);
            // Should that fail, nothing of it may be taken for entries.
            let mut chunk = std::mem::take(&mut window.chunk);
            self.manifest.read_chunk(first, count, &mut chunk)?;
            *window = Window { number, chunk };
        }
        let stride = self.manifest.stride();
        let at = usize::try_from(index - first).expect("less than a window's blocks") * stride;
        match self.manifest.read_entry(index, &window.chunk[at..at + stride])? {
            Entry::Data(digest) if digest == self.manifest.zero_digest(index) => Ok(Entry::Zero),
            entry => Ok(entry),
        }
    }

    /// The first block of `first..end` that is zeros where `first` is not, or the other way round,
    /// and whether `first` is zeros.
    ///
    /// # Errors
    /// As [`entry`](Self::entry).
    pub(crate) fn zeros_from(
        &mut self,
        first: u64,
        end: u64,
    ) -> Result<(u64, bool), ManifestError> {
        let zeros = self.entry(first)? == Entry::Zero;
        let mut at = first;
        while at < end {
            at = match self.manifest.zeros_until(at) {
                Some(until) if zeros => until,
                None if (self.entry(at)? == Entry::Zero) == zeros => at + 1,
                _ => break,
            };
        }
        Ok((at.min(end), zeros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestAlgorithm;
    use crate::manifest::ManifestWriter;

    const BLOCKS: u64 = 5 * WINDOW_BLOCKS + 3;

    fn lookup() -> (tempfile::TempDir, Lookup) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let algorithm = DigestAlgorithm::Blake3;
        let mut writer = ManifestWriter::create(&path, algorithm, BLOCKS * 65_536 - 5).unwrap();
        for index in (0..BLOCKS).step_by(3) {
            writer.record(index, &algorithm.digest_block(&index.to_le_bytes())).unwrap();
        }
        writer.record_zero(2000..3000).unwrap();
        // Zeros that were digested, next to a run and in the short block at the end.
        writer.record(3000, &algorithm.zero_block_digest()).unwrap();
        writer.record(BLOCKS - 1, &algorithm.zero_digest(65_531)).unwrap();
        writer.finish().unwrap();
        (folder, Lookup::new(Arc::new(Manifest::open(&path).unwrap())))
    }

    #[test]
    fn every_block_is_found_in_whatever_order_they_are_asked_for() {
        let (_folder, mut lookup) = lookup();
        let expected = |index: u64| match index {
            2000..=3000 => Entry::Zero,
            index if index == BLOCKS - 1 => Entry::Zero,
            index if index % 3 == 0 => {
                Entry::Data(DigestAlgorithm::Blake3.digest_block(&index.to_le_bytes()))
            }
            _ => Entry::Absent,
        };
        let mut index = 0;
        for _ in 0..3 * BLOCKS {
            // A step that meets them all, far apart and near by in turn.
            index = (index + if index % 2 == 0 { 1 } else { 1777 }) % BLOCKS;
            assert_eq!(lookup.entry(index).unwrap(), expected(index), "{index}");
        }
        for index in 0..BLOCKS {
            assert_eq!(lookup.entry(index).unwrap(), expected(index), "{index}");
        }
        assert!(matches!(lookup.entry(BLOCKS), Err(ManifestError::NoSuchBlock { .. })));
    }

    #[test]
    fn a_stretch_of_zeros_ends_where_the_first_other_block_is() {
        let (_folder, mut lookup) = lookup();
        assert_eq!(lookup.zeros_from(2000, BLOCKS).unwrap(), (3001, true));
        assert_eq!(lookup.zeros_from(2500, 2600).unwrap(), (2600, true));
        assert_eq!(lookup.zeros_from(10, BLOCKS).unwrap(), (2000, false));
        assert_eq!(lookup.zeros_from(3001, BLOCKS).unwrap(), (BLOCKS - 1, false));
        assert_eq!(lookup.zeros_from(BLOCKS - 1, BLOCKS).unwrap(), (BLOCKS, true));
    }
}

//! Writing a manifest.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::format::{Header, Layout, checksum, encode_runs};
use super::partial::{self, Id, new_id};
use super::{Entry, MAX_ZERO_RUNS, ManifestError};
use crate::digest::{Digest, DigestAlgorithm};
use crate::plan::{Area, AreaSet};

/// Entries that are put together for one write: 1,024 * 33 bytes at most.
const ENTRIES_PER_WRITE: u64 = 1024;

/// Records the digests of a disk's blocks, in any order. What is recorded of a block last counts.
///
/// Memory: [`MAX_ZERO_RUNS`] runs of 16 bytes and one write of entries.
#[derive(Debug)]
pub struct ManifestWriter {
    pub(super) file: File,
    pub(super) path: PathBuf,
    partial: PathBuf,
    pub(super) layout: Layout,
    /// Runs of zero blocks, in blocks.
    pub(super) zeros: AreaSet,
    max_runs: usize,
    buffer: Vec<u8>,
    pub(super) id: Id,
    /// Number of the last checkpoint.
    pub(super) checkpoints: u64,
    /// The file stays when the writer is dropped.
    pub(super) kept: bool,
}

impl ManifestWriter {
    /// Begins the manifest of a disk of `disk_size` bytes, in `path` with `.partial` appended;
    /// what an earlier run left there is overwritten, and `path` itself is replaced at the end.
    ///
    /// # Errors
    /// As [`check_place`](Self::check_place); the file cannot be made, or the disk is too large.
    pub fn create(
        path: &Path,
        algorithm: DigestAlgorithm,
        disk_size: u64,
    ) -> Result<Self, ManifestError> {
        let layout =
            Layout::new(algorithm, disk_size).ok_or(ManifestError::DiskTooLarge { disk_size })?;
        Self::check_place(path)?;
        let partial = partial_path(path);
        let failed = |source| io_error("create", &partial, source);
        let id = new_id().map_err(failed)?;
        // It may have become a link since it was looked at.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&partial)
            .map_err(failed)?;
        let mut writer = Self::of_file(file, path, layout);
        writer.id = id;
        let begun = writer.file.write_all_at(&partial::MAGIC, 0);
        // All entries are absent: a hole of the file.
        begun
            .and_then(|()| writer.file.set_len(layout.trailer_at()))
            .map_err(|source| writer.failed("write", source))?;
        Ok(writer)
    }

    pub(super) fn of_file(file: File, path: &Path, layout: Layout) -> Self {
        Self {
            file,
            path: path.to_owned(),
            partial: partial_path(path),
            layout,
            zeros: AreaSet::new(),
            max_runs: MAX_ZERO_RUNS,
            buffer: Vec::new(),
            id: Id::default(),
            checkpoints: 0,
            kept: false,
        }
    }

    /// Where the manifest `path` is until it is complete.
    #[must_use]
    pub fn partial_path(path: &Path) -> PathBuf {
        partial_path(path)
    }

    /// The algorithm of the digests.
    #[must_use]
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.layout.algorithm
    }

    /// Number of blocks of the disk; the last one may be short.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.layout.blocks()
    }

    /// Records the digest of one block.
    ///
    /// # Errors
    /// As [`record_blocks`](Self::record_blocks).
    pub fn record(&mut self, index: u64, digest: &Digest) -> Result<(), ManifestError> {
        self.record_blocks(index, std::slice::from_ref(digest))
    }

    /// Records the digests of consecutive blocks from `first` on, with one write (one for each
    /// 1,024 of them).
    ///
    /// # Errors
    /// A block behind the end of the disk, a digest of another algorithm, a failed write.
    pub fn record_blocks(&mut self, first: u64, digests: &[Digest]) -> Result<(), ManifestError> {
        let count = u64::try_from(digests.len()).unwrap_or(u64::MAX);
        self.check_blocks(first..first.saturating_add(count))?;
        let algorithm = self.layout.algorithm;
        let expected = algorithm.digest_bytes();
        if let Some(foreign) = digests.iter().find(|digest| digest.as_bytes().len() != expected) {
            return Err(ManifestError::ForeignDigest {
                length: foreign.as_bytes().len(),
                algorithm,
            });
        }
        self.write_entries(first, digests.iter().map(|digest| Entry::Data(*digest)))?;
        self.zeros.remove(Area::new(first, count));
        self.spill_if_full()
    }

    /// Records what is known of consecutive blocks from `first` on, with one write. Of what is
    /// absent nothing is left that was recorded before.
    pub(super) fn record_entries(
        &mut self,
        first: u64,
        entries: &[Entry],
    ) -> Result<(), ManifestError> {
        let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        self.check_blocks(first..first.saturating_add(count))?;
        // Under a run of zeros the entries are as if they had never been written.
        let written = |entry: &Entry| match entry {
            Entry::Zero => Entry::Absent,
            other => *other,
        };
        self.write_entries(first, entries.iter().map(written))?;
        self.zeros.remove(Area::new(first, count));
        let mut at = first;
        for run in entries.chunk_by(|one, other| (*one == Entry::Zero) == (*other == Entry::Zero)) {
            let length = u64::try_from(run.len()).unwrap_or(u64::MAX);
            if run[0] == Entry::Zero {
                self.zeros.insert(Area::new(at, length));
            }
            at += length;
        }
        self.spill_if_full()
    }

    /// Records that the blocks `range` are zeros. A run costs the same for one block as for a
    /// terabyte of them.
    ///
    /// # Errors
    /// A block behind the end of the disk, a failed write.
    pub fn record_zero(&mut self, range: Range<u64>) -> Result<(), ManifestError> {
        self.check_blocks(range.clone())?;
        self.zeros.insert(Area::between(range.start, range.end));
        self.spill_if_full()
    }

    /// Completes the file: trailer, header, fsync, the final name, fsync of the folder.
    ///
    /// # Errors
    /// A step failed; there is no file with the final name then, or still the one before.
    pub fn finish(mut self) -> Result<(), ManifestError> {
        let trailer = encode_runs(&self.zeros);
        let header = Header {
            layout: self.layout,
            runs: u64::try_from(self.zeros.len()).unwrap_or(u64::MAX),
            trailer_checksum: checksum(&trailer),
        };
        let trailer_at = self.layout.trailer_at();
        let length = trailer_at + u64::try_from(trailer.len()).unwrap_or(u64::MAX);
        let write = self
            .file
            .write_all_at(&trailer, trailer_at)
            .and_then(|()| self.file.write_all_at(&header.encode(), 0))
            // Checkpoints lay behind.
            .and_then(|()| self.file.set_len(length));
        write.map_err(|source| self.failed("write", source))?;
        self.file.sync_all().map_err(|source| self.failed("sync", source))?;
        std::fs::rename(&self.partial, &self.path)
            .map_err(|source| self.failed("rename", source))?;
        self.kept = true;
        sync_folder_of(&self.path)
            .map_err(|source| io_error("sync the folder of", &self.path, source))
    }

    #[cfg(test)]
    pub(super) fn set_max_runs(&mut self, max_runs: usize) {
        self.max_runs = max_runs;
    }

    fn check_blocks(&self, range: Range<u64>) -> Result<(), ManifestError> {
        let blocks = self.blocks();
        if range.start <= range.end && range.end <= blocks {
            return Ok(());
        }
        Err(ManifestError::NoSuchBlock {
            index: range.end.max(range.start).saturating_sub(1),
            blocks,
        })
    }

    fn write_entries(
        &mut self,
        mut first: u64,
        mut entries: impl ExactSizeIterator<Item = Entry>,
    ) -> Result<(), ManifestError> {
        while entries.len() > 0 {
            self.buffer.clear();
            let mut count = 0;
            while count < ENTRIES_PER_WRITE
                && let Some(entry) = entries.next()
            {
                self.layout.put_entry(entry, &mut self.buffer);
                count += 1;
            }
            self.file
                .write_all_at(&self.buffer, self.layout.entry_at(first))
                .map_err(|source| self.failed("write", source))?;
            first += count;
        }
        Ok(())
    }

    fn write_zero_entries(&mut self, run: Area) -> Result<(), ManifestError> {
        let mut first = run.start;
        while first < run.end() {
            let count = (run.end() - first).min(ENTRIES_PER_WRITE);
            let entries = usize::try_from(count).unwrap_or(1);
            self.write_entries(first, std::iter::repeat_n(Entry::Zero, entries))?;
            first += count;
        }
        Ok(())
    }

    /// Makes the shorter half of the runs entries, once there are too many.
    fn spill_if_full(&mut self) -> Result<(), ManifestError> {
        if self.zeros.len() <= self.max_runs {
            return Ok(());
        }
        let kept = self.zeros.clone().longest(self.max_runs.div_ceil(2));
        for run in &self.zeros.subtract(&kept) {
            self.write_zero_entries(run)?;
        }
        self.zeros = kept;
        Ok(())
    }

    pub(super) fn failed(&self, action: &'static str, source: io::Error) -> ManifestError {
        io_error(action, &self.partial, source)
    }
}

impl Drop for ManifestWriter {
    fn drop(&mut self) {
        if !self.kept {
            // Nobody is left to hear of a failure, and the next run overwrites the file.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> ManifestError {
    ManifestError::Io { action, path: path.to_owned(), source }
}

/// Where a manifest is until it is complete.
pub(super) fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

//! Reading a manifest, and comparing two.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

use super::format::{
    HEADER_BYTES, Header, HeaderProblem, Layout, MAX_STRIDE, RUN_BYTES, VERSION, checksum,
    decode_runs,
};
use super::write::io_error;
use super::{Entry, MAX_ZERO_RUNS, ManifestError};
use crate::digest::{DIGEST_BLOCK, Digest, DigestAlgorithm};
use crate::plan::AreaSet;

/// Entries that an iterator reads at a time: 1,024 * 33 bytes at most.
const ENTRIES_PER_READ: u64 = 1024;

/// A complete manifest, open for reading. Memory: its runs of zeros, 1 MiB at most.
#[derive(Debug)]
pub struct Manifest {
    pub(super) file: File,
    pub(super) path: PathBuf,
    layout: Layout,
    /// Runs of zero blocks, in blocks.
    pub(super) zeros: AreaSet,
}

impl Manifest {
    /// Opens a manifest and checks its header, its length, and its runs of zeros.
    ///
    /// # Errors
    /// A file that cannot be read, is no manifest, is of another version, is damaged or cut.
    pub fn open(path: &Path) -> Result<Self, ManifestError> {
        let damaged = |problem: String| ManifestError::Damaged { path: path.to_owned(), problem };
        let failed = |source| io_error("read", path, source);
        let file = File::open(path).map_err(failed)?;
        let file_size = file.metadata().map_err(failed)?.len();
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ManifestError::NotAManifest { path: path.to_owned() },
            _ => failed(source),
        })?;
        let header = Header::decode(&header).map_err(|problem| match problem {
            HeaderProblem::Magic => ManifestError::NotAManifest { path: path.to_owned() },
            HeaderProblem::Version(version) => {
                ManifestError::Version { path: path.to_owned(), version, supported: VERSION }
            }
            HeaderProblem::Damaged(problem) => damaged(problem),
        })?;
        let layout = header.layout;
        let runs = usize::try_from(header.runs).ok().filter(|runs| *runs <= MAX_ZERO_RUNS);
        let runs = runs.ok_or_else(|| damaged("it has too many runs of zeros".to_owned()))?;
        let expected_size = layout.trailer_at() + header.runs * RUN_BYTES;
        if file_size != expected_size {
            return Err(damaged(format!("it has {file_size} bytes instead of {expected_size}")));
        }
        let mut trailer = vec![0; runs * 16];
        file.read_exact_at(&mut trailer, layout.trailer_at()).map_err(failed)?;
        let zeros = Some(trailer)
            .filter(|trailer| checksum(trailer) == header.trailer_checksum)
            .and_then(|trailer| decode_runs(&trailer, layout.blocks()))
            .ok_or_else(|| damaged("its runs of zeros are not what was written".to_owned()))?;
        Ok(Self { file, path: path.to_owned(), layout, zeros })
    }

    /// Bytes that the manifest of a disk of this size has at most, whatever its algorithm.
    #[must_use]
    pub fn most_bytes(disk_size: u64) -> u64 {
        let blocks = disk_size.div_ceil(DIGEST_BLOCK as u64);
        let entries = blocks.saturating_mul(MAX_STRIDE as u64);
        let runs = MAX_ZERO_RUNS as u64 * RUN_BYTES;
        entries.saturating_add(HEADER_BYTES as u64 + runs)
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The algorithm of the digests.
    #[must_use]
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.layout.algorithm
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub fn disk_size(&self) -> u64 {
        self.layout.disk_size
    }

    /// Number of blocks of the disk; the last one may be short.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.layout.blocks()
    }

    /// What the manifest says of block `index`.
    ///
    /// # Errors
    /// A block behind the end of the disk, a failed read, a damaged entry.
    pub fn entry(&self, index: u64) -> Result<Entry, ManifestError> {
        let blocks = self.blocks();
        if index >= blocks {
            return Err(ManifestError::NoSuchBlock { index, blocks });
        }
        if self.zeros_until(index).is_some() {
            return Ok(Entry::Zero);
        }
        let mut bytes = [0; MAX_STRIDE];
        let bytes = &mut bytes[..=self.layout.algorithm.digest_bytes()];
        self.file
            .read_exact_at(bytes, self.layout.entry_at(index))
            .map_err(|source| io_error("read", &self.path, source))?;
        self.read_entry(index, bytes)
    }

    /// All entries, in the order of the blocks, read in large steps. The iterator ends after an
    /// error.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries {
            manifest: self,
            index: 0,
            run: 0,
            chunk_start: 0,
            chunk: Vec::new(),
            failed: false,
        }
    }

    /// Compares the blocks of two manifests of disks of one size, in the order of the blocks.
    ///
    /// # Errors
    /// Manifests with another algorithm or another size of the disk.
    pub fn compare<'a>(&'a self, other: &'a Self) -> Result<Compare<'a>, ManifestError> {
        self.check_comparable(other)?;
        Ok(Compare { mine: self.entries(), theirs: other.entries(), at: 0, next: None })
    }

    /// Refuses a manifest whose blocks are not the blocks of this one.
    pub(super) fn check_comparable(&self, other: &Self) -> Result<(), ManifestError> {
        let incomparable = |field, one: String, theirs: String| ManifestError::Incomparable {
            path: self.path.clone(),
            other_path: other.path.clone(),
            field,
            one,
            other: theirs,
        };
        if self.algorithm() != other.algorithm() {
            let (one, theirs) = (self.algorithm().to_string(), other.algorithm().to_string());
            return Err(incomparable("the digest", one, theirs));
        }
        if self.disk_size() != other.disk_size() {
            let (one, theirs) = (self.disk_size().to_string(), other.disk_size().to_string());
            return Err(incomparable("the size of the disk in bytes", one, theirs));
        }
        Ok(())
    }

    /// Bytes of the disk in a block: all but the last one are full.
    pub(super) fn block_bytes(&self, index: u64) -> usize {
        self.layout.block_bytes(index)
    }

    /// The first block behind the run of zeros that a block lies in, if it lies in one.
    pub(super) fn zeros_until(&self, index: u64) -> Option<u64> {
        let runs = self.zeros.as_slice();
        let run = runs.get(runs.partition_point(|run| run.end() <= index))?;
        (run.start <= index).then(|| run.end())
    }

    /// Bytes of an entry.
    pub(super) fn stride(&self) -> usize {
        1 + self.algorithm().digest_bytes()
    }

    /// Reads the entries of `count` blocks from `first` on, as bytes.
    pub(super) fn read_chunk(
        &self,
        first: u64,
        count: u64,
        chunk: &mut Vec<u8>,
    ) -> Result<(), ManifestError> {
        let length = usize::try_from(count * self.layout.stride());
        chunk.resize(length.expect("a window of entries fits into memory"), 0);
        self.file
            .read_exact_at(chunk, self.layout.entry_at(first))
            .map_err(|source| io_error("read", &self.path, source))
    }

    /// The first block behind `index` of which the entries have anything to say, as far as the
    /// holes of the file tell: `index` itself where they tell nothing. Runs of zeros are another
    /// matter.
    pub(super) fn absent_until(&self, index: u64) -> u64 {
        let at = self.layout.entry_at(index);
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            // A hole reads as zeros, and an entry of zeros is one that was never recorded.
            Ok(data) => index + data.saturating_sub(at) / self.layout.stride(),
            Err(rustix::io::Errno::NXIO) => self.blocks(),
            Err(_) => index,
        }
        .min(self.blocks())
    }

    pub(super) fn read_entry(&self, index: u64, bytes: &[u8]) -> Result<Entry, ManifestError> {
        Layout::read_entry(bytes).map_err(|tag| ManifestError::Damaged {
            path: self.path.clone(),
            problem: format!("the entry of block {index} has the unknown tag {tag}"),
        })
    }

    /// The digest of a block that is known to be zeros.
    pub(super) fn zero_digest(&self, index: u64) -> Digest {
        self.layout.algorithm.zero_digest(self.layout.block_bytes(index))
    }
}

/// The iterator of [`Manifest::entries`].
#[derive(Debug)]
pub struct Entries<'a> {
    manifest: &'a Manifest,
    index: u64,
    /// The first run of zeros that does not end before `index`.
    run: usize,
    chunk_start: u64,
    chunk: Vec<u8>,
    failed: bool,
}

impl Entries<'_> {
    fn read_next(&mut self) -> Result<Entry, ManifestError> {
        let zeros = self.manifest.zeros.as_slice();
        while zeros.get(self.run).is_some_and(|run| run.end() <= self.index) {
            self.run += 1;
        }
        if zeros.get(self.run).is_some_and(|run| run.start <= self.index) {
            return Ok(Entry::Zero);
        }
        let stride = self.manifest.stride();
        let place = |start: u64| usize::try_from(self.index - start).ok()?.checked_mul(stride);
        let held = place(self.chunk_start).filter(|at| *at < self.chunk.len());
        let at = match held {
            Some(at) => at,
            None => {
                self.fill()?;
                0
            }
        };
        self.manifest.read_entry(self.index, &self.chunk[at..at + stride])
    }

    fn fill(&mut self) -> Result<(), ManifestError> {
        let count = (self.manifest.blocks() - self.index).min(ENTRIES_PER_READ);
        self.chunk_start = self.index;
        self.manifest.read_chunk(self.index, count, &mut self.chunk)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.index >= self.manifest.blocks() {
            return None;
        }
        let entry = self.read_next();
        self.failed = entry.is_err();
        self.index += 1;
        Some(entry)
    }
}

/// What two manifests say of the same blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The content is the same.
    Same,
    /// The content differs.
    Different,
    /// At least one of them does not have the block.
    Unknown,
}

/// The iterator of [`Manifest::compare`]: ranges of blocks, as long as they can be, without gaps.
#[derive(Debug)]
pub struct Compare<'a> {
    mine: Entries<'a>,
    theirs: Entries<'a>,
    /// First block of the range to hand out next.
    at: u64,
    /// The verdict of that block, if it was read already.
    next: Option<Verdict>,
}

impl Compare<'_> {
    fn read_next(&mut self) -> Option<Result<Verdict, ManifestError>> {
        let index = self.mine.index;
        let (one, other) = match (self.mine.next()?, self.theirs.next()?) {
            (Ok(one), Ok(other)) => (one, other),
            (Err(error), _) | (_, Err(error)) => {
                (self.mine.failed, self.theirs.failed) = (true, true);
                return Some(Err(error));
            }
        };
        let manifest = self.mine.manifest;
        let same = match (one, other) {
            (Entry::Absent, _) | (_, Entry::Absent) => return Some(Ok(Verdict::Unknown)),
            (Entry::Zero, Entry::Zero) => true,
            (Entry::Data(one), Entry::Data(other)) => one == other,
            // Whether zeros were noticed says nothing about the content.
            (Entry::Zero, Entry::Data(digest)) | (Entry::Data(digest), Entry::Zero) => {
                digest == manifest.zero_digest(index)
            }
        };
        Some(Ok(if same { Verdict::Same } else { Verdict::Different }))
    }
}

impl Iterator for Compare<'_> {
    type Item = Result<(Range<u64>, Verdict), ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let verdict = match self.next.take() {
            Some(verdict) => verdict,
            None => match self.read_next()? {
                Ok(verdict) => verdict,
                Err(error) => return Some(Err(error)),
            },
        };
        let start = self.at;
        self.at += 1;
        loop {
            match self.read_next() {
                Some(Ok(next)) if next == verdict => self.at += 1,
                Some(Ok(next)) => {
                    self.next = Some(next);
                    break;
                }
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        Some(Ok((start..self.at, verdict)))
    }
}

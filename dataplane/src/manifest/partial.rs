//! A manifest in the making that outlives its run.
//!
//! ```text
//! 0       magic; the header of the complete file comes over it at the end
//! 4096    entries, as in the complete file
//! ...     two checkpoints in turn: magic, id, number, runs of zero blocks, checksum
//! ```
//!
//! A checkpoint makes all entries durable that were recorded before it, with the runs of zeros. A
//! run that dies while it writes one leaves the one before, which is the one that its journal
//! knows. What was recorded after the last checkpoint
//! may be in the file too, and does no harm: whoever goes on records those blocks again.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::format::{Layout, RUN_BYTES, checksum, decode_runs, encode_runs};
use super::write::{ManifestWriter, io_error, partial_path, sync_folder_of};
use super::{MAX_ZERO_RUNS, Manifest, ManifestError, ManifestMark};
use crate::digest::DigestAlgorithm;

/// What a manifest in the making begins with, and each of its checkpoints.
pub(super) const MAGIC: [u8; 16] = *b"blockferry-parti";
const CHECKSUM_BYTES: usize = 32;
/// Magic, id, number, size of the disk, algorithm by the length of its entries, runs, checksum.
const HEAD_BYTES: usize = 16 + 16 + 4 * 8 + CHECKSUM_BYTES;
const HEAD_BYTES_U64: u64 = 16 + 16 + 4 * 8 + 32;
/// From one checkpoint to the other: 96 + 65,536 * 16 bytes.
const SLOT_BYTES: u64 = HEAD_BYTES_U64 + (MAX_ZERO_RUNS as u64) * RUN_BYTES;

/// What tells a manifest in the making from any other of the same disk.
pub(super) type Id = [u8; 16];

impl ManifestWriter {
    /// Goes on with the file that an earlier run left, from its last checkpoint. `mark` is what
    /// that run's journal noted.
    ///
    /// # Errors
    /// There is no such file, or it is not the one that the mark is about, or what the mark
    /// vouches for is not in it; failures of the file system.
    pub fn resume(
        path: &Path,
        algorithm: DigestAlgorithm,
        disk_size: u64,
        mark: &ManifestMark,
    ) -> Result<Self, ManifestError> {
        let partial = partial_path(path);
        let unfit = |problem: &str| ManifestError::Unfit {
            path: partial.clone(),
            problem: problem.to_owned(),
        };
        let ManifestMark::Partial { id, checkpoint } = mark else {
            return Err(unfit("the journal names a complete one"));
        };
        let layout =
            Layout::new(algorithm, disk_size).ok_or(ManifestError::DiskTooLarge { disk_size })?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&partial)
            .map_err(|source| io_error("open", &partial, source))?;
        let mut writer = Self::of_file(file, path, layout);
        writer.kept = true;
        let mut found = Vec::new();
        for slot in [0, 1] {
            found.extend(writer.read_checkpoint(slot).map_err(|e| writer.failed("read", e))?);
        }
        found.retain(|found| hex(&found.id) == *id);
        if found.is_empty() {
            return Err(unfit("it is another one, or damaged"));
        }
        // A later one may have been written only in part, whatever its checksum says.
        let last = found
            .into_iter()
            .find(|found| found.number == *checkpoint)
            .ok_or_else(|| unfit("what the journal is about is missing or damaged"))?;
        (writer.id, writer.checkpoints, writer.zeros) = (last.id, last.number, last.zeros);
        Ok(writer)
    }

    /// Makes all that was recorded durable, so that a later run can go on with it. From now on the
    /// file stays when the writer is dropped before its end.
    ///
    /// # Errors
    /// A failed write; what was made durable before is still there.
    pub fn checkpoint(&mut self) -> Result<ManifestMark, ManifestError> {
        let first = !std::mem::replace(&mut self.kept, true);
        let number = self.checkpoints + 1;
        let runs = encode_runs(&self.zeros);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + runs.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.id);
        let count = u64::try_from(self.zeros.len()).unwrap_or(u64::MAX);
        for field in [number, self.layout.disk_size, self.layout.stride(), count] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        let sum = checksum(&[&bytes[..], &runs].concat());
        bytes.extend_from_slice(&sum);
        bytes.extend_from_slice(&runs);
        let at = self.layout.trailer_at() + number % 2 * SLOT_BYTES;
        self.file.write_all_at(&bytes, at).map_err(|source| self.failed("write", source))?;
        self.file.sync_data().map_err(|source| self.failed("sync", source))?;
        if first {
            sync_folder_of(&self.path)
                .map_err(|source| self.failed("sync the folder of", source))?;
        }
        self.checkpoints = number;
        Ok(ManifestMark::Partial { id: hex(&self.id), checkpoint: number })
    }

    /// What is in one of the two places, if it is a checkpoint of such a disk.
    fn read_checkpoint(&self, slot: u64) -> io::Result<Option<Checkpoint>> {
        let at = self.layout.trailer_at() + slot * SLOT_BYTES;
        let mut head = [0; HEAD_BYTES];
        if !read_whole(&self.file, &mut head, at)? || head[..16] != MAGIC {
            return Ok(None);
        }
        let (fields, sum) = head.split_at(HEAD_BYTES - CHECKSUM_BYTES);
        let field = |index: usize| {
            let bytes = fields[32 + index * 8..].first_chunk().expect("four fields follow the id");
            u64::from_le_bytes(*bytes)
        };
        let [number, disk_size, stride, count] = [0, 1, 2, 3].map(field);
        let of_this_disk = (disk_size, stride) == (self.layout.disk_size, self.layout.stride());
        let count = usize::try_from(count).ok().filter(|count| *count <= MAX_ZERO_RUNS);
        let (true, Some(count)) = (of_this_disk && number % 2 == slot, count) else {
            return Ok(None);
        };
        let mut runs = vec![0; count * 16];
        if !read_whole(&self.file, &mut runs, at + HEAD_BYTES_U64)?
            || checksum(&[fields, &runs].concat()) != *sum
        {
            return Ok(None);
        }
        let id = *fields[16..].first_chunk().expect("the id follows the magic");
        let zeros = decode_runs(&runs, self.layout.blocks());
        Ok(zeros.map(|zeros| Checkpoint { id, number, zeros }))
    }
}

impl Manifest {
    /// The mark of a complete manifest, by which a later run knows it again.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn mark(path: &Path) -> Result<ManifestMark, ManifestError> {
        let file = std::fs::metadata(path).map_err(|source| io_error("read", path, source))?;
        Ok(ManifestMark::of_complete(&file))
    }
}

struct Checkpoint {
    id: Id,
    number: u64,
    zeros: crate::plan::AreaSet,
}

/// An id that no other manifest has.
pub(super) fn new_id() -> io::Result<Id> {
    let mut id = Id::default();
    // So few bytes come at once (getrandom(2)).
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(id)
}

fn hex(id: &Id) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fills `bytes`; false where the file ends before.
fn read_whole(file: &std::fs::File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

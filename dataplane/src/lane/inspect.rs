//! Looking at payload on the pooled path: zeros and digests.

use crate::digest::{DIGEST_BLOCK, Digest, DigestAlgorithm};
use crate::fault::Fault;
use crate::manifest::{ManifestError, ManifestMark, ManifestWriter};
use crate::plan::{Segment, SegmentKind};
use crate::zero::{is_zero, zero_runs};

use super::slots::SlotIndex;
use super::task::Task;

/// What is looked for in each block, and where digests go.
#[derive(Default)]
pub(super) struct Inspector {
    /// Runs of zeros of this many bytes are found; `None`: nobody looks.
    pub(super) sparse_bytes: Option<usize>,
    pub(super) digest: Option<DigestAlgorithm>,
    pub(super) manifest: Option<ManifestWriter>,
    /// The digests of the block in hand; its memory is used again.
    digests: Vec<Digest>,
    failed: Option<ManifestError>,
}

impl Inspector {
    /// Notes the digests of a block's parts, of zeros only that they are zeros: whether zeros were
    /// read or known by block status makes no difference to a manifest.
    fn digest_blocks(&mut self, start: u64, data: &[u8]) {
        let Some(algorithm) = self.digest else { return };
        let mut first = start / DIGEST_BLOCK as u64;
        self.digests.clear();
        for (index, block) in (first..).zip(data.chunks(DIGEST_BLOCK)) {
            if !is_zero(block) {
                self.digests.push(algorithm.digest_block(block));
                continue;
            }
            self.record_digests(first);
            first = index + 1;
            let noted = self.manifest.as_mut().map(|manifest| manifest.record_zero(index..first));
            self.note_failure(noted);
        }
        self.record_digests(first);
    }

    /// Records the digests in hand, as those from block `first` on.
    fn record_digests(&mut self, first: u64) {
        let digests = &self.digests;
        let noted = self.manifest.as_mut().map(|manifest| manifest.record_blocks(first, digests));
        self.digests.clear();
        self.note_failure(noted);
    }

    fn note_failure(&mut self, noted: Option<Result<(), ManifestError>>) {
        if let Some(Err(e)) = noted {
            self.failed.get_or_insert(e);
        }
    }

    fn record_zero(&mut self, area: Segment) {
        let block = DIGEST_BLOCK as u64;
        if let Some(manifest) = &mut self.manifest
            && let Err(e) = manifest.record_zero(area.start / block..area.end().div_ceil(block))
        {
            self.failed.get_or_insert(e);
        }
    }

    /// Makes the digests so far durable, for a journal that calls safe what they are of.
    pub(super) fn checkpoint(&mut self) -> Result<Option<ManifestMark>, Fault> {
        if let Some(failed) = self.failed.take() {
            return Err(unwritten(&failed));
        }
        self.manifest
            .as_mut()
            .map(ManifestWriter::checkpoint)
            .transpose()
            .map_err(|failed| unwritten(&failed))
    }

    /// Completes the manifest; nothing of it exists under its name before. False if there is none
    /// to complete.
    pub(super) fn finish(&mut self) -> Result<bool, Fault> {
        if let Some(failed) = self.failed.take() {
            return Err(unwritten(&failed));
        }
        let Some(manifest) = self.manifest.take() else {
            return Ok(false);
        };
        manifest.finish().map(|()| true).map_err(|failed| unwritten(&failed))
    }
}

fn unwritten(failed: &ManifestError) -> Fault {
    Fault::Local {
        what: "cannot write the manifest".into(),
        error: std::io::Error::other(failed.to_string()),
    }
}

impl Task {
    /// Makes the digests of a block that was read in full.
    pub(super) fn inspect(&mut self, piece: Segment, data: &[u8]) {
        self.inspector.digest_blocks(piece.start, data);
    }

    /// Notes a range that is zero by block status.
    pub(super) fn record_zero(&mut self, piece: Segment) {
        self.inspector.record_zero(piece);
    }

    /// Finds the runs of zeros and data in a slot's block: they are the slot's from now on.
    pub(super) fn find_runs(&mut self, slot: SlotIndex, buf: &[u8]) {
        let piece = self.slots[slot].piece;
        let mut runs = std::mem::take(&mut self.slots[slot].runs);
        runs.clear();
        let zeroes = !self.settings.allocated && self.can_zero;
        let granularity = self.inspector.sparse_bytes.filter(|_| zeroes);
        // One request at a time: a block is zero as a whole, or written as a whole.
        let whole = usize::try_from(piece.length).ok().filter(|_| self.settings.synchronous);
        let granularity = granularity.map(|bytes| whole.unwrap_or(bytes));
        match granularity {
            None => runs.push(piece),
            Some(granularity) => {
                let data = &buf[..super::issue::bytes(piece.length)];
                runs.extend(zero_runs(data, granularity).map(|run| Segment {
                    start: piece.start + run.range.start as u64,
                    length: run.range.len() as u64,
                    kind: if run.zero { SegmentKind::Zero } else { SegmentKind::Data },
                }));
            }
        }
        self.slots[slot].runs = runs;
    }
}

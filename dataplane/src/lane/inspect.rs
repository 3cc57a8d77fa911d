//! Looking at payload on the pooled path: zeros, digests, and what the target holds already.

use std::time::Instant;

use crate::digest::{DIGEST_BLOCK, Digest, DigestAlgorithm};
use crate::fault::Fault;
use crate::manifest::{Entry, Lookup, ManifestError, ManifestMark, ManifestWriter};
use crate::plan::{Area, Segment, SegmentKind};
use crate::zero::{is_zero, zero_runs};

use super::base::unreadable;
use super::issue::bytes;
use super::seal::Seal;
use super::slots::{SlotIndex, without};
use super::task::Task;

/// What is looked for in each block, and where digests go.
#[derive(Default)]
pub(super) struct Inspector {
    /// Runs of zeros of this many bytes are found; `None`: nobody looks.
    pub(super) sparse_bytes: Option<usize>,
    pub(super) digest: Option<DigestAlgorithm>,
    pub(super) manifest: Option<ManifestWriter>,
    /// What the target holds already.
    pub(super) base: Option<Lookup>,
    /// The base could not be read.
    base_failed: Option<ManifestError>,
    /// The digests of the block in hand; its memory is used again.
    digests: Vec<Digest>,
    failed: Option<ManifestError>,
}

impl Inspector {
    /// Notes the digests of a block's parts, of zeros only that they are zeros: whether zeros were
    /// read or known by block status makes no difference to a manifest. What the base has too is
    /// added to `kept`, unless a seal may lie there; returns bytes of that which are zeros.
    fn digest_blocks(&mut self, start: u64, data: &[u8], seal: &Seal, kept: &mut Vec<Area>) -> u64 {
        let Some(algorithm) = self.digest else { return 0 };
        let mut first = start / DIGEST_BLOCK as u64;
        let mut kept_zero = 0;
        self.digests.clear();
        let places = (start..).step_by(DIGEST_BLOCK);
        for ((index, at), block) in (first..).zip(places).zip(data.chunks(DIGEST_BLOCK)) {
            let area = Area::new(at, block.len() as u64);
            if !is_zero(block) {
                let digest = algorithm.digest_block(block);
                if self.is_held(index, area, Entry::Data(digest), seal) {
                    keep(area, kept);
                }
                self.digests.push(digest);
                continue;
            }
            if self.is_held(index, area, Entry::Zero, seal) {
                keep(area, kept);
                kept_zero += area.length;
            }
            self.record_digests(first);
            first = index + 1;
            let noted = self.manifest.as_mut().map(|manifest| manifest.record_zero(index..first));
            self.note_failure(noted);
        }
        self.record_digests(first);
        kept_zero
    }

    /// Whether the target holds what was read of a block already, by the base. A part of a block
    /// says nothing.
    fn is_held(&mut self, index: u64, area: Area, found: Entry, seal: &Seal) -> bool {
        let Some(base) = &mut self.base else { return false };
        let whole = area.start == index * DIGEST_BLOCK as u64
            && area.length == base.block_bytes(index) as u64;
        if !whole || seal.touches(area) {
            return false;
        }
        match base.entry(index) {
            Ok(entry) => entry == found,
            Err(error) => {
                self.base_failed.get_or_insert(error);
                false
            }
        }
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

/// Adds an area behind those that are kept.
fn keep(area: Area, kept: &mut Vec<Area>) {
    match kept.last_mut() {
        Some(last) if last.end() == area.start => last.length += area.length,
        _ => kept.push(area),
    }
}

impl Task {
    /// Makes the digests of a block that was read in full, and finds what of it need not be
    /// written.
    pub(super) fn inspect(&mut self, slot: SlotIndex, data: &[u8], now: Instant) {
        let start = self.slots[slot].piece.start;
        let mut kept = std::mem::take(&mut self.slots[slot].kept);
        let zero = self.inspector.digest_blocks(start, data, &self.seal, &mut kept);
        self.slots[slot].kept = kept;
        self.slots[slot].kept_zero = zero;
        if let Some(error) = self.inspector.base_failed.take() {
            self.fail(unreadable(&error), now);
        }
    }

    /// Notes a range that is zero by block status.
    pub(super) fn record_zero(&mut self, piece: Segment) {
        self.inspector.record_zero(piece);
    }

    /// Finds the runs of zeros and data in a slot's block that have to be written: they are the
    /// slot's from now on.
    pub(super) fn find_runs(&mut self, slot: SlotIndex, buf: &[u8]) {
        let piece = self.slots[slot].piece;
        let mut runs = std::mem::take(&mut self.slots[slot].runs);
        runs.clear();
        let zeroes = !self.settings.allocated && self.can_zero;
        let granularity = self.inspector.sparse_bytes.filter(|_| zeroes);
        // One request at a time: a block is zero as a whole, or written as a whole.
        let whole = usize::try_from(piece.length).ok().filter(|_| self.settings.synchronous);
        let granularity = granularity.map(|bytes| whole.unwrap_or(bytes));
        for part in without(piece, &self.slots[slot].kept) {
            let Some(granularity) = granularity else {
                runs.push(part);
                continue;
            };
            let data = &buf[bytes(part.start - piece.start)..bytes(part.end() - piece.start)];
            runs.extend(zero_runs(data, granularity).map(|run| Segment {
                start: part.start + run.range.start as u64,
                length: run.range.len() as u64,
                kind: if run.zero { SegmentKind::Zero } else { SegmentKind::Data },
            }));
        }
        self.slots[slot].runs = runs;
    }
}

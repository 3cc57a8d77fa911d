//! Beginning pieces: from the plan to the source, and from the slot to the target.

use crate::plan::SegmentKind;
use crate::report::PayloadKind;

use super::context::Context;
use super::slots::{SlotIndex, SlotState};
use super::strand::SourceSide;
use super::task::{Phase, Task};
use super::work::Next;

impl Task {
    /// Begins pieces until nothing more fits, each on the strand that has the fewest: what may be in
    /// flight is the lane's, and the first strand would else take all of it.
    pub(super) fn issue(&mut self, context: &mut Context<'_>) {
        self.starved = false;
        if self.target_zeros.is_asked() || self.not_before.is_some_and(|at| at > context.now) {
            return;
        }
        self.not_before = None;
        while let Some(strand) = self.idlest(context.fair_bytes) {
            if !self.issue_one(strand, context) {
                return;
            }
        }
    }

    fn idlest(&self, fair_bytes: u64) -> Option<usize> {
        (0..self.strands.len())
            .filter(|&strand| self.may_issue(strand, fair_bytes))
            .min_by_key(|&strand| self.strands[strand].in_flight)
    }

    fn may_issue(&self, strand: usize, fair_bytes: u64) -> bool {
        let depth = if self.settings.synchronous { 1 } else { self.settings.requests };
        let bytes = u64::from(self.adapt.request_bytes()).min(self.data_max);
        // Two requests, so that one is read while the other is written, however many lanes share.
        let fair = fair_bytes
            .min(self.adapt.window_bytes())
            .max(2 * bytes)
            .min(self.settings.in_flight_bytes);
        let fits = self.slots.data_bytes == 0 || self.slots.data_bytes + bytes <= fair;
        let strand = &self.strands[strand];
        let in_order = matches!(strand.source, SourceSide::Stream { .. }) && strand.in_flight > 0;
        self.phase == Phase::Running
            && strand.is_ready()
            && strand.in_flight < depth
            && fits
            && !in_order
            && self.slots.has_free()
    }

    /// False when nothing more can be begun now.
    fn issue_one(&mut self, strand: usize, context: &mut Context<'_>) -> bool {
        let data_max = u64::from(self.adapt.request_bytes()).min(self.data_max);
        let piece = match self.work.next(data_max, self.zero_max) {
            Next::Piece(piece) => piece,
            Next::Wait | Next::Exhausted => return false,
        };
        if piece.kind == SegmentKind::Zero {
            let (piece, held) = self.cut_by_base(piece, context.now);
            self.live.zero.add(piece.length);
            if held {
                self.record_zero(piece);
                self.left_alone(piece.area());
                return true;
            }
            // What an earlier run set as its seal is no zero.
            let may_be_sealed = self.seal.touches(piece.area());
            if self.target_is_zero && !self.settings.allocated && !may_be_sealed {
                self.live.skipped.add(piece.length);
                self.record_zero(piece);
                return true;
            }
            self.record_zero(piece);
            if self.is_zero_there(piece) {
                self.live.acknowledged.add(piece.length);
                self.unflushed.acknowledge(piece);
                return true;
            }
            let Some(slot) = self.slots.take(piece, index(strand), context.now) else {
                return false;
            };
            self.strands[strand].in_flight += 1;
            self.slots[slot].state = SlotState::Loaded;
            self.write_slot(slot, context);
            return true;
        }
        if !self.may_begin_data(piece) {
            self.work.put_back(piece);
            return false;
        }
        let buf = match self.payload {
            PayloadKind::Splice => None,
            PayloadKind::Pooled => match context.blocks.claim() {
                Some(buf) => Some(buf),
                None => {
                    self.work.put_back(piece);
                    self.starved = true;
                    return false;
                }
            },
        };
        if let Some(not_before) = context.rate.take(&mut self.rate_share, context.now, piece.length)
        {
            self.work.put_back(piece);
            self.not_before = Some(not_before);
            return false;
        }
        let Some(slot) = self.slots.take(piece, index(strand), context.now) else {
            return false;
        };
        self.strands[strand].in_flight += 1;
        self.slots[slot].buf = buf;
        self.read_slot(slot, context);
        true
    }

    /// Whether what was read cannot be read again.
    pub(super) fn reads_a_stream(&self) -> bool {
        self.strands.iter().any(|strand| matches!(strand.source, SourceSide::Stream { .. }))
    }

    /// Releases a slot whose piece cannot be moved, after a failure that ends the lane.
    pub(super) fn give_up(&mut self, slot: SlotIndex) {
        let strand = usize::from(self.slots[slot].strand);
        self.strands[strand].in_flight -= 1;
        self.slots.release(slot);
    }
}

/// A byte count that fits the memory of this machine, because it is at most a block of the pool.
pub(super) fn bytes(length: u64) -> usize {
    usize::try_from(length).expect("pieces are no longer than a block of the pool")
}

/// A strand's number in tokens.
pub(super) fn index(strand: usize) -> u16 {
    u16::try_from(strand).expect("connections are counted in 16 bits")
}

pub(super) fn slot_of(tag: u32) -> SlotIndex {
    SlotIndex::try_from(tag).expect("the lane put a slot's index there")
}

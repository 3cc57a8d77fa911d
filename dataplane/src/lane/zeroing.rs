//! Zeros beside data: never on their way to one cluster at once.
//!
//! A server may lose one of two requests that meet in a cluster which its layer does not hold
//! yet: qemu widens a WRITE_ZEROES of a part to all of the cluster where the layer below is zero
//! there, while a WRITE of another part copies the rest of the cluster from below (seen with
//! qemu-nbd 10.0.2; the result is stale data with every request acknowledged). So a range is made
//! zero only while no data is on its way to the clusters that it touches, and data is begun only
//! while no zeros are being made there. NBD does not tell the cluster; the largest there is
//! counts.

use crate::nbd::{Command, CommandFlags};
use crate::plan::{Segment, SegmentKind};

use super::context::Context;
use super::issue::bytes;
use super::slots::{Slot, SlotIndex, SlotState};
use super::strand::TargetSide;
use super::task::Task;
use super::writing::part_count;

/// Bytes of the largest cluster of a qcow2 image.
const CLUSTER_MAX: u64 = 2 << 20;

impl Slot {
    /// Whether data of it may reach the target from now on, or is being written there.
    fn has_data_on_its_way(&self) -> bool {
        let written = self.state == SlotState::Writing && (self.zeroed || self.parts == 0);
        self.piece.kind == SegmentKind::Data && !written
    }

    /// Whether the target is making some of it zero.
    fn is_being_zeroed(&self) -> bool {
        self.state == SlotState::Writing && self.zeroed && self.parts > 0
    }
}

/// Whether two ranges touch a cluster in common, whatever its size.
fn meet(a: Segment, b: Segment) -> bool {
    let first = |segment: Segment| segment.start / CLUSTER_MAX;
    let last = |segment: Segment| segment.end().saturating_sub(1) / CLUSTER_MAX;
    first(a) <= last(b) && first(b) <= last(a)
}

impl Task {
    /// Whether data may be begun: no zeros are being made beside it.
    pub(super) fn may_begin_data(&self, piece: Segment) -> bool {
        let beside = |slot: &Slot| slot.is_being_zeroed() && meet(slot.piece, piece);
        self.slots.with_zeros == 0 || !self.slots.used().any(|(_, slot)| beside(slot))
    }

    fn may_make_zero(&self, slot: SlotIndex) -> bool {
        let piece = self.slots[slot].piece;
        let beside = |other: &Slot| other.has_data_on_its_way() && meet(other.piece, piece);
        !self.slots.used().any(|(index, other)| index != slot && beside(other))
    }

    /// Makes zeros that waited for data beside them.
    pub(super) fn make_waiting_zeros(&mut self, context: &mut Context<'_>) {
        if self.slots.with_zeros == 0 {
            return;
        }
        for slot in self.slots.indices() {
            let entry = &self.slots[slot];
            let whole = entry.state == SlotState::Loaded && entry.piece.kind == SegmentKind::Zero;
            let strand = &self.strands[usize::from(entry.strand)];
            let ready = matches!(&strand.target, TargetSide::Nbd(link) if link.is_ready());
            if ready && whole {
                self.write_slot(slot, context);
            } else if ready && entry.zeros_wait && entry.parts == 0 {
                self.make_zeros_of(slot, context);
            }
        }
    }

    /// Makes a slot zero that is zero as a whole; it stays loaded while that has to wait.
    pub(super) fn make_zero(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let piece = self.slots[slot].piece;
        if self.can_zero && !self.may_make_zero(slot) {
            return;
        }
        self.slots[slot].state = SlotState::Writing;
        self.slots.stamp(slot, context.now);
        self.slots[slot].parts = 1;
        self.zero_part(slot, 0, piece, context);
    }

    /// Makes the runs of zeros of a slot whose data are written, once nothing is beside them.
    pub(super) fn make_zeros_of(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        if self.can_zero && !self.may_make_zero(slot) {
            return;
        }
        let piece = self.slots[slot].piece;
        let Some(buf) = self.slots[slot].buf.take() else {
            return;
        };
        self.slots[slot].zeros_wait = false;
        self.slots.stamp(slot, context.now);
        if !self.can_zero {
            // That has changed since the data were written: all of it is written.
            self.slots[slot].parts = 1;
            self.slots[slot].runs.clear();
            let payload = (buf, 0, bytes(piece.length));
            let flags = CommandFlags::NONE;
            return self.send_part(slot, 0, Command::Write, flags, piece, Some(payload), context);
        }
        for part in 0..part_count(&self.slots[slot].runs) {
            let run = self.slots.asked_for(slot, part);
            if run.kind == SegmentKind::Zero {
                self.live.zero.add(run.length);
                if !self.is_zero_there(run) {
                    self.slots[slot].parts += 1;
                    self.zero_part(slot, part, run, context);
                }
            }
        }
        if self.slots[slot].parts == 0 {
            self.acknowledged(slot, context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(start: u64, length: u64) -> Segment {
        Segment { start, length, kind: SegmentKind::Data }
    }

    #[test]
    fn ranges_meet_when_one_cluster_could_hold_parts_of_both() {
        assert!(meet(segment(0, 4096), segment(CLUSTER_MAX - 4096, 4096)));
        assert!(!meet(segment(0, CLUSTER_MAX), segment(CLUSTER_MAX, 1)));
        assert!(meet(segment(CLUSTER_MAX - 1, 2), segment(CLUSTER_MAX, 1)));
        assert!(meet(segment(0, 64 * CLUSTER_MAX), segment(9 * CLUSTER_MAX, 512)));
    }
}

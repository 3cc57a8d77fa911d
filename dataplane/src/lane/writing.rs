//! From a loaded slot to its acknowledgement by the target.

use std::rc::Rc;

use crate::engine::{Op, Token, ZeroHow};
use crate::fault::{Cause, Side};
use crate::nbd::{Command, CommandFlags, NbdError, Request};
use crate::plan::{Area, Segment, SegmentKind};
use crate::pool::Buf;

use super::context::Context;
use super::issue::{bytes, index, slot_of};
use super::replies::{Go, described};
use super::role::Role;
use super::slots::{SlotIndex, SlotState, without};
use super::strand::TargetSide;
use super::task::Task;

impl Task {
    /// Gives a loaded slot to the target.
    pub(super) fn write_slot(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let strand = usize::from(self.slots[slot].strand);
        match &self.strands[strand].target {
            TargetSide::Nbd(link) if !link.is_ready() => {} // written when it is back
            TargetSide::Nbd(_) => self.write_to_nbd(slot, context),
            TargetSide::File(_) => self.write_to_file(slot, context),
            TargetSide::Stream { .. } => self.write_in_order(strand, context),
            TargetSide::Null(_) => self.acknowledged(slot, context),
        }
    }

    /// Writes what was read while the target was away.
    pub(super) fn write_loaded(&mut self, strand: usize, context: &mut Context<'_>) {
        for slot in self.slots.indices() {
            let entry = &self.slots[slot];
            if usize::from(entry.strand) == strand && entry.state == SlotState::Loaded {
                self.write_slot(slot, context);
            }
        }
    }

    fn write_to_nbd(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let piece = self.slots[slot].piece;
        if piece.kind == SegmentKind::Zero && piece.length > self.zero_max {
            // It was cut for a target that makes zeros by itself, and that has changed since.
            return self.put_back(slot);
        }
        if piece.kind == SegmentKind::Zero {
            return self.make_zero(slot, context);
        }
        self.slots[slot].state = SlotState::Writing;
        self.slots.stamp(slot, context.now);
        let Some(buf) = self.slots[slot].buf.take() else {
            return;
        };
        self.find_runs(slot, &buf);
        for part in 0..part_count(&self.slots[slot].runs) {
            let run = self.slots.asked_for(slot, part);
            if run.kind == SegmentKind::Zero {
                self.slots[slot].zeros_wait = true;
                continue;
            }
            self.slots[slot].parts += 1;
            let payload = (buf.clone(), bytes(run.start - piece.start), bytes(run.length));
            let (write, flags) = (Command::Write, CommandFlags::NONE);
            self.send_part(slot, part, write, flags, run, Some(payload), context);
            self.live.sent.add(run.length);
        }
        if self.slots[slot].zeros_wait {
            self.slots.note_zeros(slot);
            self.slots[slot].buf = Some(buf);
            if self.slots[slot].parts == 0 {
                self.make_zeros_of(slot, context);
            }
        } else if self.slots[slot].parts == 0 {
            self.acknowledged(slot, context); // the target holds all of it
        }
    }

    /// Makes a part of a slot zero, with real zeros where the target can do nothing better.
    pub(super) fn zero_part(
        &mut self,
        slot: SlotIndex,
        part: u16,
        run: Segment,
        context: &mut Context<'_>,
    ) {
        if self.can_zero {
            self.slots[slot].zeroed = true;
            let flags =
                if self.settings.allocated { CommandFlags::NO_HOLE } else { CommandFlags::NONE };
            return self.send_part(slot, part, Command::WriteZeroes, flags, run, None, context);
        }
        // Pieces of zeros are cut to the length of the block of zeros for such targets.
        let payload = (context.zeros.clone(), 0, bytes(run.length));
        self.send_part(slot, part, Command::Write, CommandFlags::NONE, run, Some(payload), context);
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a request")]
    pub(super) fn send_part(
        &mut self,
        slot: SlotIndex,
        part: u16,
        command: Command,
        flags: CommandFlags,
        run: Segment,
        payload: Option<(Buf, usize, usize)>,
        context: &Context<'_>,
    ) {
        let cookie = self.slots.await_reply(slot, part).number();
        let strand = usize::from(self.slots[slot].strand);
        if let Some(link) = self.strands[strand].target_link() {
            link.request(
                Request { command, flags, cookie, offset: run.start, length: run.length },
                payload,
                context.now,
            );
        }
    }

    fn write_to_file(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let strand = usize::from(self.slots[slot].strand);
        let TargetSide::File(file) = &self.strands[strand].target else {
            return;
        };
        let file = Rc::clone(file);
        let piece = self.slots[slot].piece;
        self.slots[slot].state = SlotState::Writing;
        let buf = self.slots[slot].buf.take();
        match &buf {
            Some(buf) => self.find_runs(slot, buf),
            None => self.slots[slot].runs.push(piece),
        }
        let parts = part_count(&self.slots[slot].runs);
        self.slots[slot].parts = parts;
        if parts == 0 {
            return self.acknowledged(slot, context); // the target holds all of it
        }
        let token = Token {
            lane: self.id,
            strand: index(strand),
            role: Role::Write.on(Side::Target),
            tag: u32::from(slot),
        };
        for part in 0..parts {
            let run = self.slots.asked_for(slot, part);
            let file = Rc::clone(&file);
            let op = match (run.kind, &buf) {
                (SegmentKind::Data, Some(buf)) => {
                    self.live.sent.add(run.length);
                    Op::Write {
                        file,
                        buf: buf.clone(),
                        at: bytes(run.start - piece.start),
                        length: bytes(run.length),
                        offset: run.start,
                    }
                }
                _ if self.can_zero => {
                    let how = if self.settings.allocated {
                        ZeroHow::ZeroRange
                    } else {
                        ZeroHow::PunchHole
                    };
                    if piece.kind == SegmentKind::Data {
                        self.live.zero.add(run.length);
                    }
                    Op::Zero { file, how, offset: run.start, length: run.length }
                }
                _ => Op::Write {
                    file,
                    buf: context.zeros.clone(),
                    at: 0,
                    length: bytes(run.length),
                    offset: run.start,
                },
            };
            context.engine.submit(token, op);
        }
    }

    /// Writes what comes next on a target that is written in order, if it is there.
    pub(super) fn write_in_order(&mut self, strand: usize, context: &mut Context<'_>) {
        let TargetSide::Stream { stream, at, writing } = &mut self.strands[strand].target else {
            return;
        };
        // Nothing may follow what could not be written.
        if *writing || self.fault.is_some() {
            return;
        }
        let next = self
            .slots
            .used()
            .find(|(_, slot)| slot.state == SlotState::Loaded && slot.piece.start == *at);
        let Some((slot, piece)) = next.map(|(index, slot)| (index, slot.piece)) else {
            return;
        };
        let Some(head) = context.heads.claim() else {
            return;
        };
        *writing = true;
        let socket = Rc::clone(stream);
        let buf = self.slots[slot].buf.take().unwrap_or_else(|| context.zeros.clone());
        self.slots[slot].state = SlotState::Writing;
        self.slots[slot].parts = 1;
        if piece.kind == SegmentKind::Data {
            self.live.sent.add(piece.length);
        }
        let token = Token {
            lane: self.id,
            strand: index(strand),
            role: Role::Write.on(Side::Target),
            tag: u32::from(slot),
        };
        context.engine.submit(
            token,
            Op::Send { socket, head, head_len: 0, payload: Some((buf, 0, bytes(piece.length))) },
        );
    }

    /// A file or stream was written, or a range of a file zeroed.
    pub(super) fn file_written(
        &mut self,
        strand: usize,
        tag: u32,
        completion: crate::engine::Completion,
        context: &mut Context<'_>,
    ) {
        let slot = slot_of(tag);
        let piece = self.slots[slot].piece;
        if let TargetSide::Stream { at, writing, .. } = &mut self.strands[strand].target {
            *writing = false;
            *at += piece.length;
        }
        if let Err(error) = completion.result {
            let what = match completion.op {
                Op::Write { length, offset, .. } => {
                    format!("cannot write {length} bytes at {offset}")
                }
                Op::Zero { length, offset, .. } => {
                    format!("cannot make {length} bytes at {offset} zero")
                }
                _ => format!("cannot write {}", described(piece)),
            };
            if let Op::Zero { file, offset, length, .. } = completion.op
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EINVAL)
                )
            {
                if length > context.zeros.len() as u64 {
                    return self.zero_by_writing(slot, context);
                }
                // Written in place: the source may be a stream, which gives nothing twice.
                self.stop_zeroing();
                let token = Token {
                    lane: self.id,
                    strand: index(strand),
                    role: Role::Write.on(Side::Target),
                    tag,
                };
                let op = Op::Write {
                    file,
                    buf: context.zeros.clone(),
                    at: 0,
                    length: bytes(length),
                    offset,
                };
                return context.engine.submit(token, op);
            }
            self.fail_side(Side::Target, Cause::File { what, error }, context.now);
            // Its other parts may be in flight: it is put back when they have ended.
            self.slots[slot].again = true;
        }
        self.part_acknowledged(slot, context);
        self.write_in_order(strand, context);
    }

    /// The target cannot zero by itself: from now on zeros are written, also those of this slot.
    pub(super) fn zero_by_writing(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        self.stop_zeroing();
        // All of the slot is done again: other parts of it may still be in flight, and are
        // waited for before it is released.
        self.slots[slot].again = true;
        self.part_acknowledged(slot, context);
    }

    pub(super) fn stop_zeroing(&mut self) {
        if self.can_zero {
            self.note("the target cannot write zeroes: zeros are sent as data");
        }
        self.can_zero = false;
        self.zero_max = self.write_max;
    }

    pub(super) fn is_writing(&self, index: SlotIndex, generation: u32, strand: usize) -> bool {
        let slot = self.slots.of(index, generation);
        slot.is_some_and(|slot| {
            slot.state == SlotState::Writing && usize::from(slot.strand) == strand
        })
    }

    pub(super) fn write_ended(
        &mut self,
        strand: usize,
        (slot, part): (SlotIndex, u16),
        outcome: Result<(), (NbdError, String)>,
        context: &mut Context<'_>,
    ) -> Result<Go, Cause> {
        let Err((error, message)) = outcome else {
            self.part_acknowledged(slot, context);
            return Ok(Go::On);
        };
        if error.is_shutdown() {
            return Err(self.shutting_down(strand, Side::Target));
        }
        if self.slots[slot].zeroed
            && error.effective() == NbdError::NotSup
            && !self.reads_a_stream()
        {
            self.zero_by_writing(slot, context);
            return Ok(Go::On);
        }
        let asked = self.slots.asked_for(slot, part);
        let by_itself = asked.kind == SegmentKind::Zero && self.slots[slot].zeroed;
        let verb = if by_itself { "WRITE_ZEROES" } else { "WRITE" };
        let request = format!("{verb} of {}", described(asked));
        self.fail_side(Side::Target, Cause::Refused { request, error, message }, context.now);
        self.slots[slot].again = true;
        self.part_acknowledged(slot, context);
        Ok(Go::On)
    }

    /// One write of a slot is over; the last one releases it.
    pub(super) fn part_acknowledged(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let entry = &mut self.slots[slot];
        entry.parts -= 1;
        if entry.parts > 0 {
            return;
        }
        if entry.again {
            return self.put_back(slot);
        }
        if entry.zeros_wait {
            return self.make_zeros_of(slot, context);
        }
        self.acknowledged(slot, context);
    }

    /// All of a slot is on the target, though not yet for good.
    pub(super) fn acknowledged(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let strand = usize::from(self.slots[slot].strand);
        self.strands[strand].in_flight -= 1;
        let kept = std::mem::take(&mut self.slots[slot].kept);
        self.live.zero.add(self.slots[slot].kept_zero);
        let piece = self.slots.release(slot);
        kept.iter().for_each(|area| self.left_alone(*area));
        for part in without(piece, &kept) {
            self.live.acknowledged.add(part.length);
            self.unflushed.acknowledge(part);
        }
        self.slots[slot].kept = kept;
        // What is only done again is no progress: a side that breaks off at the same place each
        // time would be connected again for ever.
        let finished = self.live.acknowledged.get() + self.live.skipped.get();
        if finished > self.best_finished {
            self.best_finished = finished;
            self.went_on(strand);
        }
        self.adapt.acknowledged(piece.length, context.now);
    }

    /// The target holds a range already, by the base.
    pub(super) fn left_alone(&mut self, area: Area) {
        self.live.skipped.add(area.length);
        // Nothing else has to know what needs no FLUSH.
        if self.journal.is_some() {
            self.unflushed.leave(area);
        }
    }
}

/// Requests that a slot is written in.
pub(super) fn part_count(runs: &[Segment]) -> u16 {
    u16::try_from(runs.len()).expect("a block is no longer than 4096 runs of zeros and data")
}

//! From the request for a piece to a slot that holds all of it.

use std::rc::Rc;

use crate::engine::{Completion, Op, Token};
use crate::fault::{Cause, Side};
use crate::nbd::{Command, CommandFlags, Request};
use crate::report::PayloadKind;

use super::context::Context;
use super::coverage::BadRange;
use super::file::cut_to;
use super::issue::{bytes, index, slot_of};
use super::replies::{Go, described};
use super::role::Role;
use super::slots::{Cookie, SlotIndex, SlotState};
use super::strand::{PayloadState, SourceSide, TargetSide};
use super::task::Task;

impl Task {
    /// Asks the source for a slot's piece.
    pub(super) fn read_slot(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let (piece, strand) = (self.slots[slot].piece, usize::from(self.slots[slot].strand));
        let cookie = self.slots.cookie(slot, 0).number();
        let spliced = self.slots[slot].buf.is_none();
        let id = self.id;
        match &mut self.strands[strand].source {
            SourceSide::Nbd(link) => {
                // Only an answer in one piece can be spliced.
                let whole =
                    spliced && link.session.as_ref().is_some_and(|session| session.flags.send_df());
                let flags = if whole { CommandFlags::DF } else { CommandFlags::NONE };
                let request = Request {
                    command: Command::Read,
                    flags,
                    cookie,
                    offset: piece.start,
                    length: piece.length,
                };
                link.request(request, None, context.now);
            }
            SourceSide::File(file) => {
                let file = Rc::clone(file);
                let Some(buf) = self.slots[slot].buf.take() else {
                    return;
                };
                let token = Token {
                    lane: id,
                    strand: index(strand),
                    role: Role::Read.on(Side::Source),
                    tag: u32::from(slot),
                };
                let op =
                    Op::Read { file, buf, at: 0, length: bytes(piece.length), offset: piece.start };
                context.engine.submit(token, op);
            }
            SourceSide::Stream { stream, .. } => {
                let socket = Rc::clone(stream);
                let Some(buf) = self.slots[slot].buf.take() else {
                    return;
                };
                let token = Token {
                    lane: id,
                    strand: index(strand),
                    role: Role::Read.on(Side::Source),
                    tag: u32::from(slot),
                };
                let length = bytes(piece.length);
                context
                    .engine
                    .submit(token, Op::Receive { socket, buf, at: 0, least: length, most: length });
            }
        }
    }

    /// The slot that a reply of the source is about.
    pub(super) fn reading(&self, strand: usize, cookie: u64) -> Result<SlotIndex, Cause> {
        if let Some(Cookie::Slot { index, generation, part: 0 }) = Cookie::of(cookie)
            && let Some(slot) = self.slots.of(index, generation)
            && slot.state == SlotState::Reading
            && usize::from(slot.strand) == strand
        {
            return Ok(index);
        }
        Err(Cause::Protocol(format!(
            "a reply came with the cookie {cookie:#x}, which belongs to no request that is read"
        )))
    }

    pub(super) fn data_follows(
        &mut self,
        strand: usize,
        slot: SlotIndex,
        offset: u64,
        length: u32,
        done: bool,
        context: &mut Context<'_>,
    ) -> Result<Go, Cause> {
        let piece = self.slots[slot].piece;
        let at = self.cover(slot, offset, length)?;
        if let Some(buf) = self.slots[slot].buf.take() {
            let generation = self.slots.generation(slot);
            self.strands[strand].payload = PayloadState::Receiving { slot, generation, done };
            if let Some(link) = self.strands[strand].source_link() {
                link.receive_payload(context, buf, at, length as usize);
            }
            return Ok(Go::Payload);
        }
        let entry = &mut self.slots[slot];
        let whole = offset == piece.start && u64::from(length) == piece.length;
        if done && whole && entry.error.is_none() && !entry.again {
            self.strands[strand].payload = PayloadState::Announced(slot);
            return Ok(Go::Payload);
        }
        // It came in pieces, or an error may still follow: nothing of it may be passed on
        // before the last chunk was seen, and without a buffer there is no place to keep it.
        entry.again = true;
        if let Some(link) = self.strands[strand].source_link() {
            link.discard = length as usize;
        }
        if done {
            self.read_ended(strand, slot, context)?;
        }
        Ok(Go::Payload)
    }

    pub(super) fn hole(&mut self, slot: SlotIndex, offset: u64, length: u32) -> Result<(), Cause> {
        let at = self.cover(slot, offset, length)?;
        match self.slots[slot].buf.as_mut() {
            Some(buf) => buf.bytes_mut()[at..at + length as usize].fill(0),
            None => self.slots[slot].again = true,
        }
        Ok(())
    }

    /// Marks bytes of a slot as received; returns where they lie in its block.
    fn cover(&mut self, slot: SlotIndex, offset: u64, length: u32) -> Result<usize, Cause> {
        let piece = self.slots[slot].piece;
        let block = u32::try_from(piece.length).expect("a request's length fits 32 bits");
        let at = offset.checked_sub(piece.start).and_then(|at| u32::try_from(at).ok());
        let covered = at
            .ok_or(BadRange::OutOfRange)
            .and_then(|at| self.slots[slot].coverage.add(at, length, block).map(|()| at));
        covered.map(|at| at as usize).map_err(|bad| {
            let what = match bad {
                BadRange::Overlap => "twice",
                BadRange::OutOfRange => "which were not asked for",
                BadRange::Fragments => "in too many fragments",
            };
            Cause::Protocol(format!(
                "{length} bytes at {offset} came {what} (the request: {})",
                described(piece)
            ))
        })
    }

    /// The last chunk of a read was seen.
    pub(super) fn read_ended(
        &mut self,
        strand: usize,
        slot: SlotIndex,
        context: &mut Context<'_>,
    ) -> Result<Go, Cause> {
        self.request_ended(strand, Side::Source);
        if self.is_unwanted(strand) {
            self.give_up(slot);
            return Ok(Go::On);
        }
        let piece = self.slots[slot].piece;
        if let Some((error, message)) = self.slots[slot].error.take() {
            if error.is_shutdown() {
                return Err(self.shutting_down(strand, Side::Source));
            }
            self.give_up(slot);
            let request = format!("READ of {}", described(piece));
            self.fail_side(Side::Source, Cause::Refused { request, error, message }, context.now);
            return Ok(Go::On);
        }
        let block = u32::try_from(piece.length).expect("a request's length fits 32 bits");
        if !self.slots[slot].coverage.is_whole(block) {
            return Err(Cause::Protocol(format!(
                "the reply to the READ of {} left bytes out",
                described(piece)
            )));
        }
        if self.slots[slot].again {
            self.put_back(slot);
            self.pool_from_now_on();
            return Ok(Go::On);
        }
        self.live.read.add(piece.length);
        self.loaded(slot, context);
        Ok(Go::On)
    }

    /// Gives up splicing: this source answers in a form that has to be put together first.
    fn pool_from_now_on(&mut self) {
        if self.payload == PayloadKind::Splice {
            self.payload = PayloadKind::Pooled;
            self.data_max = self.data_max.min(self.block_bytes);
            self.reason =
                "the source answers a READ in several chunks, which have to be put together".into();
            self.note(
                "payload: pooled from now on, because the source answers a READ in several chunks",
            );
        }
    }

    /// Payload came into a buffer.
    pub(super) fn payload_received(
        &mut self,
        strand: usize,
        side: Side,
        completion: Completion,
        context: &mut Context<'_>,
    ) {
        let Op::Receive { buf, most, .. } = completion.op else {
            return;
        };
        let Some(link) = self.strands[strand].link(side) else {
            return;
        };
        link.receiving = false;
        let failed = match completion.result {
            Ok(count) if count == most => None,
            Ok(_) => Some(link.lost("the server closed it in the middle of a payload")),
            Err(e) => Some(link.lost(&e.to_string())),
        };
        if let Some(cause) = failed {
            return self.side_failed(strand, side, cause, context);
        }
        if let Some(reader) = &mut link.reader {
            reader.payload_taken();
        }
        if self.probe_received(strand, side, &buf[..most], context) {
            return self.take_replies(strand, side, context);
        }
        let payload = std::mem::replace(&mut self.strands[strand].payload, PayloadState::None);
        let PayloadState::Receiving { slot, generation, done } = payload else {
            return;
        };
        if self.slots.of(slot, generation).is_none() {
            return;
        }
        self.slots[slot].buf = Some(buf);
        if done && let Err(cause) = self.read_ended(strand, slot, context) {
            return self.side_failed(strand, side, cause, context);
        }
        self.take_replies(strand, side, context);
    }

    /// A slot's buffer holds all of its piece.
    pub(super) fn loaded(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let piece = self.slots[slot].piece;
        self.slots[slot].state = SlotState::Loaded;
        if let Some(buf) = self.slots[slot].buf.take() {
            self.inspect(slot, &buf[..bytes(piece.length)], context.now);
            self.slots[slot].buf = Some(buf);
        }
        self.write_slot(slot, context);
    }

    /// A stream's last piece: it is as long as what came, and nothing follows it.
    pub(super) fn stream_ended(&mut self, slot: SlotIndex, count: u64) {
        self.work.clear();
        self.slots.shorten(slot, count);
        if count == 0 {
            self.give_up(slot);
        }
    }

    /// A regular file as target is as long as the stream was: zeros at its end were not written.
    fn size_file(&mut self, strand: usize, size: u64, context: &Context<'_>) {
        if let TargetSide::File(file) = &self.strands[strand].target
            && let Err(error) = cut_to(file, size)
        {
            let what = format!("cannot give it its size of {size} bytes");
            self.fail_side(Side::Target, Cause::File { what, error }, context.now);
        }
    }

    /// A file or stream was read.
    pub(super) fn file_read(
        &mut self,
        strand: usize,
        tag: u32,
        completion: crate::engine::Completion,
        context: &mut Context<'_>,
    ) {
        let slot = slot_of(tag);
        let piece = self.slots[slot].piece;
        let buf = match completion.op {
            Op::Read { buf, .. } | Op::Receive { buf, .. } => buf,
            _ => return,
        };
        let count = match completion.result {
            Ok(count) => count as u64,
            Err(error) => {
                let what = format!("cannot read {} bytes at {}", piece.length, piece.start);
                self.give_up(slot);
                return self.fail_side(Side::Source, Cause::File { what, error }, context.now);
            }
        };
        self.slots[slot].buf = Some(buf);
        self.live.read.add(count);
        if let SourceSide::Stream { at, .. } = &mut self.strands[strand].source {
            *at += count;
            let end = *at;
            if count < piece.length {
                self.live.planned.add(end);
                self.stream_ended(slot, count);
                self.size_file(strand, end, context);
            }
            if count == 0 {
                return;
            }
            if self.target_size.is_some_and(|size| end > size) {
                self.give_up(slot);
                let what = format!(
                    "it is too small: the source streams more than its {} bytes",
                    self.target_size.unwrap_or(0)
                );
                return self.fail_side(Side::Target, Cause::Unfit(what), context.now);
            }
        } else if count < piece.length {
            let what = format!(
                "it ended at {}, within the {} bytes at {}",
                piece.start + count,
                piece.length,
                piece.start
            );
            self.give_up(slot);
            return self.fail_side(Side::Source, Cause::Unfit(what), context.now);
        }
        self.loaded(slot, context);
    }
}

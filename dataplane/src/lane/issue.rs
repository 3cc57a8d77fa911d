//! Beginning pieces: from the plan to the source, and from the slot to the target.

use std::rc::Rc;

use crate::engine::{Op, Token, ZeroHow};
use crate::fault::{Cause, Fault, Side};
use crate::nbd::{Command, CommandFlags, MAX_REQUEST_LEN, ReplyMode, Request};
use crate::plan::{Segment, SegmentKind};
use crate::pool::Buf;
use crate::report::PayloadKind;

use super::context::Context;
use super::role::Role;
use super::slots::{Cookie, SlotIndex, SlotState};
use super::strand::{PayloadState, SourceSide, TargetSide};
use super::task::{Phase, Task};
use super::work::Next;

/// Bytes that one block status asks about at most where its reply has lengths of 32 bits: nbdkit
/// 1.32 aborts when it is asked about nearly 4 GiB.
const COMPACT_QUESTION_BYTES: u64 = 1 << 30;

impl Task {
    /// Begins pieces on all strands, in turn, until nothing more fits.
    pub(super) fn issue(&mut self, context: &mut Context<'_>) {
        self.starved = false;
        if self.target_zeros.is_asked() || self.not_before.is_some_and(|at| at > context.now) {
            return;
        }
        self.not_before = None;
        for strand in 0..self.strands.len() {
            while self.may_issue(strand, context.fair_bytes) {
                if !self.issue_one(strand, context) {
                    return;
                }
            }
        }
    }

    fn may_issue(&self, strand: usize, fair_bytes: u64) -> bool {
        let depth = if self.settings.synchronous {
            1
        } else {
            self.settings.requests
        };
        let bytes = u64::from(self.adapt.request_bytes()).min(self.data_max);
        // Two requests, so that one is read while the other is written, however many lanes share.
        let fair = fair_bytes.max(2 * bytes).min(self.settings.in_flight_bytes);
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
            self.live.zero.add(piece.length);
            if self.target_is_zero && !self.settings.allocated {
                self.live.skipped.add(piece.length);
                self.record_zero(piece);
                return true;
            }
            self.record_zero(piece);
            if self.target_zeros.cover(piece) {
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
        if let Some(not_before) = context.rate.take(context.now, piece.length) {
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

    /// Asks the source for a slot's piece.
    fn read_slot(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let (piece, strand) = (self.slots[slot].piece, usize::from(self.slots[slot].strand));
        let cookie = self.slots.cookie(slot, 0).number();
        let spliced = self.slots[slot].buf.is_none();
        let id = self.id;
        match &mut self.strands[strand].source {
            SourceSide::Nbd(link) => {
                // Only an answer in one piece can be spliced.
                let whole = spliced
                    && link
                        .session
                        .as_ref()
                        .is_some_and(|session| session.flags.send_df());
                let flags = if whole {
                    CommandFlags::DF
                } else {
                    CommandFlags::NONE
                };
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
                let op = Op::Read {
                    file,
                    buf,
                    at: 0,
                    length: bytes(piece.length),
                    offset: piece.start,
                };
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
                context.engine.submit(
                    token,
                    Op::Receive {
                        socket,
                        buf,
                        at: 0,
                        least: length,
                        most: length,
                    },
                );
            }
        }
    }

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

    fn write_to_nbd(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let piece = self.slots[slot].piece;
        if piece.kind == SegmentKind::Zero && piece.length > self.zero_max {
            // It was cut for a target that makes zeros by itself, and that has changed since.
            return self.put_back(slot);
        }
        self.slots[slot].state = SlotState::Writing;
        self.slots.stamp(slot, context.now);
        if piece.kind == SegmentKind::Zero {
            self.slots[slot].parts = 1;
            return self.zero_part(slot, 0, piece, context);
        }
        let Some(buf) = self.slots[slot].buf.take() else {
            return;
        };
        let runs = self.take_runs_of(&buf, piece);
        self.slots[slot].parts = part_count(&runs);
        for (part, run) in (0u16..).zip(&runs) {
            if run.kind == SegmentKind::Zero {
                self.live.zero.add(run.length);
                self.zero_part(slot, part, *run, context);
            } else {
                let payload = (
                    buf.clone(),
                    bytes(run.start - piece.start),
                    bytes(run.length),
                );
                self.send_part(
                    slot,
                    part,
                    Command::Write,
                    CommandFlags::NONE,
                    *run,
                    Some(payload),
                    context,
                );
                self.live.sent.add(run.length);
            }
        }
        self.runs = runs;
    }

    /// Makes a part of a slot zero, with real zeros where the target can do nothing better.
    fn zero_part(&mut self, slot: SlotIndex, part: u16, run: Segment, context: &mut Context<'_>) {
        if self.can_zero {
            self.slots[slot].zeroed = true;
            let flags = if self.settings.allocated {
                CommandFlags::NO_HOLE
            } else {
                CommandFlags::NONE
            };
            return self.send_part(slot, part, Command::WriteZeroes, flags, run, None, context);
        }
        // Pieces of zeros are cut to the length of the block of zeros for such targets.
        let payload = (context.zeros.clone(), 0, bytes(run.length));
        self.send_part(
            slot,
            part,
            Command::Write,
            CommandFlags::NONE,
            run,
            Some(payload),
            context,
        );
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a request")]
    fn send_part(
        &mut self,
        slot: SlotIndex,
        part: u16,
        command: Command,
        flags: CommandFlags,
        run: Segment,
        payload: Option<(Buf, usize, usize)>,
        context: &Context<'_>,
    ) {
        let cookie = self.slots.cookie(slot, part).number();
        let strand = usize::from(self.slots[slot].strand);
        if let Some(link) = self.strands[strand].target_link() {
            link.request(
                Request {
                    command,
                    flags,
                    cookie,
                    offset: run.start,
                    length: run.length,
                },
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
        let runs = match &buf {
            Some(buf) => self.take_runs_of(buf, piece),
            None => {
                let mut runs = std::mem::take(&mut self.runs);
                runs.clear();
                runs.push(piece);
                runs
            }
        };
        self.slots[slot].parts = part_count(&runs);
        let token = Token {
            lane: self.id,
            strand: index(strand),
            role: Role::Write.on(Side::Target),
            tag: u32::from(slot),
        };
        for run in &runs {
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
                    Op::Zero {
                        file,
                        how,
                        offset: run.start,
                        length: run.length,
                    }
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
        self.runs = runs;
    }

    /// Writes what comes next on a target that is written in order, if it is there.
    pub(super) fn write_in_order(&mut self, strand: usize, context: &mut Context<'_>) {
        let TargetSide::Stream {
            stream,
            at,
            writing,
        } = &mut self.strands[strand].target
        else {
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
        let buf = self.slots[slot]
            .buf
            .take()
            .unwrap_or_else(|| context.zeros.clone());
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
            Op::Send {
                socket,
                head,
                head_len: 0,
                payload: Some((buf, 0, bytes(piece.length))),
            },
        );
    }

    /// Begins the move of an announced payload, if the target's direction is free.
    pub(super) fn convey_announced(&mut self, strand: usize, context: &mut Context<'_>) {
        let PayloadState::Announced(slot) = self.strands[strand].payload else {
            return;
        };
        let piece = self.slots[slot].piece;
        let cookie = self.slots.cookie(slot, 0);
        let (to, head, target_epoch) = match &mut self.strands[strand].target {
            TargetSide::Null(null) => (Rc::clone(null), None, 0),
            TargetSide::Nbd(link) => {
                let (true, false, Some(socket)) =
                    (link.is_ready(), link.sending, link.socket.clone())
                else {
                    return;
                };
                let request = Request {
                    command: Command::Write,
                    flags: CommandFlags::NONE,
                    cookie: cookie.number(),
                    offset: piece.start,
                    length: piece.length,
                };
                let mut head = [0; MAX_REQUEST_LEN];
                let length = link.encode(&request, &mut head);
                (socket, Some((head, length)), link.epoch)
            }
            TargetSide::File(_) | TargetSide::Stream { .. } => return,
        };
        let mut conveyor = match self.take_conveyor(strand, context.conveyor_bytes) {
            Ok(conveyor) => conveyor,
            Err(fault) => return self.fail(fault, context.now),
        };
        if let Some((head, length)) = head
            && let Err(error) = conveyor.put_head(&head[..length])
        {
            return self.fail(
                Fault::Local {
                    what: "cannot put a header into a pipe".into(),
                    error,
                },
                context.now,
            );
        }
        if let Some(link) = self.strands[strand].target_link() {
            link.sending = true;
        }
        let end = conveyor.watch_end();
        let id = self.id;
        let Some(link) = self.strands[strand].source_link() else {
            return;
        };
        let Some(from) = link.socket.clone() else {
            return;
        };
        link.receiving = true;
        let token = Token {
            lane: id,
            strand: index(strand),
            role: Role::Convey.on(Side::Source),
            tag: link.epoch,
        };
        self.strands[strand].payload = PayloadState::Conveying { slot, target_epoch };
        self.strands[strand].move_end = Some(end);
        self.slots[slot].state = SlotState::Conveying;
        context.engine.submit(
            token,
            Op::Convey {
                from,
                conveyor,
                to,
                length: bytes(piece.length),
            },
        );
    }

    /// Asks the source ahead which of the coming bytes are zero, or changed.
    pub(super) fn ask_status(&mut self, context: &mut Context<'_>) {
        if let SourceSide::File(file) = &self.strands[0].source {
            let file = Rc::clone(file);
            return self.ask_file(&file);
        }
        let Some(link) = self.strands[0].source_link() else {
            return;
        };
        let (true, Some(session)) = (link.is_ready(), link.session.as_ref()) else {
            return;
        };
        let longest = longest_question(session.mode);
        let granularity = u64::from(session.block_size.minimum);
        let Some(question) = self.work.question(longest, granularity) else {
            return;
        };
        let Some(link) = self.strands[0].source_link() else {
            return;
        };
        self.status.allocation.clear();
        self.status.dirty.clear();
        self.status.failed = None;
        let request = Request {
            command: Command::BlockStatus,
            flags: CommandFlags::NONE,
            cookie: Cookie::Status.number(),
            offset: question.start,
            length: question.length,
        };
        link.request(request, None, context.now);
    }

    pub(super) fn reads_a_file(&self) -> bool {
        matches!(self.strands[0].source, SourceSide::File(_))
    }

    /// Asks a file for its holes: seeking is answered on the spot.
    fn ask_file(&mut self, file: &crate::engine::Descriptor) {
        while let Some(question) = self.work.question(u64::MAX, 1) {
            let mut runs = std::mem::take(&mut self.status.allocation);
            super::open::holes_of(file, question, &mut runs);
            let answered = self.work.answer(Some(&mut runs), None);
            self.status.allocation = runs;
            if answered.is_err() {
                return self.work.stop_asking();
            }
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
            if let Op::Zero {
                file,
                offset,
                length,
                ..
            } = completion.op
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
            let what = format!("cannot write {} bytes at {}", piece.length, piece.start);
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

    fn stop_zeroing(&mut self) {
        if self.can_zero {
            self.note("the target cannot write zeroes: zeros are sent as data");
        }
        self.can_zero = false;
        self.zero_max = self.write_max;
    }

    /// Whether what was read cannot be read again.
    pub(super) fn reads_a_stream(&self) -> bool {
        self.strands
            .iter()
            .any(|strand| matches!(strand.source, SourceSide::Stream { .. }))
    }

    /// Releases a slot whose piece cannot be moved, after a failure that ends the lane.
    pub(super) fn give_up(&mut self, slot: SlotIndex) {
        let strand = usize::from(self.slots[slot].strand);
        self.strands[strand].in_flight -= 1;
        self.slots.release(slot);
    }
}

/// Bytes that one block status may ask about.
pub(super) fn longest_question(mode: ReplyMode) -> u64 {
    match mode {
        ReplyMode::Simple | ReplyMode::Structured => COMPACT_QUESTION_BYTES,
        ReplyMode::Extended => crate::nbd::max_request_length(mode),
    }
}

/// A byte count that fits the memory of this machine, because it is at most a block of the pool.
pub(super) fn bytes(length: u64) -> usize {
    usize::try_from(length).expect("pieces are no longer than a block of the pool")
}

fn part_count(runs: &[Segment]) -> u16 {
    u16::try_from(runs.len()).expect("a block is no longer than 4096 runs of zeros and data")
}

/// A strand's number in tokens.
pub(super) fn index(strand: usize) -> u16 {
    u16::try_from(strand).expect("connections are counted in 16 bits")
}

fn slot_of(tag: u32) -> SlotIndex {
    SlotIndex::try_from(tag).expect("the lane put a slot's index there")
}

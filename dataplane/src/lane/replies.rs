//! Following pieces: replies of the source, payload, acknowledgements of the target.

use crate::engine::{Completion, End, Op};
use crate::fault::{Cause, Side};
use crate::nbd::{Extents, NbdError, Reply, ReplyMode};
use crate::plan::{Run, Segment, SegmentKind};
use crate::report::PayloadKind;

use super::context::Context;
use super::coverage::BadRange;
use super::issue::bytes;
use super::slots::{Cookie, SlotIndex, SlotState};
use super::strand::PayloadState;
use super::task::Task;

/// The metadata context that tells zeros.
pub(super) const ALLOCATION: &str = "base:allocation";

/// A reply, no longer bound to the reader that it came from.
pub(super) enum Heard {
    Data {
        cookie: u64,
        offset: u64,
        length: u32,
        done: bool,
    },
    Hole {
        cookie: u64,
        offset: u64,
        length: u32,
        done: bool,
    },
    Status {
        done: bool,
    },
    Error {
        cookie: u64,
        error: NbdError,
        message: String,
        done: bool,
    },
    Done {
        cookie: u64,
    },
    Simple {
        cookie: u64,
        error: Option<NbdError>,
    },
}

impl Heard {
    fn cookie(&self) -> Option<u64> {
        match self {
            Self::Data { cookie, .. }
            | Self::Hole { cookie, .. }
            | Self::Error { cookie, .. }
            | Self::Done { cookie }
            | Self::Simple { cookie, .. } => Some(*cookie),
            Self::Status { .. } => None,
        }
    }
}

/// Whether to look for more replies.
pub(super) enum Go {
    On,
    /// A payload comes first.
    Payload,
}

impl Task {
    /// Takes all replies that have come on one side of a strand.
    pub(super) fn take_replies(&mut self, strand: usize, side: Side, context: &mut Context<'_>) {
        loop {
            let heard = match self.hear(strand, side) {
                Ok(Some(heard)) => heard,
                Ok(None) => return,
                Err(cause) => return self.side_failed(strand, side, cause, context),
            };
            let went = match side {
                Side::Source => self.source_said(strand, heard, context),
                Side::Target => self.target_said(strand, heard, context),
            };
            match went {
                Ok(Go::On) if self.strands[strand].side_is_ready(side) => {}
                Ok(_) => return,
                Err(cause) => return self.side_failed(strand, side, cause, context),
            }
        }
    }

    fn hear(&mut self, strand: usize, side: Side) -> Result<Option<Heard>, Cause> {
        let strand = &mut self.strands[strand];
        let Some(link) = strand.link(side) else {
            return Ok(None);
        };
        let session = link.session.as_ref();
        let dirty = self.dirty_context.as_deref();
        let ids = session.map(|session| {
            (
                session.context(ALLOCATION),
                dirty.and_then(|name| session.context(name)),
            )
        });
        let Some(reader) = link.reader.as_mut() else {
            return Ok(None);
        };
        Ok(match reader.next()? {
            None => None,
            Some(Reply::Data {
                cookie,
                offset,
                length,
                done,
            }) => Some(Heard::Data {
                cookie,
                offset,
                length,
                done,
            }),
            Some(Reply::Hole {
                cookie,
                offset,
                length,
                done,
            }) => Some(Heard::Hole {
                cookie,
                offset,
                length,
                done,
            }),
            Some(Reply::Status {
                cookie,
                context,
                extents,
                done,
            }) => {
                if side == Side::Target && Cookie::of(cookie) == Some(Cookie::TargetStatus) {
                    let (allocation, _) = ids.unwrap_or_default();
                    if Some(context) == allocation {
                        self.target_zeros.take(extents);
                    }
                    return Ok(Some(if done {
                        Heard::Done { cookie }
                    } else {
                        Heard::Status { done }
                    }));
                }
                if Cookie::of(cookie) != Some(Cookie::Status) {
                    return Err(Cause::Protocol(
                        "a block status came for a request that did not ask for one".into(),
                    ));
                }
                let (allocation, dirty) = ids.unwrap_or_default();
                if Some(context) == allocation {
                    collect(extents, &mut self.status.allocation);
                } else if Some(context) == dirty {
                    collect(extents, &mut self.status.dirty);
                } else {
                    self.status.failed = Some(format!(
                        "the server sent the metadata context {context}, which was not selected"
                    ));
                }
                Some(Heard::Status { done })
            }
            Some(Reply::Error {
                cookie,
                error,
                message,
                done,
                ..
            }) => Some(Heard::Error {
                cookie,
                error,
                message: message.into(),
                done,
            }),
            Some(Reply::Done { cookie }) => Some(Heard::Done { cookie }),
            Some(Reply::Simple { cookie, error }) => Some(Heard::Simple { cookie, error }),
        })
    }

    fn source_said(
        &mut self,
        strand: usize,
        heard: Heard,
        context: &mut Context<'_>,
    ) -> Result<Go, Cause> {
        if heard.cookie().and_then(Cookie::of) == Some(Cookie::Probe) {
            return self.probe_said(strand, Side::Source, heard, context);
        }
        match heard {
            Heard::Data {
                cookie,
                offset,
                length,
                done,
            } => {
                let slot = self.reading(strand, cookie)?;
                self.data_follows(strand, slot, offset, length, done, context)
            }
            Heard::Hole {
                cookie,
                offset,
                length,
                done,
            } => {
                let slot = self.reading(strand, cookie)?;
                self.hole(slot, offset, length)?;
                if done {
                    self.read_ended(strand, slot, context)
                } else {
                    Ok(Go::On)
                }
            }
            Heard::Status { done: false } => Ok(Go::On),
            Heard::Status { done: true } => self.status_ended(strand),
            Heard::Error {
                cookie,
                error,
                message,
                done,
            } => {
                if Cookie::of(cookie) == Some(Cookie::Status) {
                    self.status.failed.get_or_insert_with(|| {
                        format!(
                            "{}{}{message}",
                            error.description(),
                            if message.is_empty() { "" } else { ": " }
                        )
                    });
                    return if done {
                        self.status_ended(strand)
                    } else {
                        Ok(Go::On)
                    };
                }
                let slot = self.reading(strand, cookie)?;
                self.slots[slot].error.get_or_insert((error, message));
                if done {
                    self.read_ended(strand, slot, context)
                } else {
                    Ok(Go::On)
                }
            }
            Heard::Done { cookie } => {
                if Cookie::of(cookie) == Some(Cookie::Status) {
                    return self.status_ended(strand);
                }
                let slot = self.reading(strand, cookie)?;
                self.read_ended(strand, slot, context)
            }
            Heard::Simple { cookie, error } => {
                if Cookie::of(cookie) == Some(Cookie::Status) {
                    let reason = error.map_or(
                        "the server answered it without extents",
                        NbdError::description,
                    );
                    self.status.failed.get_or_insert_with(|| reason.into());
                    return self.status_ended(strand);
                }
                let slot = self.reading(strand, cookie)?;
                if let Some(error) = error {
                    self.slots[slot].error = Some((error, String::new()));
                    return self.read_ended(strand, slot, context);
                }
                let mode = self.strands[strand]
                    .source_link()
                    .and_then(|link| link.session.as_ref())
                    .map(|session| session.mode);
                if mode != Some(ReplyMode::Simple) {
                    return Err(Cause::Protocol("a READ was answered by a simple reply although structured replies were agreed on".into()));
                }
                let Segment { start, length, .. } = self.slots[slot].piece;
                let length = u32::try_from(length).expect("a request's length fits 32 bits");
                self.data_follows(strand, slot, start, length, true, context)
            }
        }
    }

    /// The slot that a reply of the source is about.
    fn reading(&self, strand: usize, cookie: u64) -> Result<SlotIndex, Cause> {
        if let Some(Cookie::Slot {
            index,
            generation,
            part: 0,
        }) = Cookie::of(cookie)
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

    fn data_follows(
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
            self.strands[strand].payload = PayloadState::Receiving {
                slot,
                generation,
                done,
            };
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

    fn hole(&mut self, slot: SlotIndex, offset: u64, length: u32) -> Result<(), Cause> {
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
        let at = offset
            .checked_sub(piece.start)
            .and_then(|at| u32::try_from(at).ok());
        let covered = at.ok_or(BadRange::OutOfRange).and_then(|at| {
            self.slots[slot]
                .coverage
                .add(at, length, block)
                .map(|()| at)
        });
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
    fn read_ended(
        &mut self,
        strand: usize,
        slot: SlotIndex,
        context: &mut Context<'_>,
    ) -> Result<Go, Cause> {
        self.request_ended(strand, Side::Source);
        let piece = self.slots[slot].piece;
        if let Some((error, message)) = self.slots[slot].error.take() {
            if error.is_shutdown() {
                return Err(self.shutting_down(strand, Side::Source));
            }
            self.give_up(slot);
            let request = format!("READ of {}", described(piece));
            self.fail_side(
                Side::Source,
                Cause::Refused {
                    request,
                    error,
                    message,
                },
                context.now,
            );
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

    /// A slot's buffer holds all of its piece.
    pub(super) fn loaded(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let piece = self.slots[slot].piece;
        self.slots[slot].state = SlotState::Loaded;
        if let Some(buf) = self.slots[slot].buf.take() {
            self.inspect(piece, &buf[..bytes(piece.length)]);
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
        let PayloadState::Receiving {
            slot,
            generation,
            done,
        } = payload
        else {
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

    /// A move has ended, or failed at one of its ends.
    pub(super) fn conveyed(
        &mut self,
        strand: usize,
        tag: u32,
        completion: Completion,
        context: &mut Context<'_>,
    ) {
        let Op::Convey {
            conveyor, length, ..
        } = completion.op
        else {
            return;
        };
        let state = &mut self.strands[strand];
        let PayloadState::Conveying { slot, target_epoch } = state.payload else {
            return;
        };
        if state.source_link().is_none_or(|link| link.epoch != tag) {
            return; // both sides were given up; so is the pipe, with what may be in it
        }
        state.payload = PayloadState::None;
        let target_is_same = state
            .target_link()
            .is_none_or(|link| link.epoch == target_epoch);
        if let Some(link) = state.target_link()
            && target_is_same
        {
            link.sending = false;
        }
        if let Some(link) = state.source_link() {
            link.receiving = false;
        }
        match completion.result {
            Ok(_) if target_is_same => {
                state.conveyor = Some(conveyor);
                if let Some(link) = state.source_link()
                    && let Some(reader) = &mut link.reader
                {
                    reader.payload_taken();
                }
                self.conveyed_whole(strand, slot, length as u64, context);
                self.take_replies(strand, Side::Source, context);
            }
            Err(e) if conveyor.end() == End::From => {
                let Some(link) = self.strands[strand].source_link() else {
                    return;
                };
                let cause = link.lost(&e.to_string());
                // The target has a part of a payload: nothing but the end of its connection can
                // follow it.
                self.strands[strand].payload = PayloadState::Conveying { slot, target_epoch };
                self.side_failed(strand, Side::Source, cause, context);
            }
            result => {
                // The target is gone, the source is not: what is left of the payload is taken
                // out of its stream.
                let left = if result.is_ok() {
                    0
                } else {
                    length - conveyor.taken()
                };
                if let Some(link) = self.strands[strand].source_link() {
                    link.discard = left;
                    if link.discard == 0
                        && let Some(reader) = &mut link.reader
                    {
                        reader.payload_taken();
                    }
                }
                self.request_ended(strand, Side::Source);
                self.put_back(slot);
                if target_is_same && let Some(link) = self.strands[strand].target_link() {
                    let how = result
                        .err()
                        .map_or_else(|| "it ended".into(), |e| e.to_string());
                    let cause = link.lost(&how);
                    self.side_failed(strand, Side::Target, cause, context);
                }
                self.take_replies(strand, Side::Source, context);
            }
        }
    }

    fn conveyed_whole(
        &mut self,
        strand: usize,
        slot: SlotIndex,
        length: u64,
        context: &mut Context<'_>,
    ) {
        self.live.read.add(length);
        self.live.sent.add(length);
        self.request_ended(strand, Side::Source);
        self.slots[slot].state = SlotState::Writing;
        self.slots[slot].parts = 1;
        self.slots.stamp(slot, context.now);
        match self.strands[strand].target_link() {
            Some(link) => {
                if link.outstanding == 0 {
                    link.liveness.progress_at = context.now;
                }
                link.outstanding += 1;
            }
            None => self.part_acknowledged(slot, context),
        }
    }

    fn status_ended(&mut self, strand: usize) -> Result<Go, Cause> {
        self.request_ended(strand, Side::Source);
        let mut allocation = std::mem::take(&mut self.status.allocation);
        let mut dirty = std::mem::take(&mut self.status.dirty);
        let with_dirty = self.dirty_context.is_some();
        let answered = match self.status.failed.take() {
            Some(reason) => Err(reason),
            None => {
                let known = self.knows_allocation(strand);
                self.work.answer(
                    known.then_some(&mut allocation[..]),
                    with_dirty.then_some(&mut dirty[..]),
                )
            }
        };
        (self.status.allocation, self.status.dirty) = (allocation, dirty);
        match answered {
            Ok(skipped) => self.live.skipped.add(skipped),
            // Without the bitmap nobody knows what changed: reading everything would be a full
            // copy that was not asked for.
            Err(reason) if with_dirty => {
                return Err(Cause::Unfit(format!(
                    "its dirty bitmap cannot be read: {reason}"
                )));
            }
            Err(reason) => {
                self.note(&format!(
                    "the source's block status failed ({reason}): everything is read"
                ));
                self.work.stop_asking();
            }
        }
        Ok(Go::On)
    }

    fn knows_allocation(&mut self, strand: usize) -> bool {
        let session = self.strands[strand]
            .source_link()
            .and_then(|link| link.session.as_ref());
        session.is_some_and(|session| session.context(ALLOCATION).is_some())
    }

    fn target_said(
        &mut self,
        strand: usize,
        heard: Heard,
        context: &mut Context<'_>,
    ) -> Result<Go, Cause> {
        if heard.cookie().and_then(Cookie::of) == Some(Cookie::Probe) {
            return self.probe_said(strand, Side::Target, heard, context);
        }
        let (cookie, outcome, done) = match heard {
            Heard::Done { cookie } => (cookie, Ok(()), true),
            Heard::Simple {
                cookie,
                error: None,
            } => (cookie, Ok(()), true),
            Heard::Simple {
                cookie,
                error: Some(error),
            } => (cookie, Err((error, String::new())), true),
            Heard::Error {
                cookie,
                error,
                message,
                done,
            } => (cookie, Err((error, message)), done),
            Heard::Data { .. } | Heard::Hole { .. } => {
                return Err(Cause::Protocol("data came in reply to a write".into()));
            }
            Heard::Status { .. } => return Ok(Go::On), // of the question for zeros; more follows
        };
        if !done {
            // The chunk that ends the reply follows; the error stays an error.
            self.refusals.extend(
                outcome
                    .err()
                    .map(|(error, message)| (cookie, error, message)),
            );
            if self.refusals.len() > usize::from(u16::MAX) {
                return Err(Cause::Protocol(
                    "errors came for more requests than there are".into(),
                ));
            }
            return Ok(Go::On);
        }
        let earlier = self
            .refusals
            .iter()
            .position(|(of, ..)| *of == cookie)
            .map(|at| self.refusals.swap_remove(at));
        let outcome = earlier.map_or(outcome, |(_, error, message)| Err((error, message)));
        self.request_ended(strand, Side::Target);
        match Cookie::of(cookie) {
            // Without an answer the zeros are written.
            Some(Cookie::TargetStatus) => self.target_zeros.answered(),
            Some(Cookie::Flush(number)) => self.flush_ended(number, outcome, context)?,
            Some(Cookie::Slot {
                index, generation, ..
            }) if self.is_writing(index, generation, strand) => {
                return self.write_ended(strand, index, outcome, context);
            }
            _ => {
                return Err(Cause::Protocol(format!(
                    "a reply came with the cookie {cookie:#x}, which belongs to no request that is written"
                )));
            }
        }
        Ok(Go::On)
    }

    fn is_writing(&self, index: SlotIndex, generation: u32, strand: usize) -> bool {
        let slot = self.slots.of(index, generation);
        slot.is_some_and(|slot| {
            slot.state == SlotState::Writing && usize::from(slot.strand) == strand
        })
    }

    fn write_ended(
        &mut self,
        strand: usize,
        slot: SlotIndex,
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
        let piece = self.slots[slot].piece;
        if self.slots[slot].zeroed
            && error.effective() == NbdError::NotSup
            && !self.reads_a_stream()
        {
            self.zero_by_writing(slot, context);
            return Ok(Go::On);
        }
        let verb = if piece.kind == SegmentKind::Zero {
            "WRITE_ZEROES"
        } else {
            "WRITE"
        };
        let request = format!("{verb} of {}", described(piece));
        self.fail_side(
            Side::Target,
            Cause::Refused {
                request,
                error,
                message,
            },
            context.now,
        );
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
        self.acknowledged(slot, context);
    }

    /// All of a slot is on the target, though not yet for good.
    pub(super) fn acknowledged(&mut self, slot: SlotIndex, context: &mut Context<'_>) {
        let strand = usize::from(self.slots[slot].strand);
        self.strands[strand].in_flight -= 1;
        let piece = self.slots.release(slot);
        self.live.acknowledged.add(piece.length);
        // What is only done again is no progress: a side that breaks off at the same place each
        // time would be connected again for ever.
        let acknowledged = self.live.acknowledged.get();
        if acknowledged > self.best_acknowledged {
            self.best_acknowledged = acknowledged;
            self.went_on(strand);
        }
        self.unflushed.acknowledge(piece);
        self.adapt.acknowledged(piece.length, context.now);
    }

    /// Releases a slot whose piece has to be done again.
    pub(super) fn put_back(&mut self, slot: SlotIndex) {
        let strand = usize::from(self.slots[slot].strand);
        self.strands[strand].in_flight -= 1;
        let piece = self.slots.release(slot);
        if piece.kind == SegmentKind::Zero {
            self.live.zero.take_back(piece.length);
        }
        self.live.redone.add(piece.length);
        self.work.redo(piece);
    }

    /// A request has its last reply.
    pub(super) fn request_ended(&mut self, strand: usize, side: Side) {
        if let Some(link) = self.strands[strand].link(side) {
            link.outstanding = link.outstanding.saturating_sub(1);
            link.liveness.lost_at = None;
        }
    }

    /// A strand did what was never done before.
    pub(super) fn went_on(&mut self, strand: usize) {
        for link in self.strands[strand].links() {
            link.liveness.attempts = 0;
        }
    }

    fn shutting_down(&mut self, strand: usize, side: Side) -> Cause {
        self.strands[strand].link(side).map_or_else(
            || Cause::Unfit("the server is shutting down".into()),
            |link| link.lost("the server is shutting down"),
        )
    }
}

fn collect(extents: Extents<'_>, into: &mut Vec<Run>) {
    into.extend(extents.map(|extent| Run {
        length: extent.length,
        flags: extent.flags,
    }));
}

/// A range, as people read it.
pub(super) fn described(piece: Segment) -> String {
    format!("{} bytes at {}", piece.length, piece.start)
}

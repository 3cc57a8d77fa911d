//! Following pieces: replies of the source, payload, acknowledgements of the target.

use crate::fault::{Cause, Side};
use crate::nbd::{NbdError, Reply, ReplyMode};
use crate::plan::{Segment, SegmentKind};

use super::context::Context;
use super::slots::{Cookie, SlotIndex};
use super::status::Known;
use super::task::Task;

/// The metadata context that tells zeros.
pub(super) const ALLOCATION: &str = "base:allocation";

/// Chunks in a row, of errors or block status, of which none ends its reply: as many as a READ of
/// 32 MiB, the longest, has sectors that can fail.
const UNENDED_MAX: u32 = 65_536;

/// A reply, no longer bound to the reader that it came from.
pub(super) enum Heard {
    Data { cookie: u64, offset: u64, length: u32, done: bool },
    Hole { cookie: u64, offset: u64, length: u32, done: bool },
    Status { done: bool },
    Error { cookie: u64, error: NbdError, message: String, done: bool },
    Done { cookie: u64 },
    Simple { cookie: u64, error: Option<NbdError> },
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
            (session.context(ALLOCATION), dirty.and_then(|name| session.context(name)))
        });
        let Some(reader) = link.reader.as_mut() else {
            return Ok(None);
        };
        let reply = reader.next()?;
        if let Some(Reply::Status { done: false, .. } | Reply::Error { done: false, .. }) = reply {
            link.unended += 1;
            if link.unended > UNENDED_MAX {
                let what =
                    format!("{UNENDED_MAX} chunks came in a row of which none ends its reply");
                return Err(Cause::Protocol(what));
            }
        }
        Ok(match reply {
            None => None,
            Some(Reply::Data { cookie, offset, length, done }) => {
                Some(Heard::Data { cookie, offset, length, done })
            }
            Some(Reply::Hole { cookie, offset, length, done }) => {
                Some(Heard::Hole { cookie, offset, length, done })
            }
            Some(Reply::Status { cookie, context, extents, done }) => {
                let (allocation, dirty) = ids.unwrap_or_default();
                let known = match context {
                    _ if Some(context) == allocation => Some(Known::Allocation),
                    _ if Some(context) == dirty => Some(Known::Dirty),
                    _ => None,
                };
                match (side, Cookie::of(cookie)) {
                    (Side::Target, Some(Cookie::TargetStatus)) => {
                        if known == Some(Known::Allocation) {
                            self.target_zeros.take(extents);
                        }
                        let last = Heard::Done { cookie };
                        return Ok(Some(if done { last } else { Heard::Status { done } }));
                    }
                    (Side::Source, Some(Cookie::Status)) => self.status.take(known, extents),
                    _ => {
                        let what = "a block status came for a request that did not ask for one";
                        return Err(Cause::Protocol(what.into()));
                    }
                }
                Some(Heard::Status { done })
            }
            Some(Reply::Error { cookie, error, message, done, .. }) => {
                Some(Heard::Error { cookie, error, message: message.into(), done })
            }
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
            Heard::Data { cookie, offset, length, done } => {
                let slot = self.reading(strand, cookie)?;
                self.data_follows(strand, slot, offset, length, done, context)
            }
            Heard::Hole { cookie, offset, length, done } => {
                let slot = self.reading(strand, cookie)?;
                self.hole(slot, offset, length)?;
                if done { self.read_ended(strand, slot, context) } else { Ok(Go::On) }
            }
            Heard::Status { done: false } => Ok(Go::On),
            Heard::Status { done: true } => self.status_ended(strand),
            Heard::Error { cookie, error, message, done } => {
                if Cookie::of(cookie) == Some(Cookie::Status) {
                    self.status.fail(error, &message);
                } else {
                    let slot = self.reading(strand, cookie)?;
                    self.slots[slot].error.get_or_insert((error, message));
                }
                if done {
                    self.source_said(strand, Heard::Done { cookie }, context)
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
            Heard::Simple { cookie, error: Some(error) } => {
                let message = String::new();
                let done = true;
                let heard = Heard::Error { cookie, error, message, done };
                self.source_said(strand, heard, context)
            }
            Heard::Simple { cookie, error: None } => {
                if Cookie::of(cookie) == Some(Cookie::Status) {
                    self.status.failed = Some("the server answered it without extents".into());
                    return self.status_ended(strand);
                }
                let slot = self.reading(strand, cookie)?;
                let mode = self.strands[strand]
                    .source_link()
                    .and_then(|link| link.session.as_ref())
                    .map(|session| session.mode);
                if mode != Some(ReplyMode::Simple) {
                    return Err(Cause::Protocol("a READ was answered by a simple reply although structured replies were agreed on".into()));
                }
                if let Some(reader) =
                    self.strands[strand].source_link().and_then(|link| link.reader.as_mut())
                {
                    reader.data_follow();
                }
                let Segment { start, length, .. } = self.slots[slot].piece;
                let length = u32::try_from(length).expect("a request's length fits 32 bits");
                self.data_follows(strand, slot, start, length, true, context)
            }
        }
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
            Heard::Simple { cookie, error: None } => (cookie, Ok(()), true),
            Heard::Simple { cookie, error: Some(error) } => {
                (cookie, Err((error, String::new())), true)
            }
            Heard::Error { cookie, error, message, done } => (cookie, Err((error, message)), done),
            Heard::Data { .. } | Heard::Hole { .. } => {
                return Err(Cause::Protocol("data came in reply to a write".into()));
            }
            Heard::Status { .. } => return Ok(Go::On), // of the question for zeros; more follows
        };
        if !done {
            // The chunk that ends the reply follows; the error stays an error.
            self.refusals.extend(outcome.err().map(|(error, message)| (cookie, error, message)));
            if self.refusals.len() > usize::from(u16::MAX) {
                return Err(Cause::Protocol("errors came for more requests than there are".into()));
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
            Some(Cookie::Seal) => self.seal_written(outcome, context)?,
            Some(Cookie::Flush(number)) => self.flush_ended(number, outcome, context)?,
            Some(Cookie::Slot { index, generation, part })
                if self.is_writing(index, generation, strand)
                    && self.slots.replied(index, part) =>
            {
                return self.write_ended(strand, (index, part), outcome, context);
            }
            _ => {
                return Err(Cause::Protocol(format!(
                    "a reply came with the cookie {cookie:#x}, which belongs to no request that is written"
                )));
            }
        }
        Ok(Go::On)
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
            link.unended = 0;
            link.liveness.answered = true;
        }
    }

    /// A strand did what was never done before.
    pub(super) fn went_on(&mut self, strand: usize) {
        for link in self.strands[strand].links() {
            link.liveness.attempts = 0;
            link.liveness.replaced = false;
        }
    }

    pub(super) fn shutting_down(&mut self, strand: usize, side: Side) -> Cause {
        self.strands[strand].link(side).map_or_else(
            || Cause::Unfit("the server is shutting down".into()),
            |link| link.lost("the server is shutting down"),
        )
    }
}

/// A range, as people read it.
pub(super) fn described(piece: Segment) -> String {
    format!("{} bytes at {}", piece.length, piece.start)
}

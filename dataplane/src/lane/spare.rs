//! A second connection beside a silent one, to take its place at the deadline.
//!
//! ```text
//!   silent for half ──▶ dialled ──ready──▶ asked for one block ──▶ answered ──deadline──▶ in its place
//!   of the deadline        ▲ │ failed              │                  │
//!                          └─┘ tried again         └── the old one gets on: closed
//! ```
//!
//! The silent connection is kept until the deadline: a server that is only slow is not to do its
//! work twice, and one that serves a single client greets nobody else meanwhile, which harms
//! nothing. So both halves of the deadline's promise are kept: whoever answers within it is never
//! given up, and whoever does not has had the time to come back before it has passed.
//!
//! A handshake does not tell that a server works, for its storage may hang. So the spare reads a
//! block of what the silent connection is asked for.

use std::time::{Duration, Instant};

use crate::engine::Completion;
use crate::fault::{Cause, Side};
use crate::nbd::{Command, CommandFlags, Reply, ReplyMode, Request};
use crate::plan::Segment;

use super::context::Context;
use super::link::{Happened, Link, State};
use super::liveness::backoff;
use super::role::Role;
use super::slots::{Cookie, SlotState};
use super::task::{Phase, Task};

/// A connection that waits for its chance. It is closed when this is dropped.
pub(super) struct Spare {
    /// `None` between two attempts.
    link: Option<Box<Link>>,
    begun: Instant,
    retry_at: Instant,
    attempts: u32,
    /// Bytes of the block that was asked for.
    block: u32,
    answered_at: Option<Instant>,
    /// Why the last attempt failed.
    failure: Option<Cause>,
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(link) = &mut self.link {
            link.reset();
        }
    }
}

impl Spare {
    fn new(now: Instant) -> Self {
        Self {
            link: None,
            begun: now,
            retry_at: now,
            attempts: 0,
            block: 0,
            answered_at: None,
            failure: None,
        }
    }

    /// Its connection and the time of its answer, if it has answered.
    pub(super) fn take(mut self) -> Option<(Link, Instant)> {
        let answered_at = self.answered_at?;
        self.link.take().map(|link| (*link, answered_at))
    }

    /// How far it came, as the end of a sentence about the silent connection.
    pub(super) fn words(&self) -> String {
        match (&self.link, &self.failure) {
            (Some(_), _) if self.answered_at.is_some() => {
                "; a second connection was answered".into()
            }
            (Some(link), _) => format!("; a second connection waits for {}", link.waiting_for()),
            (None, Some(cause)) => format!("; a second connection failed: {cause}"),
            (None, None) => String::new(),
        }
    }

    pub(super) fn pump(&mut self, context: &mut Context<'_>) {
        if let Some(link) = &mut self.link {
            link.pump(context);
        }
    }

    /// Whether it was answered, and can take the place of the silent one.
    pub(super) fn is_answered(&self) -> bool {
        self.answered_at.is_some()
    }

    /// See [`Link::takes_leave`]. It takes nobody's place any more.
    pub(super) fn takes_leave(&mut self, context: &mut Context<'_>) -> bool {
        self.answered_at = None;
        self.link.as_mut().is_some_and(|link| link.takes_leave(context))
    }

    /// Whether it may be closed: it has taken its leave, or owes its answer for too long.
    fn may_close(&mut self, deadline: Duration, context: &mut Context<'_>) -> bool {
        !self.takes_leave(context) || context.now.duration_since(self.begun) > deadline
    }

    fn is_leaving(&self) -> bool {
        self.link.as_ref().is_some_and(|link| matches!(link.state, State::Leaving(_)))
    }

    fn dial(&mut self, mut link: Link, context: &mut Context<'_>) -> Result<(), Cause> {
        self.attempts += 1;
        link.dial(context)?;
        self.link = Some(Box::new(link));
        Ok(())
    }

    fn failed(&mut self, cause: Cause, retry_at: Instant) {
        if let Some(mut link) = self.link.take() {
            link.reset();
        }
        self.answered_at = None;
        self.failure = Some(cause);
        self.retry_at = retry_at;
    }

    fn complete(
        &mut self,
        role: Role,
        completion: Completion,
        place: Option<Segment>,
        context: &mut Context<'_>,
    ) -> Result<(), Cause> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match link.complete(role, completion, context)? {
            Happened::Nothing => {}
            Happened::Ready => self.ask(place, context.now),
            Happened::Received => self.hear(context.now)?,
        }
        self.pump(context);
        Ok(())
    }

    /// Asks for the first block of a place, or of the disk.
    fn ask(&mut self, place: Option<Segment>, now: Instant) {
        let Some(link) = &mut self.link else {
            return;
        };
        let Some(session) = &link.session else {
            return;
        };
        let (offset, room) = place.map_or((0, session.size), |place| (place.start, place.length));
        self.block = session.block_size.minimum.min(u32::try_from(room).unwrap_or(u32::MAX));
        if self.block == 0 {
            // There is nothing to be read, and nothing that could hang.
            self.answered_at = Some(now);
            return;
        }
        let request = Request {
            command: Command::Read,
            flags: CommandFlags::NONE,
            cookie: Cookie::Probe.number(),
            offset,
            length: u64::from(self.block),
        };
        link.request(request, None, now);
    }

    /// Takes what came in answer. An error is one too: the server is there.
    fn hear(&mut self, now: Instant) -> Result<(), Cause> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        let simple = link.session.as_ref().is_some_and(|s| s.mode == ReplyMode::Simple);
        let Some(reader) = &mut link.reader else {
            return Ok(());
        };
        while let Some(reply) = reader.next()? {
            let (cookie, bytes, done) = match reply {
                Reply::Simple { cookie, error: None } if simple => (cookie, self.block, true),
                Reply::Data { cookie, length, done, .. } => (cookie, length, done),
                Reply::Hole { cookie, done, .. } | Reply::Error { cookie, done, .. } => {
                    (cookie, 0, done)
                }
                Reply::Simple { cookie, error: Some(_) } | Reply::Done { cookie } => {
                    (cookie, 0, true)
                }
                Reply::Simple { cookie, .. } | Reply::Status { cookie, .. } => {
                    return Err(Cause::Protocol(format!(
                        "an answer of another kind came to the read {cookie:#x}"
                    )));
                }
            };
            if Cookie::of(cookie) != Some(Cookie::Probe) || link.outstanding == 0 {
                return Err(Cause::Protocol(format!(
                    "a reply came with the cookie {cookie:#x}, which belongs to no request"
                )));
            }
            self.answered_at = done.then_some(now);
            link.outstanding -= u32::from(done);
            if bytes > 0 {
                link.discard = bytes as usize;
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Link {
    /// A connection to the same export that is yet to be dialled.
    fn beside(&mut self, now: Instant) -> Self {
        let (next_address, epoch) = (self.next_address, self.next_epoch());
        let destination = self.destination.clone();
        let fresh = Self::new(self.side, self.lane, self.strand, destination, now);
        Self { next_address, epoch, ..fresh }
    }

    /// Goes on with the connection of another link, which answered at some time; its own was
    /// reset. The side got on then, and has a deadline from there: more than what is asked again
    /// takes, if the answer to the spare is anything to go by.
    pub(super) fn go_on_with(&mut self, mut other: Link, answered_at: Instant, now: Instant) {
        self.epoch = other.epoch;
        self.state = std::mem::replace(&mut other.state, State::Down);
        self.socket = other.socket.take();
        self.session = other.session.take();
        self.reader = other.reader.take();
        self.receiving = other.receiving;
        self.sending = other.sending;
        self.outbox = std::mem::take(&mut other.outbox);
        self.outstanding = other.outstanding;
        self.unended = other.unended;
        self.discard = other.discard;
        self.tls = other.tls.take();
        self.liveness.since = now;
        self.liveness.progress_at = answered_at;
        self.liveness.moved = self.moved();
        self.liveness.owing = true;
        self.liveness.replaced = true;
    }
}

impl Task {
    /// Begins, tries again or closes the connection beside a silent one.
    pub(super) fn tend_spare(&mut self, strand: usize, side: Side, context: &mut Context<'_>) {
        if matches!(self.phase, Phase::Closing | Phase::Over) {
            return; // it takes its leave as all others do
        }
        let wanted = self.may_be_replaced(strand, side);
        let (deadline, first_wait) = (self.settings.deadline, self.settings.backoff);
        let salt = self.salt(strand);
        let Some(link) = self.strands[strand].link(side) else {
            return;
        };
        let silent =
            link.is_waiting() && context.now.duration_since(link.silent_since()) >= deadline / 2;
        if !(wanted && silent) {
            link.spare.take_if(|spare| spare.may_close(deadline, context));
            return;
        }
        let spare = link.spare.take().filter(|spare| !spare.is_leaving());
        let mut spare = spare.unwrap_or_else(|| Spare::new(context.now));
        if spare.link.is_none() && spare.retry_at <= context.now {
            let beside = link.beside(context.now);
            if let Err(cause) = spare.dial(beside, context) {
                spare.failed(cause, context.now + backoff(first_wait, spare.attempts, salt));
            }
        }
        link.spare = Some(spare);
    }

    /// Whether another connection could go on where this one is silent.
    fn may_be_replaced(&mut self, strand: usize, side: Side) -> bool {
        let at_work = matches!(self.phase, Phase::Checking | Phase::Running | Phase::Flushing);
        let held_up = self.is_held_up(strand, side);
        at_work
            && !held_up
            && self.fault.is_none()
            && self.settings.retries > 0
            && !self.cannot_be_lost(side)
            && self.strands[strand]
                .link(side)
                .is_some_and(|link| link.session.is_some() && !link.liveness.replaced)
    }

    /// Something happened on a connection that is not the link's own.
    pub(super) fn spare_completed(
        &mut self,
        strand: usize,
        side: Side,
        epoch: u32,
        role: Role,
        completion: Completion,
        context: &mut Context<'_>,
    ) {
        let place = self.awaited(strand, side);
        let (first_wait, salt) = (self.settings.backoff, self.salt(strand));
        let spare = self.strands[strand].link(side).and_then(|link| link.spare.as_mut());
        let Some(spare) =
            spare.filter(|spare| spare.link.as_ref().is_some_and(|link| link.epoch == epoch))
        else {
            return; // of a connection that was given up
        };
        if let Err(cause) = spare.complete(role, completion, place, context) {
            spare.failed(cause, context.now + backoff(first_wait, spare.attempts, salt));
        }
    }

    /// The piece that a side owes for longest.
    fn awaited(&self, strand: usize, side: Side) -> Option<Segment> {
        let state = match side {
            Side::Source => SlotState::Reading,
            Side::Target => SlotState::Writing,
        };
        let of_side = self
            .slots
            .used()
            .filter(|(_, slot)| usize::from(slot.strand) == strand && slot.state == state);
        of_side.min_by_key(|(_, slot)| slot.since).map(|(_, slot)| slot.piece)
    }
}

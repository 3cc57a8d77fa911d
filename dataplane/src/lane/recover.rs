//! Losses: what is put back, what is tried again, and when it is enough.
//!
//! A lost source takes back its reads. A lost target takes back its writes, and with them
//! everything that it acknowledged since the last FLUSH: a server that was killed and started
//! again has forgotten it, and nobody can tell that from a broken wire. Writing the same bytes
//! twice does no harm.

use std::time::{Duration, Instant};

use crate::fault::{Cause, Fault, Side};
use crate::nbd::HandshakeError;
use crate::plan::SegmentKind;
use crate::report::Event;

use super::context::Context;
use super::liveness::backoff;
use super::slots::{Cookie, Slot, SlotState};
use super::strand::{PayloadState, SourceSide, TargetSide};
use super::task::{Phase, Task};

/// A request may take this many deadlines while others of its connection are answered.
const REQUEST_PATIENCE: u32 = 4;

impl Task {
    /// A connection is of no more use.
    pub(super) fn side_failed(
        &mut self,
        strand: usize,
        side: Side,
        cause: Cause,
        context: &mut Context<'_>,
    ) {
        if matches!(self.phase, Phase::Closing | Phase::Over) {
            return;
        }
        self.reset(strand, side, context.now);
        if strand == 0
            && let Some(error) = out_of_descriptors(&cause)
        {
            let what = format!(
                "no socket is left for the {side} (raise ulimit -n, or move fewer lanes at once)"
            );
            return self.fail(Fault::Local { what, error }, context.now);
        }
        let first = self.strands[strand].link(side).is_some_and(|link| link.session.is_none());
        if first {
            return self.not_opened(strand, side, cause, context);
        }
        if side == Side::Source && self.needs_no_source() {
            return; // it is dialled again if a loss of the target brings something back
        }
        let given_up = self.settings.retries == 0 || self.phase == Phase::Draining;
        // What a stream gave and the target lost cannot be read a second time.
        let once_only = side == Side::Target && self.reads_a_stream();
        if !is_passing(&cause) || given_up || once_only {
            return self.fail_side(side, cause, context.now);
        }
        let (retries, salt) = (self.settings.retries, (self.index as u64) << 8 | strand as u64);
        let first_wait = self.settings.backoff;
        if let Some(link) = self.strands[strand].link(side) {
            // A side that was waited for through a whole deadline has half of another to come back.
            let since = match cause {
                Cause::Deadline { deadline, .. } => context.now - deadline / 2,
                _ => link.liveness.progress_at,
            };
            link.liveness.lost_at.get_or_insert(since);
        }
        let fails_at = self.fails_at(strand, side);
        let Some(link) = self.strands[strand].link(side) else {
            return;
        };
        link.liveness.attempts += 1;
        let attempt = link.liveness.attempts;
        let retry_at = context.now + backoff(first_wait, attempt, salt);
        if attempt > retries || fails_at.is_some_and(|at| retry_at >= at) {
            let cause = if attempt > 1 {
                Cause::GaveUp { attempts: attempt - 1, last: Box::new(cause) }
            } else {
                cause
            };
            return self.fail_side(side, cause, context.now);
        }
        link.liveness.retry_at = Some(retry_at);
        self.reconnects += 1;
        (self.observer)(&Event::Reconnecting {
            lane: self.index,
            side,
            attempt,
            reason: &cause.to_string(),
        });
    }

    /// The first connection of a link failed.
    fn not_opened(&mut self, strand: usize, side: Side, cause: Cause, context: &mut Context<'_>) {
        let Some(link) = self.strands[strand].link(side) else {
            return;
        };
        if matches!(cause, Cause::Connect(_)) && link.try_next_address() {
            link.liveness.retry_at = Some(context.now);
            return;
        }
        let waited = context.now.duration_since(self.started);
        if is_crowded(&cause) && waited < self.settings.deadline {
            link.liveness.retry_at = Some(context.now + self.settings.backoff);
            return;
        }
        if strand == 0 {
            return self.fail_side(side, cause, context.now);
        }
        self.note(&format!("the {side} gives no connection {}: {cause}", strand + 1));
        self.strands[strand].abandoned = true;
        for link in self.strands[strand].links() {
            link.reset();
            link.liveness.retry_at = None;
        }
    }

    /// Drops a connection and puts back what it undid.
    pub(super) fn reset(&mut self, strand: usize, side: Side, now: Instant) {
        let payload = self.strands[strand].payload;
        match side {
            Side::Source => {
                // A payload that is on its way into the target cannot be completed; the target's
                // connection ends with it, for only that undoes the part that it has.
                if let PayloadState::Conveying { target_epoch, .. } = payload
                    && self.strands[strand]
                        .target_link()
                        .is_some_and(|link| link.is_ready() && link.epoch == target_epoch)
                {
                    self.reset_target(strand, now);
                    if let Some(link) = self.strands[strand].target_link() {
                        link.liveness.retry_at = Some(link.liveness.since);
                    }
                }
                self.strands[strand].payload = PayloadState::None;
                self.strands[strand].conveyor = None;
                if let Some(link) = self.strands[strand].source_link() {
                    link.reset();
                }
                if strand == 0 {
                    // Questions and probes go over the first strand only.
                    self.work.question_lost();
                    self.probe_lost(Side::Source);
                }
                self.put_back_all(strand, |state| {
                    matches!(state, SlotState::Reading | SlotState::Conveying)
                });
            }
            Side::Target => self.reset_target(strand, now),
        }
    }

    fn reset_target(&mut self, strand: usize, now: Instant) {
        if let Some(link) = self.strands[strand].target_link() {
            link.reset();
        }
        self.target_zeros.forget();
        let slots = &self.slots;
        self.refusals.retain(|(cookie, ..)| match Cookie::of(*cookie) {
            Some(Cookie::Slot { index, generation, .. }) => {
                slots.of(index, generation).is_some_and(|slot| usize::from(slot.strand) != strand)
            }
            _ => false,
        });
        if strand == 0 {
            self.probe_lost(Side::Target);
        }
        self.put_back_all(strand, |state| state == SlotState::Writing);
        self.unflushed.hurry(now);
        let work = &mut self.work;
        let live = &self.live;
        self.unflushed.take_all(|segment| {
            live.acknowledged.take_back(segment.length);
            live.redone.add(segment.length);
            if segment.kind == SegmentKind::Zero {
                live.zero.take_back(segment.length);
            }
            work.redo(segment);
        });
        if self.phase == Phase::Flushing {
            // What was lost is done again, unless the lane has failed already.
            self.phase = match self.fault {
                None => Phase::Running,
                Some(_) => Phase::Draining,
            };
        }
    }

    fn put_back_all(&mut self, strand: usize, lost: impl Fn(SlotState) -> bool) {
        let of_strand = |slot: &Slot| usize::from(slot.strand) == strand && lost(slot.state);
        loop {
            let found = self.slots.used().find(|(_, slot)| of_strand(slot)).map(|(index, _)| index);
            let Some(slot) = found else { return };
            self.put_back(slot);
        }
    }

    /// Dials what is due.
    pub(super) fn dial_again(&mut self, context: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Opening | Phase::Checking | Phase::Running) {
            return;
        }
        for strand in 0..self.strands.len() {
            for side in [Side::Source, Side::Target] {
                let wanted = !self.work.is_exhausted() && !self.strands[strand].abandoned;
                let Some(link) = self.strands[strand].link(side) else {
                    continue;
                };
                if wanted && link.is_down() {
                    link.liveness.retry_at.get_or_insert(context.now);
                }
                if link.is_down()
                    && link.liveness.retry_at.is_some_and(|at| at <= context.now)
                    && let Err(cause) = link.dial(context)
                {
                    self.side_failed(strand, side, cause, context);
                }
            }
        }
    }

    /// Why a side has to be given up by now, if it has.
    pub(super) fn overdue(&mut self, strand: usize, side: Side, now: Instant) -> Option<Cause> {
        let deadline = self.settings.deadline;
        if matches!(self.phase, Phase::Closing | Phase::Over) || self.strands[strand].abandoned {
            return None;
        }
        let held_up = self.is_held_up(strand, side);
        let oldest = self.oldest_passed_over(strand, side);
        let fails_at = self.fails_at(strand, side);
        let link = self.strands[strand].link(side)?;
        let waits = link.is_waiting() || link.sending;
        link.observe(now, held_up || !waits);
        if !waits || held_up {
            return None;
        }
        let late = match (link.session.is_some(), link.is_ready()) {
            // One that was lost and has answered nothing since is not waited for as long again.
            (_, true) => {
                let patience = if fails_at.is_some() { deadline / 2 } else { deadline };
                let quiet = now.duration_since(link.liveness.progress_at.max(link.liveness.since))
                    > patience;
                quiet
                    || oldest.is_some_and(|since| {
                        now.duration_since(since) > deadline * REQUEST_PATIENCE
                    })
            }
            (true, false) => {
                fails_at.is_some_and(|at| now >= at)
                    || now.duration_since(link.liveness.since) > deadline
            }
            (false, false) => now.duration_since(link.liveness.since) > deadline,
        };
        late.then(|| Cause::Deadline {
            deadline,
            waiting_for: link.waiting_for(),
            hint: hint(link.is_ready(), link.waiting_for().contains("greeting")),
        })
    }

    /// When a side that was lost has failed for good: a deadline after the last progress before
    /// the first loss that no answer has followed.
    fn fails_at(&mut self, strand: usize, side: Side) -> Option<Instant> {
        let deadline = self.settings.deadline;
        let lost_at = self.strands[strand].link(side)?.liveness.lost_at?;
        Some(lost_at + deadline.max(Duration::from_millis(1)))
    }

    /// Whether a side is kept from making progress by the other one.
    fn is_held_up(&self, strand: usize, side: Side) -> bool {
        let state = &self.strands[strand];
        match (side, state.payload) {
            (Side::Source, PayloadState::Announced(_)) => true,
            (Side::Source, PayloadState::Conveying { .. }) => state.waits_for_target(),
            // It owes no answer, and gets the rest of a payload when the source gives it.
            (Side::Target, PayloadState::Conveying { .. }) => {
                !state.waits_for_target() && state.target_owes_nothing()
            }
            _ => false,
        }
    }

    /// The oldest request that so many later ones were answered before that it must be lost. Age
    /// alone says nothing: on a slow line every request is old.
    fn oldest_passed_over(&self, strand: usize, side: Side) -> Option<Instant> {
        let state = match side {
            Side::Source => SlotState::Reading,
            Side::Target => SlotState::Writing,
        };
        let of_side = self.slots.used().filter(|(_, slot)| {
            usize::from(slot.strand) == strand
                && slot.state == state
                && self.slots.is_passed_over(slot)
        });
        of_side.map(|(_, slot)| slot.since).min()
    }

    /// Everything was read: the source may go.
    fn needs_no_source(&self) -> bool {
        self.fault.is_none()
            && matches!(self.phase, Phase::Running | Phase::Flushing)
            && self.work.is_exhausted()
    }

    /// Whether anything that was begun can still come to its end.
    pub(super) fn can_drain(&self) -> bool {
        self.slots.used().any(|(_, slot)| {
            let strand = &self.strands[usize::from(slot.strand)];
            let target = strand.side_is_ready(Side::Target);
            match slot.state {
                SlotState::Free | SlotState::Loaded => false,
                SlotState::Reading => {
                    let announced = matches!(strand.payload, PayloadState::Announced(_));
                    let stream = matches!(strand.source, SourceSide::Stream { .. });
                    strand.side_is_ready(Side::Source) && !stream && (target || !announced)
                }
                SlotState::Conveying => strand.side_is_ready(Side::Source) && target,
                // A pipe takes its time, and makes nothing durable.
                SlotState::Writing => target && !matches!(strand.target, TargetSide::Stream { .. }),
            }
        })
    }
}

/// Whether a cause may pass: the wire or the server, not what they say.
fn is_passing(cause: &Cause) -> bool {
    match cause {
        Cause::Connect(_) | Cause::Lost { .. } | Cause::Deadline { .. } | Cause::Tls(_) => true,
        // A server that is starting or ending, or a tunnel whose far end is.
        Cause::Handshake(e) => {
            matches!(e, HandshakeError::Disconnected { .. } | HandshakeError::Shutdown { .. })
        }
        _ => false,
    }
}

/// Whether a server's queue of connections is full: on a Unix socket that is an error at once,
/// where TCP tries again by itself.
fn is_crowded(cause: &Cause) -> bool {
    matches!(cause, Cause::Connect(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// The error of a connection that failed for want of a descriptor: no fault of the side.
fn out_of_descriptors(cause: &Cause) -> Option<std::io::Error> {
    match cause {
        Cause::Connect(error) => error
            .raw_os_error()
            .filter(|errno| matches!(*errno, libc::EMFILE | libc::ENFILE))
            .map(std::io::Error::from_raw_os_error),
        _ => None,
    }
}

fn hint(ready: bool, greeting: bool) -> &'static str {
    match (ready, greeting) {
        (false, true) => {
            " (is the server stopped, or does it serve others only? qemu-nbd greets no more clients than --shared allows)"
        }
        (false, false) => "",
        (true, _) => " (the server is stopped, overloaded, or cut off; --deadline sets the limit)",
    }
}

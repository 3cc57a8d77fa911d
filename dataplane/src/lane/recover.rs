//! Losses: what is put back, what is tried again, and when it is enough.
//!
//! A lost source takes back its reads. A lost target takes back its writes, and with them
//! everything that it acknowledged since the last FLUSH: a server that was killed and started
//! again has forgotten it, and nobody can tell that from a broken wire. Writing the same bytes
//! twice does no harm.

use std::time::Instant;

use crate::fault::{Cause, Fault, Side};
use crate::nbd::HandshakeError;
use crate::plan::SegmentKind;
use crate::report::Event;

use super::context::Context;
use super::liveness::{backoff, enough};
use super::slots::{Cookie, Slot, SlotState};
use super::spare::Spare;
use super::strand::{PayloadState, SourceSide, Strand, TargetSide};
use super::task::{Phase, Task};

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
            // It has no more to be heard out for. What it had acknowledged stays acknowledged.
            if let Some(link) = self.strands[strand].link(side).filter(|link| link.is_ready()) {
                link.reset();
            }
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
        if let Some(link) = self.strands[strand].link(side) {
            // One that was answered takes this one's place, or stays to be told goodbye. Another is
            // not waited for: it is as silent as this one was.
            link.spare.take_if(|spare| !spare.is_answered());
        }
        if side == Side::Source && self.needs_no_source() {
            return; // it is dialled again if a loss of the target brings something back
        }
        let given_up = self.settings.retries == 0 || self.phase == Phase::Draining;
        if is_passing(&cause) && !given_up && self.cannot_be_lost(side) {
            let cause = Cause::Unrepeatable { cause: Box::new(cause) };
            return self.fail_side(side, cause, context.now);
        }
        if !is_passing(&cause) || given_up {
            return self.fail_side(side, cause, context.now);
        }
        let (retries, deadline) = (self.settings.retries, self.settings.deadline);
        let (first_wait, salt) = (self.settings.backoff, self.salt(strand));
        let Some(link) = self.strands[strand].link(side) else {
            return;
        };
        link.liveness.owing = true;
        link.liveness.attempts += 1;
        let attempt = link.liveness.attempts;
        let answered = link.spare.is_some();
        let retry_at = context.now + backoff(first_wait, attempt, salt);
        let fails_at = link.liveness.progress_at + deadline;
        if attempt > retries || (!answered && retry_at >= fails_at) {
            let cause = if attempt > 1 {
                Cause::GaveUp { attempts: attempt - 1, last: Box::new(cause) }
            } else {
                cause
            };
            return self.fail_side(side, cause, context.now);
        }
        self.reconnects += 1;
        (self.observer)(&Event::Reconnecting {
            lane: self.index,
            side,
            attempt,
            reason: &cause.to_string(),
        });
        match link.spare.take().and_then(Spare::take) {
            None => link.liveness.retry_at = Some(retry_at),
            Some((other, answered_at)) => {
                link.go_on_with(other, answered_at, context.now);
                self.link_ready(strand, side, context);
            }
        }
    }

    /// What the waits of a strand are spread by.
    pub(super) fn salt(&self, strand: usize) -> u64 {
        (self.index as u64) << 8 | strand as u64
    }

    /// Whether a loss of a side cannot be made good: what a stream gave and the target lost cannot
    /// be read a second time.
    pub(super) fn cannot_be_lost(&self, side: Side) -> bool {
        side == Side::Target && self.reads_a_stream()
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
        let endpoint = if side == Side::Source { &self.source } else { &self.target };
        let cause = cause.with_way(|| endpoint.down());
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
                        link.liveness.retry_at = Some(now);
                        // It is not to blame, and owes nothing for the time until now.
                        link.liveness.progress_at = now;
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
                if wanted && link.is_down() && link.liveness.retry_at.is_none() {
                    // Nothing was wanted of it until now.
                    link.liveness.retry_at = Some(context.now);
                    link.liveness.progress_at = context.now;
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
        let forgotten = self
            .oldest_passed_over(strand, side)
            .is_some_and(|since| now.duration_since(since) > deadline);
        let enough = enough(self.settings.least_rate, deadline);
        let link = self.strands[strand].link(side)?;
        let waits = link.is_waiting();
        link.observe(now, held_up || !waits, enough);
        if !waits || held_up {
            return None;
        }
        let silent = now.duration_since(link.silent_since()) > deadline;
        (silent || (forgotten && link.is_ready())).then(|| Cause::Deadline {
            deadline,
            waiting_for: link.waiting_for(),
            beside: link.spare.as_ref().map(Spare::words).unwrap_or_default(),
            hint: hint(link.is_ready(), link.waiting_for().contains("greeting")),
        })
    }

    /// Whether a side is kept from making progress by the other one.
    pub(super) fn is_held_up(&self, strand: usize, side: Side) -> bool {
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

    /// Whether anything that was begun can still come to its end. What a source sends without a
    /// target to take it cannot; it is taken from it when the lane closes.
    pub(super) fn can_drain(&self) -> bool {
        let owes =
            |strand: &Strand| strand.side_is_ready(Side::Target) && !strand.target_owes_nothing();
        self.strands.iter().any(owes) || self.slots.used().any(|(_, slot)| self.can_end(slot))
    }

    fn can_end(&self, slot: &Slot) -> bool {
        let strand = &self.strands[usize::from(slot.strand)];
        if !strand.side_is_ready(Side::Target) {
            return false;
        }
        match slot.state {
            SlotState::Free | SlotState::Loaded => false,
            SlotState::Reading => {
                let stream = matches!(strand.source, SourceSide::Stream { .. });
                strand.side_is_ready(Side::Source) && !stream
            }
            SlotState::Conveying => strand.side_is_ready(Side::Source),
            // A pipe takes its time, and makes nothing durable.
            SlotState::Writing => !matches!(strand.target, TargetSide::Stream { .. }),
        }
    }
}

/// Whether a cause may pass: the wire or the server, not what they say.
fn is_passing(cause: &Cause) -> bool {
    match cause {
        Cause::Connect(_) | Cause::Lost { .. } | Cause::Deadline { .. } | Cause::Tls(_) => true,
        // A server that is starting or ending, or a tunnel whose far end is.
        Cause::Handshake(e) => {
            matches!(
                e,
                HandshakeError::Disconnected { .. }
                    | HandshakeError::Shutdown { .. }
                    // It was there: a server that is ending has taken it away already, or one that
                    // is starting has not made it yet.
                    | HandshakeError::UnknownExport { .. }
            )
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

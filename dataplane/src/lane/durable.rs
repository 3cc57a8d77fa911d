//! Making it last: FLUSH, and the journal of what is safe.
//!
//! ```text
//!   acknowledged ──FLUSH sent──▶ covered by the FLUSH ──acknowledged──▶ safe ──▶ journal
//! ```
//!
//! A FLUSH covers what was acknowledged when it was sent, on all connections of a target that
//! advertises MULTI_CONN; a target without it has one connection.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::engine::{Completion, Op, Token};
use crate::fault::{Cause, Fault, Side};
use crate::journal::{Entry, JournalError, Witness};
use crate::nbd::{Command, CommandFlags, NbdError, Request};
use crate::plan::{Area, AreaSet, Segment, SegmentKind};
use crate::settings::Extent;

use super::context::Context;
use super::role::Role;
use super::slots::Cookie;
use super::strand::TargetSide;
use super::task::{Phase, Task};

/// Bytes of a witness at most.
pub(super) const WITNESS_BYTES: u64 = 4096;
/// Witnesses that are taken after a FLUSH.
const WITNESSES: usize = 4;
/// Separate areas that may wait for a FLUSH; past that one is sent, whatever the time.
const UNFLUSHED_AREAS: usize = 16 << 10;

/// What the target acknowledged and has not made durable.
#[derive(Default)]
pub(super) struct Unflushed {
    acknowledged: Acknowledged,
    /// Covered by the FLUSH that is in flight.
    covered: Option<Acknowledged>,
    last: Option<Instant>,
    /// Of the last FLUSH that was sent.
    number: u16,
    /// Shorter than the setting after losses, so that the next one undoes less.
    interval: Option<Duration>,
    /// The last loss, or the start.
    lost_at: Option<Instant>,
}

/// After a loss there are this many FLUSHes in the time that passed before it.
const FLUSHES_BETWEEN_LOSSES: u32 = 4;

#[derive(Default)]
struct Acknowledged {
    data: AreaSet,
    zero: AreaSet,
    /// On the target already, by the base; only for the journal.
    left: AreaSet,
}

impl Acknowledged {
    fn areas(&self) -> usize {
        self.data.len() + self.zero.len() + self.left.len()
    }

    fn segments(&self) -> impl Iterator<Item = Segment> {
        let of = |set: &AreaSet, kind| {
            set.as_slice().to_vec().into_iter().map(move |area| Segment {
                start: area.start,
                length: area.length,
                kind,
            })
        };
        of(&self.data, SegmentKind::Data).chain(of(&self.zero, SegmentKind::Zero))
    }
}

impl Unflushed {
    pub(super) fn acknowledge(&mut self, piece: Segment) {
        match piece.kind {
            SegmentKind::Data => self.acknowledged.data.insert(piece.area()),
            SegmentKind::Zero => self.acknowledged.zero.insert(piece.area()),
        }
    }

    /// Notes what the target held already: the next FLUSH makes it safe.
    pub(super) fn leave(&mut self, area: Area) {
        self.acknowledged.left.insert(area);
    }

    /// Gives everything back that a lost target may have forgotten.
    pub(super) fn take_all(&mut self, mut each: impl FnMut(Segment)) {
        let lost =
            [std::mem::take(&mut self.acknowledged), self.covered.take().unwrap_or_default()];
        lost.iter().flat_map(Acknowledged::segments).for_each(&mut each);
        // What was left alone was never written: nothing of it is lost.
        self.acknowledged.left = lost[0].left.union(&lost[1].left);
    }

    /// A loss undid what was not flushed: where losses come faster than FLUSHes, nothing would
    /// ever be safe.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Some(before) = self.lost_at.replace(now) {
            let interval = now.duration_since(before) / FLUSHES_BETWEEN_LOSSES;
            self.interval = Some(self.interval.map_or(interval, |now| now.min(interval)));
        }
    }

    /// A FLUSH succeeded: the next one may come later again, until it is as late as was asked for.
    fn relax(&mut self, setting: Duration) {
        self.interval = self
            .interval
            .map(|interval| interval.saturating_mul(2) + Duration::from_millis(1))
            .filter(|interval| *interval < setting);
    }

    fn interval(&self, setting: Duration) -> Duration {
        self.interval.map_or(setting, |interval| interval.min(setting))
    }

    fn is_flushing(&self) -> bool {
        self.covered.is_some()
    }

    fn begin(&mut self) {
        self.covered = Some(std::mem::take(&mut self.acknowledged));
        self.number = self.number.wrapping_add(1);
    }
}

impl Task {
    /// Sends a FLUSH when one is due on a long run.
    pub(super) fn flush_if_due(&mut self, context: &mut Context<'_>) {
        let waiting = self.unflushed.acknowledged.areas();
        let last = *self.unflushed.last.get_or_insert(context.now);
        self.unflushed.lost_at.get_or_insert(self.started);
        let interval = self.unflushed.interval(self.settings.flush_interval);
        let due = waiting > UNFLUSHED_AREAS || context.now.duration_since(last) >= interval;
        let busy = self.unflushed.is_flushing() || self.probe.is_some();
        if due && waiting > 0 && !busy && self.target_can_flush() {
            self.send_flush(context);
        }
    }

    /// Begins the end: everything that was begun has ended.
    pub(super) fn begin_last_flush(&mut self, context: &mut Context<'_>) {
        if self.unflushed.is_flushing() || self.probe.is_some() {
            return; // an earlier one is on its way; this is looked at again when it is back
        }
        let failed = self.fault.is_some();
        let keep =
            !failed || self.journal.is_some() || matches!(self.fault, Some(Fault::Interrupted));
        if !keep
            || (failed && !self.target_is_up())
            || (failed && self.unflushed.acknowledged.areas() == 0)
        {
            self.phase = Phase::Closing;
            return;
        }
        if !self.target_is_up() {
            return; // it is being connected again
        }
        self.phase = Phase::Flushing;
        self.send_flush(context);
    }

    fn target_is_up(&self) -> bool {
        self.strands.iter().any(|strand| !strand.abandoned && strand.side_is_ready(Side::Target))
    }

    /// Whether the target can make anything durable on request.
    pub(super) fn target_can_flush(&self) -> bool {
        match &self.strands[0].target {
            TargetSide::Nbd(link) => {
                link.session.as_ref().is_some_and(|session| session.flags.can_flush())
            }
            TargetSide::File(_) | TargetSide::Stream { .. } | TargetSide::Null(_) => true,
        }
    }

    pub(super) fn send_flush(&mut self, context: &mut Context<'_>) {
        let Some(at) = self
            .strands
            .iter()
            .position(|strand| !strand.abandoned && strand.side_is_ready(Side::Target))
        else {
            return;
        };
        if !self.target_can_flush() {
            // Nothing is known to be safe: a loss of the connection undoes all of it.
            return self.end_after_flush(context);
        }
        self.unflushed.begin();
        self.unflushed.last = Some(context.now);
        let id = self.id;
        match &mut self.strands[at].target {
            TargetSide::Nbd(link) => {
                let request = Request {
                    command: Command::Flush,
                    flags: CommandFlags::NONE,
                    cookie: Cookie::Flush(self.unflushed.number).number(),
                    offset: 0,
                    length: 0,
                };
                link.request(request, None, context.now);
                link.pump(context);
            }
            TargetSide::File(file) => {
                let token = Token {
                    lane: id,
                    strand: super::issue::index(at),
                    role: Role::Sync.on(Side::Target),
                    tag: 0,
                };
                context.engine.submit(token, Op::Sync { file: Rc::clone(file) });
            }
            TargetSide::Stream { .. } | TargetSide::Null(_) => self.flushed(context),
        }
    }

    /// A FLUSH of an NBD target was answered.
    pub(super) fn flush_ended(
        &mut self,
        number: u16,
        outcome: Result<(), (NbdError, String)>,
        context: &mut Context<'_>,
    ) -> Result<(), Cause> {
        if !self.unflushed.is_flushing() || number != self.unflushed.number {
            return Ok(()); // a loss on another connection undid what it was about
        }
        match outcome {
            Ok(()) => {
                self.flushes += 1;
                self.unflushed.relax(self.settings.flush_interval);
                if self.unflushed.covered.as_ref().is_some_and(|covered| covered.areas() > 0) {
                    // What is safe is never undone.
                    (0..self.strands.len()).for_each(|strand| self.went_on(strand));
                }
                self.flushed(context);
            }
            Err((error, _)) if error.is_shutdown() => {
                return Err(Cause::Lost {
                    how: "the server is shutting down".into(),
                    waiting_for: "the reply to FLUSH".into(),
                });
            }
            Err((error, message)) => {
                self.flush_failed(
                    Cause::Refused { request: "FLUSH".into(), error, message },
                    context.now,
                );
            }
        }
        Ok(())
    }

    /// A file target was synced.
    pub(super) fn file_synced(&mut self, completion: Completion, context: &mut Context<'_>) {
        match completion.result {
            Ok(_) => {
                self.flushes += 1;
                self.flushed(context);
            }
            // A device or a special file that cannot be synced has nothing to be made durable.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => {
                self.flushed(context)
            }
            Err(error) => {
                self.flush_failed(
                    Cause::File { what: "cannot make it durable".into(), error },
                    context.now,
                );
            }
        }
    }

    /// What was acknowledged may be lost, and no later FLUSH can tell: the lane has failed, and
    /// its journal stays as it is.
    fn flush_failed(&mut self, cause: Cause, now: Instant) {
        self.unflushed.covered = None;
        self.journal = None;
        self.fail_side(Side::Target, cause, now);
    }

    fn flushed(&mut self, context: &mut Context<'_>) {
        if self.flushed_seal(context) {
            self.unflushed.covered = None;
            return;
        }
        if self.journal.is_some()
            && self.unflushed.covered.as_ref().is_some_and(|covered| covered.areas() > 0)
        {
            return self.probe_witnesses(context);
        }
        self.unflushed.covered = None;
        self.end_after_flush(context);
    }

    /// The ranges that witnesses are taken from, among the data that the FLUSH covered: the start
    /// of the last changed area, and some at random. Areas that were rounded out to clusters begin
    /// and end with bytes that are the same in the layer below; those tell nothing.
    pub(super) fn witness_places(&self) -> Vec<Area> {
        let Some(covered) = &self.unflushed.covered else {
            return Vec::new();
        };
        let changed = match &self.settings.extent {
            Extent::Areas(areas) => covered.data.intersect(areas),
            Extent::Whole | Extent::Bitmap(_) => covered.data.clone(),
        };
        let areas = changed.as_slice();
        let Some(last) = areas.last() else {
            return Vec::new();
        };
        let mut places = vec![Area::new(last.start, last.length.min(WITNESS_BYTES))];
        let mut random = self.live.acknowledged.get() ^ self.index as u64;
        for _ in 1..WITNESSES {
            // A multiplicative hash is random enough to spread them.
            random = (random + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
            let area = areas[usize::try_from(random % areas.len() as u64).unwrap_or(0)];
            let length = area.length.min(WITNESS_BYTES);
            let at = random % (area.length - length + 1) / WITNESS_BYTES * WITNESS_BYTES;
            places.push(Area::new(area.start + at, length));
        }
        places
    }

    /// Writes into the journal what the FLUSH covered.
    pub(super) fn journal_flushed(&mut self, context: &mut Context<'_>) {
        let covered = self.unflushed.covered.take().unwrap_or_default();
        let made = std::mem::take(&mut self.made);
        if self.journal.is_some()
            && let Err(fault) = self.journal_safe(covered, made)
        {
            self.journal = None;
            return self.fail(fault, context.now);
        }
        self.end_after_flush(context);
    }

    fn journal_safe(&mut self, covered: Acknowledged, made: Vec<Witness>) -> Result<(), Fault> {
        // What the journal calls safe is not read again: its digests have to be there by then.
        let manifest = self.inspector.checkpoint()?;
        let mut safe = covered.data;
        for area in covered.zero.iter().chain(covered.left.iter()) {
            safe.insert(area);
        }
        // The witnesses go first: what is called safe is never without them.
        for witness in made {
            self.note_in_journal(&Entry { witness: Some(witness), ..Entry::default() })?;
        }
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        journal.append(safe.iter(), manifest.as_ref()).map_err(|e| unwritten(&e))
    }

    /// Adds a line to the journal, if there is one.
    pub(super) fn note_in_journal(&mut self, entry: &Entry) -> Result<(), Fault> {
        match &mut self.journal {
            Some(journal) => journal.note(entry).map_err(|e| unwritten(&e)),
            None => Ok(()),
        }
    }

    fn end_after_flush(&mut self, context: &Context<'_>) {
        if self.phase != Phase::Flushing {
            return;
        }
        // A lane that failed leaves it for the run that resumes.
        let sealed = if self.fault.is_none() { self.take_seal_off() } else { Ok(false) };
        match sealed {
            Ok(true) => self.phase = Phase::Running,
            Ok(false) => self.phase = Phase::Closing,
            Err(fault) => self.fail(fault, context.now),
        }
    }
}

fn unwritten(error: &JournalError) -> Fault {
    Fault::Local {
        what: "cannot write the resume journal".into(),
        error: std::io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_that_losses_hurried_come_as_late_as_before_after_any_number_of_them() {
        let setting = Duration::from_secs(30);
        let mut unflushed = Unflushed::default();
        let start = Instant::now();
        unflushed.hurry(start);
        unflushed.hurry(start + Duration::from_secs(1));
        assert!(unflushed.interval(setting) < Duration::from_secs(1));
        for _ in 0..1000 {
            unflushed.relax(setting);
        }
        assert_eq!(unflushed.interval(setting), setting);
    }
}

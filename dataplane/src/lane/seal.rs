//! The seal: bytes that only the image of this copy holds.
//!
//! Witnesses tell another image by what it holds, and fail where the new content is that of the
//! layer below: an image that was made anew over the same base, with areas in which little
//! changed, looks like the one that was written. So before anything is called safe, random bytes
//! are written where the last of the data will go, made durable, and noted in the journal. Whoever
//! resumes looks for them first. When all else is safe the journal notes that the seal is taken
//! off, and the data go there.
//!
//! ```text
//!   wanted ──WRITE, FLUSH, journal──▶ set ──all else is safe: journal──▶ off ──▶ data
//! ```
//!
//! The range is one that the lane writes in any case, and the target is no copy of anything
//! before the lane is done.

use std::rc::Rc;

use crate::fault::{Cause, Fault, Side};
use crate::journal::{Entry, MAX_WITNESS_BYTES, Witness};
use crate::nbd::{Command, CommandFlags, NbdError, Request};
use crate::plan::{Area, AreaSet, Segment, SegmentKind};
use crate::settings::Extent;

use super::context::Context;
use super::replies::described;
use super::slots::Cookie;
use super::strand::TargetSide;
use super::task::{Phase, Task};

/// Bytes of a seal, where the disk does not end before.
const SEAL_BYTES: u64 = MAX_WITNESS_BYTES as u64;
/// Bytes of a seal at least: no target has shorter sectors.
const LEAST_BYTES: u64 = 512;

/// A lane's seal, and the range that is kept for it.
#[derive(Default)]
pub(super) struct Seal {
    state: State,
    /// The last range of the plan, which waits until all else is safe.
    place: Option<Area>,
    /// Where it lies, or may have lain in an earlier run that did not get to note it, or that
    /// noted that it is off and not what came there. Nobody but the target knows what it holds
    /// there.
    doubtful: Option<Area>,
}

#[derive(Default)]
enum State {
    /// None, or no longer.
    #[default]
    Off,
    /// To be written.
    Wanted,
    /// Written, and not yet durable.
    Written(Witness),
    /// Of a resumed journal: still to be looked for.
    Unchecked(Witness),
    Set,
}

impl Seal {
    /// Whether it has to be written or looked for before the lane runs.
    pub(super) fn is_pending(&self) -> bool {
        !matches!(self.state, State::Off | State::Set)
    }

    /// Whether a range holds it, or once did: what the target or its base said of it before is
    /// not so.
    pub(super) fn touches(&self, area: Area) -> bool {
        self.doubtful.is_some_and(|place| place.start < area.end() && area.start < place.end())
    }

    /// Cuts a piece at the ends of the range that may hold it: the first part, what follows it,
    /// and whether the first part is of that range.
    pub(super) fn cut(&self, piece: Segment) -> (Segment, Segment, bool) {
        let doubtful = self.doubtful.filter(|_| self.touches(piece.area()));
        let starts_in = doubtful.is_some_and(|place| place.start <= piece.start);
        let end = match doubtful {
            Some(place) if starts_in => place.end().min(piece.end()),
            Some(place) => place.start,
            None => piece.end(),
        };
        let part = |start, end| Segment { start, length: end - start, ..piece };
        (part(piece.start, end), part(end, piece.end()), starts_in)
    }

    /// The target was lost before it was durable.
    pub(super) fn lost(&mut self) {
        if let State::Written(_) = self.state {
            self.state = State::Wanted;
        }
    }

    /// What to look for on the target.
    pub(super) fn take_unchecked(&mut self) -> Option<Witness> {
        match std::mem::take(&mut self.state) {
            State::Unchecked(witness) => {
                self.state = State::Set;
                Some(witness)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// The look at the target was lost.
    pub(super) fn is_unchecked(&mut self, witness: Witness) {
        self.state = State::Unchecked(witness);
    }

    fn is_written(&self) -> bool {
        matches!(self.state, State::Written(_))
    }
}

/// The range at the end of `areas` that waits for the seal to be taken off.
fn place_in(areas: &AreaSet, alignment: u64) -> Option<Area> {
    let last = areas.as_slice().last()?;
    let unit = |end: u64| ((end - 1) / alignment * alignment).max(last.start);
    let mut start = unit(last.end());
    if last.end() - start < SEAL_BYTES && start > last.start {
        start = unit(start);
    }
    let place = Area::between(start, last.end());
    (place.length >= LEAST_BYTES).then_some(place)
}

/// The range at the end of `areas` that holds a seal which an earlier run set at `start`. That run
/// may have gone by a smaller alignment, as one without digests does.
fn place_of(start: u64, areas: &AreaSet, alignment: u64) -> Area {
    let Some(last) = areas.as_slice().last() else {
        return Area::new(start, 0);
    };
    let first = (start / alignment * alignment).max(last.start).min(start);
    Area::between(first, last.end().max(first))
}

impl Task {
    /// Keeps a range for the seal, and gives back the areas without it. `found` is the seal that
    /// a resumed journal knows; `fresh`: nothing is safe yet.
    pub(super) fn keep_place_for_seal(
        &mut self,
        areas: AreaSet,
        alignment: u64,
        found: Option<Witness>,
        fresh: bool,
    ) -> AreaSet {
        // Without a FLUSH nothing is safe; with a bitmap, what will be written is not known yet.
        let can = self.journal.is_some()
            && self.target_can_flush()
            && !matches!(self.settings.extent, Extent::Bitmap(_))
            && match &self.strands[0].target {
                TargetSide::Nbd(_) => true,
                // It may be one that can only be written.
                TargetSide::File(file) => rustix::io::pread(&**file, &mut [0; 1], 0).is_ok(),
                TargetSide::Stream { .. } | TargetSide::Null(_) => false,
            };
        self.seal.place = match &found {
            Some(witness) => Some(place_of(witness.area().start, &areas, alignment)),
            None => place_in(&areas, alignment).filter(|_| can && fresh),
        };
        let may_have_been = place_in(&areas, alignment);
        self.seal.doubtful = match (self.seal.place, may_have_been) {
            (Some(one), Some(other)) => {
                Some(Area::between(one.start.min(other.start), one.end().max(other.end())))
            }
            (one, other) => one.or(other),
        };
        let Some(place) = self.seal.place else {
            return areas;
        };
        let mut rest = areas.clone();
        rest.remove(place);
        self.seal.state = match found {
            Some(witness) => State::Unchecked(witness),
            // Nothing is safe before all of it is done.
            None if rest.is_empty() => {
                self.seal.place = None;
                return areas;
            }
            None => State::Wanted,
        };
        rest
    }

    /// Writes the seal, if it is wanted; the lane runs when it is set.
    pub(super) fn set_seal(&mut self, context: &mut Context<'_>) {
        let (State::Wanted, Some(place)) = (&self.seal.state, self.seal.place) else {
            return;
        };
        let Some(mut buf) = context.heads.claim() else {
            return; // the next turn
        };
        let length = place.length.min(SEAL_BYTES);
        let bytes = &mut buf.bytes_mut()[..super::issue::bytes(length)];
        // So few bytes come at once or not at all (getrandom(2)).
        if let Err(e) = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())
        {
            let what = "cannot make a seal for the target".into();
            return self.fail(Fault::Local { what, error: e.into() }, context.now);
        }
        self.seal.state = State::Written(Witness::of(place.start, bytes));
        let file = match &self.strands[0].target {
            TargetSide::File(file) => Some(Rc::clone(file)),
            _ => None,
        };
        if let Some(file) = file {
            // Once, before anything else is on its way: on the spot.
            let written = rustix::io::pwrite(&*file, bytes, place.start)
                .and_then(|_| rustix::fs::fdatasync(&*file));
            return match written {
                Ok(()) => self.seal_is_durable(context),
                Err(e) => {
                    let what = format!("cannot write {length} bytes at {}", place.start);
                    let cause = Cause::File { what, error: e.into() };
                    self.fail_side(Side::Target, cause, context.now);
                }
            };
        }
        let Some(link) = self.strands[0].target_link() else {
            return;
        };
        let request = Request {
            command: Command::Write,
            flags: CommandFlags::NONE,
            cookie: Cookie::Seal.number(),
            offset: place.start,
            length,
        };
        link.request(request, Some((buf, 0, super::issue::bytes(length))), context.now);
        link.pump(context);
    }

    /// The target answered the write of the seal.
    pub(super) fn seal_written(
        &mut self,
        outcome: Result<(), (NbdError, String)>,
        context: &mut Context<'_>,
    ) -> Result<(), Cause> {
        let Some(place) = self.seal.place.filter(|_| self.seal.is_written()) else {
            return Err(Cause::Protocol("a reply came to a write that nobody asked for".into()));
        };
        match outcome {
            Ok(()) => self.send_flush(context),
            Err((error, _)) if error.is_shutdown() => {
                return Err(self.shutting_down(0, Side::Target));
            }
            Err((error, message)) => {
                let length = place.length.min(SEAL_BYTES);
                let piece = Segment { start: place.start, length, kind: SegmentKind::Data };
                let request = format!("WRITE of {}", described(piece));
                let cause = Cause::Refused { request, error, message };
                self.fail_side(Side::Target, cause, context.now);
            }
        }
        Ok(())
    }

    /// Whether a FLUSH that succeeded was that of the seal; the lane runs then.
    pub(super) fn flushed_seal(&mut self, context: &mut Context<'_>) -> bool {
        let flushed = self.phase == Phase::Checking && self.seal.is_written();
        if flushed {
            self.seal_is_durable(context);
        }
        flushed
    }

    fn seal_is_durable(&mut self, context: &mut Context<'_>) {
        let State::Written(witness) = std::mem::take(&mut self.seal.state) else {
            return;
        };
        self.seal.state = State::Set;
        let entry = Entry { seal: Some(witness), ..Entry::default() };
        if let Err(fault) = self.note_in_journal(&entry) {
            return self.fail(fault, context.now);
        }
        if let Err(refusal) = self.begin_running() {
            self.refuse(refusal, context.now);
        }
    }

    /// Takes the seal off, once all else is safe: its range is the last that is moved. False if
    /// there is none.
    pub(super) fn take_seal_off(&mut self) -> Result<bool, Fault> {
        let (State::Set, Some(place)) = (&self.seal.state, self.seal.place) else {
            return Ok(false);
        };
        self.note_in_journal(&Entry { unsealed: true, ..Entry::default() })?;
        self.seal.state = State::Off;
        let Area { start, length } = place;
        self.work.redo(Segment { start, length, kind: SegmentKind::Data });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(areas: &[(u64, u64)]) -> Option<(u64, u64)> {
        let areas = areas.iter().map(|&(start, length)| Area::new(start, length));
        let set = AreaSet::from_unsorted(areas, u64::MAX).unwrap();
        place_in(&set, 65_536).map(|place| (place.start, place.length))
    }

    #[test]
    fn the_last_cluster_of_the_last_area_is_kept() {
        assert_eq!(place(&[(0, 65_536), (1 << 20, 1 << 20)]), Some(((2 << 20) - 65_536, 65_536)));
        assert_eq!(place(&[(0, 100_000)]), Some((65_536, 100_000 - 65_536)));
    }

    #[test]
    fn a_disks_end_that_is_too_short_for_a_seal_goes_with_the_cluster_before() {
        assert_eq!(place(&[(0, 131_072 + 5)]), Some((65_536, 65_541)));
        assert_eq!(place(&[(65_536, 1000)]), Some((65_536, 1000)));
        assert_eq!(place(&[(65_536, 5)]), None);
        assert_eq!(place(&[]), None);
    }

    #[test]
    fn a_seal_of_a_run_with_a_smaller_alignment_keeps_the_whole_of_its_unit() {
        let of = |start, areas: &[(u64, u64)]| {
            let areas = areas.iter().map(|&(start, length)| Area::new(start, length));
            let place = place_of(start, &AreaSet::from_unsorted(areas, u64::MAX).unwrap(), 65_536);
            (place.start, place.length)
        };
        assert_eq!(of((1 << 20) - 4096, &[(0, 1 << 20)]), ((1 << 20) - 65_536, 65_536));
        assert_eq!(of((1 << 20) - 4096, &[((1 << 20) - 8192, 8192)]), ((1 << 20) - 8192, 8192));
        assert_eq!(of(4096, &[]), (4096, 0));
    }
}

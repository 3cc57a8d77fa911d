//! What a lane has still to do.
//!
//! ```text
//!   areas ──ask ahead──▶ block status ──cut──▶ segments ──▶ pieces
//!                                                 ▲
//!                    what a lost connection undid ┘ (first in line)
//! ```
//!
//! The areas are known from the start; which of their bytes are zero is asked of the source a
//! window ahead of the reads. Memory is bounded: by the number of areas, which the caller bounds,
//! and by [`SEGMENTS_AHEAD`]. A source that cannot say is read in full.

use std::collections::VecDeque;

use crate::plan::{Area, AreaSet, ExtentCutter, Run, Segment, SegmentKind};

use super::fineness::Fineness;

/// Bytes that the first block status asks about. Nothing is read before it is answered, and a
/// server that looks for holes page by page takes a while for a GiB.
const FIRST_WINDOW: u64 = 64 << 20;
/// How many times as much the next one asks about, while answers come in full.
const WINDOW_GROWTH: u64 = 4;
/// Bytes that one block status asks about at most.
const LAST_WINDOW: u64 = 64 << 30;
/// Segments that may wait; the next question is asked below half of it.
const SEGMENTS_AHEAD: usize = 2048;
/// Bytes of data that may wait before the next question; zeros are soon done.
const BYTES_AHEAD: u64 = 256 << 20;

/// The rest of a lane's work, in order.
pub(super) struct Work {
    areas: AreaSet,
    /// The area in turn, and the first byte of it that is not yet cut into segments.
    area: usize,
    at: u64,
    segments: VecDeque<Segment>,
    waiting_bytes: u64,
    redo: VecDeque<Segment>,
    cutter: ExtentCutter,
    asking: Asking,
    fineness: Fineness,
    window: u64,
}

/// How zeros and changes are found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// Not at all: areas are data.
    Never,
    /// A question may be asked.
    Idle,
    /// A question about this range is on its way.
    Asked(Area),
}

/// What a lane may do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Piece(Segment),
    /// Nothing until a block status answers.
    Wait,
    /// Nothing, unless a loss brings some back.
    Exhausted,
}

impl Work {
    /// `alignment`: a power of two that pieces are multiples of where the disk's end lets them.
    pub(super) fn new(areas: AreaSet, ask: bool, alignment: u64, disk_size: u64) -> Self {
        let at = areas.as_slice().first().map_or(0, |area| area.start);
        let cutter = ExtentCutter::new(alignment, disk_size)
            .expect("the lane's alignment is a power of two");
        let asking = if ask { Asking::Idle } else { Asking::Never };
        Self {
            areas,
            area: 0,
            at,
            segments: VecDeque::new(),
            waiting_bytes: 0,
            redo: VecDeque::new(),
            cutter,
            asking,
            fineness: Fineness::default(),
            window: FIRST_WINDOW,
        }
    }

    /// The range that the source should be asked about now, if any. `longest` and `granularity`
    /// bound the question, in bytes.
    pub(super) fn question(&mut self, longest: u64, granularity: u64) -> Option<Area> {
        let area = self.areas.as_slice().get(self.area)?;
        let busy = self.waiting_bytes > BYTES_AHEAD && !self.segments.is_empty();
        if self.asking != Asking::Idle || busy || self.segments.len() > SEGMENTS_AHEAD / 2 {
            return None;
        }
        let last = self.areas.as_slice().last()?.end();
        let window = self.window.min(longest / granularity * granularity);
        let end = self.at.saturating_add(window).min(last);
        // A question never ends inside an area that it could end behind.
        let question = Area::between(self.at, if end < area.end() { end } else { end.min(last) });
        self.asking = Asking::Asked(question);
        Some(question)
    }

    /// Takes an answer: the extents from the start of the question on. Returns bytes skipped, or
    /// an error in words when the answer cannot be used (then nothing was taken).
    pub(super) fn answer(
        &mut self,
        allocation: Option<&mut [Run]>,
        dirty: Option<&mut [Run]>,
    ) -> Result<u64, String> {
        let Asking::Asked(question) = self.asking else {
            return Err("an answer came that nobody asked for".into());
        };
        let described =
            |runs: &[Run]| runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.length));
        let covered = [allocation.as_deref(), dirty.as_deref()]
            .into_iter()
            .flatten()
            .map(described)
            .min()
            .unwrap_or(question.length);
        let covered = covered.min(question.length);
        if covered == 0 {
            return Err("the block status describes nothing".into());
        }
        let extents =
            [allocation.as_deref(), dirty.as_deref()].into_iter().flatten().map(<[Run]>::len);
        self.fineness.answered(covered, extents.max().unwrap_or(0), dirty.is_some())?;
        let mut allocation = allocation.map(|runs| Cursor::new(runs, question.start));
        let mut dirty = dirty.map(|runs| Cursor::new(runs, question.start));
        let end = question.start + covered;
        let mut skipped = 0;
        let mut cut = Vec::new();
        while let Some(area) = self.areas.as_slice().get(self.area).copied() {
            let part = Area::between(self.at, area.end().min(end));
            if self.at >= end || part.length == 0 {
                break;
            }
            let allocation = allocation.as_mut().map(|cursor| cursor.runs_of(part));
            let dirty = dirty.as_mut().map(|cursor| cursor.runs_of(part));
            let done =
                self.cutter.cut(part, allocation, dirty, &mut cut).map_err(|e| e.to_string())?;
            skipped += done.skipped;
            self.advance(done.covered);
            if done.covered < part.length {
                break;
            }
        }
        let full = covered == question.length;
        self.window =
            if full { (self.window * WINDOW_GROWTH).min(LAST_WINDOW) } else { self.window };
        let data = cut.iter().filter(|segment| segment.kind == SegmentKind::Data);
        self.waiting_bytes += data.map(|segment| segment.length).sum::<u64>();
        self.segments.extend(cut);
        self.asking = Asking::Idle;
        Ok(skipped)
    }

    /// Whether the source is asked for zeros.
    pub(super) fn asks(&self) -> bool {
        self.asking != Asking::Never
    }

    /// The question will not be answered: what it was about is data, and no more are asked.
    pub(super) fn stop_asking(&mut self) {
        self.asking = Asking::Never;
    }

    /// The question was lost with its connection and may be asked again.
    pub(super) fn question_lost(&mut self) {
        if let Asking::Asked(_) = self.asking {
            self.asking = Asking::Idle;
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.at += bytes;
        if let Some(area) = self.areas.as_slice().get(self.area)
            && self.at >= area.end()
        {
            self.area += 1;
            self.at = self.areas.as_slice().get(self.area).map_or(u64::MAX, |next| next.start);
        }
    }

    /// The next piece: data of at most `data_max` bytes up to a multiple of it (a power of two),
    /// or zeros of at most `zero_max`.
    pub(super) fn next(&mut self, data_max: u64, zero_max: u64) -> Next {
        if let Some(segment) = self.redo.front_mut() {
            let (piece, rest) = split(*segment, data_max, zero_max);
            match rest {
                Some(rest) => *segment = rest,
                None => drop(self.redo.pop_front()),
            }
            return Next::Piece(piece);
        }
        if self.segments.is_empty() {
            match (self.asking, self.areas.as_slice().get(self.area)) {
                (_, None) => return Next::Exhausted,
                (Asking::Never, Some(area)) => {
                    let data = Segment {
                        start: self.at,
                        length: area.end() - self.at,
                        kind: SegmentKind::Data,
                    };
                    let (piece, _) = split(data, data_max, zero_max);
                    self.advance(piece.length);
                    return Next::Piece(piece);
                }
                (Asking::Idle | Asking::Asked(_), Some(_)) => return Next::Wait,
            }
        }
        let segment = self.segments.front_mut().expect("checked above");
        let (piece, rest) = split(*segment, data_max, zero_max);
        match rest {
            Some(rest) => *segment = rest,
            None => drop(self.segments.pop_front()),
        }
        if piece.kind == SegmentKind::Data {
            self.waiting_bytes -= piece.length;
        }
        Next::Piece(piece)
    }

    /// Puts a piece back that could not be begun; it comes next.
    pub(super) fn put_back(&mut self, piece: Segment) {
        self.redo.push_front(piece);
    }

    /// Puts back what is left of a piece, if anything is; it comes next.
    pub(super) fn put_back_rest(&mut self, rest: Segment) {
        if rest.length > 0 {
            self.put_back(rest);
        }
    }

    /// Brings back what has to be done again.
    pub(super) fn redo(&mut self, segment: Segment) {
        self.redo.push_back(segment);
    }

    /// Drops everything: the source has ended.
    pub(super) fn clear(&mut self) {
        self.area = self.areas.len();
        self.segments.clear();
        self.waiting_bytes = 0;
        self.redo.clear();
    }

    /// Whether nothing can be handed out before a question is asked.
    pub(super) fn lacks_answer(&self) -> bool {
        self.redo.is_empty()
            && self.segments.is_empty()
            && self.asking == Asking::Idle
            && self.area < self.areas.len()
    }

    /// Whether everything was handed out.
    pub(super) fn is_exhausted(&self) -> bool {
        self.redo.is_empty() && self.segments.is_empty() && self.area >= self.areas.len()
    }
}

/// The first piece of a segment, and the rest.
fn split(segment: Segment, data_max: u64, zero_max: u64) -> (Segment, Option<Segment>) {
    let max = match segment.kind {
        SegmentKind::Data => data_max,
        SegmentKind::Zero => zero_max,
    };
    let boundary = (segment.start / max).saturating_add(1).saturating_mul(max);
    let end = segment.end().min(boundary);
    let piece = Segment { length: end - segment.start, ..segment };
    let rest = (end < segment.end()).then(|| Segment {
        start: end,
        length: segment.end() - end,
        ..segment
    });
    (piece, rest)
}

/// Walks the runs of an answer along ascending ranges.
struct Cursor<'a> {
    runs: &'a mut [Run],
    index: usize,
    at: u64,
}

impl<'a> Cursor<'a> {
    fn new(runs: &'a mut [Run], at: u64) -> Self {
        Self { runs, index: 0, at }
    }

    /// The runs that describe `range`, the first of them cut to its start.
    fn runs_of(&mut self, range: Area) -> &[Run] {
        while self.at < range.start && self.index < self.runs.len() {
            let run = &mut self.runs[self.index];
            let step = run.length.min(range.start - self.at);
            run.length -= step;
            self.at += step;
            if run.length == 0 {
                self.index += 1;
            }
        }
        let mut last = self.index;
        let mut reached = self.at;
        while last < self.runs.len() && reached < range.end() {
            reached = reached.saturating_add(self.runs[last].length);
            last += 1;
        }
        &self.runs[self.index..last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::extents::{DIRTY, HOLE, ZERO};

    const MIB: u64 = 1 << 20;

    fn run(length: u64, flags: u64) -> Run {
        Run { length, flags }
    }

    fn pieces(work: &mut Work) -> Vec<(u64, u64, SegmentKind)> {
        std::iter::from_fn(|| match work.next(MIB, 64 * MIB) {
            Next::Piece(piece) => Some((piece.start, piece.length, piece.kind)),
            Next::Wait | Next::Exhausted => None,
        })
        .collect()
    }

    #[test]
    fn without_status_everything_is_data() {
        let mut work = Work::new(AreaSet::whole(3 * MIB / 2), false, 4096, 3 * MIB / 2);
        assert_eq!(
            pieces(&mut work),
            [(0, MIB, SegmentKind::Data), (MIB, MIB / 2, SegmentKind::Data)]
        );
        assert!(work.is_exhausted());
    }

    #[test]
    fn an_answer_that_covers_a_part_is_followed_by_a_question_for_the_rest() {
        let mut work = Work::new(AreaSet::whole(4 * MIB), true, 4096, 4 * MIB);
        assert_eq!(work.next(MIB, MIB), Next::Wait);
        assert_eq!(work.question(u64::MAX, 1), Some(Area::new(0, 4 * MIB)));
        assert_eq!(work.question(u64::MAX, 1), None);
        work.answer(Some(&mut [run(MIB, 0)]), None).unwrap();
        assert_eq!(pieces(&mut work), [(0, MIB, SegmentKind::Data)]);
        assert_eq!(work.question(u64::MAX, 1), Some(Area::new(MIB, 3 * MIB)));
        work.answer(Some(&mut [run(9 * MIB, HOLE | ZERO)]), None).unwrap();
        assert_eq!(pieces(&mut work), [(MIB, 3 * MIB, SegmentKind::Zero)]);
        assert!(work.is_exhausted());
    }

    #[test]
    fn areas_within_one_answer_are_cut_each_at_its_place() {
        let areas = AreaSet::from_unsorted(
            [Area::new(MIB, MIB), Area::new(4 * MIB, MIB), Area::new(8 * MIB, MIB)],
            16 * MIB,
        )
        .unwrap();
        let mut work = Work::new(areas, true, 4096, 16 * MIB);
        assert_eq!(work.question(u64::MAX, 1), Some(Area::new(MIB, 8 * MIB)));
        work.answer(Some(&mut [run(3 * MIB, 0), run(MIB, ZERO), run(4 * MIB, 0)]), None).unwrap();
        assert_eq!(
            pieces(&mut work),
            [
                (MIB, MIB, SegmentKind::Data),
                (4 * MIB, MIB, SegmentKind::Zero),
                (8 * MIB, MIB, SegmentKind::Data)
            ]
        );
    }

    #[test]
    fn what_the_bitmap_does_not_mark_is_skipped() {
        let mut work = Work::new(AreaSet::whole(4 * MIB), true, 4096, 4 * MIB);
        work.question(u64::MAX, 1).unwrap();
        let skipped = work.answer(None, Some(&mut [run(3 * MIB, 0), run(MIB, DIRTY)])).unwrap();
        assert_eq!(skipped, 3 * MIB);
        assert_eq!(pieces(&mut work), [(3 * MIB, MIB, SegmentKind::Data)]);
    }

    #[test]
    fn what_was_undone_comes_first() {
        let mut work = Work::new(AreaSet::whole(2 * MIB), false, 4096, 2 * MIB);
        let Next::Piece(first) = work.next(MIB, MIB) else { panic!("a piece") };
        work.redo(first);
        assert_eq!(pieces(&mut work), [(0, MIB, SegmentKind::Data), (MIB, MIB, SegmentKind::Data)]);
    }

    #[test]
    fn a_lost_question_is_asked_again_and_a_refused_one_is_not() {
        let mut work = Work::new(AreaSet::whole(MIB), true, 4096, MIB);
        let question = work.question(u64::MAX, 1);
        work.question_lost();
        assert_eq!(work.question(u64::MAX, 1), question);
        work.stop_asking();
        assert_eq!(pieces(&mut work), [(0, MIB, SegmentKind::Data)]);
    }
}

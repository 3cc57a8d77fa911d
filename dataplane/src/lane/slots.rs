//! The requests in flight of a lane.
//!
//! A slot follows one piece of the disk from its read to its acknowledgement. The cookies that
//! servers send back name slot, generation and part, so that an answer to something that was
//! given up, or that nobody asked, is never taken for another.

use crate::nbd::NbdError;
use crate::plan::{Area, Segment, SegmentKind};
use crate::pool::Buf;

use super::coverage::Coverage;

/// Index of a slot.
pub(super) type SlotIndex = u16;

/// What a slot is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    Free,
    /// Asked of the source.
    Reading,
    /// Read into its buffer in full; waits for its turn at the target.
    Loaded,
    /// Its payload is moving inside the kernel.
    Conveying,
    /// Sent to the target; waits for its acknowledgements.
    Writing,
}

/// One piece on its way.
pub(super) struct Slot {
    pub(super) state: SlotState,
    generation: u32,
    pub(super) strand: u16,
    pub(super) piece: Segment,
    /// Where the payload lands on the pooled path.
    pub(super) buf: Option<Buf>,
    pub(super) coverage: Coverage,
    /// Writes that the target has not acknowledged.
    pub(super) parts: u16,
    /// Which of its requests the target has yet to answer.
    awaited: Parts,
    /// The source reported an error for it, though more may come.
    pub(super) error: Option<(NbdError, String)>,
    /// Its reply was in a form that cannot be spliced: it is read again through a buffer.
    pub(super) again: bool,
    /// The target was asked to make some of it zero by itself.
    pub(super) zeroed: bool,
    /// Its data are written and its runs of zeros are yet to be made; the buffer tells where.
    pub(super) zeros_wait: bool,
    /// The runs of zeros and data that it is written in, by the part of their requests' cookies;
    /// empty where it is written as a whole. Its memory is used again.
    pub(super) runs: Vec<Segment>,
    /// What of the piece the target holds already, by the base: it is not written. In order and
    /// apart; its memory is used again.
    pub(super) kept: Vec<Area>,
    /// Bytes of that which are zeros.
    pub(super) kept_zero: u64,
    /// Counted in [`Slots::with_zeros`].
    with_zeros: bool,
    pub(super) since: std::time::Instant,
    /// Which of all the lane's requests it was.
    number: u64,
}

/// Parts of a slot, each of which is a request; the memory is used again.
#[derive(Default)]
struct Parts(Vec<u64>);

impl Parts {
    fn add(&mut self, part: u16) {
        let word = usize::from(part / 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (part % 64);
    }

    /// Whether it was there.
    fn take(&mut self, part: u16) -> bool {
        let Some(word) = self.0.get_mut(usize::from(part / 64)) else { return false };
        let bit = 1 << (part % 64);
        let had = *word & bit != 0;
        *word &= !bit;
        had
    }
}

/// What of a piece is not in `kept`, which is in order and within it.
pub(super) fn without(piece: Segment, kept: &[Area]) -> impl Iterator<Item = Segment> {
    let starts = std::iter::once(piece.start).chain(kept.iter().map(Area::end));
    let ends = kept.iter().map(|area| area.start).chain(std::iter::once(piece.end()));
    let parts = starts.zip(ends).filter(|(start, end)| start < end);
    parts.map(move |(start, end)| Segment { start, length: end - start, ..piece })
}

/// All slots of a lane; allocated once.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<SlotIndex>,
    /// Bytes of data in flight.
    pub(super) data_bytes: u64,
    /// Slots that are zero, or wait to have runs of them made zero.
    pub(super) with_zeros: usize,
    /// Requests so far.
    requests: u64,
}

/// What a cookie stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cookie {
    Slot {
        index: SlotIndex,
        generation: u32,
        part: u16,
    },
    Status,
    TargetStatus,
    /// Which FLUSH, for one that was given up may still be answered.
    Flush(u16),
    Probe,
    Seal,
}

/// A request is forgotten when this many times as many as can be in flight were made after it:
/// twice for each piece, once to read it and once to write it.
const PASSED_OVER: u64 = 8;

/// Slot numbers from here on stand for requests that move no payload.
const SPECIAL: u16 = 0xFFF0;
const STATUS: u16 = SPECIAL;
const FLUSH: u16 = SPECIAL + 1;
const PROBE: u16 = SPECIAL + 2;
const TARGET_STATUS: u16 = SPECIAL + 3;
const SEAL: u16 = SPECIAL + 4;

impl Cookie {
    pub(super) fn number(self) -> u64 {
        let pack = |generation: u32, index: u16, part: u16| {
            u64::from(generation) << 32 | u64::from(index) << 16 | u64::from(part)
        };
        match self {
            Self::Slot { index, generation, part } => pack(generation, index, part),
            Self::Status => pack(0, STATUS, 0),
            Self::TargetStatus => pack(0, TARGET_STATUS, 0),
            Self::Flush(number) => pack(0, FLUSH, number),
            Self::Probe => pack(0, PROBE, 0),
            Self::Seal => pack(0, SEAL, 0),
        }
    }

    pub(super) fn of(number: u64) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
        let (generation, index, part) = (
            u32::from_be_bytes([a, b, c, d]),
            u16::from_be_bytes([e, f]),
            u16::from_be_bytes([g, h]),
        );
        Some(match index {
            STATUS => Self::Status,
            TARGET_STATUS => Self::TargetStatus,
            FLUSH => Self::Flush(part),
            PROBE => Self::Probe,
            SEAL => Self::Seal,
            index if index < SPECIAL => Self::Slot { index, generation, part },
            _ => return None,
        })
    }
}

impl Slots {
    pub(super) fn new(count: u16, now: std::time::Instant) -> Self {
        let count = count.min(SPECIAL - 1);
        let slot = || Slot {
            state: SlotState::Free,
            generation: 0,
            strand: 0,
            piece: Segment { start: 0, length: 0, kind: SegmentKind::Data },
            buf: None,
            coverage: Coverage::default(),
            parts: 0,
            awaited: Parts::default(),
            error: None,
            again: false,
            zeroed: false,
            zeros_wait: false,
            runs: Vec::new(),
            kept: Vec::new(),
            kept_zero: 0,
            with_zeros: false,
            since: now,
            number: 0,
        };
        Self {
            slots: (0..count).map(|_| slot()).collect(),
            free: (0..count).rev().collect(),
            data_bytes: 0,
            with_zeros: 0,
            requests: 0,
        }
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a slot for a piece.
    pub(super) fn take(
        &mut self,
        piece: Segment,
        strand: u16,
        now: std::time::Instant,
    ) -> Option<SlotIndex> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        slot.state = SlotState::Reading;
        slot.strand = strand;
        slot.piece = piece;
        slot.coverage.clear();
        slot.parts = 0;
        slot.awaited.0.clear();
        slot.error = None;
        slot.again = false;
        slot.zeroed = false;
        slot.zeros_wait = false;
        slot.runs.clear();
        slot.kept.clear();
        slot.kept_zero = 0;
        self.stamp(index, now);
        match piece.kind {
            SegmentKind::Data => self.data_bytes += piece.length,
            SegmentKind::Zero => self.note_zeros(index),
        }
        Some(index)
    }

    /// Notes that some of a slot is to be made zero.
    pub(super) fn note_zeros(&mut self, index: SlotIndex) {
        let slot = &mut self.slots[usize::from(index)];
        if !slot.with_zeros {
            slot.with_zeros = true;
            self.with_zeros += 1;
        }
    }

    /// Notes that a request about a slot is made now.
    pub(super) fn stamp(&mut self, index: SlotIndex, now: std::time::Instant) {
        self.requests += 1;
        let slot = &mut self.slots[usize::from(index)];
        (slot.since, slot.number) = (now, self.requests);
    }

    /// The range that a request about a slot is about.
    pub(super) fn asked_for(&self, index: SlotIndex, part: u16) -> Segment {
        let slot = &self[index];
        slot.runs.get(usize::from(part)).copied().unwrap_or(slot.piece)
    }

    /// Whether so many requests were made after this one's that it must have been forgotten.
    pub(super) fn is_passed_over(&self, slot: &Slot) -> bool {
        self.requests - slot.number > PASSED_OVER * self.slots.len() as u64
    }

    /// Gives a slot back; its cookies stand for nothing from now on.
    pub(super) fn release(&mut self, index: SlotIndex) -> Segment {
        let slot = &mut self.slots[usize::from(index)];
        assert_ne!(slot.state, SlotState::Free, "a slot is released once");
        slot.state = SlotState::Free;
        slot.generation = slot.generation.wrapping_add(1);
        slot.buf = None;
        let piece = slot.piece;
        if std::mem::take(&mut slot.with_zeros) {
            self.with_zeros -= 1;
        }
        if piece.kind == SegmentKind::Data {
            self.data_bytes -= piece.length;
        }
        self.free.push(index);
        piece
    }

    /// The piece turned out to be shorter: its source ended.
    pub(super) fn shorten(&mut self, index: SlotIndex, length: u64) {
        let piece = &mut self.slots[usize::from(index)].piece;
        self.data_bytes -= piece.length - length;
        piece.length = length;
    }

    pub(super) fn cookie(&self, index: SlotIndex, part: u16) -> Cookie {
        Cookie::Slot { index, generation: self[index].generation, part }
    }

    /// The cookie of a request that goes to the target now.
    pub(super) fn await_reply(&mut self, index: SlotIndex, part: u16) -> Cookie {
        self[index].awaited.add(part);
        self.cookie(index, part)
    }

    /// Notes that a request was answered: true once for each that was made.
    pub(super) fn replied(&mut self, index: SlotIndex, part: u16) -> bool {
        self[index].awaited.take(part)
    }

    /// The slot that a cookie names, if it is still about the same piece.
    pub(super) fn of(&self, index: SlotIndex, generation: u32) -> Option<&Slot> {
        self.slots
            .get(usize::from(index))
            .filter(|slot| slot.state != SlotState::Free && slot.generation == generation)
    }

    pub(super) fn generation(&self, index: SlotIndex) -> u32 {
        self[index].generation
    }

    /// All indices, those of free slots among them.
    pub(super) fn indices(&self) -> std::ops::Range<SlotIndex> {
        0..u16::try_from(self.slots.len()).expect("slots are counted in 16 bits")
    }

    /// Slots in use, in no order that means anything.
    pub(super) fn used(&self) -> impl Iterator<Item = (SlotIndex, &Slot)> {
        (0u16..).zip(&self.slots).filter(|(_, slot)| slot.state != SlotState::Free)
    }
}

impl std::ops::Index<SlotIndex> for Slots {
    type Output = Slot;

    fn index(&self, index: SlotIndex) -> &Slot {
        &self.slots[usize::from(index)]
    }
}

impl std::ops::IndexMut<SlotIndex> for Slots {
    fn index_mut(&mut self, index: SlotIndex) -> &mut Slot {
        &mut self.slots[usize::from(index)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn piece(start: u64) -> Segment {
        Segment { start, length: 512, kind: SegmentKind::Data }
    }

    #[test]
    fn a_cookie_survives_its_number() {
        for cookie in [
            Cookie::Slot { index: 7, generation: 0xFFFF_FFFF, part: 3 },
            Cookie::Status,
            Cookie::TargetStatus,
            Cookie::Flush(9),
            Cookie::Probe,
            Cookie::Seal,
        ] {
            assert_eq!(Cookie::of(cookie.number()), Some(cookie));
        }
    }

    #[test]
    fn a_cookie_of_a_released_slot_names_nothing() {
        let mut slots = Slots::new(1, Instant::now());
        let index = slots.take(piece(0), 0, Instant::now()).unwrap();
        let Cookie::Slot { generation, .. } = slots.cookie(index, 0) else {
            panic!("a slot's cookie")
        };
        assert!(slots.of(index, generation).is_some());
        slots.release(index);
        assert!(slots.of(index, generation).is_none());
        let again = slots.take(piece(512), 0, Instant::now()).unwrap();
        assert_eq!(again, index);
        assert!(slots.of(index, generation).is_none());
    }

    #[test]
    fn a_request_is_answered_once_and_no_other_in_its_place() {
        let mut slots = Slots::new(1, Instant::now());
        let index = slots.take(piece(0), 0, Instant::now()).unwrap();
        for part in [0, 63, 64, 4095] {
            assert!(!slots.replied(index, part));
            slots.await_reply(index, part);
        }
        assert!(!slots.replied(index, 1) && !slots.replied(index, u16::MAX));
        for part in [0, 63, 64, 4095] {
            assert!(slots.replied(index, part), "{part}");
            assert!(!slots.replied(index, part), "{part}");
        }
        slots.await_reply(index, 2);
        slots.release(index);
        let again = slots.take(piece(0), 0, Instant::now()).unwrap();
        assert!(!slots.replied(again, 2));
    }

    #[test]
    fn bytes_in_flight_are_those_of_data() {
        let mut slots = Slots::new(4, Instant::now());
        let data = slots.take(piece(0), 0, Instant::now()).unwrap();
        let zero = Segment { start: 512, length: 1 << 30, kind: SegmentKind::Zero };
        slots.take(zero, 0, Instant::now()).unwrap();
        assert_eq!(slots.data_bytes, 512);
        slots.release(data);
        assert_eq!(slots.data_bytes, 0);
    }
}

//! Which bytes of a reply have come.
//!
//! A structured reply may bring a block's data and holes in any number and order. A buffer is
//! fit to be sent only when each of its bytes came exactly once: it was used before, and what
//! was not received now is some other block's data.

/// Received ranges of one block, disjoint and sorted. Keeps its memory when cleared.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    ranges: Vec<(u32, u32)>,
}

/// Ranges of one block that a server may leave apart; a reply in smaller crumbs is refused.
const MAX_RANGES: usize = 4096;

/// Why a range cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadRange {
    /// Some of it came before.
    Overlap,
    /// It leaves the block.
    OutOfRange,
    /// Too many crumbs.
    Fragments,
}

impl Coverage {
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Adds `length` bytes at `start` of a block of `block` bytes.
    pub(super) fn add(&mut self, start: u32, length: u32, block: u32) -> Result<(), BadRange> {
        let end =
            start.checked_add(length).filter(|end| *end <= block).ok_or(BadRange::OutOfRange)?;
        let at = self.ranges.partition_point(|(_, before)| *before <= start);
        if self.ranges.get(at).is_some_and(|(next, _)| *next < end) {
            return Err(BadRange::Overlap);
        }
        let joins_next = self.ranges.get(at).is_some_and(|(next, _)| *next == end);
        let joins_before = at > 0 && self.ranges[at - 1].1 == start;
        match (joins_before, joins_next) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = start,
            (false, false) if self.ranges.len() == MAX_RANGES => return Err(BadRange::Fragments),
            (false, false) => self.ranges.insert(at, (start, end)),
        }
        Ok(())
    }

    /// Whether all of a block of `block` bytes came.
    pub(super) fn is_whole(&self, block: u32) -> bool {
        self.ranges == [(0, block)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_gap_is_not_whole() {
        let mut coverage = Coverage::default();
        coverage.add(0, 10, 30).unwrap();
        coverage.add(20, 10, 30).unwrap();
        assert!(!coverage.is_whole(30));
        coverage.add(10, 10, 30).unwrap();
        assert!(coverage.is_whole(30));
    }

    #[test]
    fn a_range_past_the_end_is_refused() {
        assert_eq!(Coverage::default().add(20, 11, 30), Err(BadRange::OutOfRange));
        assert_eq!(Coverage::default().add(u32::MAX, 1, 30), Err(BadRange::OutOfRange));
    }

    proptest! {
        #[test]
        fn coverage_agrees_with_one_flag_a_byte(adds in prop::collection::vec((0u32..64, 1u32..16), 1..40)) {
            let mut coverage = Coverage::default();
            let mut flags = [false; 64];
            for (start, length) in adds {
                let range = start as usize..(start + length) as usize;
                let expected = if range.end > 64 { Err(BadRange::OutOfRange) }
                    else if flags[range.clone()].iter().any(|f| *f) { Err(BadRange::Overlap) }
                    else { Ok(()) };
                prop_assert_eq!(coverage.add(start, length, 64), expected);
                if expected.is_ok() { flags[range].fill(true); }
                prop_assert_eq!(coverage.is_whole(64), flags.iter().all(|f| *f));
            }
        }
    }
}

use proptest::prelude::*;

use super::*;
use SegmentKind::{Data, Zero};

const K: u64 = 1024;

fn runs(list: &[(u64, u64)]) -> Vec<Run> {
    list.iter().map(|&(length, flags)| Run { length, flags }).collect()
}

type Plain = (u64, u64, SegmentKind);

/// Cuts at 4 KiB on a disk of 1,000,000 bytes, which is no multiple of it.
fn cut(
    range: (u64, u64),
    allocation: Option<&[(u64, u64)]>,
    dirty: Option<&[(u64, u64)]>,
) -> Result<(Cut, Vec<Plain>), ExtentError> {
    let cutter = ExtentCutter::new(4 * K, 1_000_000).unwrap();
    let mut segments = Vec::new();
    let (allocation, dirty) = (allocation.map(runs), dirty.map(runs));
    let range = Area::new(range.0, range.1);
    let cut = cutter.cut(range, allocation.as_deref(), dirty.as_deref(), &mut segments)?;
    let plain = segments.iter().map(|segment| (segment.start, segment.length, segment.kind));
    Ok((cut, plain.collect()))
}

fn segments(
    range: (u64, u64),
    allocation: &[(u64, u64)],
    dirty: Option<&[(u64, u64)]>,
) -> Vec<Plain> {
    cut(range, Some(allocation), dirty).unwrap().1
}

#[test]
fn only_the_zero_bit_makes_zeros_and_a_hole_alone_is_data() {
    let allocation = [(4 * K, 0), (4 * K, HOLE), (4 * K, HOLE | ZERO), (4 * K, ZERO)];
    let expected = [(0, 8 * K, Data), (8 * K, 8 * K, Zero)];
    assert_eq!(segments((0, 16 * K), &allocation, None), expected);
}

#[test]
fn without_any_context_all_is_data() {
    let (cut, segments) = cut((512, 8 * K), None, None).unwrap();
    assert_eq!((cut.covered, segments), (8 * K, vec![(512, 8 * K, Data)]));
}

#[test]
fn what_is_not_dirty_is_skipped() {
    let (cut, segments) =
        cut((0, 16 * K), None, Some(&[(4 * K, 0), (4 * K, DIRTY), (8 * K, 0)])).unwrap();
    assert_eq!(segments, [(4 * K, 4 * K, Data)]);
    assert_eq!((cut.covered, cut.skipped), (16 * K, 12 * K));
}

#[test]
fn dirty_zeros_are_written_as_zeros() {
    let segments = segments((0, 8 * K), &[(8 * K, ZERO)], Some(&[(8 * K, DIRTY)]));
    assert_eq!(segments, [(0, 8 * K, Zero)]);
}

#[test]
fn a_unit_of_zeros_and_data_is_data() {
    let allocation = [(6 * K, ZERO), (K, 0), (9 * K, ZERO)];
    let expected = [(0, 4 * K, Zero), (4 * K, 4 * K, Data), (8 * K, 8 * K, Zero)];
    assert_eq!(segments((0, 16 * K), &allocation, None), expected);
}

#[test]
fn a_unit_of_zeros_and_skipped_bytes_is_data() {
    let segments = segments((0, 4 * K), &[(4 * K, ZERO)], Some(&[(2 * K, DIRTY), (2 * K, 0)]));
    assert_eq!(segments, [(0, 4 * K, Data)]);
}

#[test]
fn zeros_at_the_end_of_the_disk_count_as_aligned() {
    assert_eq!(segments((999_424, 576), &[(576, ZERO)], None), [(999_424, 576, Zero)]);
}

#[test]
fn zeros_that_the_range_cuts_from_their_unit_are_data() {
    let expected = [(512, 3584, Data), (4 * K, 4 * K, Zero), (8 * K, 512, Data)];
    assert_eq!(segments((512, 8 * K), &[(8 * K, ZERO)], None), expected);
}

#[test]
fn what_is_described_past_the_range_is_ignored() {
    let (cut, segments) = cut((0, 8 * K), Some(&[(u64::MAX, ZERO), (5, 0)]), None).unwrap();
    assert_eq!((cut.covered, segments), (8 * K, vec![(0, 8 * K, Zero)]));
}

#[test]
fn a_short_description_covers_its_whole_units() {
    let (cut, segments) = cut((0, 16 * K), Some(&[(6 * K, ZERO)]), None).unwrap();
    assert_eq!((cut.covered, segments), (4 * K, vec![(0, 4 * K, Zero)]));
}

#[test]
fn a_description_of_less_than_a_unit_makes_the_unit_data() {
    let (cut, segments) = cut((4 * K, 16 * K), Some(&[(512, ZERO)]), None).unwrap();
    assert_eq!((cut.covered, segments), (4 * K, vec![(4 * K, 4 * K, Data)]));
}

#[test]
fn the_shorter_of_two_descriptions_decides() {
    let (cut, segments) = cut((0, 16 * K), Some(&[(16 * K, 0)]), Some(&[(8 * K, DIRTY)])).unwrap();
    assert_eq!((cut.covered, segments), (8 * K, vec![(0, 8 * K, Data)]));
}

#[test]
fn a_run_of_length_zero_is_refused() {
    let error = cut((4096, K), Some(&[(512, 0), (0, ZERO)]), None).unwrap_err();
    assert_eq!(error, ExtentError::NoProgress { start: 4096 });
}

#[test]
fn an_empty_description_is_refused() {
    assert_eq!(cut((0, K), None, Some(&[])).unwrap_err(), ExtentError::Empty { start: 0 });
}

#[test]
fn a_range_past_the_disk_is_refused() {
    for range in [(999_999, 2), (u64::MAX, 2)] {
        assert!(matches!(cut(range, None, None), Err(ExtentError::OutOfRange { .. })));
    }
}

#[test]
fn an_empty_range_needs_no_description() {
    assert_eq!(cut((K, 0), Some(&[]), None).unwrap().0.covered, 0);
}

#[test]
fn an_alignment_that_is_no_power_of_two_is_refused() {
    for alignment in [0, 3, 4095] {
        assert!(ExtentCutter::new(alignment, K).is_err());
    }
}

#[test]
fn a_segment_continues_the_last_one_of_the_call_before() {
    let cutter = ExtentCutter::new(4 * K, 64 * K).unwrap();
    let mut segments = Vec::new();
    for start in [0, 4 * K, 8 * K] {
        cutter.cut(Area::new(start, 4 * K), None, None, &mut segments).unwrap();
    }
    assert_eq!(segments, [Segment { start: 0, length: 12 * K, kind: Data }]);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Byte {
    Data,
    Zero,
    Skip,
}

/// What each described byte of the range is.
fn described(allocation: Option<&[Run]>, dirty: Option<&[Run]>, length: u64) -> Vec<Byte> {
    let spread = |runs: Option<&[Run]>, otherwise: u64| -> Vec<u64> {
        let length = usize::try_from(length).unwrap();
        let Some(runs) = runs else {
            return vec![otherwise; length];
        };
        let flags = runs.iter().flat_map(|run| (0..run.length).map(|_| run.flags));
        flags.take(length).collect()
    };
    let both = spread(allocation, 0).into_iter().zip(spread(dirty, DIRTY));
    both.map(|(status, mark)| match (mark & DIRTY, status & ZERO) {
        (0, _) => Byte::Skip,
        (_, 0) => Byte::Data,
        _ => Byte::Zero,
    })
    .collect()
}

fn context() -> impl Strategy<Value = Option<Vec<Run>>> {
    let run = (1_u64..40, 0_u64..8).prop_map(|(length, flags)| Run { length, flags });
    prop::option::of(prop::collection::vec(run, 1..12))
}

proptest! {
    /// Asks again and again, as a lane does, with descriptions cut to `reach` bytes, and looks at
    /// what became of each byte.
    #[test]
    fn every_unit_is_zero_or_skipped_only_as_a_whole(
        disk in 1_u64..300,
        from in 0_u64..300,
        to in 0_u64..300,
        shift in 0_u32..6,
        allocation in context(),
        dirty in context(),
    ) {
        let alignment = 1_u64 << shift;
        let range = Area::between(from.min(disk), to.min(disk).max(from.min(disk)));
        let cutter = ExtentCutter::new(alignment, disk).unwrap();
        let mut segments = Vec::new();
        let cut =
            cutter.cut(range, allocation.as_deref(), dirty.as_deref(), &mut segments).unwrap();
        let known = described(allocation.as_deref(), dirty.as_deref(), range.length);

        prop_assert!(cut.covered <= range.length);
        prop_assert!(cut.covered > 0 || range.length == 0);
        let covered_end = range.start + cut.covered;
        prop_assert!(covered_end == range.end() || covered_end.is_multiple_of(alignment));
        // In order, disjoint, not empty, coalesced.
        prop_assert!(segments.iter().all(|segment| segment.length > 0));
        for pair in segments.windows(2) {
            prop_assert!(pair[0].end() <= pair[1].start);
            prop_assert!(pair[0].end() < pair[1].start || pair[0].kind != pair[1].kind);
        }
        let moved: u64 = segments.iter().map(|segment| segment.length).sum();
        prop_assert_eq!(moved + cut.skipped, cut.covered);

        for at in range.start..covered_end {
            let unit_start = (at - at % alignment).max(range.start);
            let unit_end = (at - at % alignment + alignment).min(range.end());
            let whole = unit_start.is_multiple_of(alignment)
                && (unit_end == disk || unit_end.is_multiple_of(alignment));
            let index = |offset: u64| usize::try_from(offset - range.start).unwrap();
            let unit = known.get(index(unit_start)..index(unit_end));
            let is = |byte: Byte| unit.is_some_and(|unit| unit.iter().all(|held| *held == byte));
            let expected = if is(Byte::Skip) {
                None
            } else if is(Byte::Zero) && whole {
                Some(Zero)
            } else {
                Some(Data)
            };
            let found = segments.iter().find(|segment| segment.start <= at && at < segment.end());
            prop_assert_eq!(found.map(|segment| segment.kind), expected, "byte {}", at);
        }
    }
}

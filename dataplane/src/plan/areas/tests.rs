use std::io;

use proptest::prelude::*;

use super::*;

const DISK: u64 = 200;

fn set(areas: &[(u64, u64)]) -> AreaSet {
    let areas = areas.iter().map(|&(start, length)| Area::new(start, length));
    AreaSet::from_unsorted(areas, u64::MAX).unwrap()
}

fn json(text: &str) -> Result<AreaSet, AreaError> {
    AreaSet::read_json(text.as_bytes(), 1 << 40, 1000)
}

fn json_problem(text: &str) -> String {
    json(text).unwrap_err().to_string()
}

#[test]
fn touching_and_overlapping_areas_merge_and_empty_ones_go() {
    let merged = set(&[(40, 10), (0, 10), (5, 10), (15, 5), (30, 0), (42, 3)]);
    assert_eq!(merged, set(&[(0, 20), (40, 10)]));
    assert_eq!(merged.as_slice(), [Area::new(0, 20), Area::new(40, 10)]);
}

#[test]
fn an_area_past_the_end_is_refused_with_its_place_in_the_list() {
    let areas = [Area::new(0, 10), Area::new(95, 6)];
    let line = AreaSet::from_unsorted(areas, 100).unwrap_err().to_string();
    for part in ["area 1 ", "start 95", "length 6", "100 bytes"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn an_area_that_overflows_is_refused() {
    let areas = [Area::new(u64::MAX, 2)];
    assert!(matches!(
        AreaSet::from_unsorted(areas, u64::MAX),
        Err(AreaError::OutOfRange { index: 0, .. })
    ));
}

#[test]
fn an_empty_area_past_the_end_is_refused_too() {
    assert!(AreaSet::from_unsorted([Area::new(101, 0)], 100).is_err());
    assert!(AreaSet::from_unsorted([Area::new(100, 0)], 100).unwrap().is_empty());
}

#[test]
fn the_whole_of_an_empty_disk_is_no_area() {
    assert!(AreaSet::whole(0).is_empty());
    assert_eq!(AreaSet::whole(5), set(&[(0, 5)]));
}

#[test]
fn rounding_out_stops_at_the_end_of_the_disk() {
    assert_eq!(set(&[(10, 1), (95, 3)]).rounded_out(64, 100), set(&[(0, 100)]));
    assert_eq!(set(&[(10, 1)]).rounded_out(64, 100), set(&[(0, 64)]));
}

#[test]
fn rounding_in_takes_the_end_of_the_disk_as_aligned() {
    assert_eq!(set(&[(60, 40)]).rounded_in(64, 100), set(&[(64, 36)]));
    assert_eq!(set(&[(60, 39)]).rounded_in(64, 100), set(&[]));
}

#[test]
fn merging_to_a_maximum_closes_the_smallest_gaps() {
    let spread = set(&[(0, 1), (2, 1), (10, 1), (12, 1), (40, 1)]);
    assert_eq!(spread.clone().coalesced_to(3), set(&[(0, 3), (10, 3), (40, 1)]));
    assert_eq!(spread.clone().coalesced_to(4).len(), 4);
    assert_eq!(spread.clone().coalesced_to(0), set(&[(0, 41)]));
    assert_eq!(spread.clone().coalesced_to(5), spread);
}

#[test]
fn the_longest_areas_are_kept_where_a_set_may_only_be_too_small() {
    let spread = set(&[(0, 3), (10, 1), (20, 2), (30, 2)]);
    assert_eq!(spread.clone().longest(2).total(), 5);
    assert_eq!(spread.clone().longest(0).len(), 0);
    assert_eq!(spread.clone().longest(4), spread);
}

#[test]
fn a_json_list_may_be_empty() {
    assert!(json("[]").unwrap().is_empty());
    assert!(json(" [ ]\n").unwrap().is_empty());
}

#[test]
fn a_json_list_may_be_unsorted_and_have_its_fields_in_any_order() {
    let read = json(r#"[{"start": 65536, "length": 4096}, {"length": 512, "start": 0}]"#);
    assert_eq!(read.unwrap(), set(&[(0, 512), (65536, 4096)]));
}

#[test]
fn malformed_json_is_refused_with_line_and_column() {
    let line = json_problem("[{\"start\": 0,\n \"length\" 5}]");
    assert!(line.starts_with("line 2, column "), "{line}");
    assert_eq!(line.matches("line").count(), 1, "{line}");
}

#[test]
fn json_that_is_cut_off_is_refused() {
    for text in ["", "[", "[{\"start\": 0, \"length\": 1}", "[{\"start\": 0, \"length\": 1},"] {
        assert!(json_problem(text).contains("EOF"), "{text}");
    }
}

#[test]
fn a_negative_number_is_refused() {
    assert!(json_problem(r#"[{"start": -1, "length": 5}]"#).contains("`-1`"));
}

#[test]
fn a_fraction_is_refused() {
    assert!(json_problem(r#"[{"start": 0, "length": 0.5}]"#).contains("0.5"));
}

#[test]
fn a_number_past_64_bits_is_refused() {
    assert!(json(r#"[{"start": 0, "length": 18446744073709551616}]"#).is_err());
}

#[test]
fn an_unknown_field_is_refused() {
    assert!(json_problem(r#"[{"start": 0, "end": 5}]"#).contains("unknown field `end`"));
}

#[test]
fn a_missing_field_is_refused() {
    assert!(json_problem(r#"[{"start": 0}]"#).contains("missing field `length`"));
}

#[test]
fn a_doubled_field_is_refused() {
    let text = r#"[{"start": 0, "start": 0, "length": 1}]"#;
    assert!(json_problem(text).contains("duplicate field `start`"));
}

#[test]
fn a_pair_of_numbers_is_no_area() {
    assert!(json_problem("[[0, 4096]]").contains("start"));
}

#[test]
fn text_behind_the_list_is_refused() {
    assert!(json_problem("[] []").contains("trailing characters"));
}

#[test]
fn an_object_is_no_list() {
    assert!(json_problem("{}").contains("an array of areas"));
}

#[test]
fn an_area_past_the_end_keeps_its_kind_when_it_comes_from_json() {
    let text = br#"[{"start": 0, "length": 1}, {"start": 10, "length": 1}]"#;
    let error = AreaSet::read_json(text.as_slice(), 10, 1000).unwrap_err();
    assert!(matches!(error, AreaError::OutOfRange { index: 1, start: 10, .. }));
}

#[test]
fn a_failed_read_is_told_from_bad_json() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::ConnectionReset))
        }
    }
    let error = AreaSet::read_json(Broken, 10, 10).unwrap_err();
    assert!(
        matches!(error, AreaError::Read(cause) if cause.kind() == io::ErrorKind::ConnectionReset)
    );
}

#[test]
fn a_million_areas_in_reverse_stay_within_the_limit() {
    struct Million {
        left: u64,
        pending: Vec<u8>,
    }
    impl io::Read for Million {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.pending.is_empty() && self.left > 0 {
                self.left -= 1;
                let comma = if self.left > 0 { "," } else { "]" };
                let start = self.left * 100;
                self.pending = format!("{{\"start\":{start},\"length\":1}}{comma}").into();
            }
            let count = out.len().min(self.pending.len());
            out[..count].copy_from_slice(&self.pending[..count]);
            self.pending.drain(..count);
            Ok(count)
        }
    }
    let source = Million { left: 1_000_000, pending: b"[".to_vec() };
    let read = AreaSet::read_json(source, 100_000_000, 5_000).unwrap();
    assert!(read.len() <= 5_000 && read.total() >= 1_000_000);
    assert!(read.contains(Area::new(0, 1)) && read.contains(Area::new(99_999_900, 1)));
}

fn areas() -> impl Strategy<Value = Vec<Area>> {
    let area = (0..=DISK, 0..40_u64)
        .prop_map(|(start, length)| Area::between(start, (start + length).min(DISK)));
    prop::collection::vec(area, 0..24)
}

/// The set as one flag per byte.
type Bitmap = Vec<bool>;

fn bitmap(areas: &[Area]) -> Bitmap {
    let held = |byte: u64| areas.iter().any(|area| area.start <= byte && byte < area.end());
    (0..DISK).map(held).collect()
}

/// The bytes of a set, after a check that it keeps its invariants.
fn bytes_of(set: &AreaSet) -> Bitmap {
    assert!(set.iter().all(|area| area.length > 0));
    assert!(set.as_slice().windows(2).all(|pair| pair[0].end() < pair[1].start));
    let bytes = bitmap(set.as_slice());
    assert_eq!(set.total(), u64::try_from(bytes.iter().filter(|held| **held).count()).unwrap());
    bytes
}

fn of(areas: &[Area]) -> AreaSet {
    AreaSet::from_unsorted(areas.iter().copied(), DISK).unwrap()
}

fn zip(a: &Bitmap, b: &Bitmap, rule: impl Fn(bool, bool) -> bool) -> Bitmap {
    a.iter().zip(b).map(|(a, b)| rule(*a, *b)).collect()
}

proptest! {
    #[test]
    fn a_set_holds_the_bytes_of_its_areas(list in areas()) {
        prop_assert_eq!(bytes_of(&of(&list)), bitmap(&list));
    }

    #[test]
    fn inserting_one_by_one_gives_the_same_set(list in areas()) {
        let mut grown = AreaSet::new();
        list.iter().for_each(|area| grown.insert(*area));
        prop_assert_eq!(bytes_of(&grown), bitmap(&list));
        prop_assert_eq!(grown, of(&list));
    }

    #[test]
    fn removing_takes_exactly_the_bytes_of_the_area(list in areas(), holes in areas()) {
        let mut left = of(&list);
        holes.iter().for_each(|hole| left.remove(*hole));
        let expected = zip(&bitmap(&list), &bitmap(&holes), |a, b| a && !b);
        prop_assert_eq!(bytes_of(&left), expected);
    }

    #[test]
    fn subtract_intersect_and_union_are_those_of_the_bytes(one in areas(), other in areas()) {
        let (a, b) = (of(&one), of(&other));
        let (bits_a, bits_b) = (bitmap(&one), bitmap(&other));
        prop_assert_eq!(bytes_of(&a.subtract(&b)), zip(&bits_a, &bits_b, |a, b| a && !b));
        prop_assert_eq!(bytes_of(&a.intersect(&b)), zip(&bits_a, &bits_b, |a, b| a && b));
        prop_assert_eq!(bytes_of(&a.union(&b)), zip(&bits_a, &bits_b, |a, b| a || b));
    }

    #[test]
    fn contains_asks_for_every_byte(list in areas(), asked in areas()) {
        let (held, bits) = (of(&list), bitmap(&list));
        for area in asked {
            let all = (area.start..area.end()).all(|byte| bits[usize::try_from(byte).unwrap()]);
            prop_assert_eq!(held.contains(area), all);
        }
    }

    #[test]
    fn rounding_decides_by_whole_units(list in areas(), granularity in 1_u64..50) {
        let bits = bitmap(&list);
        let unit_of = |byte: u64| {
            let start = byte - byte % granularity;
            let (start, end) = (start, (start + granularity).min(DISK));
            bits[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].to_vec()
        };
        let any: Bitmap = (0..DISK).map(|byte| unit_of(byte).contains(&true)).collect();
        let all: Bitmap = (0..DISK).map(|byte| !unit_of(byte).contains(&false)).collect();
        prop_assert_eq!(bytes_of(&of(&list).rounded_out(granularity, DISK)), any);
        prop_assert_eq!(bytes_of(&of(&list).rounded_in(granularity, DISK)), all);
    }

    #[test]
    fn a_bounded_set_loses_nothing_and_keeps_the_bound(list in areas(), max in 1_usize..8) {
        let bounded = of(&list).coalesced_to(max);
        prop_assert!(bounded.len() <= max);
        prop_assert_eq!(of(&list).subtract(&bounded), AreaSet::new());
        if of(&list).len() > max {
            prop_assert_eq!(bounded.len(), max);
        }
        bytes_of(&bounded);
    }

    #[test]
    fn the_longest_areas_are_a_part_of_the_set(list in areas(), max in 0_usize..8) {
        let (all, kept) = (of(&list), of(&list).longest(max));
        prop_assert_eq!(kept.len(), all.len().min(max));
        let shortest = kept.iter().map(|area| area.length).min().unwrap_or(u64::MAX);
        prop_assert!(all.subtract(&kept).iter().all(|area| area.length <= shortest));
        prop_assert_eq!(kept.subtract(&all), AreaSet::new());
    }

    #[test]
    fn json_reads_back_what_was_listed(list in areas(), limit in 1_usize..30) {
        let items: Vec<String> = list
            .iter()
            .map(|area| format!("{{\"start\": {}, \"length\": {}}}", area.start, area.length))
            .collect();
        let text = format!("[{}]", items.join(", "));
        let read = AreaSet::read_json(text.as_bytes(), DISK, limit).unwrap();
        bytes_of(&read);
        prop_assert!(read.len() <= limit);
        prop_assert_eq!(of(&list).subtract(&read), AreaSet::new());
        if 2 * limit >= list.len() && of(&list).len() <= limit {
            prop_assert_eq!(read, of(&list));
        }
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in ".{0,80}") {
        let _ = AreaSet::read_json(text.as_bytes(), DISK, 4);
    }
}

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const CAPACITY: u64 = 1 << 20;

fn taken(areas: &mut Areas, page: (u64, u64), changed: &[(u64, u64)]) -> Result<(), Nonsense> {
    let changed: Vec<Area> =
        changed.iter().map(|&(start, length)| Area::new(start, length)).collect();
    areas.take(Area::new(page.0, page.1), &changed)
}

fn parsed(body: &str) -> Result<(Area, Vec<Area>), XmlError> {
    let body = format!(r#"<r xmlns="urn:vim25">{body}</r>"#);
    let end = Instant::now() + Duration::from_secs(60);
    let mut reader = XmlReader::new(body.as_bytes(), end);
    reader.next_start().unwrap().unwrap();
    page(&mut reader)
}

#[test]
fn pages_that_cover_the_disk_are_merged() {
    let mut areas = Areas::of(CAPACITY, 100);
    assert_eq!(areas.next(), Some(0));
    taken(&mut areas, (0, 4096), &[(0, 512), (512, 512), (2048, 2048)]).unwrap();
    assert_eq!(areas.next(), Some(4096));
    taken(&mut areas, (4096, CAPACITY - 4096), &[(4096, 1), (CAPACITY - 1, 1)]).unwrap();
    assert_eq!(areas.next(), None);
    let set = areas.finish();
    let expected = [Area::new(0, 1024), Area::new(2048, 2049), Area::new(CAPACITY - 1, 1)];
    assert_eq!(set.as_slice(), expected);
}

#[test]
fn a_disk_without_bytes_is_covered_from_the_start() {
    assert_eq!(Areas::of(0, 1).next(), None);
}

#[test]
fn nonsense_is_an_error_and_no_data() {
    use Nonsense::*;
    type Told = (u64, u64);
    let cases: [(Told, &[Told], Nonsense); 13] = [
        // Repeated, overlapping the one before, and with a gap behind it.
        ((0, 4096), &[], Elsewhere { asked: 4096, told: 0 }),
        ((2048, 4096), &[], Elsewhere { asked: 4096, told: 2048 }),
        ((8192, 4096), &[], Elsewhere { asked: 4096, told: 8192 }),
        ((4096, 0), &[], NoProgress(4096)),
        ((4096, CAPACITY), &[], BeyondDisk { end: CAPACITY + 4096, capacity: CAPACITY }),
        ((4096, u64::MAX), &[], BeyondDisk { end: u64::MAX, capacity: CAPACITY }),
        ((4096, 4096), &[(0, 512)], OutsidePage { start: 0, length: 512 }),
        ((4096, 4096), &[(4095, 2)], OutsidePage { start: 4095, length: 2 }),
        ((4096, 4096), &[(8191, 2)], OutsidePage { start: 8191, length: 2 }),
        ((4096, 4096), &[(5000, u64::MAX)], OutsidePage { start: 5000, length: u64::MAX }),
        ((4096, 4096), &[(6000, 10), (5000, 10)], OutOfOrder { start: 5000, before: 6010 }),
        ((4096, 4096), &[(5000, 10), (5009, 10)], OutOfOrder { start: 5009, before: 5010 }),
        ((4096, 4096), &[(5000, 0)], Empty(5000)),
    ];
    for (page, changed, nonsense) in cases {
        let mut areas = Areas::of(CAPACITY, 100);
        taken(&mut areas, (0, 4096), &[]).unwrap();
        assert_eq!(taken(&mut areas, page, changed), Err(nonsense));
    }
}

#[test]
fn the_number_of_areas_is_bounded_and_nothing_is_lost() {
    const MOST: usize = 10;
    let changed: Vec<(u64, u64)> = (0..1000).map(|index| (index * 1024, 512)).collect();
    let mut areas = Areas::of(CAPACITY, MOST);
    for page in 0..4_u64 {
        let (begin, end) = (page * CAPACITY / 4, (page + 1) * CAPACITY / 4);
        let within = changed.iter().filter(|(start, _)| (begin..end).contains(start));
        let within: Vec<(u64, u64)> = within.copied().collect();
        taken(&mut areas, (begin, CAPACITY / 4), &within).unwrap();
        assert!(areas.set.len() <= 2 * MOST);
    }
    let set = areas.finish();
    assert!(set.len() <= MOST);
    assert!(changed.iter().all(|&(start, length)| set.contains(Area::new(start, length))));
}

proptest! {
    /// However a server cuts its pages, what it tells comes out.
    #[test]
    fn cuts_do_not_matter(bits in prop::collection::vec(any::<bool>(), 1..200), cut in 1..50_usize) {
        const UNIT: u64 = 65536;
        let capacity = bits.len() as u64 * UNIT;
        let mut areas = Areas::of(capacity, usize::MAX);
        while let Some(start) = areas.next() {
            let first = usize::try_from(start / UNIT).unwrap();
            let behind = bits.len().min(first + cut);
            let set = (first..behind).filter(|&index| bits[index]);
            let changed: Vec<Area> = set.map(|index| Area::new(index as u64 * UNIT, UNIT)).collect();
            areas.take(Area::between(start, behind as u64 * UNIT), &changed).unwrap();
        }
        let set = areas.finish();
        for (index, changed) in bits.iter().enumerate() {
            prop_assert_eq!(set.contains(Area::new(index as u64 * UNIT, UNIT)), *changed);
        }
    }
}

#[test]
fn a_page_is_read_as_vsphere_writes_it() {
    let body = "<returnval><startOffset>0</startOffset><length>2147483648</length>\
                <changedArea><start>0</start><length>65536</length></changedArea>\
                <changedArea><start>131072</start><length>65536</length></changedArea></returnval>";
    let (page, areas) = parsed(body).unwrap();
    assert_eq!(page, Area::new(0, 2_147_483_648));
    assert_eq!(areas, [Area::new(0, 65536), Area::new(131_072, 65536)]);
}

#[test]
fn pages_that_say_too_little_or_too_much_are_refused() {
    for body in [
        "",
        "<returnval/>",
        "<returnval><startOffset>0</startOffset></returnval>",
        "<returnval><startOffset>0</startOffset><length>-1</length></returnval>",
        "<returnval><startOffset>0</startOffset><startOffset>0</startOffset><length>1</length></returnval>",
        "<returnval><startOffset>0</startOffset><length>1.5</length></returnval>",
        "<returnval><startOffset>0</startOffset><length>9<x/></length></returnval>",
        "<returnval><startOffset>0</startOffset><length>9</length><changedArea><start>0</start>\
         </changedArea></returnval>",
        "<returnval><startOffset>0</startOffset><length>9</length></returnval><returnval/>",
        r#"<returnval xmlns="urn:other"><startOffset>0</startOffset><length>9</length></returnval>"#,
    ] {
        assert!(parsed(body).is_err(), "{body}");
    }
}

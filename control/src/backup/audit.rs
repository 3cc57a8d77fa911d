//! Distrust of who says what changed: a share of the rest is read too, and compared with the
//! digests of the last point.

use blockferry_dataplane::digest::DIGEST_BLOCK;
use blockferry_dataplane::manifest::{Entry, Manifest, ManifestError};
use blockferry_dataplane::plan::{Area, AreaError, AreaSet};

/// What is read in one piece: small reads cost as much as these.
const RUN_BYTES: u64 = 1 << 20;
/// Pieces of one disk at most; on larger disks they are longer.
const MAX_RUNS: u64 = 1 << 20;

/// So much of what did not change, at random; one piece at least, if there is any.
pub(super) fn sample(
    changed: &AreaSet,
    size: u64,
    percent: u8,
    seed: u64,
) -> Result<AreaSet, AreaError> {
    let block = DIGEST_BLOCK as u64;
    let run = RUN_BYTES.max(size.div_ceil(MAX_RUNS).next_power_of_two());
    let unchanged = AreaSet::whole(size).subtract(&changed.rounded_out(block, size));
    let mut chosen = Vec::new();
    let mut nearest = None;
    let mut number = 0_u64;
    for area in unchanged.iter() {
        let mut start = area.start;
        while start < area.end() {
            let end = area.end().min((start / run + 1) * run);
            let piece = Area::new(start, end - start);
            number += 1;
            let drawn = spread(seed ^ number);
            if drawn % 100 < u64::from(percent) {
                chosen.push(piece);
            }
            nearest = nearest.into_iter().chain([(drawn, piece)]).min_by_key(|(drawn, _)| *drawn);
            start = end;
        }
    }
    // Of a disk with few pieces the share may be none: who asks for an audit has one.
    if percent > 0 && chosen.is_empty() {
        chosen.extend(nearest.map(|(_, piece)| piece));
    }
    AreaSet::from_unsorted(chosen, size)
}

/// Blocks of the sample that are not what they were, if any are.
pub(super) fn differing(
    sample: &AreaSet,
    base: &Manifest,
    read: &Manifest,
) -> Result<u64, ManifestError> {
    let block = DIGEST_BLOCK as u64;
    let mut count = 0;
    for area in sample.iter() {
        for index in area.start / block..area.end().div_ceil(block) {
            let (was, is) = (base.entry(index)?, read.entry(index)?);
            let both = was != Entry::Absent && is != Entry::Absent;
            count += u64::from(both && was != is);
        }
    }
    Ok(count)
}

/// A number that looks like chance, from one that does not (SplitMix64, Steele, Lea and Flood 2014).
fn spread(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = (1 << 30) + 512;

    #[test]
    fn a_small_share_of_a_small_disk_is_one_piece_and_not_always_the_same() {
        let changed = AreaSet::from_unsorted([Area::new(0, 100)], 4 << 20).unwrap();
        let of_seed = |seed| sample(&changed, 4 << 20, 1, seed).unwrap();
        let starts: Vec<u64> =
            (0..100).map(|seed| of_seed(seed).iter().next().unwrap().start).collect();
        assert!((0..4).all(|piece| starts.iter().any(|start| start >> 20 == piece)), "{starts:?}");
        assert!(sample(&changed, 4 << 20, 0, 1).unwrap().is_empty());
        let all = AreaSet::whole(4 << 20);
        assert!(sample(&all, 4 << 20, 1, 1).unwrap().is_empty(), "there is nothing unchanged");
        // What is left is less than a piece.
        let most = AreaSet::from_unsorted([Area::new(0, (4 << 20) - 65536)], 4 << 20).unwrap();
        assert_eq!(sample(&most, 4 << 20, 1, 1).unwrap().total(), 65536);
    }

    #[test]
    fn a_sample_has_its_share_and_nothing_that_changed() {
        let changed =
            AreaSet::from_unsorted([Area::new(5 << 20, 100), Area::new(700 << 20, 64 << 20)], SIZE)
                .unwrap();
        for percent in [0, 5, 50, 100] {
            let sample = sample(&changed, SIZE, percent, 7).unwrap();
            let changed = changed.rounded_out(DIGEST_BLOCK as u64, SIZE);
            assert!(sample.intersect(&changed).is_empty());
            let share = sample.total() * 100 / (SIZE - changed.total());
            assert!(share.abs_diff(u64::from(percent)) <= 3, "{share} of {percent}");
        }
        assert_eq!(sample(&AreaSet::new(), SIZE, 100, 1).unwrap(), AreaSet::whole(SIZE));
        let of_seed = |seed| sample(&changed, SIZE, 5, seed).unwrap();
        assert_ne!(of_seed(1), of_seed(2));
    }
}

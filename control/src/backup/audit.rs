//! Distrust of who says what changed: a share of the rest is read too, and compared with the
//! digests of the last point.

use blockferry_dataplane::digest::DIGEST_BLOCK;
use blockferry_dataplane::manifest::{Entry, Manifest, ManifestError};
use blockferry_dataplane::plan::{Area, AreaError, AreaSet};

/// What is read in one piece: small reads cost as much as these.
const RUN_BYTES: u64 = 1 << 20;
/// Pieces of one disk at most; on larger disks they are longer.
const MAX_RUNS: u64 = 1 << 20;

/// So much of what did not change, at random.
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
    let mut number = 0_u64;
    for area in unchanged.iter() {
        let mut start = area.start;
        while start < area.end() {
            let end = area.end().min((start / run + 1) * run);
            number += 1;
            if spread(seed ^ number) % 100 < u64::from(percent) {
                chosen.push(Area::new(start, end - start));
            }
            start = end;
        }
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

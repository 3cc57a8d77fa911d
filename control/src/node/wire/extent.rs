//! What is to be moved of a disk, as a node is told of it.

use blockferry_dataplane::Extent;
use blockferry_dataplane::plan::{Area, AreaSet};
use serde::{Deserialize, Serialize};

/// Areas of all disks of a job that a node is told of.
const MAX_AREAS: usize = 1 << 20;
/// Bytes of one of them, at most.
const AREA_BYTES: usize = "[18446744073709551615,18446744073709551615],".len();
/// Bytes of the rest of what is told of a job: names of a hundred disks and their exports.
const OTHER_BYTES: usize = 16 << 20;
/// Bytes of what a node is asked for at once: 60 MiB.
pub(crate) const MAX_ASKED_BYTES: usize = MAX_AREAS * AREA_BYTES + OTHER_BYTES;

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExtentRecord {
    Whole,
    /// Start and length of each, in bytes.
    Areas(Vec<(u64, u64)>),
    Bitmap(String),
}

impl ExtentRecord {
    /// What there is to be moved of each disk of a job, in their order, in [`MAX_AREAS`] areas in
    /// all. Where there are more, neighbours are merged over the smallest gaps of each disk, and
    /// what is between them is compared or moved too.
    pub(crate) fn of_all<'a>(extents: impl Iterator<Item = &'a Extent> + Clone) -> Vec<Self> {
        let count = |extent: &Extent| match extent {
            Extent::Areas(areas) => areas.len(),
            Extent::Whole | Extent::Bitmap(_) => 0,
        };
        let all: usize = extents.clone().map(count).sum();
        // Each disk has a share as large as its part of all.
        let share = |count: usize| match all <= MAX_AREAS {
            true => count,
            false => count.saturating_mul(MAX_AREAS) / all,
        };
        let record = |extent: &Extent| match extent {
            Extent::Whole => Self::Whole,
            Extent::Areas(areas) => {
                let share = share(areas.len());
                let told = |areas: &AreaSet| {
                    Self::Areas(areas.iter().map(|area| (area.start, area.length)).collect())
                };
                match areas.len() <= share {
                    true => told(areas),
                    false => told(&areas.clone().coalesced_to(share)),
                }
            }
            Extent::Bitmap(name) => Self::Bitmap(name.clone()),
        };
        extents.map(record).collect()
    }

    /// What is to be moved.
    ///
    /// # Errors
    /// Areas that are none.
    pub(in super::super) fn extent(self) -> Result<Extent, String> {
        Ok(match self {
            Self::Whole => Extent::Whole,
            Self::Areas(areas) => {
                let areas = areas.into_iter().map(|(start, length)| Area::new(start, length));
                let areas = AreaSet::from_unsorted(areas, u64::MAX);
                Extent::Areas(areas.map_err(|error| error.to_string())?)
            }
            Self::Bitmap(name) => Extent::Bitmap(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Areas of 64 KiB, each with a gap behind it that is none of the smallest now and then.
    fn scattered(count: u64) -> Extent {
        let area = |n: u64| Area::new(((n << 1) + n / 7) << 16, 1 << 16);
        Extent::Areas(AreaSet::from_unsorted((0..count).map(area), u64::MAX).unwrap())
    }

    fn areas(extent: &Extent) -> &AreaSet {
        match extent {
            Extent::Areas(areas) => areas,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn more_areas_than_a_node_is_told_of_are_merged_to_a_share_and_none_is_left_out() {
        let disks = [scattered(1_000_000), scattered(100_000), Extent::Whole, scattered(3)];
        let told = ExtentRecord::of_all(disks.iter());
        assert!(matches!(told[2], ExtentRecord::Whole));
        let told: Vec<Extent> = told.into_iter().map(|told| told.extent().unwrap()).collect();
        let all: usize = [0, 1, 3].map(|disk| areas(&told[disk]).len()).iter().sum();
        assert!((MAX_AREAS - 3..=MAX_AREAS).contains(&all), "{all}");
        for disk in [0, 1, 3] {
            let (has, is_told) = (areas(&disks[disk]), areas(&told[disk]));
            assert!(has.subtract(is_told).is_empty());
            assert!(is_told.len() * 10 >= has.len() * 6, "{} of {}", is_told.len(), has.len());
        }
    }

    #[test]
    fn areas_that_a_node_can_be_told_of_are_told_as_they_are() {
        let disks = [scattered(100_000), scattered(1)];
        for (told, disk) in ExtentRecord::of_all(disks.iter()).into_iter().zip(&disks) {
            assert_eq!(areas(&told.extent().unwrap()), areas(disk));
        }
    }
}

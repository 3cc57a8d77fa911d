//! Changed areas: a set of byte ranges of a disk, sorted, disjoint, and coalesced.
//!
//! One vector of 16 bytes an area holds the set. Where memory has to be bounded, neighbours are
//! merged over their gap ([`AreaSet::coalesced_to`]): such a set copies more, never less.

#![forbid(unsafe_code)]

use std::io::{self, Read};

mod list;

use list::AreaSetBuilder;

/// A range of bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Area {
    /// Offset of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Area {
    /// The range of `length` bytes from `start` on.
    #[must_use]
    pub const fn new(start: u64, length: u64) -> Self {
        Self { start, length }
    }

    /// Offset of the first byte behind the area. An area that would run past the last possible
    /// offset ends there.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// The area from `start` to `end`; empty where `end` lies before `start`.
    #[must_use]
    pub const fn between(start: u64, end: u64) -> Self {
        Self { start, length: end.saturating_sub(start) }
    }
}

/// Why a list of areas cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AreaError {
    /// An area lies outside of the disk, wholly or in part.
    #[error(
        "area {index} (start {start}, length {length}) runs past the end of the disk of \
         {disk_size} bytes; is this the list of another disk?"
    )]
    OutOfRange {
        /// Position in the list, from 0.
        index: u64,
        /// Its first byte.
        start: u64,
        /// Its length in bytes.
        length: u64,
        /// Size of the disk in bytes.
        disk_size: u64,
    },
    /// The JSON is malformed, or is not a list of areas.
    #[error(
        "line {line}, column {column}: {problem}; expected a JSON array of \
         {{\"start\": bytes, \"length\": bytes}}"
    )]
    Json {
        /// Line in the text, from 1.
        line: usize,
        /// Column in the line, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The list could not be read.
    #[error("the list of areas cannot be read: {0}")]
    Read(#[source] io::Error),
}

/// Sorted, disjoint areas that do not touch each other and are not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AreaSet {
    areas: Vec<Area>,
}

impl AreaSet {
    /// A set without areas.
    #[must_use]
    pub const fn new() -> Self {
        Self { areas: Vec::new() }
    }

    /// All bytes of a disk of `size` bytes.
    #[must_use]
    pub fn whole(size: u64) -> Self {
        let mut set = Self::new();
        set.insert(Area::new(0, size));
        set
    }

    /// The set of all bytes in `areas`, which may be in any order, overlap, or touch.
    ///
    /// # Errors
    /// [`AreaError::OutOfRange`] for the first area that does not lie within `disk_size` bytes.
    pub fn from_unsorted(
        areas: impl IntoIterator<Item = Area>,
        disk_size: u64,
    ) -> Result<Self, AreaError> {
        let mut builder = AreaSetBuilder::new(disk_size, usize::MAX);
        for area in areas {
            builder.push(area)?;
        }
        Ok(builder.finish())
    }

    /// Reads a JSON array of `{"start": bytes, "length": bytes}`, in any order, one area after
    /// the other: no more than twice `limit` areas are in memory at any time. A list of more
    /// than `limit` separate areas is merged to at most `limit` as [`coalesced_to`] does it.
    ///
    /// An empty array is a valid list: there is nothing to copy.
    ///
    /// # Errors
    /// Malformed JSON, negative or fractional numbers, fields that are missing, unknown or
    /// doubled, text behind the array; areas beyond `disk_size`; and failed reads.
    ///
    /// [`coalesced_to`]: AreaSet::coalesced_to
    pub fn read_json(source: impl Read, disk_size: u64, limit: usize) -> Result<Self, AreaError> {
        list::read_json(source, AreaSetBuilder::new(disk_size, limit))
    }

    /// Number of areas.
    #[must_use]
    pub fn len(&self) -> usize {
        self.areas.len()
    }

    /// Whether no byte is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// Number of bytes in all areas together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.areas.iter().map(|area| area.length).sum()
    }

    /// The areas, in ascending order.
    pub fn iter(&self) -> std::iter::Copied<std::slice::Iter<'_, Area>> {
        self.areas.iter().copied()
    }

    /// The areas as a slice, in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[Area] {
        &self.areas
    }

    /// Whether every byte of `area` is in the set; an empty area always is.
    #[must_use]
    pub fn contains(&self, area: Area) -> bool {
        if area.length == 0 {
            return true;
        }
        let index = self.first_reaching_past(area.start);
        self.areas
            .get(index)
            .is_some_and(|held| held.start <= area.start && area.end() <= held.end())
    }

    /// Adds the bytes of `area`. Cheap at or near the end of the set; elsewhere the areas behind
    /// it move.
    pub fn insert(&mut self, area: Area) {
        let (start, end) = (area.start, area.end());
        if start == end {
            return;
        }
        match self.areas.last_mut() {
            Some(last) if start > last.end() => self.areas.push(Area::between(start, end)),
            Some(last) if start >= last.start => {
                *last = Area::between(last.start, end.max(last.end()));
            }
            None => self.areas.push(Area::between(start, end)),
            Some(_) => self.insert_inside(start, end),
        }
    }

    /// Takes the bytes of `area` out of the set.
    pub fn remove(&mut self, area: Area) {
        let (start, end) = (area.start, area.end());
        let first = self.first_reaching_past(start);
        let behind = first + self.areas[first..].partition_point(|held| held.start < end);
        if start == end || first == behind {
            return;
        }
        let left = Area::between(self.areas[first].start, start);
        let right = Area::between(end, self.areas[behind - 1].end());
        let remains = [left, right].into_iter().filter(|part| part.length > 0);
        self.areas.splice(first..behind, remains);
    }

    /// The bytes that are in at least one of the sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut both = Self { areas: Vec::with_capacity(self.areas.len().max(other.areas.len())) };
        let (mut mine, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        loop {
            let next = match (mine.peek(), theirs.peek()) {
                (Some(a), Some(b)) if b.start < a.start => theirs.next(),
                (Some(_), _) => mine.next(),
                (None, _) => theirs.next(),
            };
            match next {
                Some(area) => both.insert(area),
                None => return both,
            }
        }
    }

    /// The bytes that are in this set and not in `other`.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let mut areas = Vec::with_capacity(self.areas.len());
        let mut holes = other.areas.iter().peekable();
        for area in &self.areas {
            let mut start = area.start;
            while start < area.end() {
                match holes.peek() {
                    Some(hole) if hole.end() <= start => {
                        holes.next();
                    }
                    Some(hole) if hole.start < area.end() => {
                        if start < hole.start {
                            areas.push(Area::between(start, hole.start));
                        }
                        start = hole.end();
                    }
                    _ => {
                        areas.push(Area::between(start, area.end()));
                        break;
                    }
                }
            }
        }
        Self { areas }
    }

    /// The bytes that are in both sets.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let mut areas = Vec::new();
        let (mut mine, mut theirs) = (self.areas.iter().peekable(), other.areas.iter().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let common = Area::between(a.start.max(b.start), a.end().min(b.end()));
            if common.length > 0 {
                areas.push(common);
            }
            if a.end() <= b.end() {
                mine.next();
            } else {
                theirs.next();
            }
        }
        Self { areas }
    }

    /// The set with every area grown to whole multiples of `granularity` bytes (0 is taken as
    /// 1), within a disk of `disk_size` bytes.
    #[must_use]
    pub fn rounded_out(&self, granularity: u64, disk_size: u64) -> Self {
        let granularity = granularity.max(1);
        let mut rounded = Self { areas: Vec::with_capacity(self.areas.len()) };
        for area in &self.areas {
            let start = area.start - area.start % granularity;
            let end = area.end().checked_next_multiple_of(granularity).unwrap_or(u64::MAX);
            rounded.insert(Area::between(start, end.min(disk_size)));
        }
        rounded
    }

    /// The set with every area shrunk to whole multiples of `granularity` bytes (0 is taken as
    /// 1). The end of a disk of `disk_size` bytes counts as such a multiple.
    #[must_use]
    pub fn rounded_in(&self, granularity: u64, disk_size: u64) -> Self {
        let granularity = granularity.max(1);
        let mut rounded = Self::new();
        for area in &self.areas {
            let end = area.end().min(disk_size);
            let end = if end == disk_size { end } else { end - end % granularity };
            if let Some(start) = area.start.checked_next_multiple_of(granularity) {
                rounded.insert(Area::between(start, end));
            }
        }
        rounded
    }

    /// The set in at most `max_areas` areas (0 is taken as 1), by merging the neighbours with
    /// the smallest gaps between them. The result holds all bytes of this set and those gaps.
    #[must_use]
    pub fn coalesced_to(mut self, max_areas: usize) -> Self {
        let max_areas = max_areas.max(1);
        let Some(surplus) = self.areas.len().checked_sub(max_areas).filter(|&n| n > 0) else {
            return self;
        };
        let gap = |pair: &[Area]| pair[1].start - pair[0].end();
        let mut gaps: Vec<u64> = self.areas.windows(2).map(gap).collect();
        let (below, &mut widest, _) = gaps.select_nth_unstable(surplus - 1);
        // Gaps below the widest one to close all go; of those that equal it, only as many as
        // are still needed.
        let mut of_widest = surplus - below.iter().filter(|&&gap| gap < widest).count();
        drop(gaps);
        self.areas.dedup_by(|right, left| {
            let gap = right.start - left.end();
            let close = if gap == widest && of_widest > 0 {
                of_widest -= 1;
                true
            } else {
                gap < widest
            };
            if close {
                *left = Area::between(left.start, right.end());
            }
            close
        });
        self
    }

    /// The set reduced to its `max_areas` longest areas: the bound for sets that may be too
    /// small but never too large, like the ranges that are safe on a target.
    #[must_use]
    pub fn longest(mut self, max_areas: usize) -> Self {
        if max_areas == 0 {
            return Self::new();
        }
        let Some(surplus) = self.areas.len().checked_sub(max_areas).filter(|&n| n > 0) else {
            return self;
        };
        let mut lengths: Vec<u64> = self.areas.iter().map(|area| area.length).collect();
        let (below, &mut longest, _) = lengths.select_nth_unstable(surplus - 1);
        let mut of_longest = surplus - below.iter().filter(|&&length| length < longest).count();
        self.areas.retain(|area| {
            if area.length == longest && of_longest > 0 {
                of_longest -= 1;
                return false;
            }
            area.length >= longest
        });
        self
    }

    /// Index of the first area that holds a byte at or behind `offset`.
    fn first_reaching_past(&self, offset: u64) -> usize {
        self.areas.partition_point(|area| area.end() <= offset)
    }

    fn insert_inside(&mut self, start: u64, end: u64) {
        let first = self.areas.partition_point(|area| area.end() < start);
        let behind = first + self.areas[first..].partition_point(|area| area.start <= end);
        if first == behind {
            self.areas.insert(first, Area::between(start, end));
            return;
        }
        let start = start.min(self.areas[first].start);
        let end = end.max(self.areas[behind - 1].end());
        self.areas[first] = Area::between(start, end);
        self.areas.drain(first + 1..behind);
    }
}

impl<'a> IntoIterator for &'a AreaSet {
    type Item = Area;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, Area>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests;

//! Cuts a segment into the pieces that single requests carry.

#![forbid(unsafe_code)]

use std::iter::FusedIterator;

use super::areas::Area;

/// How many bytes a request carries at most: a power of two, so that the boundaries between
/// requests are aligned for every cluster up to that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestSize(u64);

impl RequestSize {
    /// The largest request size of no more than `bytes`; `None` for 0.
    #[must_use]
    pub const fn at_most(bytes: u64) -> Option<Self> {
        match bytes.checked_ilog2() {
            Some(bits) => Some(Self(1 << bits)),
            None => None,
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// The pieces of an area, in ascending order, without gaps. Each is as long as a request may be,
/// except that boundaries lie on multiples of the request size: the first and the last piece may
/// be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    at: u64,
    end: u64,
    size: RequestSize,
}

impl Pieces {
    /// Cuts `area` into requests of `size`.
    #[must_use]
    pub const fn new(area: Area, size: RequestSize) -> Self {
        Self { at: area.start, end: area.end(), size }
    }

    /// What has not been handed out yet.
    #[must_use]
    pub const fn rest(&self) -> Area {
        Area::between(self.at, self.end)
    }
}

impl Iterator for Pieces {
    type Item = Area;

    fn next(&mut self) -> Option<Area> {
        if self.at >= self.end {
            return None;
        }
        let boundary = (self.at & !(self.size.0 - 1)).saturating_add(self.size.0);
        let piece = Area::between(self.at, boundary.min(self.end));
        self.at = piece.end();
        Some(piece)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.at >= self.end {
            return (0, Some(0));
        }
        let count = (self.end - 1) / self.size.0 - self.at / self.size.0 + 1;
        let count = usize::try_from(count).ok();
        (count.unwrap_or(usize::MAX), count)
    }
}

impl FusedIterator for Pieces {}

#[cfg(test)]
mod tests;

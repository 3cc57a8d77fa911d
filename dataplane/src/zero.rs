//! Finds zeros in bytes that are in hand. Every byte is looked at: nothing is sampled, because a
//! sample once made a system write zeros over data.

#![forbid(unsafe_code)]

use std::iter::FusedIterator;
use std::ops::Range;

/// Bytes between two looks at the result: small enough that data is noticed at once, large
/// enough that the compiler turns the inner loop into vector instructions without branches.
const SCAN_BLOCK_BYTES: usize = 512;

/// Whether all of `bytes` are zero; so is an empty slice.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<SCAN_BLOCK_BYTES>();
    blocks.iter().all(|block| {
        let (words, _) = block.as_chunks::<8>();
        words.iter().fold(0, |seen, word| seen | u64::from_ne_bytes(*word)) == 0
    }) && rest.iter().fold(0, |seen, byte| seen | byte) == 0
}

/// A part of a buffer that is zero as a whole, or of which no unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeroRun {
    /// The bytes, as indices into the buffer.
    pub range: Range<usize>,
    /// Whether all of them are zero.
    pub zero: bool,
}

/// Cuts `buffer` into runs of zero and of other units of `granularity` bytes (0 is taken as 1),
/// counted from its start; the last unit may be shorter. Neighbours differ, and together the
/// runs are the buffer.
#[must_use]
pub fn zero_runs(buffer: &[u8], granularity: usize) -> ZeroRuns<'_> {
    let mut runs = ZeroRuns { rest: buffer, granularity: granularity.max(1), at: 0, next: None };
    runs.next = runs.take_unit();
    runs
}

/// The iterator of [`zero_runs`].
#[derive(Clone, Debug)]
pub struct ZeroRuns<'a> {
    rest: &'a [u8],
    granularity: usize,
    at: usize,
    /// The unit that was read and not handed out yet: its length, and whether it is zero.
    next: Option<(usize, bool)>,
}

impl ZeroRuns<'_> {
    fn take_unit(&mut self) -> Option<(usize, bool)> {
        if self.rest.is_empty() {
            return None;
        }
        let (unit, rest) = self.rest.split_at(self.granularity.min(self.rest.len()));
        self.rest = rest;
        Some((unit.len(), is_zero(unit)))
    }
}

impl Iterator for ZeroRuns<'_> {
    type Item = ZeroRun;

    fn next(&mut self) -> Option<ZeroRun> {
        let (mut length, zero) = self.next.take()?;
        while let Some(unit) = self.take_unit() {
            if unit.1 != zero {
                self.next = Some(unit);
                break;
            }
            length += unit.0;
        }
        let range = self.at..self.at + length;
        self.at = range.end;
        Some(ZeroRun { range, zero })
    }
}

impl FusedIterator for ZeroRuns<'_> {}

#[cfg(test)]
mod tests;

//! Extents of a block status reply.

use super::wire;

/// A run of bytes that share a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of bytes; never zero.
    pub length: u64,
    /// What they mean depends on the context.
    pub flags: u64,
}

impl Extent {
    /// In `base:allocation`: reads as zeroes. The only status that allows to skip reading.
    pub fn is_zero(&self) -> bool {
        self.flags & wire::NBD_STATE_ZERO != 0
    }

    /// In `base:allocation`: nothing is allocated. The content is undefined unless `is_zero`.
    pub fn is_hole(&self) -> bool {
        self.flags & wire::NBD_STATE_HOLE != 0
    }

    /// In `qemu:dirty-bitmap:*`: marked.
    pub fn is_dirty(&self) -> bool {
        self.flags & wire::NBD_STATE_DIRTY != 0
    }
}

/// Why the descriptors of a block status chunk are no extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadExtents {
    /// The bytes are not one or more whole descriptors.
    Length,
    /// The count in the chunk is not that of the descriptors.
    Count,
    /// An extent of no bytes.
    Empty,
    /// The lengths add up to more than 64 bits.
    Sum,
}

/// The extents of one context, from the requested offset on: an iterator over the bytes of the reply.
///
/// They may end short of the requested length, or run past it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents<'a> {
    descriptors: &'a [u8],
    wide: bool,
}

const NARROW_LEN: usize = 4 + 4;
const WIDE_LEN: usize = 8 + 8;

impl<'a> Extents<'a> {
    /// The descriptors of `NBD_REPLY_TYPE_BLOCK_STATUS`, without the context.
    pub(super) fn narrow(descriptors: &'a [u8]) -> Result<Self, BadExtents> {
        Self { descriptors, wide: false }.checked()
    }

    /// The descriptors of `NBD_REPLY_TYPE_BLOCK_STATUS_EXT`, without context and count.
    pub(super) fn wide(count: u32, descriptors: &'a [u8]) -> Result<Self, BadExtents> {
        let extents = Self { descriptors, wide: true }.checked()?;
        if usize::try_from(count) == Ok(extents.len()) {
            Ok(extents)
        } else {
            Err(BadExtents::Count)
        }
    }

    fn checked(self) -> Result<Self, BadExtents> {
        if self.descriptors.is_empty() || !self.descriptors.len().is_multiple_of(self.width()) {
            return Err(BadExtents::Length);
        }
        let mut sum = 0u64;
        for extent in self.clone() {
            if extent.length == 0 {
                return Err(BadExtents::Empty);
            }
            sum = sum.checked_add(extent.length).ok_or(BadExtents::Sum)?;
        }
        Ok(self)
    }

    fn width(&self) -> usize {
        if self.wide { WIDE_LEN } else { NARROW_LEN }
    }
}

impl Iterator for Extents<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        if self.wide {
            let (descriptor, rest) = self.descriptors.split_first_chunk::<WIDE_LEN>()?;
            self.descriptors = rest;
            let number = u128::from_be_bytes(*descriptor);
            let [length, flags] = [number >> 64, number & u128::from(u64::MAX)]
                .map(|half| u64::try_from(half).expect("half of 128 bits are 64"));
            Some(Extent { length, flags })
        } else {
            let (descriptor, rest) = self.descriptors.split_first_chunk::<NARROW_LEN>()?;
            self.descriptors = rest;
            let number = u64::from_be_bytes(*descriptor);
            Some(Extent { length: number >> 32, flags: number & u64::from(u32::MAX) })
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.descriptors.len() / self.width();
        (count, Some(count))
    }
}

impl ExactSizeIterator for Extents<'_> {}

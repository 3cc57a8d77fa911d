//! Cuts a range of the disk into data and zero segments along the source's block status.
//!
//! The rules, in the order in which they count:
//! 1. Zero is only what the source reports with the ZERO bit. A hole without it has undefined
//!    content (NBD specification, "base:allocation metadata context") and is read as data.
//! 2. With a dirty bitmap, what is not dirty is skipped.
//! 3. The disk is looked at in units of the alignment. A unit that is zero as a whole is zero,
//!    one that is skipped as a whole is skipped, every other one is data as a whole. So zeros
//!    are rounded in and data is rounded out, and neither leaves the range that was asked for.
//! 4. The server may describe less than was asked for, and more. What it says past the range is
//!    ignored; a unit that it describes in part only is left for the next question.

#![forbid(unsafe_code)]

use super::areas::Area;

/// `base:allocation`: not allocated. Says nothing about content.
pub const HOLE: u64 = 1;
/// `base:allocation`: reads as zeros.
pub const ZERO: u64 = 2;
/// `qemu:dirty-bitmap:*`: marked in the bitmap.
pub const DIRTY: u64 = 1;

/// One extent of a block status reply: its length in bytes and its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes that the flags are about.
    pub length: u64,
    /// The flags of the context; bits that are not known here are ignored.
    pub flags: u64,
}

/// How the bytes of a segment get to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Read and written.
    Data,
    /// Known to be zeros: written as such, without a read.
    Zero,
}

/// A range of the disk that is moved in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Offset of the first byte.
    pub start: u64,
    /// Number of bytes; never 0.
    pub length: u64,
    /// How they are moved.
    pub kind: SegmentKind,
}

impl Segment {
    /// Offset of the first byte behind the segment.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// The bytes of the segment.
    #[must_use]
    pub const fn area(&self) -> Area {
        Area::new(self.start, self.length)
    }
}

/// What a [`cut`](ExtentCutter::cut) dealt with: always the first bytes of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes from the start of the range that are decided; at least 1 unless the range is empty.
    pub covered: u64,
    /// Bytes of those that the dirty bitmap let out.
    pub skipped: u64,
}

/// Why a description cannot be used. None of these is fatal for a copy: read the range instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtentError {
    /// The alignment is not a power of two.
    #[error("{alignment} bytes cannot be an alignment; choose a power of two, like 65536")]
    Alignment {
        /// What was asked for.
        alignment: u64,
    },
    /// The range leaves the disk.
    #[error(
        "the range of {length} bytes from {start} runs past the end of the disk of {disk_size} bytes"
    )]
    OutOfRange {
        /// First byte of the range.
        start: u64,
        /// Bytes in the range.
        length: u64,
        /// Size of the disk in bytes.
        disk_size: u64,
    },
    /// The server described nothing.
    #[error(
        "the server's block status for offset {start} describes no byte; the range has to be read"
    )]
    Empty {
        /// First byte of the range.
        start: u64,
    },
    /// The server sent an extent without bytes: going on would be going in circles.
    #[error(
        "the server's block status for offset {start} has an extent of length 0; the range has to be read"
    )]
    NoProgress {
        /// First byte of the range.
        start: u64,
    },
}

/// Cuts ranges of one disk at one alignment.
#[derive(Clone, Copy, Debug)]
pub struct ExtentCutter {
    alignment: u64,
    disk_size: u64,
}

impl ExtentCutter {
    /// A cutter for a disk of `disk_size` bytes whose target likes writes of whole multiples of
    /// `alignment` bytes. The end of the disk counts as aligned.
    ///
    /// # Errors
    /// [`ExtentError::Alignment`] unless `alignment` is a power of two.
    pub fn new(alignment: u64, disk_size: u64) -> Result<Self, ExtentError> {
        if !alignment.is_power_of_two() {
            return Err(ExtentError::Alignment { alignment });
        }
        Ok(Self { alignment, disk_size })
    }

    /// Decides the first bytes of `range` and adds their segments to `segments`, in ascending
    /// order; a segment that continues the last one there becomes part of it.
    ///
    /// `allocation` are the extents of `base:allocation` and `dirty` those of a dirty bitmap,
    /// both from the start of `range` on. `None` says that the context is not there: then all is
    /// data, or all is dirty.
    ///
    /// Ask again for what is behind [`Cut::covered`].
    ///
    /// # Errors
    /// A range outside of the disk; a description that is empty or has an extent without bytes.
    /// `segments` is not changed then.
    pub fn cut(
        &self,
        range: Area,
        allocation: Option<&[Run]>,
        dirty: Option<&[Run]>,
        segments: &mut Vec<Segment>,
    ) -> Result<Cut, ExtentError> {
        let Area { start, length } = range;
        if start.checked_add(length).is_none_or(|end| end > self.disk_size) {
            let disk_size = self.disk_size;
            return Err(ExtentError::OutOfRange { start, length, disk_size });
        }
        for runs in [allocation, dirty].into_iter().flatten() {
            if length > 0 && runs.is_empty() {
                return Err(ExtentError::Empty { start });
            }
            if runs.iter().any(|run| run.length == 0) {
                return Err(ExtentError::NoProgress { start });
            }
        }
        let mut units = Units::new(*self, range, segments);
        let mut allocation = Walk::new(allocation, 0);
        let mut dirty = Walk::new(dirty, DIRTY);
        let mut left = length;
        while let (Some(status), Some(mark)) = (allocation.now(), dirty.now())
            && left > 0
        {
            let step = status.length.min(mark.length).min(left);
            let kind = if mark.flags & DIRTY == 0 {
                Kind::Skip
            } else if status.flags & ZERO != 0 {
                Kind::Zero
            } else {
                Kind::Data
            };
            units.add(step, kind);
            left -= step;
            allocation.advance(step);
            dirty.advance(step);
        }
        Ok(units.finish())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
    Skip,
}

/// Goes through the runs of one context; a context that is not there is one endless run.
struct Walk<'a> {
    rest: std::slice::Iter<'a, Run>,
    now: Option<Run>,
}

impl<'a> Walk<'a> {
    fn new(runs: Option<&'a [Run]>, flags_if_absent: u64) -> Self {
        match runs {
            Some(runs) => {
                let mut rest = runs.iter();
                let now = rest.next().copied();
                Self { rest, now }
            }
            None => {
                let endless = Run { length: u64::MAX, flags: flags_if_absent };
                Self { rest: [].iter(), now: Some(endless) }
            }
        }
    }

    fn now(&self) -> Option<Run> {
        self.now
    }

    fn advance(&mut self, step: u64) {
        if let Some(run) = &mut self.now {
            run.length -= step;
            if run.length == 0 {
                self.now = self.rest.next().copied();
            }
        }
    }
}

/// Rounds a gapless row of pieces to units, and keeps the unit that is not complete yet.
struct Units<'a> {
    cutter: ExtentCutter,
    range: Area,
    /// End of the pieces so far.
    at: u64,
    /// Start and kind of the unit that `at` lies in, if it does not begin there.
    open: Option<(u64, Kind)>,
    skipped: u64,
    segments: &'a mut Vec<Segment>,
}

impl<'a> Units<'a> {
    fn new(cutter: ExtentCutter, range: Area, segments: &'a mut Vec<Segment>) -> Self {
        Self { cutter, range, at: range.start, open: None, skipped: 0, segments }
    }

    fn add(&mut self, length: u64, kind: Kind) {
        let end = self.at + length;
        if self.open.is_some() || self.floor(self.at) != self.at {
            let unit_end = self.unit_end(self.at);
            let kind_before = self.open.map_or(kind, |(_, kind)| kind);
            let unit_start = self.open.map_or(self.at, |(start, _)| start);
            let mixed = if kind_before == kind { kind } else { Kind::Data };
            self.at = end.min(unit_end);
            if self.at < unit_end {
                self.open = Some((unit_start, mixed));
                return;
            }
            self.open = None;
            self.close(unit_start, unit_end, mixed);
        }
        let whole_end = if end == self.cutter.disk_size { end } else { self.floor(end) };
        if self.at < whole_end {
            self.emit(self.at, whole_end, kind);
            self.at = whole_end;
        }
        if self.at < end {
            self.open = Some((self.at, kind));
            self.at = end;
        }
    }

    fn finish(mut self) -> Cut {
        let mut covered_end = self.at;
        if let Some((start, kind)) = self.open.take() {
            if self.at == self.range.end() {
                self.close(start, self.at, kind);
            } else if start > self.range.start {
                covered_end = start;
            } else {
                // Not even one unit was described: read all of it, or the same question would be
                // asked for ever.
                covered_end = self.unit_end(start).min(self.range.end());
                self.emit(start, covered_end, Kind::Data);
            }
        }
        Cut { covered: covered_end - self.range.start, skipped: self.skipped }
    }

    /// Emits what the range has of one unit. Zeros that are only a part of their unit are data.
    fn close(&mut self, start: u64, end: u64, kind: Kind) {
        let whole = self.floor(start) == start && self.unit_end(start) == end;
        let kind = if kind == Kind::Zero && !whole { Kind::Data } else { kind };
        self.emit(start, end, kind);
    }

    fn emit(&mut self, start: u64, end: u64, kind: Kind) {
        let length = end - start;
        let kind = match kind {
            Kind::Data => SegmentKind::Data,
            Kind::Zero => SegmentKind::Zero,
            Kind::Skip => {
                self.skipped += length;
                return;
            }
        };
        match self.segments.last_mut() {
            Some(last) if last.kind == kind && last.end() == start => last.length += length,
            _ => self.segments.push(Segment { start, length, kind }),
        }
    }

    fn floor(&self, offset: u64) -> u64 {
        offset & !(self.cutter.alignment - 1)
    }

    /// End of the unit that `offset` lies in; at most the end of the disk.
    fn unit_end(&self, offset: u64) -> u64 {
        self.floor(offset).saturating_add(self.cutter.alignment).min(self.cutter.disk_size)
    }
}

#[cfg(test)]
mod tests;

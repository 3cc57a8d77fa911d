//! What clients asked, in the order in which it was carried out.

use super::fault::Occasion;
use super::wire::cmd;

/// A command.
#[allow(missing_docs)] // the names are the specification's
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    Read,
    Write,
    Disc,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    BlockStatus,
    /// None that is known.
    Other(u16),
}

impl From<u16> for Command {
    fn from(number: u16) -> Self {
        match number {
            cmd::READ => Self::Read,
            cmd::WRITE => Self::Write,
            cmd::DISC => Self::Disc,
            cmd::FLUSH => Self::Flush,
            cmd::TRIM => Self::Trim,
            cmd::CACHE => Self::Cache,
            cmd::WRITE_ZEROES => Self::WriteZeroes,
            cmd::BLOCK_STATUS => Self::BlockStatus,
            other => Self::Other(other),
        }
    }
}

impl Command {
    /// The occasions that a request is; the special one first.
    pub(super) fn occasions(self) -> &'static [Occasion] {
        match self {
            Self::Read => &[Occasion::Read, Occasion::Request],
            Self::Write => &[Occasion::Write, Occasion::Request],
            Self::Flush => &[Occasion::Flush, Occasion::Request],
            Self::Trim => &[Occasion::Trim, Occasion::Request],
            Self::WriteZeroes => &[Occasion::WriteZeroes, Occasion::Request],
            Self::BlockStatus => &[Occasion::BlockStatus, Occasion::Request],
            Self::Disc | Self::Cache | Self::Other(_) => &[Occasion::Request],
        }
    }
}

/// A request that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// On which connection; the first is 1.
    pub connection: u64,
    /// What is asked.
    pub command: Command,
    /// Its flags, see [`super::wire::flag`].
    pub flags: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// The error it was answered with, 0 for none. Whether the answer arrived is another matter.
    pub error: u32,
}

/// The ranges in order, with those that touch or overlap made one.
pub fn merged(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (offset, length) in ranges {
        match merged.last_mut() {
            Some(last) if offset <= last.0 + last.1 => {
                last.1 = last.1.max(offset + length - last.0);
            }
            _ => merged.push((offset, length)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let ranges = vec![(10, 5), (0, 4), (4, 2), (12, 1), (20, 1)];
        assert_eq!(merged(ranges), [(0, 6), (10, 5), (20, 1)]);
    }
}

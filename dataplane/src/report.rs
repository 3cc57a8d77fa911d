//! What lanes did: while they do it, and at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::EngineKind;
use crate::fault::{Fault, Side};

/// Bytes of a lane, kept apart: a skipped zero is no throughput.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Bytes that the lane is about: the disk, or the changed areas; 0 until that is known.
    pub planned: u64,
    /// Read from the source.
    pub read: u64,
    /// Known to be zero, by block status or by having been read in full.
    pub zero: u64,
    /// Sent to the target as data.
    pub sent: u64,
    /// Acknowledged by the target, data and zeros.
    pub acknowledged: u64,
    /// Not written: not marked in the bitmap, safe by the journal, zero on a target that is zero,
    /// or on the target already, by the base. The last was read nevertheless, where block status
    /// did not tell that it is zero.
    pub skipped: u64,
    /// Done again after a connection broke.
    pub redone: u64,
}

impl Counts {
    /// Bytes that are finished with.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.acknowledged + self.skipped
    }
}

macro_rules! live_counts {
    ($($field:ident),+) => {
        /// The counts of a lane at work: written by its thread, read by any.
        #[derive(Debug, Default)]
        pub(crate) struct LiveCounts { $(pub(crate) $field: LiveCount,)+ }

        impl LiveCounts {
            pub(crate) fn snapshot(&self) -> Counts {
                Counts { $($field: self.$field.get(),)+ }
            }
        }
    };
}
live_counts!(planned, read, zero, sent, acknowledged, skipped, redone);

/// A count with one writer.
#[derive(Debug, Default)]
pub(crate) struct LiveCount(AtomicU64);

impl LiveCount {
    pub(crate) fn add(&self, bytes: u64) {
        // One writer: a plain load and store are enough, and cheaper than a locked add.
        self.0.store(self.0.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    pub(crate) fn take_back(&self, bytes: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(bytes), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The payload path in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Socket to pipe to socket.
    Splice,
    /// Through pooled buffers.
    Pooled,
}

impl std::fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Splice => "splice",
            Self::Pooled => "pooled",
        })
    }
}

/// Something that happened to a lane, for logs and displays. Lanes are named by their index in
/// the list that the mover was given.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Both sides are open.
    Started {
        /// The lane.
        lane: usize,
        /// Size of the source in bytes, if it has one.
        size: Option<u64>,
        /// The payload path, and why.
        payload: PayloadKind,
        /// In words.
        reason: &'a str,
        /// Connections a side.
        connections: u16,
    },
    /// Something that a person should know and that is no failure.
    Note {
        /// The lane.
        lane: usize,
        /// In words.
        text: &'a str,
    },
    /// A side was lost and is being connected again.
    Reconnecting {
        /// The lane.
        lane: usize,
        /// Which side.
        side: Side,
        /// Which attempt, from 1.
        attempt: u32,
        /// Why, in words.
        reason: &'a str,
    },
    /// The lane is over.
    Finished {
        /// The lane.
        lane: usize,
        /// Why it failed, if it did.
        fault: Option<&'a Fault>,
        /// Its counts.
        counts: Counts,
    },
}

/// What one lane did.
#[derive(Debug)]
#[non_exhaustive]
pub struct LaneReport {
    /// Its source, in words.
    pub source: String,
    /// Its target, in words.
    pub target: String,
    /// Size of the disk in bytes, if the source was opened and has one.
    pub size: Option<u64>,
    /// Nothing, or why it failed.
    pub outcome: Result<(), Fault>,
    /// Bytes.
    pub counts: Counts,
    /// The payload path, and why in words; `None` if it never came to that.
    pub payload: Option<(PayloadKind, String)>,
    /// Connections a side.
    pub connections: u16,
    /// How often a side was connected again.
    pub reconnects: u32,
    /// FLUSHes that were acknowledged.
    pub flushes: u32,
    /// Bytes of a request at the end, as it was set or adapted to.
    pub request_bytes: u32,
    /// Time from its start to its end.
    pub elapsed: Duration,
}

/// What a mover did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// In the order that the lanes were given in.
    pub lanes: Vec<LaneReport>,
    /// The engine in use.
    pub engine: EngineKind,
    /// Why that one, in words.
    pub engine_reason: String,
    /// Threads that moved data.
    pub threads: usize,
    /// Time from the start to the end of the last lane.
    pub elapsed: Duration,
}

impl Report {
    /// The counts of all lanes together.
    #[must_use]
    pub fn totals(&self) -> Counts {
        self.lanes.iter().fold(Counts::default(), |sum, lane| sum.plus(&lane.counts))
    }
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            planned: self.planned + other.planned,
            read: self.read + other.read,
            zero: self.zero + other.zero,
            sent: self.sent + other.sent,
            acknowledged: self.acknowledged + other.acknowledged,
            skipped: self.skipped + other.skipped,
            redone: self.redone + other.redone,
        }
    }
}

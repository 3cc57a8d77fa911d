//! One connection to the source, one to the target, and the way between them.

use std::cell::Cell;
use std::rc::Rc;

use crate::engine::{Conveyor, Descriptor, End};
use crate::fault::Side;

use super::link::Link;
use super::slots::SlotIndex;

/// A lane has one strand, or several where both sides let it.
pub(super) struct Strand {
    pub(super) source: SourceSide,
    pub(super) target: TargetSide,
    /// Slots that are at work on this strand.
    pub(super) in_flight: u16,
    /// The pipe, while it is not in use. Made when it is first needed.
    pub(super) conveyor: Option<Box<Conveyor>>,
    pub(super) payload: PayloadState,
    /// The end that the present move last worked on.
    pub(super) move_end: Option<Rc<Cell<End>>>,
    /// The strand is given up: an extra connection that could not be had.
    pub(super) abandoned: bool,
}

/// Where a strand's source stands in its stream of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayloadState {
    /// Between payloads.
    None,
    /// The payload of this slot is next in the stream, and goes to the target as soon as that
    /// has a free direction.
    Announced(SlotIndex),
    /// It is moving; the target's epoch when that began.
    Conveying { slot: SlotIndex, target_epoch: u32 },
    /// It is being received into the slot's buffer.
    Receiving { slot: SlotIndex, generation: u32, done: bool },
}

/// The reading side of a strand.
pub(super) enum SourceSide {
    Nbd(Box<Link>),
    /// A file or block device.
    File(Rc<Descriptor>),
    /// Read in order; the offset of what comes next, and whether a writer has yet to come.
    Stream {
        stream: Rc<Descriptor>,
        at: u64,
        awaited: bool,
    },
}

/// The writing side of a strand.
pub(super) enum TargetSide {
    Nbd(Box<Link>),
    /// A file or block device.
    File(Rc<Descriptor>),
    /// Written in order: the offset that comes next, and whether a write is in flight.
    Stream {
        stream: Rc<Descriptor>,
        at: u64,
        writing: bool,
    },
    /// Takes everything and keeps nothing; `/dev/null`, where payloads are spliced to.
    Null(Rc<Descriptor>),
}

impl Strand {
    pub(super) fn new(source: SourceSide, target: TargetSide) -> Self {
        Self {
            source,
            target,
            in_flight: 0,
            conveyor: None,
            payload: PayloadState::None,
            move_end: None,
            abandoned: false,
        }
    }

    pub(super) fn source_link(&mut self) -> Option<&mut Link> {
        match &mut self.source {
            SourceSide::Nbd(link) => Some(link),
            SourceSide::File(_) | SourceSide::Stream { .. } => None,
        }
    }

    pub(super) fn target_link(&mut self) -> Option<&mut Link> {
        match &mut self.target {
            TargetSide::Nbd(link) => Some(link),
            TargetSide::File(_) | TargetSide::Stream { .. } | TargetSide::Null(_) => None,
        }
    }

    pub(super) fn link(&mut self, side: Side) -> Option<&mut Link> {
        match side {
            Side::Source => self.source_link(),
            Side::Target => self.target_link(),
        }
    }

    pub(super) fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        let source = match &mut self.source {
            SourceSide::Nbd(link) => Some(&mut **link),
            SourceSide::File(_) | SourceSide::Stream { .. } => None,
        };
        let target = match &mut self.target {
            TargetSide::Nbd(link) => Some(&mut **link),
            TargetSide::File(_) | TargetSide::Stream { .. } | TargetSide::Null(_) => None,
        };
        source.into_iter().chain(target)
    }

    /// Whether a side can take requests now.
    pub(super) fn side_is_ready(&self, side: Side) -> bool {
        match side {
            Side::Source => match &self.source {
                SourceSide::Nbd(link) => link.is_ready(),
                SourceSide::Stream { awaited, .. } => !awaited,
                SourceSide::File(_) => true,
            },
            Side::Target => match &self.target {
                TargetSide::Nbd(link) => link.is_ready(),
                TargetSide::File(_) | TargetSide::Stream { .. } | TargetSide::Null(_) => true,
            },
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.abandoned && self.side_is_ready(Side::Source) && self.side_is_ready(Side::Target)
    }

    /// Whether every request that the target has is answered.
    pub(super) fn target_owes_nothing(&self) -> bool {
        match &self.target {
            TargetSide::Nbd(link) => link.outstanding == 0,
            TargetSide::File(_) | TargetSide::Stream { .. } | TargetSide::Null(_) => true,
        }
    }

    /// Whether the present move waits for the target to take more.
    pub(super) fn waits_for_target(&self) -> bool {
        self.move_end.as_ref().is_some_and(|end| end.get() == End::To)
    }
}

//! What reads as zeros on the target already, by its own word.
//!
//! Asked once, before anything is written. On a fresh image that is all of it, and then the zeros
//! of the source cost nothing. The answer is about content, so it holds on a layer with a backing
//! file too: there only what reads as zeros through the whole chain is called zero.
//!
//! What is left alone on the strength of it counts as acknowledged and not yet flushed: if the
//! target is lost before a FLUSH, it is made zero after all, for the server may come back with an
//! older state.

use crate::nbd::{Command, CommandFlags, Extents, Request};
use crate::plan::{Area, AreaSet, Segment};

use super::context::Context;
use super::slots::Cookie;
use super::task::Task;

/// Areas that are remembered; what lies behind them is made zero.
const AREAS_MAX: usize = 16 << 10;

/// The answer, and whether it is still to come.
#[derive(Default)]
pub(super) struct TargetZeros {
    asked: bool,
    zeros: AreaSet,
    described: u64,
}

impl TargetZeros {
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    fn cover(&self, piece: Segment) -> bool {
        self.zeros.contains(piece.area())
    }

    pub(super) fn take(&mut self, extents: Extents<'_>) {
        for extent in extents {
            if extent.is_zero() && self.zeros.len() < AREAS_MAX {
                self.zeros.insert(Area::new(self.described, extent.length));
            }
            self.described = self.described.saturating_add(extent.length);
        }
    }

    pub(super) fn answered(&mut self) {
        self.asked = false;
    }

    /// The target was lost: what it said is about a server that may have died.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Task {
    /// Whether all of a piece reads as zeros on the target already.
    pub(super) fn is_zero_there(&self, piece: Segment) -> bool {
        self.target_zeros.cover(piece) && !self.seal.touches(piece.area())
    }

    /// Asks the target which of its bytes are zero, where it can tell and it matters.
    pub(super) fn ask_target_for_zeros(&mut self, context: &mut Context<'_>) {
        if self.settings.allocated || self.target_is_zero || !self.work.asks() {
            return;
        }
        let size = self.size.unwrap_or(0);
        let Some(link) = self.strands[0].target_link() else {
            return;
        };
        let Some(session) = link.session.as_ref() else {
            return;
        };
        let longest = super::status::longest_question(session.mode);
        let minimum = u64::from(session.block_size.minimum);
        let length = size.min(longest / minimum * minimum);
        if session.context(super::replies::ALLOCATION).is_none() || length == 0 {
            return;
        }
        let request = Request {
            command: Command::BlockStatus,
            flags: CommandFlags::NONE,
            cookie: Cookie::TargetStatus.number(),
            offset: 0,
            length,
        };
        link.request(request, None, context.now);
        self.target_zeros.asked = true;
    }
}

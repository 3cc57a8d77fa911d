//! What a lane is lent by its thread while it runs.

use std::time::Instant;

use crate::engine::Engine;
use crate::pool::{Buf, Pool};

/// The thread's engine and memory.
pub(crate) struct Context<'a> {
    pub(crate) engine: &'a mut dyn Engine,
    /// Slots of [`HEAD_BYTES`], for requests, heads of replies and handshakes.
    pub(crate) heads: &'a Pool,
    /// Slots for payload; all of one request's length.
    pub(crate) blocks: &'a Pool,
    /// A block of zeros, for targets that cannot write zeroes.
    pub(crate) zeros: &'a Buf,
    /// Bytes of a conveyor.
    pub(crate) conveyor_bytes: usize,
    /// Bytes that one of the lanes at work may have in flight, so that all together stay within
    /// what is worth having in flight.
    pub(crate) fair_bytes: u64,
    pub(crate) now: Instant,
    pub(crate) rate: &'a crate::mover::SharedRate,
}

/// Bytes of a slot for heads: 128 requests, or 256 acknowledgements.
pub(crate) const HEAD_BYTES: usize = 4096;

//! What the benches measure and nobody else should see. No part of the API.

#![forbid(unsafe_code)]

use std::io;

use crate::pool;

/// The pool that data passes through.
pub struct Pool(pool::Pool);

/// A claim on one of its slots.
pub struct Buf(pool::Buf);

impl Pool {
    /// Maps `slots` slots of `slot_bytes` each.
    ///
    /// # Errors
    /// When the kernel has no such mapping, or the sizes are none.
    pub fn new(slot_bytes: usize, slots: usize) -> io::Result<Self> {
        pool::Pool::new(slot_bytes, slots).map(Self)
    }

    /// A free slot, or `None` when all are in use.
    #[must_use]
    pub fn claim(&self) -> Option<Buf> {
        self.0.claim().map(Buf)
    }
}

impl Buf {
    /// Another claim on the same slot, for reading.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// The bytes of the slot, for writing.
    ///
    /// # Panics
    /// When the slot is shared.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

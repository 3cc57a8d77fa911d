//! Whether bytes of a call move.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::child::held;

/// The bytes of a call that were taken from us and came to us, over all attempts of it. Clones are
/// the same.
///
/// An attempt goes on as long as bytes move. Whether there is another one is a question of what was
/// *gained*: bytes that an attempt before has moved too are no progress.
#[derive(Clone, Debug)]
pub(crate) struct Motion(Arc<Mutex<Moved>>);

#[derive(Debug)]
struct Moved {
    /// Bytes of this attempt.
    now: u64,
    /// Bytes of the one that came farthest.
    most: u64,
    moved: Instant,
    gained: Instant,
}

impl Motion {
    /// Of a call that begins now.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Moved { now: 0, most: 0, moved: now, gained: now })))
    }

    /// Another attempt begins.
    pub(crate) fn begin(&self) {
        let mut state = held(&self.0);
        state.now = 0;
        state.moved = Instant::now();
    }

    /// So many bytes more have moved.
    pub(crate) fn pass(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = held(&self.0);
        state.now = state.now.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        state.moved = Instant::now();
        if state.now > state.most {
            (state.most, state.gained) = (state.now, state.moved);
        }
    }

    /// How long nothing of this attempt has moved.
    pub(crate) fn stands_for(&self) -> Duration {
        held(&self.0).moved.elapsed()
    }

    /// How long no attempt has come farther than the ones before.
    pub(crate) fn gains_nothing_for(&self) -> Duration {
        held(&self.0).gained.elapsed()
    }
}

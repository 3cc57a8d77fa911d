//! How long to wait before trying again.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

/// Waits that double from the first to the limit, each shortened at random.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, limit: Duration) -> Self {
        let first = first.min(limit);
        Self { first, limit, next: first }
    }

    /// How long to wait this time.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.limit);
        jittered(wait)
    }

    /// As long as it may be, for what will hardly be different soon.
    pub(super) fn longest(&mut self) -> Duration {
        self.next = self.limit;
        self.wait()
    }

    /// Begins anew, for what went wrong is over.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A time between half of `wait` and all of it, so that many who lost the same server do not come
/// back together.
pub(super) fn jittered(wait: Duration) -> Duration {
    let mut byte = [0_u8];
    // Without randomness it is the whole time, which is as right.
    let _none = getrandom(&mut byte, GetRandomFlags::NONBLOCK);
    wait - wait.mul_f64(f64::from(byte[0]) / 512.0)
}

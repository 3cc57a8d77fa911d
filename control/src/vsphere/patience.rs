//! Waiting for a server that is away, or does not do now what it is asked for.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::error::VsphereError;
use crate::backup::Cancellation;

/// Before the second attempt; doubled before each one after.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// How long it is waited for all the same once nobody wants to wait any more: what is refused for a
/// moment is worth that.
const HURRIED: Duration = Duration::from_secs(10);
/// How soon it is seen that nobody wants to wait any more.
const TICK: Duration = Duration::from_millis(100);

/// Who hears what is waited for, and says that there is no time for it.
#[derive(Clone)]
pub(super) struct Waits {
    pub(super) tell: Arc<dyn Fn(&str) + Send + Sync>,
    pub(super) hurry: Cancellation,
}

impl Default for Waits {
    fn default() -> Self {
        Self { tell: Arc::new(|_| ()), hurry: Cancellation::default() }
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits").finish_non_exhaustive()
    }
}

/// How long attempts at one thing go on that fail, from the first failure on.
#[derive(Debug)]
pub(super) struct Patience {
    waits: Waits,
    limit: Duration,
    since: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub(super) fn new(waits: Waits, limit: Duration) -> Self {
        Self { waits, limit, since: None, pause: FIRST_PAUSE }
    }

    /// It went well: the next failure is a first one.
    pub(super) fn is_served(&mut self) {
        self.since = None;
        self.pause = FIRST_PAUSE;
    }

    /// Waits after a failed attempt, whose reason is told if it is the first one. Whether there is time
    /// for another.
    pub(super) fn after(&mut self, error: &VsphereError) -> bool {
        let now = Instant::now();
        if self.since.is_none() {
            let limit = self.limit.as_secs();
            (self.waits.tell)(&format!("{error}; it is tried again, for {limit} s at most"));
        }
        let since = *self.since.get_or_insert(now);
        let (end, until) = (since + self.limit, now + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        loop {
            let now = Instant::now();
            if now >= end || (self.waits.hurry.is_cancelled() && now >= since + HURRIED) {
                return false;
            }
            if now >= until {
                return true;
            }
            thread::sleep(TICK.min(until - now));
        }
    }
}

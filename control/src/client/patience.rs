//! How long a hub is waited for.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::backup::Cancellation;

/// How long a hub that was there may be away: it is started anew in a moment, and its machine in
/// some minutes.
pub(super) const AWAY: Duration = Duration::from_secs(180);
/// How long it may be away, or think, once the job was called off here: whoever pressed Ctrl-C
/// waits no longer.
const CALLED_OFF: Duration = Duration::from_millis(1_500);

/// Of one backup, by the thread that follows it.
#[derive(Debug)]
pub(super) struct Patience {
    cancellation: Cancellation,
    /// When it was first seen that it is called off.
    called_off: Cell<Option<Instant>>,
    /// When the hub was heard last.
    heard: Cell<Instant>,
}

impl Patience {
    pub(super) fn new(cancellation: &Cancellation) -> Self {
        let cancellation = cancellation.clone();
        Self { cancellation, called_off: Cell::new(None), heard: Cell::new(Instant::now()) }
    }

    /// The hub was heard.
    pub(super) fn heard(&self) {
        self.heard.set(Instant::now());
    }

    /// Whether the job is called off here.
    pub(super) fn is_called_off(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// Whether it is called off, and the hub has had its time to hear of it, or to go on telling.
    pub(super) fn is_over(&self) -> bool {
        if !self.is_called_off() {
            return false;
        }
        let now = Instant::now();
        let called_off = self.called_off.get().unwrap_or(now);
        self.called_off.set(Some(called_off));
        now.duration_since(called_off.max(self.heard.get())) > CALLED_OFF
    }

    /// Whether the hub was away for too long, called off or not.
    pub(super) fn is_exhausted(&self) -> bool {
        self.heard.get().elapsed() > AWAY
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn it_is_over_a_while_after_it_was_called_off_and_the_hub_was_heard_last() {
        let cancellation = Cancellation::default();
        let patience = Patience::new(&cancellation);
        assert!(!patience.is_over());
        cancellation.cancel();
        let began = Instant::now();
        assert!(!patience.is_over());
        while !patience.is_over() {
            thread::yield_now();
        }
        assert!((CALLED_OFF..2 * CALLED_OFF).contains(&began.elapsed()), "{:?}", began.elapsed());
        patience.heard();
        assert!(!patience.is_over() && !patience.is_exhausted());
    }
}

//! Who is connected: strangers, and those who have shown a token.
//!
//! A stranger costs a place and says nothing of itself, so the places of strangers are few, and the
//! one that has been silent for longest leaves when another one comes. Whoever has shown a token
//! keeps its place for as long as its requests come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::server::MAX_CONNECTIONS;
use crate::child::held;

/// Strangers at once: half of all connections, so that the other half is there for who has a token.
pub const MAX_STRANGERS: usize = MAX_CONNECTIONS as usize / 2;
/// How long a stranger may take to its first request before its place is another's. Less than
/// [`HEADER_DEADLINE`](super::HEADER_DEADLINE), which holds where nobody else wants the place. A
/// request follows on its connection at once, however long the line is; this is for clients that are
/// slow themselves, so that many who come at once are no harm to each other.
pub const STRANGER_DEADLINE: Duration = Duration::from_millis(500);

/// The strangers, by when they were heard last.
#[derive(Debug, Default)]
pub(super) struct Guests {
    strangers: Mutex<Strangers>,
}

#[derive(Debug, Default)]
struct Strangers {
    last: u64,
    by_silence: BTreeMap<u64, Arc<Guest>>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Arc<Guests>,
    seat: Mutex<Seat>,
    admitted: AtomicBool,
    leave: Notify,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    heard: Instant,
}

impl Guests {
    /// One who has just connected.
    pub(super) fn arrive(self: &Arc<Self>) -> Arc<Guest> {
        let guest = Arc::new(Guest {
            guests: Arc::clone(self),
            seat: Mutex::new(Seat { number: 0, heard: Instant::now() }),
            admitted: AtomicBool::new(false),
            leave: Notify::new(),
        });
        self.strangers().sit(&guest);
        guest
    }

    /// Has the most silent stranger leave, where another one can come only so: `full` says that no
    /// place is free at all. Says how long to wait where all have just come; no time at all means
    /// that a place is free, or will be.
    pub(super) fn make_room(&self, full: bool) -> Duration {
        let mut strangers = self.strangers();
        if !full && strangers.by_silence.len() < MAX_STRANGERS {
            return Duration::ZERO;
        }
        let Some((&number, silent)) = strangers.by_silence.first_key_value() else {
            return Duration::ZERO;
        };
        let left = STRANGER_DEADLINE.saturating_sub(held(&silent.seat).heard.elapsed());
        if left.is_zero() {
            silent.leave.notify_one();
            strangers.by_silence.remove(&number);
        }
        left
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        held(&self.strangers)
    }
}

impl Strangers {
    /// Gives the guest the seat of who was heard just now.
    fn sit(&mut self, guest: &Arc<Guest>) {
        self.last += 1;
        *held(&guest.seat) = Seat { number: self.last, heard: Instant::now() };
        self.by_silence.insert(self.last, Arc::clone(guest));
    }
}

impl Guest {
    /// A request has come from it.
    pub(super) fn asks(self: &Arc<Self>) {
        if self.is_admitted() {
            return;
        }
        let mut strangers = self.guests.strangers();
        let number = held(&self.seat).number;
        // Who is to leave has no seat any more.
        if strangers.by_silence.remove(&number).is_some() {
            strangers.sit(self);
        }
    }

    /// It has shown a token.
    pub(super) fn admit(&self) {
        if !self.admitted.swap(true, Ordering::Relaxed) {
            self.stand_up();
        }
    }

    fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Returns when its place is wanted by another one.
    pub(super) async fn sent_away(&self) {
        loop {
            self.leave.notified().await;
            // Its token came in the same moment.
            if !self.is_admitted() {
                return;
            }
        }
    }

    /// Its connection has ended.
    pub(super) fn goes(&self) {
        self.stand_up();
    }

    fn stand_up(&self) {
        let mut strangers = self.guests.strangers();
        let number = held(&self.seat).number;
        strangers.by_silence.remove(&number);
    }
}

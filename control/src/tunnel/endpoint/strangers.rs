//! The places of connections that have not logged in.
//!
//! ```text
//!  accept ── silent, as many as `limit` ── says what SSH begins with ── talking, as many ── node
//!                 │ the oldest leaves when                                  │
//!                 ▼ another one comes                                       ▼ likewise
//! ```
//!
//! A connection costs who opens it nothing, so whoever comes finds a place: the one that has had it
//! for longest leaves. Who talks has places apart from who says nothing, so that connections that
//! only stand there take none from a login, which takes some round trips. A client that logs in
//! begins at once, and so leaves the silent ones as soon as it is accepted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::child::held;

/// A connection that says nothing keeps its place for this long even if others want it: however
/// quickly they come, one that begins at once has the time to. It bounds the work that a flood makes,
/// too: who comes meanwhile waits in the kernel.
const GRACE: Duration = Duration::from_millis(100);

/// All places.
#[derive(Debug)]
pub(super) struct Strangers {
    limit: usize,
    seats: Mutex<Seats>,
    /// Told when a connection gives its place back.
    left: Notify,
}

#[derive(Debug, Default)]
struct Seats {
    last: u64,
    silent: BTreeMap<u64, Seat>,
    talking: BTreeMap<u64, Seat>,
    /// Connections that hold a [`Place`]: those with a seat, and those that are told to leave.
    held: usize,
}

#[derive(Debug)]
struct Seat {
    since: Instant,
    leave: Arc<Notify>,
}

/// What a connection holds until it has logged in, or ends.
#[derive(Debug)]
pub(super) struct Place {
    strangers: Arc<Strangers>,
    number: u64,
    leave: Arc<Notify>,
}

impl Strangers {
    /// `limit` connections that say nothing, and as many that talk; at least one of each.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let limit = limit.max(1);
        Arc::new(Self { limit, seats: Mutex::default(), left: Notify::new() })
    }

    /// Returns when there is a place for another one. There is one caller.
    pub(super) async fn room(&self) {
        loop {
            let wait = held(&self.seats).make_room(self.limit);
            match wait {
                Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
                None => self.left.notified().await,
            }
        }
    }

    /// A place for one that has just come, after [`Self::room`].
    pub(super) fn arrive(self: &Arc<Self>) -> Place {
        let mut seats = held(&self.seats);
        seats.last += 1;
        seats.held += 1;
        let (number, leave) = (seats.last, Arc::new(Notify::new()));
        seats.silent.insert(number, Seat { since: Instant::now(), leave: Arc::clone(&leave) });
        Place { strangers: Arc::clone(self), number, leave }
    }
}

impl Seats {
    /// Says how long to wait before it is worth asking again: no time at all means that there is
    /// room, and `None` that somebody has been told to leave and will.
    fn make_room(&mut self, limit: usize) -> Option<Duration> {
        if self.silent.len() >= limit {
            let oldest = self.silent.first_entry()?;
            let left = GRACE.saturating_sub(oldest.get().since.elapsed());
            if !left.is_zero() {
                return Some(left);
            }
            oldest.remove().leave.notify_one();
        }
        // All that leave have a thread yet.
        (self.held < 2 * limit).then_some(Duration::ZERO)
    }
}

impl Place {
    /// It has said what SSH begins with.
    pub(super) fn talks(&self) {
        let mut seats = held(&self.strangers.seats);
        // Who is to leave has no seat any more.
        let Some(seat) = seats.silent.remove(&self.number) else { return };
        if seats.talking.len() >= self.strangers.limit
            && let Some((_, oldest)) = seats.talking.pop_first()
        {
            oldest.leave.notify_one();
        }
        // They began in about the order in which they came.
        seats.talking.insert(self.number, seat);
    }

    /// Returns when its place is wanted by another one.
    pub(super) async fn sent_away(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut seats = held(&self.strangers.seats);
        seats.silent.remove(&self.number);
        seats.talking.remove(&self.number);
        seats.held -= 1;
        drop(seats);
        self.strangers.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    async fn is_sent_away(place: &Place) -> bool {
        timeout(Duration::ZERO, place.sent_away()).await.is_ok()
    }

    async fn has_room(strangers: &Strangers) -> bool {
        timeout(GRACE * 2, strangers.room()).await.is_ok()
    }

    #[tokio::test]
    async fn who_talks_loses_no_place_to_who_says_nothing() {
        let strangers = Strangers::new(2);
        let talking = strangers.arrive();
        talking.talks();
        let mut silent = vec![strangers.arrive(), strangers.arrive()];
        for _ in 0..10 {
            assert!(has_room(&strangers).await);
            assert!(is_sent_away(&silent.remove(0)).await);
            silent.push(strangers.arrive());
        }
        assert!(!is_sent_away(&talking).await);
    }

    #[tokio::test]
    async fn of_those_who_talk_the_oldest_leaves_for_another_one() {
        let strangers = Strangers::new(2);
        let talking = [(); 3].map(|()| {
            let place = strangers.arrive();
            place.talks();
            place
        });
        assert!(is_sent_away(&talking[0]).await);
        assert!(!is_sent_away(&talking[1]).await && !is_sent_away(&talking[2]).await);
    }

    #[tokio::test]
    async fn who_is_sent_away_and_stays_keeps_others_from_coming() {
        let strangers = Strangers::new(1);
        let first = strangers.arrive();
        assert!(has_room(&strangers).await);
        let second = strangers.arrive();
        assert!(is_sent_away(&first).await);
        assert!(!has_room(&strangers).await);
        assert!(is_sent_away(&second).await);
        drop(first);
        assert!(has_room(&strangers).await);
        drop(second);
        assert_eq!(held(&strangers.seats).held, 0);
    }
}

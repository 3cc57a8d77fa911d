//! A limit on bytes per second, as a pure function of the time that is passed in.

#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// What may be taken at once after a pause, as time at the full rate. Long enough that a thread
/// that wakes late still reaches the rate, short enough that a link is not flooded.
pub const BURST: Duration = Duration::from_millis(50);

/// The longest wait that is ever computed; a rate of one byte a second and a huge request would
/// otherwise leave the range of the clock.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Pieces a second at least, at the full rate: whoever shares the limit waits for a piece of each
/// of the others, and a piece comes at the speed of the line.
const PIECES_PER_SECOND: u64 = 16;

/// A limit that several share: whoever asks gets the next time that is free, so that all have
/// their turns in the order in which they ask. Bytes are paid for from then on.
#[derive(Clone, Debug)]
pub struct RateLimit {
    bytes_per_second: NonZeroU64,
    /// When all bytes that were taken are paid for.
    paid_at: Option<Instant>,
}

impl RateLimit {
    /// A limit of `bytes_per_second`, with a full bucket.
    #[must_use]
    pub const fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, paid_at: None }
    }

    /// The limit in bytes per second.
    #[must_use]
    pub const fn bytes_per_second(&self) -> NonZeroU64 {
        self.bytes_per_second
    }

    /// Bytes that should be taken at once at most.
    #[must_use]
    pub fn piece_bytes(&self) -> u64 {
        self.bytes_per_second.get() / PIECES_PER_SECOND
    }

    /// Takes `bytes`, and tells from when on they may be moved: now, or later than it.
    pub fn reserve(&mut self, now: Instant, bytes: u64) -> Instant {
        // An idle bucket is full, not more than full.
        let full = now.checked_sub(BURST).unwrap_or(now);
        let turn = self.paid_at.map_or(full, |at| at.max(full));
        self.paid_at = Some(turn.checked_add(self.cost(bytes)).unwrap_or(now + MAX_WAIT));
        turn.max(now)
    }

    /// Time that `bytes` take at the full rate, rounded up.
    fn cost(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let nanos = nanos.div_ceil(u128::from(self.bytes_per_second.get()));
        u64::try_from(nanos).map_or(MAX_WAIT, Duration::from_nanos).min(MAX_WAIT)
    }
}

/// What one of those who share a limit has been given of it.
#[derive(Clone, Debug, Default)]
pub struct RateShare {
    /// Bytes that may be moved at any time.
    credit: u64,
    /// Bytes that may be moved from some time on.
    turn: Option<(Instant, u64)>,
}

impl RateShare {
    /// Asks to move `bytes` now. `None`: move them. `Some(instant)`: it is the turn of others;
    /// ask again, and not before then. Meanwhile nobody else gets what was reserved, also if fewer
    /// bytes are moved in the end: those that are left are had next time.
    pub fn take(
        &mut self,
        now: Instant,
        bytes: u64,
        reserve: impl FnOnce(u64) -> Instant,
    ) -> Option<Instant> {
        if let Some((at, reserved)) = self.turn {
            if at > now {
                return Some(at);
            }
            self.turn = None;
            self.credit += reserved;
        }
        let missing = bytes.saturating_sub(self.credit);
        if missing > 0 {
            let at = reserve(missing);
            if at > now {
                self.turn = Some((at, missing));
                return Some(at);
            }
            self.credit += missing;
        }
        self.credit -= bytes;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn limit(bytes_per_second: u64) -> RateLimit {
        RateLimit::new(NonZeroU64::new(bytes_per_second).unwrap())
    }

    fn take(
        share: &mut RateShare,
        limit: &mut RateLimit,
        now: Instant,
        bytes: u64,
    ) -> Option<Instant> {
        share.take(now, bytes, |missing| limit.reserve(now, missing))
    }

    #[test]
    fn a_full_bucket_lets_the_first_request_through_at_once() {
        let now = Instant::now();
        assert_eq!(limit(MIB).reserve(now, 32 * MIB), now);
    }

    #[test]
    fn the_wait_is_the_time_that_the_bytes_take_less_the_burst() {
        let (mut bucket, now) = (limit(MIB), Instant::now());
        bucket.reserve(now, 2 * MIB);
        assert_eq!(bucket.reserve(now, 1), now + Duration::from_secs(2) - BURST);
    }

    #[test]
    fn an_idle_hour_saves_no_more_than_one_burst() {
        let (mut bucket, start) = (limit(MIB), Instant::now());
        bucket.reserve(start, MIB);
        let now = start + Duration::from_secs(3600);
        assert_eq!(bucket.reserve(now, MIB), now);
        assert_eq!(bucket.reserve(now, 1), now + Duration::from_secs(1) - BURST);
    }

    #[test]
    fn the_largest_request_at_the_lowest_rate_does_not_leave_the_clock() {
        let (mut bucket, now) = (limit(1), Instant::now());
        assert_eq!(bucket.reserve(now, u64::MAX), now);
        assert!(bucket.reserve(now, 1) > now);
    }

    #[test]
    fn a_turn_is_reserved_once_and_kept_for_whoever_reserved_it() {
        let (mut bucket, now) = (limit(MIB), Instant::now());
        let (mut one, mut other) = (RateShare::default(), RateShare::default());
        assert_eq!(take(&mut one, &mut bucket, now, MIB), None);
        let turn = take(&mut one, &mut bucket, now, MIB).unwrap();
        assert_eq!(take(&mut one, &mut bucket, now, MIB), Some(turn));
        let next = take(&mut other, &mut bucket, now, MIB).unwrap();
        assert_eq!(next, turn + Duration::from_secs(1));
        assert_eq!(take(&mut one, &mut bucket, turn, MIB), None);
    }

    #[test]
    fn what_a_smaller_request_left_is_had_next_time() {
        let (mut bucket, now) = (limit(MIB), Instant::now());
        let mut share = RateShare::default();
        take(&mut share, &mut bucket, now, MIB);
        let turn = take(&mut share, &mut bucket, now, MIB).unwrap();
        assert_eq!(take(&mut share, &mut bucket, turn, MIB / 4), None);
        assert_eq!(take(&mut share, &mut bucket, turn, MIB * 3 / 4), None);
        assert!(take(&mut share, &mut bucket, turn, 1).is_some());
    }

    proptest! {
        #[test]
        fn those_who_share_get_the_same_and_the_rate_holds(
            rate in 1_000_u64..1_000_000_000,
            size in 1_u64..4_000_000,
            sharing in 1_usize..20,
            rounds in 1_u64..20,
        ) {
            let (mut bucket, start) = (limit(rate), Instant::now());
            let mut shares = vec![(RateShare::default(), 0_u64); sharing];
            let mut now = start;
            while shares.iter().all(|(_, taken)| *taken < rounds) {
                let mut next = None::<Instant>;
                // The first of them is always asked first.
                for (share, taken) in &mut shares {
                    let at = loop {
                        match take(share, &mut bucket, now, size) {
                            None => *taken += 1,
                            Some(at) => break at,
                        }
                    };
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
                now = next.unwrap();
            }
            let most = shares.iter().map(|(_, taken)| *taken).max().unwrap();
            let least = shares.iter().map(|(_, taken)| *taken).min().unwrap();
            let burst = u64::try_from(BURST.as_millis()).unwrap() * rate / 1000 / size + 1;
            prop_assert!(most - least <= burst + 1, "{most} and {least}, a burst of {burst}");
            let taken: u64 = shares.iter().map(|(_, taken)| *taken).sum();
            let seconds = (now - start + BURST).as_secs_f64();
            let at_once = (sharing as u64 + 1) * size;
            prop_assert!((taken * size) as f64 <= seconds * rate as f64 + at_once as f64);
        }
    }
}

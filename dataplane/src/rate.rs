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

/// A token bucket. A request of any size is let through once the bucket is not in debt, and its
/// bytes are then the debt that the next one waits for: so the rate holds on average also where
/// one request is larger than the bucket.
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

    /// Asks to move `bytes` now. `None`: they are taken, move them. `Some(instant)`: nothing was
    /// taken, ask again and not before then.
    pub fn take(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        // An idle bucket is full, not more than full.
        let full = now.checked_sub(BURST).unwrap_or(now);
        let paid_at = self.paid_at.map_or(full, |at| at.max(full));
        if paid_at > now {
            return Some(paid_at);
        }
        self.paid_at = Some(paid_at.checked_add(self.cost(bytes)).unwrap_or(now + MAX_WAIT));
        None
    }

    /// Time that `bytes` take at the full rate, rounded up.
    fn cost(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let nanos = nanos.div_ceil(u128::from(self.bytes_per_second.get()));
        u64::try_from(nanos).map_or(MAX_WAIT, Duration::from_nanos).min(MAX_WAIT)
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

    #[test]
    fn a_full_bucket_lets_the_first_request_through_at_once() {
        assert_eq!(limit(MIB).take(Instant::now(), 32 * MIB), None);
    }

    #[test]
    fn a_request_that_has_to_wait_takes_nothing() {
        let (mut bucket, now) = (limit(MIB), Instant::now());
        assert_eq!(bucket.take(now, MIB), None);
        let later = bucket.take(now, MIB).unwrap();
        assert_eq!(bucket.take(now, MIB), Some(later));
        assert_eq!(bucket.take(later, MIB), None);
    }

    #[test]
    fn the_wait_is_the_time_that_the_bytes_take_less_the_burst() {
        let (mut bucket, now) = (limit(MIB), Instant::now());
        bucket.take(now, 2 * MIB);
        assert_eq!(bucket.take(now, 1), Some(now + Duration::from_secs(2) - BURST));
    }

    #[test]
    fn an_idle_hour_saves_no_more_than_one_burst() {
        let (mut bucket, start) = (limit(MIB), Instant::now());
        bucket.take(start, MIB);
        let now = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(now, MIB), None);
        assert_eq!(bucket.take(now, 1), Some(now + Duration::from_secs(1) - BURST));
    }

    #[test]
    fn the_largest_request_at_the_lowest_rate_does_not_leave_the_clock() {
        let (mut bucket, now) = (limit(1), Instant::now());
        assert_eq!(bucket.take(now, u64::MAX), None);
        assert!(bucket.take(now, 1).is_some());
    }

    proptest! {
        #[test]
        fn over_any_row_of_requests_the_rate_holds(
            rate in 1_000_u64..1_000_000_000,
            sizes in prop::collection::vec(1_u64..4_000_000, 1..60),
        ) {
            let (mut bucket, start) = (limit(rate), Instant::now());
            let (mut now, mut before_last) = (start, 0_u64);
            for (index, &size) in sizes.iter().enumerate() {
                while let Some(later) = bucket.take(now, size) {
                    prop_assert!(later > now);
                    now = later;
                }
                if index + 1 < sizes.len() {
                    before_last += size;
                }
            }
            let seconds = (now - start + BURST).as_secs_f64();
            prop_assert!(before_last as f64 <= seconds * rate as f64 + 1.0);
            prop_assert!(seconds - BURST.as_secs_f64() <= before_last as f64 / rate as f64 + 1e-6);
        }
    }
}

//! The length of a request, set or adapted to what is measured.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Where adapting starts, in bytes. Larger requests cost less of the mover, smaller ones keep more
/// of them in flight. The runs in benches/runs were made with this one.
const FIRST_BYTES: u32 = 1 << 20;
/// A trial is judged after this many bytes at the earliest ...
const TRIAL_BYTES: u64 = 48 << 20;
/// ... and after this time.
const TRIAL_TIME: Duration = Duration::from_millis(250);
/// A length is kept when its rate is better by this share, in percent. A small gain is
/// within what two trials of one length differ by.
const BETTER_PERCENT: u64 = 25;
/// Nothing is tried for this many trials at first, for a short lane has nothing to gain; and after
/// both neighbours were tried in vain, then doubled each time, up to [`LONGEST_REST`].
const FIRST_REST: u32 = 8;
const LONGEST_REST: u32 = 256;

/// Walks the powers of two between the limits towards the better rate.
pub(super) struct Adapt {
    bytes: u32,
    fixed: bool,
    min: u32,
    max: u32,
    /// Of the trial under way.
    since: Instant,
    moved: u64,
    /// The length that is compared with, and its rate in bytes a millisecond.
    best: Option<(u32, u64)>,
    up: bool,
    failures: u32,
    rest: u32,
    next_rest: u32,
}

impl Adapt {
    /// A fixed length, or one that adapts within `limits` and up to `max`, which both sides take.
    pub(super) fn new(
        fixed: Option<u32>,
        limits: &RangeInclusive<u32>,
        max: u32,
        now: Instant,
    ) -> Self {
        let power = |bytes: u32| 1 << bytes.max(1).ilog2();
        let min = power(*limits.start()).min(max);
        let max = power(*limits.end()).min(max).max(min);
        Self {
            bytes: fixed.unwrap_or(FIRST_BYTES.clamp(min, max)),
            fixed: fixed.is_some(),
            min,
            max,
            since: now,
            moved: 0,
            best: None,
            up: false,
            failures: 0,
            rest: FIRST_REST,
            next_rest: FIRST_REST,
        }
    }

    /// Bytes of the next request.
    pub(super) fn request_bytes(&self) -> u32 {
        self.bytes
    }

    /// Notes bytes that were acknowledged.
    pub(super) fn acknowledged(&mut self, bytes: u64, now: Instant) {
        self.moved += bytes;
        if self.fixed || self.moved < TRIAL_BYTES {
            return;
        }
        let time = now.duration_since(self.since);
        if time < TRIAL_TIME {
            return;
        }
        let rate = self.moved / u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        (self.since, self.moved) = (now, 0);
        self.judge(rate);
    }

    fn judge(&mut self, rate: u64) {
        match self.best {
            None => self.best = Some((self.bytes, rate)),
            Some((bytes, _)) if bytes == self.bytes => {
                self.best = Some((bytes, rate));
                if self.rest > 0 {
                    self.rest -= 1;
                    return;
                }
            }
            Some((_, best)) if rate * 100 > best * (100 + BETTER_PERCENT) => {
                self.best = Some((self.bytes, rate));
                self.failures = 0;
                self.next_rest = FIRST_REST;
            }
            Some((bytes, _)) => {
                self.bytes = bytes;
                self.up = !self.up;
                self.failures += 1;
                if self.failures >= 2 {
                    self.failures = 0;
                    self.rest = self.next_rest;
                    self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
                }
                return;
            }
        }
        self.bytes =
            if self.up { (self.bytes * 2).min(self.max) } else { (self.bytes / 2).max(self.min) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs trials against a made-up machine whose rate depends on the length only.
    fn settle(rate_of: impl Fn(u32) -> u64, trials: usize) -> Vec<u32> {
        let start = Instant::now();
        let mut adapt = Adapt::new(None, &(256 << 10..=2 << 20), 8 << 20, start);
        let mut now = start;
        let mut seen = Vec::new();
        for _ in 0..trials {
            seen.push(adapt.request_bytes());
            now += TRIAL_TIME;
            let moved = rate_of(adapt.request_bytes()) * 250;
            adapt.acknowledged(moved.max(TRIAL_BYTES), now);
        }
        seen
    }

    #[test]
    fn it_settles_where_the_rate_is_best() {
        let rate_of = |bytes| match bytes {
            0x40000 => 2_000_000,
            0x80000 => 1_500_000,
            _ => 1_000_000,
        };
        let seen = settle(rate_of, 200);
        let good = seen.iter().filter(|bytes| **bytes == 256 << 10).count();
        assert!(good > 170, "{good} of 200 trials at the best length");
    }

    #[test]
    fn it_stays_where_nothing_is_better() {
        let seen = settle(|_| 1_000_000, 400);
        let first = seen.iter().filter(|bytes| **bytes == FIRST_BYTES).count();
        assert!(first > 350, "{first} of 400 trials at the first length");
    }

    #[test]
    fn a_fixed_length_never_changes() {
        let start = Instant::now();
        let mut adapt = Adapt::new(Some(65536), &(256 << 10..=2 << 20), 1 << 20, start);
        adapt.acknowledged(1 << 40, start + Duration::from_secs(9));
        assert_eq!(adapt.request_bytes(), 65536);
    }
}

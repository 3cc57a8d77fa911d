//! The length of a request and the bytes in flight, set or adapted to what is measured.
//!
//! Both start small and walk by powers of two, one at a time: a step is tried for a while and kept
//! if the rate was better for it. More in flight than the way needs is not only useless: it lies
//! about in buffers, pushes payload out of the caches, and has servers hold more memory, which
//! some give back to the system and fetch again for each request
//! (benches/runs/2026-11-24-lane-depth.txt).

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::settings::LaneSettings;

/// Where both start. Larger requests cost less of the mover, smaller ones keep more of them in
/// flight. The bytes are enough for servers nearby; each doubling on the way to what a long link
/// needs takes one trial.
const FIRST: Shape = Shape { request_bytes: 1 << 20, window_bytes: 8 << 20 };
/// The same where a lane has several connections: half of each keeps them all busy, and what the
/// servers have in their hands stays in the caches (benches/runs/2026-11-27-tunnel.txt).
const FIRST_OF_SEVERAL: Shape = Shape { request_bytes: 512 << 10, window_bytes: 4 << 20 };
/// A trial lasts until what may be in flight has been moved this many times: so many round trips,
/// of which the first still goes by the state before it ...
const TRIAL_WINDOWS: u64 = 6;
/// ... and at least this long.
const TRIAL_TIME: Duration = Duration::from_millis(100);
/// A step is kept when its rate is better by this share, in percent: a small gain is within what
/// two trials of the same differ by.
const BETTER_PERCENT: u64 = 25;
/// After every step was tried in vain, nothing is tried for this many trials, then for twice as
/// many each time, up to [`LONGEST_REST`].
const FIRST_REST: u32 = 16;
const LONGEST_REST: u32 = 512;
/// The steps, in the order in which they are tried.
const STEPS: [Step; 3] = [Step::MoreInFlight, Step::Shorter, Step::Longer];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    MoreInFlight,
    Shorter,
    Longer,
}

/// What is adapted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    request_bytes: u32,
    window_bytes: u64,
}

/// Walks towards the better rate.
pub(super) struct Adapt {
    shape: Shape,
    request_limits: RangeInclusive<u32>,
    window_max: u64,
    /// Of the trial under way.
    since: Instant,
    moved: u64,
    /// What the trial is compared with: the shape before the step, and its rate in bytes a
    /// millisecond. None while nothing is tried.
    before: Option<(Shape, u64)>,
    /// Index in [`STEPS`] of the step that is tried, or tried next.
    step: usize,
    failures: usize,
    rest: u32,
    next_rest: u32,
}

impl Adapt {
    /// A fixed length, or one that adapts within what is set and up to `max`, which both sides
    /// take; and bytes in flight up to what is set.
    pub(super) fn new(fixed: Option<u32>, settings: &LaneSettings, max: u32, now: Instant) -> Self {
        let power = |bytes: u32| 1 << bytes.max(1).ilog2();
        let window_max = settings.in_flight_bytes;
        let min = power(*settings.adapt_bytes.start()).min(max);
        let max = power(*settings.adapt_bytes.end()).min(max).max(min);
        let first = if settings.connections > 1 { FIRST_OF_SEVERAL } else { FIRST };
        Self {
            shape: Shape {
                request_bytes: fixed.unwrap_or(first.request_bytes.clamp(min, max)),
                window_bytes: first.window_bytes.min(window_max),
            },
            request_limits: fixed.map_or(min..=max, |bytes| bytes..=bytes),
            window_max,
            since: now,
            moved: 0,
            before: None,
            step: 0,
            failures: 0,
            rest: 0,
            next_rest: FIRST_REST,
        }
    }

    /// Bytes of the next request.
    pub(super) fn request_bytes(&self) -> u32 {
        self.shape.request_bytes
    }

    /// Bytes that may be in flight.
    pub(super) fn window_bytes(&self) -> u64 {
        self.shape.window_bytes
    }

    /// Notes bytes that were acknowledged.
    pub(super) fn acknowledged(&mut self, bytes: u64, now: Instant) {
        self.moved += bytes;
        if self.moved < TRIAL_WINDOWS * self.shape.window_bytes {
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

    /// A trial is over; begins the next one.
    fn judge(&mut self, rate: u64) {
        match self.before.take() {
            Some((before, best)) if rate * 100 <= best * (100 + BETTER_PERCENT) => {
                self.shape = before;
                self.failures += 1;
                self.step = (self.step + 1) % STEPS.len();
                if self.failures >= STEPS.len() {
                    self.failures = 0;
                    self.rest = self.next_rest;
                    self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
                }
                // Its rate is measured again: the trial between may have come at a bad time.
                return;
            }
            Some(_) => {
                self.failures = 0;
                self.next_rest = FIRST_REST;
            }
            None => {}
        }
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        while self.failures < STEPS.len() {
            if let Some(next) = self.stepped(STEPS[self.step]) {
                self.before = Some((self.shape, rate));
                self.shape = next;
                return;
            }
            self.step = (self.step + 1) % STEPS.len();
            self.failures += 1;
        }
        self.failures = 0;
        self.rest = self.next_rest;
    }

    /// The shape after a step, if there is room for it.
    fn stepped(&self, step: Step) -> Option<Shape> {
        let Shape { request_bytes, window_bytes } = self.shape;
        let next = match step {
            Step::MoreInFlight => Shape {
                window_bytes: window_bytes.saturating_mul(2).min(self.window_max),
                ..self.shape
            },
            Step::Shorter => Shape {
                request_bytes: (request_bytes / 2).max(*self.request_limits.start()),
                ..self.shape
            },
            Step::Longer => Shape {
                request_bytes: request_bytes.saturating_mul(2).min(*self.request_limits.end()),
                ..self.shape
            },
        };
        (next != self.shape).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn adapt(fixed: Option<u32>, window_max: u64, now: Instant) -> Adapt {
        let settings = LaneSettings { in_flight_bytes: window_max, ..LaneSettings::default() };
        Adapt::new(fixed, &settings, 8 << 20, now)
    }

    /// Runs trials against a made-up machine: its rate, in bytes a millisecond, by the shape.
    fn settle(rate_of: impl Fn(Shape) -> u64, trials: usize) -> Vec<Shape> {
        let start = Instant::now();
        let mut adapt = adapt(None, 16 * MIB, start);
        let mut now = start;
        let mut seen = Vec::new();
        for _ in 0..trials {
            seen.push(adapt.shape);
            let moved = (rate_of(adapt.shape) * 100).max(TRIAL_WINDOWS * adapt.window_bytes());
            now += Duration::from_millis((moved / rate_of(adapt.shape)).max(100));
            adapt.acknowledged(moved, now);
        }
        seen
    }

    fn share(seen: &[Shape], of: impl Fn(&Shape) -> bool) -> usize {
        seen.iter().filter(|shape| of(shape)).count() * 100 / seen.len()
    }

    #[test]
    fn it_settles_at_the_length_whose_rate_is_best() {
        let rate_of = |shape: Shape| match shape.request_bytes {
            0x40000 => 2_000_000,
            0x80000 => 1_500_000,
            _ => 1_000_000,
        };
        let percent = share(&settle(rate_of, 200), |shape| shape.request_bytes == 256 << 10);
        assert!(percent > 80, "{percent} % of the trials at the best length");
    }

    #[test]
    fn it_stays_where_nothing_is_better() {
        let percent = share(&settle(|_| 1_000_000, 400), |shape| *shape == FIRST);
        assert!(percent > 90, "{percent} % of the trials at the first shape");
    }

    #[test]
    fn a_long_link_gets_as_much_in_flight_as_it_needs_in_two_trials() {
        // 50 ms there and back: a window a round trip.
        let seen = settle(|shape| shape.window_bytes / 50, 100);
        assert_eq!(seen[1].window_bytes, 16 * MIB);
        let percent = share(&seen, |shape| shape.window_bytes == 16 * MIB);
        assert!(percent > 90, "{percent} % of the trials with the link full");
    }

    #[test]
    fn no_more_is_in_flight_than_the_limit() {
        let start = Instant::now();
        let mut adapt = adapt(None, 6 * MIB, start);
        let mut now = start;
        for _ in 0..20 {
            now += Duration::from_secs(1);
            adapt.acknowledged(1 << 40, now);
            assert!(adapt.window_bytes() <= 6 * MIB);
        }
        assert_eq!(self::adapt(None, MIB, start).window_bytes(), MIB);
    }

    #[test]
    fn a_fixed_length_never_changes() {
        let start = Instant::now();
        let mut adapt = adapt(Some(65536), 16 * MIB, start);
        let mut now = start;
        for _ in 0..50 {
            now += Duration::from_secs(1);
            adapt.acknowledged(1 << 30, now);
            assert_eq!(adapt.request_bytes(), 65536);
        }
    }
}

//! When a side last got on, and when it is tried again.
//!
//! A side gets on when a request is answered in full, or when as many bytes have passed as the
//! least rate makes in a deadline: less than that is a drip, and would go on for ever. The clock
//! stands still while nothing is awaited of the side. It goes on over losses: what was put back
//! is still owed, on whichever connection, and neither a connection nor a handshake pays for it.

use std::time::{Duration, Instant};

use crate::fault::Side;

use super::link::{Link, State};

/// Waits between attempts: doubled with each, by at most this factor.
const BACKOFF_DOUBLINGS: u32 = 6;

/// A side's clock, and how often it was tried again.
pub(super) struct Liveness {
    /// When the side last got on, or got something to do.
    pub(super) progress_at: Instant,
    /// When the present connection was ready, or begun.
    pub(super) since: Instant,
    /// What had passed ([`Link::moved`]) when the side last got on.
    pub(super) moved: u64,
    /// A request was answered in full since the clock was last looked at.
    pub(super) answered: bool,
    /// A connection was lost, and no answer has followed.
    pub(super) owing: bool,
    /// The connection took the place of a silent one, and its strand has done nothing new since.
    pub(super) replaced: bool,
    pub(super) attempts: u32,
    pub(super) retry_at: Option<Instant>,
}

impl Liveness {
    /// Of a link that is to be dialled at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            progress_at: now,
            since: now,
            moved: 0,
            answered: false,
            owing: false,
            replaced: false,
            attempts: 0,
            retry_at: Some(now),
        }
    }

    /// The side gets something to do, and had nothing.
    pub(super) fn begins(&mut self, now: Instant) {
        if !self.owing {
            self.progress_at = self.progress_at.max(now);
        }
    }

    fn goes_on(&mut self, now: Instant) {
        self.progress_at = now;
        self.answered = false;
        self.owing = false;
    }
}

impl Link {
    /// Looks at what has passed. `idle`: nothing is awaited of this side. `enough`: bytes that
    /// count as progress without an answer.
    pub(super) fn observe(&mut self, now: Instant, idle: bool, enough: u64) {
        if !self.is_ready() {
            return;
        }
        let moved = self.moved();
        let passed = moved.wrapping_sub(self.liveness.moved).cast_signed();
        if self.liveness.answered || idle || passed >= enough.cast_signed() {
            self.liveness.goes_on(now);
            self.liveness.moved = moved;
        } else if passed < 0 {
            // What the kernel adds to bytes that wait in a Unix socket counts as undelivered.
            self.liveness.moved = moved;
        }
    }

    /// A number that grows as bytes pass: what has come and waits to be taken counts, and what
    /// was sent counts when it is delivered.
    pub(super) fn moved(&self) -> u64 {
        self.socket.as_ref().map_or(0, |socket| {
            let received = socket.received() + socket.unread();
            (received + socket.sent()).wrapping_sub(socket.undelivered())
        })
    }

    /// When what the side is waited for now was last seen to get on.
    pub(super) fn silent_since(&self) -> Instant {
        // The first connection owes nothing but itself.
        if self.session.is_some() { self.liveness.progress_at } else { self.liveness.since }
    }

    /// Whether something is outstanding on the server's side.
    pub(super) fn is_waiting(&self) -> bool {
        match self.state {
            State::Down | State::Leaving(_) => false,
            State::Connecting | State::Handshaking(_) => true,
            State::Ready => self.outstanding > 0 || self.sending,
        }
    }

    /// What is outstanding, for messages about a wait.
    pub(super) fn waiting_for(&self) -> String {
        match &self.state {
            State::Down => "a new connection".into(),
            State::Connecting => "the connection".into(),
            State::Leaving(_) => "its end".into(),
            State::Handshaking(negotiation) => negotiation.machine.waiting_for().into(),
            // A request counts as outstanding when all of it is sent.
            State::Ready if self.outstanding == 0 => match (self.side, self.sending) {
                (_, true) => "the rest of a request to be taken".into(),
                (Side::Source, false) => "what is to be read next".into(),
                (Side::Target, false) => "what is to be written next".into(),
            },
            State::Ready if self.outstanding == 1 => "the reply to 1 request".into(),
            State::Ready => format!("the replies to {} requests", self.outstanding),
        }
    }
}

/// Bytes that count as progress without an answer: those of a deadline at the least rate.
pub(super) fn enough(least_rate: u64, deadline: Duration) -> u64 {
    let bytes = u128::from(least_rate).saturating_mul(deadline.as_millis()) / 1000;
    u64::try_from(bytes).unwrap_or(u64::MAX).clamp(1, i64::MAX.cast_unsigned())
}

/// The wait before attempt `attempt` (from 1): exponential, with jitter of up to a half more, so
/// that many lanes do not come back all at once.
pub(super) fn backoff(first: Duration, attempt: u32, salt: u64) -> Duration {
    let base = first * (1 << (attempt - 1).min(BACKOFF_DOUBLINGS));
    // A multiplicative hash of lane and attempt is random enough to spread them.
    let spread =
        (salt.wrapping_add(u64::from(attempt)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u32;
    base + base * spread / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_is_a_deadline_at_the_least_rate_and_never_nothing() {
        assert_eq!(enough(4096, Duration::from_secs(30)), 122_880);
        assert_eq!(enough(4096, Duration::from_millis(500)), 2048);
        assert_eq!(enough(0, Duration::from_secs(30)), 1);
        assert_eq!(enough(u64::MAX, Duration::MAX), i64::MAX.cast_unsigned());
    }

    #[test]
    fn what_is_asked_again_after_a_loss_does_not_wind_the_clock_back() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut clock = Liveness::new(start);
        clock.owing = true;
        clock.begins(later);
        assert_eq!(clock.progress_at, start);
        clock.goes_on(later);
        clock.begins(later + Duration::from_secs(1));
        assert_eq!(clock.progress_at, later + Duration::from_secs(1));
    }
}

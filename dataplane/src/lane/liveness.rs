//! When a side last did something, and when it is tried again.

use std::time::{Duration, Instant};

/// Waits between attempts: doubled with each, by at most this factor.
const BACKOFF_DOUBLINGS: u32 = 6;

/// When a side last did something, and how often it was tried again since.
pub(super) struct Liveness {
    /// The last completed I/O of data, or when the side got something to do.
    pub(super) progress_at: Instant,
    /// When the present connection was ready, or begun.
    pub(super) since: Instant,
    pub(super) moved: u64,
    /// The last progress before the first loss that no answer has followed.
    pub(super) lost_at: Option<Instant>,
    pub(super) attempts: u32,
    pub(super) retry_at: Option<Instant>,
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

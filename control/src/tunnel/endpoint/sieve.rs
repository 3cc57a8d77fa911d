//! What is told of those who need no key to have something told of them: so often and no more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// After this time there is more to tell.
pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// Lets the first ones of each [`PERIOD`] through, and counts the others.
#[derive(Debug)]
pub(super) struct Sieve {
    /// How many of a period are let through.
    most: u32,
    told: u32,
    began: Option<Instant>,
    kept: u64,
    last: Option<(SocketAddr, String)>,
}

/// Something to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The last one that it happened to.
    pub(super) peer: SocketAddr,
    /// What happened to that one.
    pub(super) what: String,
    /// How many it happened to since it was told before.
    pub(super) times: u64,
}

impl Sieve {
    pub(super) fn new(most: u32) -> Self {
        Self { most, told: 0, began: None, kept: 0, last: None }
    }

    /// It has happened again.
    pub(super) fn add(&mut self, now: Instant, peer: SocketAddr, what: String) -> Option<Batch> {
        self.kept += 1;
        self.last = Some((peer, what));
        self.due(now)
    }

    /// What was kept, if it is time to tell it.
    pub(super) fn due(&mut self, now: Instant) -> Option<Batch> {
        if self.began.is_none_or(|began| now.duration_since(began) >= PERIOD) {
            (self.began, self.told) = (None, 0);
        }
        if self.told >= self.most {
            return None;
        }
        let (peer, what) = self.last.take()?;
        self.told += 1;
        self.began.get_or_insert(now);
        Some(Batch { peer, what, times: std::mem::take(&mut self.kept) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_are_told_at_once_and_the_others_together_when_the_period_is_over() {
        let (mut sieve, start) = (Sieve::new(2), Instant::now());
        let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut add = |after, port| sieve.add(start + after, peer(port), format!("no. {port}"));
        let told =
            |port, times| Some(Batch { peer: peer(port), what: format!("no. {port}"), times });
        assert_eq!(add(Duration::ZERO, 1), told(1, 1));
        assert_eq!(add(Duration::from_secs(1), 2), told(2, 1));
        assert_eq!(add(Duration::from_secs(2), 3), None);
        assert_eq!(add(Duration::from_secs(59), 4), None);
        assert_eq!(sieve.due(start + Duration::from_secs(59)), None);
        assert_eq!(sieve.due(start + PERIOD), told(4, 2));
        assert_eq!(sieve.due(start + PERIOD * 3), None);
    }
}

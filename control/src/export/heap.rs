//! How much memory an export keeps between requests.
//!
//! By default the C library maps the buffer of each request, has the kernel zero it, and unmaps it:
//! a third of an export's CPU and more. Three variables have it kept instead, at the price of
//! memory (benches/runs/2026-11-24-exports.txt). What an export holds is decided by the largest
//! buffer that comes from its heap at all: how much of the free end of the heap it gives back made
//! no clear difference, for the end is seldom free.

use std::fs;

use crate::child::Launch;

/// Requests that qemu-nbd serves at once on a connection (`MAX_NBD_REQUESTS` in nbd/server.c).
const REQUESTS_PER_CONNECTION: u64 = 16;
/// What the heap holds over the bytes of the requests that were in it at once: 16 of 1 MiB left
/// up to 62 MiB behind.
const HELD_PER_BYTE: u64 = 4;
/// Beside a request's bytes a buffer has room for its alignment and the heap's own notes.
const BUFFER_OVERHEAD_BYTES: u64 = 64 << 10;
/// Largest request that gains by it: lanes ask for 4 MiB at most.
const MAX_REQUEST_BYTES: u64 = 4 << 20;
/// The C library's own threshold. Below it the heap is used anyway.
const MIN_THRESHOLD_BYTES: u64 = 128 << 10;
/// What the heap grows by, and what it keeps when it gives back.
const MAX_PAD_BYTES: u64 = 1 << 20;
/// What all exports may hold, where the machine does not tell how much memory it has.
const FALLBACK_BYTES: u64 = 1 << 30;

/// Half of the machine's memory. Lanes are far from having all exports hold what they may: many of
/// them have two requests in flight each.
pub(super) fn default_bytes() -> u64 {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    total.map_or(FALLBACK_BYTES, |kibibytes| kibibytes * 1024 / 2)
}

/// Settings of the C library's heap, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heap {
    /// Buffers of this size and more are mapped and unmapped.
    pub(super) map_threshold: u64,
    /// A free end of the heap of this size is given back.
    pub(super) trim_threshold: u64,
    /// What the heap grows by beyond what is needed.
    pub(super) pad: u64,
}

impl Heap {
    /// The heap of one of `exports` that share `bytes`, each with this many connections:
    ///
    /// ```text
    ///   exports x connections x 16 requests x threshold x 4 held a byte  <=  bytes
    ///   101       1             16            1.06 MiB    4                  6.7 GiB
    ///   2         1             16            4.06 MiB    4                  520 MiB
    /// ```
    pub(super) fn shared(bytes: u64, exports: u16, connections: u16) -> Self {
        let requests =
            u64::from(exports.max(1)) * u64::from(connections.max(1)) * REQUESTS_PER_CONNECTION;
        let map_threshold = (bytes / requests / HELD_PER_BYTE)
            .clamp(MIN_THRESHOLD_BYTES, MAX_REQUEST_BYTES + BUFFER_OVERHEAD_BYTES);
        Self {
            map_threshold,
            trim_threshold: map_threshold * u64::from(connections.max(1)) * REQUESTS_PER_CONNECTION,
            pad: map_threshold.min(MAX_PAD_BYTES),
        }
    }

    pub(super) fn apply(self, launch: &mut Launch) {
        launch
            .env("MALLOC_MMAP_THRESHOLD_", self.map_threshold.to_string())
            .env("MALLOC_TRIM_THRESHOLD_", self.trim_threshold.to_string())
            .env("MALLOC_TOP_PAD_", self.pad.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_exports_can_hold_stays_within_what_they_share() {
        for (exports, connections) in [(1, 1), (2, 4), (101, 1), (101, 4)] {
            let shared = 8 << 30;
            let heap = Heap::shared(shared, exports, connections);
            let held = heap.trim_threshold * HELD_PER_BYTE * u64::from(exports);
            assert!(held <= shared, "{exports} of {connections}: {held}");
        }
    }

    #[test]
    fn few_exports_keep_the_largest_requests_and_many_those_that_fit() {
        assert_eq!(Heap::shared(1 << 30, 1, 1).map_threshold, (4 << 20) + (64 << 10));
        let many = Heap::shared(8 << 30, 101, 1).map_threshold;
        assert!((1 << 20..2 << 20).contains(&many), "{many}");
        assert_eq!(Heap::shared(64 << 20, 101, 1).map_threshold, MIN_THRESHOLD_BYTES);
    }
}

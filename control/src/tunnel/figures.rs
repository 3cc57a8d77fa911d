//! What passed through a connection.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The counters of one connection, over all its sessions.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) channels: AtomicUsize,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) lost: AtomicU64,
}

/// What one connection has carried until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFigures {
    /// Channels that are open, or asked for.
    pub channels: usize,
    /// Bytes of lanes that were handed to the connection.
    pub sent: u64,
    /// Bytes that came for lanes.
    pub received: u64,
    /// How often it was lost while it was in use.
    pub lost: u64,
}

impl Figures {
    /// Bytes that came before anything was sent; for a channel's own.
    pub(super) fn unasked_bytes(&self) -> u64 {
        match self.sent.load(Ordering::Relaxed) {
            0 => self.received.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    pub(super) fn read(&self) -> ConnectionFigures {
        ConnectionFigures {
            channels: self.channels.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}

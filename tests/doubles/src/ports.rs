//! Ports that no other test has.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

/// Below the ports that the kernel gives away by itself, and not those of a real hub.
const FIRST: u16 = 11_000;
const BLOCKS: u16 = 200;
/// As many as a hub hands out.
const PORTS: u16 = 101;

/// A range of ports that is this test's for as long as this lives. What keeps others away is a
/// port before it, so nothing is left on disk.
#[derive(Debug)]
pub struct PortBlock {
    guard: TcpListener,
}

impl PortBlock {
    /// The first block that nobody has.
    pub fn take() -> Self {
        let mut guards = (0..BLOCKS).map(|block| FIRST + block * (PORTS + 1));
        let guard = guards.find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
        Self { guard: guard.expect("some block of ports is free") }
    }

    /// All ports of it.
    pub fn range(&self) -> RangeInclusive<u16> {
        let guard = self.guard.local_addr().unwrap().port();
        guard + 1..=guard + PORTS
    }

    /// One that somebody listens on.
    pub fn open(&self) -> Option<u16> {
        let taken = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err();
        self.range().find(taken)
    }

    /// The first few.
    pub fn first(&self, count: u16) -> RangeInclusive<u16> {
        let first = *self.range().start();
        first..=first + count - 1
    }
}

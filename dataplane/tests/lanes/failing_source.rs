//! Sources that fail: what they hold, and what a lane makes of them.

use std::time::Duration;

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::{Hostile, HostileServer};

use super::{
    DEADLINE, SLACK, Way, assert_no_stale_byte, assert_same, copied, dense, fails, patient,
};

pub(crate) const SIZE: usize = 2 << 20;

pub(crate) fn content() -> Vec<u8> {
    dense(SIZE, 1)
}

pub(crate) fn target() -> HostileServer {
    Hostile::builder().size(SIZE as u64).start().unwrap()
}

/// The lane must fail with the source's name, and nothing of a failed read reach the target.
pub(crate) fn refused(way: Way, server: &HostileServer, settings: LaneSettings) -> String {
    refused_within(DEADLINE + SLACK, way, server, settings)
}

/// The same, which may take so long.
pub(crate) fn refused_within(
    limit: Duration,
    way: Way,
    server: &HostileServer,
    settings: LaneSettings,
) -> String {
    let target = target();
    let words = fails(way, Side::Source, &server.uri(), &target.uri(), settings, limit);
    assert_no_stale_byte(&content(), &target.content());
    assert_eq!(server.violations(), Vec::<String>::new());
    words
}

/// The lane must get over it.
pub(crate) fn survived(way: Way, server: &HostileServer) {
    let target = target();
    copied(way, &server.uri(), &target.uri(), patient(way));
    assert_same(&content(), &target.content());
    assert_eq!(server.violations(), Vec::<String>::new());
    assert!(target.flushes() > 0);
}

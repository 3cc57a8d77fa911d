//! Targets that fail: what they are to hold, and what a lane makes of them.

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::{Hostile, HostileServer};

use super::{DEADLINE, SLACK, Way, assert_same, copied, dense, fails};

pub(crate) const SIZE: usize = 2 << 20;

pub(crate) fn content() -> Vec<u8> {
    let mut content = dense(SIZE, 7);
    content[700_000..1_200_000].fill(0);
    content
}

pub(crate) fn source() -> HostileServer {
    Hostile::builder().content(&content()).start().unwrap()
}

/// A target of full size with stale content, so that zeros that were not written are seen.
pub(crate) fn builder() -> Hostile {
    Hostile::builder().content(&vec![0xEE; SIZE])
}

pub(crate) fn refused(way: Way, target: &HostileServer, settings: LaneSettings) -> String {
    let limit = DEADLINE + SLACK;
    fails(way, Side::Target, &source().uri(), &target.uri(), settings, limit)
}

pub(crate) fn survived(way: Way, target: &HostileServer, settings: LaneSettings) {
    copied(way, &source().uri(), &target.uri(), settings);
    assert_same(&content(), &target.content());
    assert_eq!(target.violations(), Vec::<String>::new());
}

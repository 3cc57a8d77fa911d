//! Digests of large disks on their way between a hub and its node, over a line that is slow: there
//! are 33 bytes of them for each 64 KiB, and nothing else is said meanwhile.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::File;
use std::time::{Duration, Instant};

use blockferry::NodePlace;

/// Of a disk that holds nothing: its digests have 24 MiB.
const DISK: u64 = 48 << 30;
/// Six seconds for them.
const BYTES_PER_SECOND: u64 = 4 << 20;
/// A job that is not spoken of for longer is called off.
const FORGET: Duration = Duration::from_secs(2);

#[test]
fn digests_that_take_longer_than_a_job_may_be_silent_come_over_both_ways() {
    let place = NodePlace::over("", |line| line.bytes_per_second(BYTES_PER_SECOND));
    let node = place.node("n1", &format!("--forget {}s", FORGET.as_secs()));
    File::create(place.kept.path("root")).unwrap().set_len(DISK).unwrap();
    let source = place.serve("root");
    for modes in ["full", "incremental"] {
        let begun = Instant::now();
        let job = place.submit("db1", Some("n1"), &[("root", &source.uri())]);
        let point = place.point_of(&job);
        assert_eq!(place.disks_of(&point)[0]["mode"], modes);
        assert!(begun.elapsed() > FORGET * 2, "{:?}", begun.elapsed());
    }
    assert!(!node.says().contains("is called off"), "{}", node.says());
    place.assert_forgotten("n1");
}

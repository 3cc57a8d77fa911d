//! Backups of VMs by snapshots and changed blocks: each point is its VM at one instant.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::time::Duration;

use blockferry::VmPlace;
use blockferry_doubles::vsphere::{Guest, NewMachine, Steps};

const MIB: u64 = 1 << 20;

#[test]
fn points_show_both_disks_at_the_same_step_of_a_guest_that_never_stops() {
    let place = VmPlace::new(NewMachine::new("web").disk(16 * MIB).disk(8 * MIB).tracked());
    let machine = place.machine("web");
    let guest = Guest::start(&machine, Duration::from_millis(1)).unwrap();
    let mut before = 0;
    for (mode, extra) in [
        ("full", ""),
        ("incremental", ""),
        ("incremental", "--cbt-audit 30"),
        ("full", "--mode full"),
    ] {
        let seen = guest.counter();
        let backed = place.back_up("web", extra);
        let counters = place
            .assert_equal(&backed)
            .into_values()
            .map(|disk| Steps::counter(&disk).unwrap())
            .collect::<Vec<_>>();
        assert_eq!(counters[0], counters[1], "{}", backed.report);
        assert!(counters[0] >= seen && counters[0] > before, "{counters:?} after {seen}");
        for disk in ["disk-2000", "disk-2001"] {
            assert_eq!(backed.mode(disk), mode, "{}", backed.report);
        }
        before = counters[0];
        place.assert_nothing_left();
    }
    assert!(guest.stop().unwrap() > before);
}

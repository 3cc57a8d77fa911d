//! Disks through SSH: with a real sshd, what arrives is what was sent.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::time::Duration;

use blockferry::{Fleet, Pair, Running, Way};
use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::{Nbdkit, Proxy, QemuNbd, Sshd, TestDisk};

#[test]
fn a_disk_reaches_an_export_over_tcp_and_over_a_unix_socket() {
    let sshd = Sshd::new().start().unwrap();
    for far in [QemuNbd::tcp, QemuNbd::unix] {
        for payload in ["splice", "pooled"] {
            let pair = Pair::new(48, far);
            let copy = pair.start(&Way::to(&sshd), &format!("--payload {payload}"));
            copy.end().assert_done();
            pair.assert_equal();
        }
    }
}

#[test]
fn a_disk_goes_over_several_connections_of_its_lane() {
    let sshd = Sshd::new().start().unwrap();
    let pair = Pair::new(48, QemuNbd::tcp);
    let ended = pair.start(&Way::to(&sshd), "--connections 3 --tunnel-connections 2 -v").end();
    ended.assert_done();
    pair.assert_equal();
    assert_eq!(carried(&ended.says).len(), 2, "{}", ended.says);
}

#[test]
fn one_disk_shares_its_bytes_out_over_four_channels_of_two_connections() {
    let sshd = Sshd::new().start().unwrap();
    // Long enough that the second connection is there while there is something left to carry.
    let line = Proxy::to(sshd.address()).delay(Duration::from_millis(25)).start().unwrap();
    let pair = Pair::new(96, QemuNbd::tcp);
    let ended = pair.start(&Way::at(&sshd, line.address()), "-v").end();
    ended.assert_done();
    pair.assert_equal();
    assert!(ended.says.contains("4 connections a side"), "{}", ended.says);
    let carried = carried(&ended.says);
    assert_eq!(carried.len(), 2, "{}", ended.says);
    assert!(carried.iter().all(|sent| sent.contains("MiB")), "{}", ended.says);
}

#[test]
fn twelve_disks_are_spread_over_four_connections_and_arrive_whole() {
    let sshd = Sshd::new().start().unwrap();
    let fleet = Fleet::new(12, 8);
    let copy = fleet.start(&Way::to(&sshd), "-v --rate-limit 64M");
    assert!(sshd.wait_for_sessions(4, Duration::from_secs(20)));
    let ended = copy.end();
    ended.assert_done();
    fleet.assert_equal();
    assert_eq!(carried(&ended.says).len(), 4, "{}", ended.says);
    assert!(carried(&ended.says).iter().all(|sent| !sent.starts_with("0 ")), "{}", ended.says);
}

#[test]
fn a_way_of_a_hundred_milliseconds_is_filled_and_carries_a_disk_whole() {
    let sshd = Sshd::new().start().unwrap();
    let line = Proxy::to(sshd.address()).delay(Duration::from_millis(50)).start().unwrap();
    let pair = Pair::new(32, QemuNbd::tcp);
    let ended = pair.start(&Way::at(&sshd, line.address()), "").end();
    ended.assert_done();
    pair.assert_equal();
    // At a request of 2 MiB a round trip, and a dozen round trips before and after.
    assert!(ended.took < Duration::from_secs(8), "{:?}", ended.took);
}

#[test]
fn a_lane_whose_server_stands_still_does_not_hold_up_the_others_of_its_connection() {
    let sshd = Sshd::new().start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let disk = TestDisk::random(folder.path(), 64 << 20, 1.0, 7).unwrap();
    let image = TestDisk::sized(folder.path(), 64 << 20).unwrap();
    let far = QemuNbd::new(&image.path).format("raw").shared(0).tcp().start().unwrap();
    let stuck = Nbdkit::memory(64 << 20).tcp().start().unwrap();
    let lane = |target: String| {
        format!("{{\"source\":\"{}\",\"target\":\"{target}\"}}\n", disk.path.display())
    };
    fs::write(folder.path().join("lanes"), lane(stuck.uri()) + &lane(far.uri())).unwrap();
    let way = Way::to(&sshd);
    let line = "copy --lanes lanes --tunnel-connections 1 --rate-limit 32M --deadline 6s \
                --progress=1 --json";
    let mut args: Vec<&str> = line.split_whitespace().collect();
    args.extend(way.words.iter().map(String::as_str));
    let mut copy = Running::of(folder.path(), &args);
    copy.wait_for(10);
    stuck.child.stop().unwrap();
    let ended = copy.end();
    assert_eq!(ended.code, 3, "{}", ended.says);
    assert_eq!(ended.report["lanes"][0]["outcome"], "target_fault", "{}", ended.says);
    let other = &ended.report["lanes"][1];
    assert_eq!(other["reconnects"], 0, "{}", ended.says);
    compare_raw(&disk.path, &image.path).unwrap();
}

#[test]
fn a_limit_on_open_files_makes_lanes_wait_and_fails_none() {
    let sshd = Sshd::new().start().unwrap();
    let fleet = Fleet::new(12, 2);
    let ended = fleet.start_with_open_files(72, &Way::to(&sshd), "-v").end();
    ended.assert_done();
    fleet.assert_equal();
    assert!(ended.says.contains("of 12 lanes at once; the others wait"), "{}", ended.says);
}

/// What each connection has sent, by the program's own words.
fn carried(says: &str) -> Vec<&str> {
    let lines = says.lines().filter(|line| line.contains("tunnel connection "));
    let sent = lines.filter_map(|line| line.split_once(" sent, ")?.0.rsplit_once(": "));
    sent.map(|(_, sent)| sent).collect()
}

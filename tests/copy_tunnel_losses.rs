//! A tunnel that is lost: killed, frozen, cut. The copy goes on, or says within its deadline why not.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::thread;
use std::time::Duration;

use blockferry::{Ended, Fleet, Pair, Way};
use blockferry_doubles::{Proxy, QemuNbd, SshServer, Sshd};

/// Two seconds for the disk of a test, so that there is a middle.
const PACED: &str = "--rate-limit 16M --connections 1 --json";
const DISK_MIB: u64 = 32;
const DISK: u64 = DISK_MIB << 20;

fn pair() -> Pair {
    Pair::new(DISK_MIB, QemuNbd::tcp)
}

#[test]
fn a_session_that_is_killed_twice_costs_nothing_but_what_was_not_safe() {
    let sshd = Sshd::new().start().unwrap();
    let pair = pair();
    let mut copy = pair.start(&Way::to(&sshd), &format!("{PACED} --flush-interval 200ms"));
    for percent in [30, 60] {
        copy.wait_for(percent);
        assert_eq!(sshd.kill_sessions(), 1);
    }
    let ended = copy.end();
    ended.assert_done();
    pair.assert_equal();
    assert_eq!(ended.report["lanes"][0]["reconnects"], 2, "{}", ended.says);
    let redone = redone(&ended);
    assert!(redone > 0 && redone < DISK / 2, "{redone} of {DISK} were moved again");
}

#[test]
fn an_sshd_that_is_gone_for_two_seconds_does_not_make_the_copy_start_over() {
    let mut sshd = Sshd::new().start().unwrap();
    let pair = pair();
    let mut copy = pair.start(&Way::to(&sshd), &format!("{PACED} --flush-interval 200ms"));
    copy.wait_for(50);
    sshd.go_down();
    thread::sleep(Duration::from_secs(2));
    sshd.come_back().unwrap();
    let ended = copy.end();
    ended.assert_done();
    pair.assert_equal();
    let redone = redone(&ended);
    assert!(redone < DISK / 4, "{redone} of {DISK} were moved again: {}", ended.says);
    assert!(ended.says.contains("is lost"), "{}", ended.says);
}

#[test]
fn a_frozen_session_is_left_for_another_connection() {
    let sshd = Sshd::new().start().unwrap();
    let pair = pair();
    let mut copy = pair.start(&Way::to(&sshd), &format!("{PACED} --deadline 3s"));
    copy.wait_for(30);
    assert!(sshd.freeze_oldest().unwrap());
    let ended = copy.end();
    ended.assert_done();
    pair.assert_equal();
    // Half a deadline until a second way is tried, and no more than a whole one until it is taken.
    assert!(ended.took < Duration::from_secs(9), "{:?}: {}", ended.took, ended.says);
}

#[test]
fn a_frozen_session_of_a_tunnel_with_one_connection_is_made_anew_within_the_deadline() {
    let sshd = Sshd::new().start().unwrap();
    let pair = pair();
    let options = format!("{PACED} --deadline 3s --tunnel-connections 1");
    let mut copy = pair.start(&Way::to(&sshd), &options);
    copy.wait_for(30);
    assert!(sshd.freeze_oldest().unwrap());
    let ended = copy.end();
    ended.assert_done();
    pair.assert_equal();
    assert!(ended.says.contains("tunnel connection 1 is lost"), "{}", ended.says);
}

#[test]
fn a_frozen_session_is_noticed_though_the_socket_to_it_is_full_and_no_question_gets_through() {
    let sshd = Sshd::new().receive_bytes(64 << 10).start().unwrap();
    let fleet = Fleet::new(12, 32);
    let mut copy = fleet.start(&Way::to(&sshd), "--deadline 3s --tunnel-connections 1");
    copy.wait_for(10);
    assert!(sshd.freeze_oldest().unwrap());
    let ended = copy.end();
    ended.assert_done();
    fleet.assert_equal();
    // By the system, to which nothing of what waits was acknowledged.
    assert!(ended.says.contains("connection 1 is lost: Connection timed out"), "{}", ended.says);
}

#[test]
fn lanes_of_a_frozen_connection_go_on_over_those_that_live() {
    let sshd = Sshd::new().start().unwrap();
    let pair = pair();
    let options = "--rate-limit 16M --json --deadline 3s --tunnel-connections 2";
    let mut copy = pair.start(&Way::to(&sshd), options);
    copy.wait_for(20);
    assert_eq!(sshd.sessions(), 2);
    assert!(sshd.freeze_oldest().unwrap());
    let ended = copy.end();
    ended.assert_done();
    pair.assert_equal();
    assert!(ended.took < Duration::from_secs(9), "{:?}: {}", ended.took, ended.says);
}

#[test]
fn a_line_that_is_cut_for_three_seconds_costs_no_byte() {
    let (sshd, line) = line();
    let pair = pair();
    let mut copy = pair.start(&Way::at(&sshd, line.address()), &format!("{PACED} --deadline 10s"));
    copy.wait_for(30);
    line.refuse(true);
    line.cut();
    thread::sleep(Duration::from_secs(3));
    line.refuse(false);
    let ended = copy.end();
    ended.assert_done();
    pair.assert_equal();
}

#[test]
fn a_line_that_moves_nothing_for_three_seconds_goes_on_as_it_was() {
    let (sshd, line) = line();
    let pair = pair();
    let mut copy = pair.start(&Way::at(&sshd, line.address()), &format!("{PACED} --deadline 10s"));
    copy.wait_for(30);
    line.freeze();
    thread::sleep(Duration::from_secs(3));
    line.thaw();
    let ended = copy.end();
    ended.assert_done();
    pair.assert_equal();
    assert_eq!(ended.report["lanes"][0]["reconnects"], 0, "{}", ended.says);
    assert_eq!(line.accepted(), 1, "{}", ended.says);
}

#[test]
fn a_line_that_flaps_twenty_times_brings_the_disk_over() {
    let (sshd, line) = line();
    let pair = pair();
    // What is safe grows between two cuts, and there is enough left for all of them.
    let options = format!("{PACED} --rate-limit 4M --flush-interval 50ms --deadline 10s");
    let mut copy = pair.start(&Way::at(&sshd, line.address()), &options);
    for step in 1..=20 {
        copy.wait_for(step * 4);
        line.cut();
    }
    let ended = copy.end();
    ended.assert_done();
    pair.assert_equal();
}

#[test]
fn a_line_that_is_frozen_for_good_fails_the_target_within_the_deadline() {
    let (sshd, line) = line();
    let ended = end_of(&Way::at(&sshd, line.address()), || line.freeze());
    assert_eq!(ended.code, 5, "{}", ended.says);
    let error = ended.says.lines().find(|line| line.contains("target nbd://")).unwrap();
    assert!(!error.contains("qemu-nbd"), "{error}");
}

#[test]
fn an_sshd_that_never_comes_back_fails_the_target_within_the_deadline() {
    let mut sshd = Sshd::new().start().unwrap();
    let way = Way::to(&sshd);
    let ended = end_of(&way, || sshd.go_down());
    assert_eq!(ended.code, 5, "{}", ended.says);
    assert!(ended.says.contains("target nbd://"), "{}", ended.says);
    assert!(ended.says.contains("does sshd run there"), "{}", ended.says);
    let error = ended.says.lines().find(|line| line.contains("target nbd://")).unwrap();
    assert!(error.contains("the tunnel to ssh://"), "{error}");
    assert!(error.contains(" has been down for ") && error.contains("refused"), "{error}");
    assert!(!error.contains("qemu-nbd"), "{error}");
}

/// A copy with a deadline of three seconds that loses its tunnel for good.
fn end_of(way: &Way, lose: impl FnOnce()) -> Ended {
    let pair = pair();
    let mut copy = pair.start(way, &format!("{PACED} --deadline 3s"));
    copy.wait_for(30);
    let before = std::time::Instant::now();
    lose();
    let ended = copy.end();
    let took = before.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}: {}", ended.says);
    ended
}

fn line() -> (SshServer, Proxy) {
    let sshd = Sshd::new().start().unwrap();
    let line = Proxy::to(sshd.address()).start().unwrap();
    (sshd, line)
}

fn redone(ended: &Ended) -> u64 {
    ended.report["bytes"]["redone"].as_u64().unwrap()
}

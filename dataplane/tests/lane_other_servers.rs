//! Servers that come back with other powers.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::fs;
use std::path::Path;

use blockferry_dataplane::Side;
use blockferry_doubles::{Nbdkit, Proxy, Server};
use lanes::{HANG, KIB, Way, assert_same, copied, dense, every_way, fails, folder, patient};

const SIZE: usize = 4 << 20;

/// Runs a lane whose target, or source, is served by `first` until some of it has passed, and by
/// `second` from then on.
fn changed(first: &Server, second: &Server, side: Side, run: impl FnOnce(&str)) {
    let line = Proxy::to(first.address()).bytes_per_second(8 << 20).start().unwrap();
    let (up, down) = match side {
        Side::Source => (0, 500 * KIB),
        Side::Target => (500 * KIB, 0),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(line.wait_for_bytes(up, down, HANG));
            line.lead_to(second.address());
        });
        run(&line.uri(""));
    });
}

fn served(path: &Path) -> Nbdkit {
    Nbdkit::file(path).tcp()
}

#[test]
fn a_target_that_comes_back_without_write_zeroes_gets_its_zeros_as_data() {
    let dir = folder();
    let mut content = dense(SIZE, 31);
    content[1 << 20..3 << 20].fill(0);
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::write(&source, &content).unwrap();
    every_way(|way: Way| {
        fs::write(&target, vec![0xEE; SIZE]).unwrap();
        let from = served(&source).read_only().start().unwrap();
        let first = served(&target).start().unwrap();
        let second = served(&target).filter("nozero", &[]).start().unwrap();
        changed(&first, &second, Side::Target, |uri| {
            copied(way, &from.uri(), uri, patient(way));
        });
        drop((first, second));
        assert_same(&content, &fs::read(&target).unwrap());
    });
}

#[test]
fn a_target_that_comes_back_read_only_is_told_as_that() {
    let dir = folder();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::write(&source, dense(SIZE, 32)).unwrap();
    fs::write(&target, vec![0; SIZE]).unwrap();
    every_way(|way| {
        let from = served(&source).read_only().start().unwrap();
        let first = served(&target).start().unwrap();
        let second = served(&target).read_only().start().unwrap();
        changed(&first, &second, Side::Target, |uri| {
            let words = fails(way, Side::Target, &from.uri(), uri, patient(way), HANG);
            assert!(words.contains("read-only on a new connection"), "{words}");
        });
    });
}

#[test]
fn a_source_that_comes_back_with_smaller_requests_is_told_as_that() {
    let dir = folder();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::write(&source, dense(SIZE, 33)).unwrap();
    every_way(|way| {
        fs::write(&target, vec![0; SIZE]).unwrap();
        let to = served(&target).start().unwrap();
        let first = served(&source).read_only().start().unwrap();
        let limits = ["blocksize-maximum=64k", "blocksize-error-policy=error"];
        let second =
            served(&source).read_only().filter("blocksize-policy", &limits).start().unwrap();
        changed(&first, &second, Side::Source, |uri| {
            let words = fails(way, Side::Source, uri, &to.uri(), patient(way), HANG);
            assert!(words.contains("65536 bytes on a new connection"), "{words}");
        });
    });
}

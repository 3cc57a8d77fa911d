//! Layers over a backing image: what the layer below holds must never show through.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use blockferry_dataplane::{LaneSettings, PayloadChoice};
use blockferry_doubles::process::run_ok;
use blockferry_doubles::{Nbdkit, QemuNbd, disk};
use lanes::{Way, copied, dense, every_way, patient};

const HANG: Duration = Duration::from_secs(20);

/// A disk in units of `unit` bytes, each with `length` bytes of data at `at`, and holes elsewhere.
fn speckled(path: &Path, (unit, units): (u64, u64), at: u64, length: usize, seed: u64) {
    let file = File::create(path).unwrap();
    file.set_len(unit * units).unwrap();
    for number in 0..units {
        file.write_all_at(&dense(length, seed + number), number * unit + at).unwrap();
    }
}

/// Copies `new` into a layer over `base`, and compares.
fn layer_equals(way: Way, folder: &Path, cluster: &str, sparse_bytes: Option<u32>) {
    let [base, new, layer] = ["base", "new", "layer"].map(|name| folder.join(name));
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-o"]);
    create.arg(format!("cluster_size={cluster}")).arg("-b").args([&base, &layer]);
    run_ok(create, HANG).unwrap();
    let source = Nbdkit::file(&new).read_only().start().unwrap();
    let mut target = QemuNbd::new(&layer).format("qcow2").start().unwrap();
    let sparse_bytes = sparse_bytes.filter(|_| way.payload == PayloadChoice::Pooled);
    let settings = LaneSettings { sparse_bytes, ..patient(way) };
    copied(way, &source.uri(), &target.uri(), settings);
    target.child.term_and_wait(HANG).unwrap();
    disk::compare(&new, &layer, "qcow2").unwrap();
}

#[test]
fn zeros_found_beside_data_of_one_cluster_do_not_bring_the_layer_below_back() {
    every_way(|way| {
        let folder = tempfile::tempdir().unwrap();
        let units = (64 << 10, 96);
        speckled(&folder.path().join("base"), units, 40_960, 4096, 1_000);
        speckled(&folder.path().join("new"), units, 0, 4096, 2_000);
        layer_equals(way, folder.path(), "64k", Some(4096));
    });
}

#[test]
fn zeros_beside_data_of_a_cluster_larger_than_was_said_do_not_either() {
    every_way(|way| {
        let folder = tempfile::tempdir().unwrap();
        let units = (2 << 20, 24);
        speckled(&folder.path().join("base"), units, 1 << 20, 64 << 10, 1_000);
        speckled(&folder.path().join("new"), units, 0, 192 << 10, 2_000);
        for _ in 0..3 {
            layer_equals(way, folder.path(), "2M", None);
        }
    });
}

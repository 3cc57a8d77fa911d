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
use blockferry_doubles::{QemuNbd, disk};
use lanes::{copied, dense, every_way, patient};

/// Of one of the [`UNITS`] that the disks consist of.
const UNIT: u64 = 64 << 10;
const UNITS: u64 = 96;
const HANG: Duration = Duration::from_secs(20);

/// A disk with a few KiB of data at a place in every unit, and holes elsewhere.
fn speckled(path: &Path, at: u64, seed: u64) {
    let file = File::create(path).unwrap();
    file.set_len(UNIT * UNITS).unwrap();
    for unit in 0..UNITS {
        file.write_all_at(&dense(4096, seed + unit), unit * UNIT + at).unwrap();
    }
}

fn layer_over_a_speckled_base_equals_its_source(cluster: &str, sparse_bytes: Option<u32>) {
    every_way(|way| {
        let folder = tempfile::tempdir().unwrap();
        let [base, new, layer] = ["base", "new", "layer"].map(|name| folder.path().join(name));
        speckled(&base, 40_960, 1_000);
        speckled(&new, 0, 2_000);
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-o"]);
        create.arg(format!("cluster_size={cluster}")).arg("-b").args([&base, &layer]);
        run_ok(create, HANG).unwrap();
        let source = QemuNbd::new(&new).format("raw").read_only().start().unwrap();
        let mut target = QemuNbd::new(&layer).format("qcow2").start().unwrap();
        let sparse_bytes = sparse_bytes.filter(|_| way.payload == PayloadChoice::Pooled);
        let settings = LaneSettings { sparse_bytes, ..patient(way) };
        copied(way, &source.uri(), &target.uri(), settings);
        target.child.term_and_wait(HANG).unwrap();
        disk::compare(&new, &layer, "qcow2").unwrap();
    });
}

#[test]
fn zeros_found_beside_data_of_one_cluster_do_not_bring_the_layer_below_back() {
    layer_over_a_speckled_base_equals_its_source("64k", Some(4096));
}

#[test]
fn zeros_beside_data_of_a_cluster_larger_than_was_said_do_not_either() {
    layer_over_a_speckled_base_equals_its_source("2M", None);
}

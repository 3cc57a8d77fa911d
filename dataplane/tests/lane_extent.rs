//! Parts of a disk, zeros, and digests: what is written, what is left out, what is noted.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Endpoint, Extent, Lane, LaneSettings, Side};
use blockferry_doubles::disk::{compare, qemu_img_create};
use blockferry_doubles::hostile::Command;
use blockferry_doubles::{Hostile, Nbdkit, QemuNbd, TestDisk};
use lanes::{
    KIB, MIB, assert_same, copied, copy, dense, disk, every_way, folder, nbd, serve_qcow2, settings,
};
#[test]
fn changed_areas_in_any_order_are_all_that_is_written() {
    let content = dense(4 << 20, 13);
    let areas = [
        Area::new(3 * MIB + 5, 10),
        Area::new(100_000, 200_000),
        Area::new(0, 1),
        Area::new(150_000, 10_000),
        Area::new(4 * MIB - 1, 1),
    ];
    every_way(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder().content(&vec![7; content.len()]).start().unwrap();
        let set = AreaSet::from_unsorted(areas, 4 * MIB).unwrap();
        let rounded = set.rounded_out(64 * KIB, 4 * MIB);
        let settings = LaneSettings { extent: Extent::Areas(set), ..settings(way) };
        let report = copied(way, &source.uri(), &target.uri(), settings);
        assert_eq!(report.counts.planned, rounded.total());
        let mut expected = vec![7; content.len()];
        for area in rounded.iter() {
            let range = usize::try_from(area.start).unwrap()..usize::try_from(area.end()).unwrap();
            expected[range.clone()].copy_from_slice(&content[range]);
        }
        assert_same(&expected, &target.content());
    });
}

#[test]
fn no_changed_area_is_no_work_and_a_success() {
    every_way(|way| {
        let source = Hostile::builder().content(&dense(1 << 20, 1)).start().unwrap();
        let target = Hostile::builder().size(MIB).start().unwrap();
        let settings = LaneSettings { extent: Extent::Areas(AreaSet::new()), ..settings(way) };
        copied(way, &source.uri(), &target.uri(), settings);
        assert!(target.written().is_empty() && target.zeroed().is_empty());
    });
}

#[test]
fn an_area_outside_of_the_source_is_a_wrong_request() {
    every_way(|way| {
        let source = Hostile::builder().size(MIB).start().unwrap();
        let target = Hostile::builder().size(2 * MIB).start().unwrap();
        let set = AreaSet::from_unsorted([Area::new(MIB - 512, 1024)], 2 * MIB).unwrap();
        let settings = LaneSettings { extent: Extent::Areas(set), ..settings(way) };
        let fault = lanes::fault_of(copy(way, &source.uri(), &target.uri(), settings));
        assert!(matches!(fault, blockferry_dataplane::Fault::Request(_)), "{fault}");
        assert!(target.written().is_empty());
    });
}

#[test]
fn a_million_areas_are_no_burden() {
    let size = 1_000_000 * 8192_u64;
    every_way(|way| {
        let areas = (0..1_000_000).map(|index| Area::new(index * 8192, 1));
        let set = AreaSet::from_unsorted(areas, size).unwrap();
        let source =
            Hostile::builder().size(size).content_at(77 * 8192, &[5; 4096]).start().unwrap();
        let target = Hostile::builder().size(size).start().unwrap();
        // With a cluster as large as two areas all of it is one area.
        let settings =
            LaneSettings { extent: Extent::Areas(set), cluster_bytes: 8192, ..settings(way) };
        let report = copied(way, &source.uri(), &target.uri(), settings);
        assert_eq!(report.counts.planned, size);
        assert_eq!(target.content_at(77 * 8192, 4096), [5; 4096]);
    });
}

#[test]
fn what_the_dirty_bitmap_marks_is_all_that_is_written() {
    let dir = folder();
    every_way(|way| {
        let image = dir.path().join(format!("{way:?}.qcow2"));
        let qemu = |program: &str, args: &[&str]| {
            let mut command = std::process::Command::new(program);
            command.args(args).arg(&image);
            blockferry_doubles::process::run_ok(command, lanes::HANG).unwrap();
        };
        qemu_img_create(&image, "qcow2", 4 * MIB, None).unwrap();
        qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 4M"]);
        let mut bitmap = std::process::Command::new("qemu-img");
        bitmap.args(["bitmap", "--add", "-f", "qcow2"]).arg(&image).arg("since");
        blockferry_doubles::process::run_ok(bitmap, lanes::HANG).unwrap();
        qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 2 1M 128k", "-c", "write -z 2M 64k"]);
        let source =
            QemuNbd::new(&image).format("qcow2").read_only().bitmap("since").start().unwrap();
        let target = Hostile::builder().content(&vec![9; 4 << 20]).start().unwrap();
        let with =
            |name: &str| LaneSettings { extent: Extent::Bitmap(name.into()), ..settings(way) };
        let report = copied(way, &source.uri(), &target.uri(), with("since"));
        assert_eq!(report.counts.skipped, 4 * MIB - 192 * KIB);
        let mut expected = vec![9; 4 << 20];
        expected[1 << 20..(1 << 20) + (128 << 10)].fill(2);
        expected[2 << 20..(2 << 20) + (64 << 10)].fill(0);
        assert_same(&expected, &target.content());

        // A bitmap that is not there is an error, and no silent full copy.
        let untouched = Hostile::builder().size(4 * MIB).start().unwrap();
        let words = lanes::fails(
            way,
            Side::Source,
            &source.uri(),
            &untouched.uri(),
            with("missing"),
            lanes::SLACK * 3,
        );
        assert!(words.contains("missing"), "{words}");
        assert!(untouched.written().is_empty() && untouched.zeroed().is_empty());
    });
}

#[test]
fn zeros_hide_what_the_layer_below_has() {
    let dir = folder();
    let base = TestDisk::sized(dir.path(), 4 * MIB).unwrap();
    base.overwrite(0..base.size, 3).unwrap();
    let (disk, _) = disk(&dir, 4 * MIB, 14);
    every_way(|way| {
        let layer = dir.path().join(format!("{way:?}.qcow2"));
        qemu_img_create(&layer, "qcow2", base.size, Some((&base.path, "raw"))).unwrap();
        let source = Nbdkit::file(&disk.path).start().unwrap();
        let mut target = serve_qcow2(&layer);
        copied(way, &source.uri(), &target.uri(), settings(way));
        target.child.term_and_wait(lanes::HANG).unwrap();
        compare(&disk.path, &layer, "qcow2").unwrap();
    });
}

#[test]
fn zeros_are_skipped_where_the_target_is_zero_and_kept_allocated_where_asked() {
    let mut content = dense(2 << 20, 15);
    content[512 << 10..1 << 20].fill(0);
    every_way(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder().size(2 * MIB).start().unwrap();
        let report = copied(
            way,
            &source.uri(),
            &target.uri(),
            LaneSettings { target_is_zero: true, ..settings(way) },
        );
        assert_eq!(report.counts.skipped, 512 * KIB);
        assert!(target.zeroed().is_empty());
        assert_same(&content, &target.content());

        let target = Hostile::builder().content(&vec![7; 2 << 20]).start().unwrap();
        copied(
            way,
            &source.uri(),
            &target.uri(),
            LaneSettings { allocated: true, ..settings(way) },
        );
        let log = target.log();
        let zeroes: Vec<_> = log.iter().filter(|r| r.command == Command::WriteZeroes).collect();
        assert!(!zeroes.is_empty() && zeroes.iter().all(|r| r.flags & 2 != 0), "NO_HOLE");
        assert_same(&content, &target.content());
    });
}

#[test]
fn zeros_that_are_stored_are_found_by_reading_them_in_full() {
    // One byte in each 64 KiB: what sampling misses. The source cannot tell holes.
    let mut content = vec![0; 2 << 20];
    for block in 0..16 {
        content[block * 65_536 + block * 3_001] = 1;
    }
    lanes::every_engine(|way| {
        for sparse in [Some(512), Some(4096), Some(65_536), Some(1), Some(3000)] {
            let source = Hostile::builder().content(&content).start().unwrap();
            let target = Hostile::builder().content(&vec![7; 2 << 20]).start().unwrap();
            let settings = LaneSettings { extents: false, sparse_bytes: sparse, ..settings(way) };
            let report = copied(way, &source.uri(), &target.uri(), settings);
            assert!(report.counts.zero >= MIB, "{:?}", report.counts);
            assert_same(&content, &target.content());
        }
    });
}

#[test]
fn short_runs_of_zeros_in_a_large_request_are_no_panic() {
    let mut content = vec![1; 2 << 20];
    content.iter_mut().step_by(2).for_each(|byte| *byte = 0);
    lanes::every_engine(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder().size(2 * MIB).start().unwrap();
        let settings =
            LaneSettings { request_bytes: Some(1 << 20), sparse_bytes: Some(1), ..settings(way) };
        copied(way, &source.uri(), &target.uri(), settings);
        assert_same(&content, &target.content());
    });
}

#[test]
fn the_manifest_holds_the_digests_of_the_content() {
    let dir = folder();
    let (_, content) = disk(&dir, 3 * MIB + 70_000, 16);
    let path = dir.path().join("manifest");
    lanes::every_engine(|way| {
        for algorithm in [DigestAlgorithm::Crc32c, DigestAlgorithm::Xxh3, DigestAlgorithm::Blake3] {
            for request in [None, Some(4096), Some(256 << 10)] {
                let source = Hostile::builder().content(&content).interleaved(3).start().unwrap();
                let target = Hostile::builder().size(content.len() as u64).start().unwrap();
                let settings = LaneSettings {
                    digest: Some(algorithm),
                    manifest: Some(path.clone()),
                    request_bytes: request,
                    cluster_bytes: 4096,
                    ..settings(way)
                };
                copied(way, &source.uri(), &target.uri(), settings);
                assert_same(&content, &target.content());
                let manifest = Manifest::open(&path).unwrap();
                for (index, block) in (0u64..).zip(content.chunks(65_536)) {
                    let entry = manifest.entry(index).unwrap();
                    let expected = algorithm.digest_block(block);
                    let zero = block.iter().all(|byte| *byte == 0);
                    let entry = format!("{entry:?}");
                    assert!(
                        entry.contains(&format!("{expected:?}"))
                            || (zero && entry.contains("Zero")),
                        "{index}: {entry} and {expected:?}"
                    );
                }
                std::fs::remove_file(&path).unwrap();
            }
        }
    });
}

#[test]
fn the_same_endpoint_twice_and_a_null_source_are_refused_in_words() {
    lanes::every_engine(|way| {
        let server = Hostile::builder().start().unwrap();
        let lane = Lane::new(Endpoint::Null, nbd(&server.uri())).with_settings(settings(way));
        let (report, _) = lanes::run(way, lane);
        assert!(lanes::fault_of(report).to_string().contains("null: can only be a target"));
    });
}

#[test]
fn null_takes_everything() {
    let content = dense(3 << 20, 17);
    every_way(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        let lane = Lane::new(nbd(&source.uri()), Endpoint::Null).with_settings(settings(way));
        let (report, _) = lanes::run(way, lane);
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert_eq!(report.counts.read, 3 * MIB);
        lanes::assert_counts(&report.counts);
    });
}

//! What arrives equals what was read: real servers, all sizes, all kinds of servers.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Endpoint, Extent, Lane, LaneSettings, Side};
use blockferry_doubles::disk::{compare, qemu_img_create};
use blockferry_doubles::hostile::{Command, Replies};
use blockferry_doubles::{Hostile, Nbdkit, QemuNbd, TestDisk};
use lanes::{
    KIB, MIB, assert_same, copied, copy, dense, disk, every_way, folder, nbd, qcow2, serve_qcow2,
    settings,
};

#[test]
fn a_random_disk_arrives_in_a_qcow2_image() {
    let dir = folder();
    let (disk, _) = disk(&dir, 9 * MIB + 512, 1);
    every_way(|way| {
        let source = Nbdkit::file(&disk.path).start().unwrap();
        let (image, mut target) = qcow2(&dir, &format!("{way:?}.qcow2"), disk.size);
        let report = copied(way, &source.uri(), &target.uri(), settings(way));
        assert!(report.flushes > 0);
        assert!(report.counts.zero > 0);
        target.child.term_and_wait(lanes::HANG).unwrap();
        compare(&disk.path, &image, "qcow2").unwrap();
    });
}

#[test]
fn a_qcow2_image_arrives_in_a_file_of_nbdkit() {
    let dir = folder();
    let (disk, content) = disk(&dir, 5 * MIB, 2);
    let layer = dir.path().join("layer.qcow2");
    qemu_img_create(&layer, "qcow2", disk.size, Some((&disk.path, "raw"))).unwrap();
    every_way(|way| {
        let source = QemuNbd::new(&layer)
            .format("qcow2")
            .read_only()
            .start()
            .unwrap();
        let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
        let target = Nbdkit::file(&copy.path).start().unwrap();
        copied(way, &source.uri(), &target.uri(), settings(way));
        assert_same(&content, &copy.content().unwrap());
    });
}

#[test]
fn pseudo_random_data_pass_their_own_check() {
    every_way(|way| {
        let server = || {
            let parameters = ["size=48M", "seed=5", "percent=40", "runlength=100000"];
            Nbdkit::plugin("sparse-random", &parameters)
                .start()
                .unwrap()
        };
        let (source, target) = (server(), server());
        let report = copied(way, &source.uri(), &target.uri(), settings(way));
        assert!(report.counts.read > 0 && report.counts.zero > 0);
    });
}

#[test]
fn odd_sizes_arrive_to_the_last_byte() {
    let sizes = [0, 1, 511, 513, 4095, 65_535, 65_537, MIB - 1, MIB, MIB + 1];
    every_way(|way| {
        for size in sizes {
            let content = dense(usize::try_from(size).unwrap(), size);
            let source = Hostile::builder().content(&content).start().unwrap();
            let target = Hostile::builder().size(size).start().unwrap();
            let report = copied(way, &source.uri(), &target.uri(), settings(way));
            assert_same(&content, &target.content());
            assert_eq!(report.size, Some(size));
            assert_eq!(target.violations(), Vec::<String>::new());
            assert_eq!(source.violations(), Vec::<String>::new());
        }
    });
}

#[test]
fn odd_sizes_arrive_in_real_images() {
    let dir = folder();
    every_way(|way| {
        for size in [1, 513, 65_537, MIB + 1] {
            let (disk, _) = disk(&dir, size, size);
            let source = Nbdkit::file(&disk.path).start().unwrap();
            let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
            let target = Nbdkit::file(&copy.path).start().unwrap();
            copied(way, &source.uri(), &target.uri(), settings(way));
            compare(&disk.path, &copy.path, "raw").unwrap();
        }
    });
}

#[test]
fn a_sparse_disk_past_two_tebibytes_is_quick() {
    const SIZE: u64 = (2 << 40) + 3 * MIB;
    let places = [0, 5 * MIB + 123, (1 << 40) - 4, (2 << 40) - 2, SIZE - 9];
    let data = |at: u64| format!("@{at} 1 2 3 4 5 6 7 8 9");
    let expression: Vec<String> = places.iter().map(|at| data(*at)).collect();
    let expression = expression.join(" ");
    let dir = folder();
    every_way(|way| {
        let plugin = [format!("data={expression}"), format!("size={SIZE}")];
        let source = Nbdkit::plugin("data", &plugin).start().unwrap();
        let (image, mut target) = qcow2(&dir, &format!("{way:?}.qcow2"), SIZE);
        // A new image reads as zeros; without knowing that it would be told so 32 Mi times.
        let new = LaneSettings {
            target_is_zero: true,
            ..settings(way)
        };
        let report = copied(way, &source.uri(), &target.uri(), new);
        assert_eq!(report.counts.planned, SIZE);
        assert!(report.counts.read < 16 * MIB, "{:?}", report.counts);
        target.child.term_and_wait(lanes::HANG).unwrap();
        // As source and as target the same places must hold the same bytes, and nothing else.
        let back = serve_qcow2(&image);
        let check = Hostile::builder().size(SIZE).start().unwrap();
        copied(way, &back.uri(), &check.uri(), settings(way));
        for at in places {
            assert_eq!(check.content_at(at, 9), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        }
        let written: u64 = check.written().iter().map(|(_, length)| length).sum();
        assert!(written < 16 * MIB);
    });
}

#[test]
fn several_connections_share_the_work() {
    let content = dense(24 << 20, 4);
    every_way(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder()
            .size(content.len() as u64)
            .start()
            .unwrap();
        let settings = LaneSettings {
            connections: 4,
            request_bytes: Some(128 << 10),
            ..settings(way)
        };
        let report = copied(way, &source.uri(), &target.uri(), settings);
        assert_eq!(report.connections, 4);
        assert_same(&content, &target.content());
        let used: std::collections::BTreeSet<u64> = source
            .log()
            .iter()
            .filter(|r| r.command == Command::Read)
            .map(|r| r.connection)
            .collect();
        assert!(used.len() > 1, "{used:?}");
        // One FLUSH, after all writes of all connections.
        let log = target.log();
        let last_write = log
            .iter()
            .rposition(|r| r.command == Command::Write)
            .unwrap();
        assert!(
            log[last_write..]
                .iter()
                .any(|r| r.command == Command::Flush)
        );
    });
}

#[test]
fn without_multi_conn_there_is_one_connection() {
    let content = dense(1 << 20, 4);
    every_way(|way| {
        for side in [Side::Source, Side::Target] {
            let source = Hostile::builder().content(&content);
            let target = Hostile::builder().size(MIB);
            let (source, target) = match side {
                Side::Source => (source.no_multi_conn(), target),
                Side::Target => (source, target.no_multi_conn()),
            };
            let (source, target) = (source.start().unwrap(), target.start().unwrap());
            let settings = LaneSettings {
                connections: 4,
                ..settings(way)
            };
            let report = copied(way, &source.uri(), &target.uri(), settings);
            assert_eq!(report.connections, 1);
            assert_eq!((source.accepted(), target.accepted()), (1, 1));
            assert_same(&content, &target.content());
        }
    });
}

#[test]
fn request_sizes_from_512_bytes_to_32_mebibytes_are_kept() {
    let content = dense((3 << 20) + 700, 6);
    every_way(|way| {
        for bytes in [512, 4096, 64 << 10, 1 << 20, 8 << 20, 32 << 20] {
            let size = if bytes == 512 { 200_000 } else { content.len() };
            let content = &content[..size];
            let source = Hostile::builder().content(content).start().unwrap();
            let target = Hostile::builder().size(size as u64).start().unwrap();
            let settings = LaneSettings {
                request_bytes: Some(bytes),
                ..settings(way)
            };
            copied(way, &source.uri(), &target.uri(), settings);
            assert_same(content, &target.content());
            let longest = source
                .log()
                .iter()
                .filter(|r| r.command == Command::Read)
                .map(|r| r.length)
                .max();
            assert_eq!(longest, Some(u64::from(bytes).min(size as u64)));
        }
    });
}

#[test]
fn one_request_at_a_time_and_none_at_all_both_end() {
    let content = dense(600 << 10, 6);
    every_way(|way| {
        for (requests, synchronous, in_flight_bytes) in
            [(16, true, 16 << 20), (0, false, 16 << 20), (16, false, 0)]
        {
            let source = Hostile::builder().content(&content).start().unwrap();
            let target = Hostile::builder()
                .size(content.len() as u64)
                .start()
                .unwrap();
            let settings = LaneSettings {
                requests,
                synchronous,
                in_flight_bytes,
                request_bytes: Some(64 << 10),
                ..settings(way)
            };
            copied(way, &source.uri(), &target.uri(), settings);
            assert_same(&content, &target.content());
        }
    });
}

#[test]
fn all_forms_of_replies_give_the_same_content() {
    let mut content = dense(3 << 20, 9);
    content[1_000_000..2_000_000].fill(0);
    every_way(|way| {
        for source_form in [Replies::Simple, Replies::Structured, Replies::Extended] {
            for target_form in [Replies::Simple, Replies::Structured, Replies::Extended] {
                let source = Hostile::builder()
                    .content(&content)
                    .replies(source_form)
                    .start()
                    .unwrap();
                let target = Hostile::builder()
                    .content(&vec![7; content.len()])
                    .replies(target_form)
                    .start()
                    .unwrap();
                copied(way, &source.uri(), &target.uri(), settings(way));
                assert_same(&content, &target.content());
                assert_eq!(source.violations(), Vec::<String>::new());
                assert_eq!(target.violations(), Vec::<String>::new());
            }
        }
    });
}

#[test]
fn filters_that_take_features_away_change_nothing() {
    let dir = folder();
    let (disk, content) = disk(&dir, 3 * MIB, 11);
    let filters: [(&str, &[&str]); 6] = [
        ("noextents", &[]),
        ("nozero", &[]),
        ("nozero", &["zeromode=emulate"]),
        ("fua", &["fuamode=force"]),
        ("fua", &["fuamode=discard"]),
        ("multi-conn", &["multi-conn-mode=disable"]),
    ];
    every_way(|way| {
        for (filter, parameters) in filters {
            eprintln!("   {filter} {parameters:?}");
            let source = Nbdkit::file(&disk.path).filter(filter, parameters).start();
            let Ok(source) = source else { continue };
            let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
            copy.overwrite(0..copy.size, 99).unwrap();
            let target = Nbdkit::file(&copy.path)
                .filter(filter, parameters)
                .start()
                .unwrap();
            copied(way, &source.uri(), &target.uri(), settings(way));
            assert_same(&content, &copy.content().unwrap());
        }
    });
}

#[test]
fn block_sizes_of_servers_are_kept_to() {
    let dir = folder();
    let (disk, content) = disk(&dir, 3 * MIB, 12);
    every_way(|way| {
        for minimum in [512, 4096, 65_536_u64] {
            for request in [None, Some(512)] {
                let parameters = [
                    format!("blocksize-minimum={minimum}"),
                    "blocksize-preferred=65536".into(),
                    "blocksize-maximum=65536".into(),
                    "blocksize-error-policy=error".into(),
                ];
                let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
                let source = Nbdkit::file(&disk.path)
                    .filter("blocksize-policy", &parameters)
                    .start()
                    .unwrap();
                let copy = TestDisk::sized(dir.path(), disk.size).unwrap();
                copy.overwrite(0..copy.size, 99).unwrap();
                let target = Nbdkit::file(&copy.path)
                    .filter("blocksize-policy", &parameters)
                    .start()
                    .unwrap();
                let settings = LaneSettings {
                    request_bytes: request,
                    cluster_bytes: 1,
                    ..settings(way)
                };
                if minimum == 512 && request.is_some() {
                    continue; // 6,000 requests
                }
                copied(way, &source.uri(), &target.uri(), settings);
                assert_same(&content, &copy.content().unwrap());
            }
        }
    });
}

#[test]
fn a_size_that_the_targets_blocks_cannot_hold_is_refused() {
    every_way(|way| {
        let source = Hostile::builder().size(MIB + 512).start().unwrap();
        let target = Hostile::builder()
            .size(2 * MIB)
            .block_size(4096, 4096, 1 << 20)
            .start()
            .unwrap();
        let words = lanes::fails(
            way,
            Side::Target,
            &source.uri(),
            &target.uri(),
            settings(way),
            lanes::SLACK,
        );
        assert!(words.contains("multiples of 4096"), "{words}");
    });
}

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
        let target = Hostile::builder()
            .content(&vec![7; content.len()])
            .start()
            .unwrap();
        let set = AreaSet::from_unsorted(areas, 4 * MIB).unwrap();
        let rounded = set.rounded_out(64 * KIB, 4 * MIB);
        let settings = LaneSettings {
            extent: Extent::Areas(set),
            ..settings(way)
        };
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
        let source = Hostile::builder()
            .content(&dense(1 << 20, 1))
            .start()
            .unwrap();
        let target = Hostile::builder().size(MIB).start().unwrap();
        let settings = LaneSettings {
            extent: Extent::Areas(AreaSet::new()),
            ..settings(way)
        };
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
        let settings = LaneSettings {
            extent: Extent::Areas(set),
            ..settings(way)
        };
        let fault = lanes::fault_of(copy(way, &source.uri(), &target.uri(), settings));
        assert!(
            matches!(fault, blockferry_dataplane::Fault::Request(_)),
            "{fault}"
        );
        assert!(target.written().is_empty());
    });
}

#[test]
fn a_million_areas_are_no_burden() {
    let size = 1_000_000 * 8192_u64;
    every_way(|way| {
        let areas = (0..1_000_000).map(|index| Area::new(index * 8192, 1));
        let set = AreaSet::from_unsorted(areas, size).unwrap();
        let source = Hostile::builder()
            .size(size)
            .content_at(77 * 8192, &[5; 4096])
            .start()
            .unwrap();
        let target = Hostile::builder().size(size).start().unwrap();
        // With a cluster as large as two areas all of it is one area.
        let settings = LaneSettings {
            extent: Extent::Areas(set),
            cluster_bytes: 8192,
            ..settings(way)
        };
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
        bitmap
            .args(["bitmap", "--add", "-f", "qcow2"])
            .arg(&image)
            .arg("since");
        blockferry_doubles::process::run_ok(bitmap, lanes::HANG).unwrap();
        qemu(
            "qemu-io",
            &[
                "-f",
                "qcow2",
                "-c",
                "write -P 2 1M 128k",
                "-c",
                "write -z 2M 64k",
            ],
        );
        let source = QemuNbd::new(&image)
            .format("qcow2")
            .read_only()
            .bitmap("since")
            .start()
            .unwrap();
        let target = Hostile::builder()
            .content(&vec![9; 4 << 20])
            .start()
            .unwrap();
        let with = |name: &str| LaneSettings {
            extent: Extent::Bitmap(name.into()),
            ..settings(way)
        };
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
            LaneSettings {
                target_is_zero: true,
                ..settings(way)
            },
        );
        assert_eq!(report.counts.skipped, 512 * KIB);
        assert!(target.zeroed().is_empty());
        assert_same(&content, &target.content());

        let target = Hostile::builder()
            .content(&vec![7; 2 << 20])
            .start()
            .unwrap();
        copied(
            way,
            &source.uri(),
            &target.uri(),
            LaneSettings {
                allocated: true,
                ..settings(way)
            },
        );
        let log = target.log();
        let zeroes: Vec<_> = log
            .iter()
            .filter(|r| r.command == Command::WriteZeroes)
            .collect();
        assert!(
            !zeroes.is_empty() && zeroes.iter().all(|r| r.flags & 2 != 0),
            "NO_HOLE"
        );
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
            let target = Hostile::builder()
                .content(&vec![7; 2 << 20])
                .start()
                .unwrap();
            let settings = LaneSettings {
                extents: false,
                sparse_bytes: sparse,
                ..settings(way)
            };
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
        let settings = LaneSettings {
            request_bytes: Some(1 << 20),
            sparse_bytes: Some(1),
            ..settings(way)
        };
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
        for algorithm in [
            DigestAlgorithm::Crc32c,
            DigestAlgorithm::Xxh3,
            DigestAlgorithm::Blake3,
        ] {
            for request in [None, Some(4096), Some(256 << 10)] {
                let source = Hostile::builder()
                    .content(&content)
                    .interleaved(3)
                    .start()
                    .unwrap();
                let target = Hostile::builder()
                    .size(content.len() as u64)
                    .start()
                    .unwrap();
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
        assert!(
            lanes::fault_of(report)
                .to_string()
                .contains("null: can only be a target")
        );
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

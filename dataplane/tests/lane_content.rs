//! What arrives equals what was read: real servers, all sizes, all kinds of servers.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::time::Duration;

use blockferry_dataplane::{LaneSettings, Side};
use blockferry_doubles::disk::{compare, qemu_img_create};
use blockferry_doubles::hostile::{Command, Replies};
use blockferry_doubles::{Fault, Hostile, Nbdkit, Occasion, QemuNbd, TestDisk, Trigger};
use lanes::{
    MIB, assert_same, copied, dense, disk, every_way, folder, qcow2, serve_qcow2, settings,
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
        let source = QemuNbd::new(&layer).format("qcow2").read_only().start().unwrap();
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
            Nbdkit::plugin("sparse-random", &parameters).start().unwrap()
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
        let new = LaneSettings { target_is_zero: true, ..settings(way) };
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
    let content = dense(16 << 20, 4);
    every_way(|way| {
        // Slow enough that the first connection does not do it all before the others are there.
        let source = Hostile::builder()
            .content(&content)
            .fault_on(Occasion::Read, Fault::SlowReply(Duration::from_millis(2)), Trigger::Always)
            .start()
            .unwrap();
        let target = Hostile::builder().size(content.len() as u64).start().unwrap();
        let settings =
            LaneSettings { connections: 4, request_bytes: Some(128 << 10), ..settings(way) };
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
        let last_write = log.iter().rposition(|r| r.command == Command::Write).unwrap();
        assert!(log[last_write..].iter().any(|r| r.command == Command::Flush));
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
            let settings = LaneSettings { connections: 4, ..settings(way) };
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
            let settings = LaneSettings { request_bytes: Some(bytes), ..settings(way) };
            copied(way, &source.uri(), &target.uri(), settings);
            assert_same(content, &target.content());
            let longest =
                source.log().iter().filter(|r| r.command == Command::Read).map(|r| r.length).max();
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
            let target = Hostile::builder().size(content.len() as u64).start().unwrap();
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
                let source =
                    Hostile::builder().content(&content).replies(source_form).start().unwrap();
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
            let target = Nbdkit::file(&copy.path).filter(filter, parameters).start().unwrap();
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
                let settings =
                    LaneSettings { request_bytes: request, cluster_bytes: 1, ..settings(way) };
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
        let target =
            Hostile::builder().size(2 * MIB).block_size(4096, 4096, 1 << 20).start().unwrap();
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

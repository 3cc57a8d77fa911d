//! Targets that hold something already: only what differs is written.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::fs;
use std::sync::Arc;

use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::{Manifest, ManifestWriter};
use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Endpoint, Extent, Fault, LaneSettings, PayloadChoice, PayloadKind};
use blockferry_doubles::disk::{Random, qemu_img_create};
use blockferry_doubles::{Hostile, HostileServer, Nbdkit, QemuNbd};
use lanes::base::{BLOCK, Overlay, differing, manifest_of, over, total};
use lanes::ends::ran;
use lanes::{MIB, Way, assert_same, copied, copy, dense, every_engine, folder, nbd};

/// Several requests, and a short block at the end.
const SIZE: usize = (9 << 20) + 777;

/// Data with zeros in it: those of whole blocks and of less.
fn before() -> Vec<u8> {
    let mut content = dense(SIZE, 61);
    content[2 << 20..4 << 20].fill(0);
    content[(6 << 20) + 5000..(6 << 20) + 90_000].fill(0);
    content
}

/// The same, after random writes, of which some end in the middle of a block.
fn after(seed: u64) -> Vec<u8> {
    let mut content = before();
    let mut random = Random::new(seed);
    for _ in 0..12 {
        let at = usize::try_from(random.below(SIZE as u64 - 200_000)).unwrap();
        let length = usize::try_from(random.below(200_000)).unwrap();
        match random.below(3) {
            0 => content[at..at + length].fill(0),
            _ => random.fill(&mut content[at..at + length]),
        }
    }
    content
}

fn source(content: &[u8]) -> HostileServer {
    Hostile::builder().content(content).start().unwrap()
}

#[test]
fn nothing_is_sent_of_a_disk_that_did_not_change_and_its_layer_stays_empty() {
    let content = before();
    every_engine(|way| {
        for extents in [true, false] {
            let mut overlay = Overlay::over(&content);
            let raw = overlay.dir.path().join("source.raw");
            fs::write(&raw, &content).unwrap();
            let source = Nbdkit::file(&raw).read_only().start().unwrap();
            let settings = LaneSettings { extents, ..over(way, &overlay.base) };
            let report = copied(way, &source.uri(), &overlay.server.uri(), settings);
            assert_eq!((report.counts.sent, report.counts.acknowledged), (0, 0));
            assert_eq!(report.counts.skipped, SIZE as u64);
            assert!(report.counts.zero >= 2 << 20, "{:?}", report.counts);
            assert_eq!(report.payload.unwrap().0, PayloadKind::Pooled);
            assert_eq!(overlay.own_bytes(), 0);
            overlay.holds(&content);
        }
    });
}

#[test]
fn exactly_the_blocks_that_differ_are_written() {
    every_engine(|way| {
        for seed in 1..6 {
            let content = after(seed);
            let wanted = differing(&before(), &content);
            let dir = folder();
            let base = manifest_of(&dir.path().join("m"), &before(), seed % 2 == 0);
            let settings = LaneSettings {
                extents: seed % 3 != 0,
                // So that whole blocks are seen to be written.
                sparse_bytes: Some(0),
                ..over(way, &base)
            };
            let source = source(&content);
            let target = Hostile::builder().content(&before()).start().unwrap();
            let report = copied(way, &source.uri(), &target.uri(), settings.clone());
            assert_same(&content, &target.content());
            let mut changed = target.written();
            changed.extend(target.zeroed());
            assert_eq!(blockferry_doubles::hostile::merged(changed), wanted);
            assert_eq!(report.counts.skipped, SIZE as u64 - total(&wanted));

            let mut overlay = Overlay::over(&before());
            copied(way, &source.uri(), &overlay.server.uri(), settings);
            let whole = wanted.iter().map(|(_, length)| length.next_multiple_of(BLOCK as u64));
            assert!(overlay.own_bytes() <= whole.sum::<u64>());
            overlay.holds(&content);
        }
    });
}

#[test]
fn zeros_over_data_and_data_over_zeros_are_written_however_zeros_are_told() {
    let mut content = before();
    content[1 << 20..3 << 20].fill(0);
    content[3 << 20..(3 << 20) + BLOCK].copy_from_slice(&dense(BLOCK, 62));
    content[(3 << 20) + 3 * BLOCK + 9] = 1;
    let wanted = differing(&before(), &content);
    every_engine(|way| {
        for (extents, zeros_as_runs) in [(true, true), (true, false), (false, true), (false, false)]
        {
            let dir = folder();
            let base = manifest_of(&dir.path().join("m"), &before(), zeros_as_runs);
            let settings = LaneSettings { extents, ..over(way, &base) };
            let (source, target) = (source(&content), Hostile::builder().content(&before()));
            let target = target.start().unwrap();
            let report = copied(way, &source.uri(), &target.uri(), settings.clone());
            assert_same(&content, &target.content());
            assert_eq!(report.counts.skipped, SIZE as u64 - total(&wanted));
            assert_eq!(target.zeroed()[0], (1 << 20, 1 << 20));
            let mut overlay = Overlay::over(&before());
            copied(way, &source.uri(), &overlay.server.uri(), settings);
            overlay.holds(&content);
        }
    });
}

#[test]
fn the_short_block_at_the_end_is_compared_as_any_other() {
    every_engine(|way| {
        for change in [false, true] {
            let mut content = before();
            content[SIZE - 1] ^= u8::from(change);
            let dir = folder();
            let base = manifest_of(&dir.path().join("m"), &before(), true);
            let target = Hostile::builder().content(&before()).start().unwrap();
            copied(way, &source(&content).uri(), &target.uri(), over(way, &base));
            assert_same(&content, &target.content());
            let at = (SIZE / BLOCK * BLOCK) as u64;
            let wanted = if change { vec![(at, SIZE as u64 - at)] } else { Vec::new() };
            assert_eq!(target.written(), wanted);
        }
    });
}

#[test]
fn the_manifest_of_a_lane_over_a_base_is_that_of_a_lane_without() {
    let content = after(7);
    every_engine(|way| {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        let base = manifest_of(&path("base"), &before(), true);
        let target = Hostile::builder().content(&before()).start().unwrap();
        let with = LaneSettings { manifest: Some(path("with")), ..over(way, &base) };
        copied(way, &source(&content).uri(), &target.uri(), with.clone());
        let without = LaneSettings { base: None, manifest: Some(path("without")), ..with };
        copied(way, &source(&content).uri(), &target.uri(), without);
        assert!(fs::read(path("with")).unwrap() == fs::read(path("without")).unwrap());
    });
}

#[test]
fn it_is_the_base_that_decides_and_not_the_target() {
    let content = dense(SIZE, 63);
    every_engine(|way| {
        let dir = folder();
        let path = dir.path().join("m");
        // It is wrong about two blocks: one it takes for what it is not, of one it knows nothing.
        let mut writer =
            ManifestWriter::create(&path, DigestAlgorithm::Blake3, SIZE as u64).unwrap();
        for (index, block) in (0..).zip(content.chunks(BLOCK)).filter(|(index, _)| *index != 40) {
            writer.record(index, &DigestAlgorithm::Blake3.digest_block(block)).unwrap();
        }
        writer.finish().unwrap();
        let base = Arc::new(Manifest::open(&path).unwrap());
        let mut held = content.clone();
        held[20 * BLOCK] ^= 1;
        let target = Hostile::builder().content(&held).start().unwrap();
        copied(way, &source(&content).uri(), &target.uri(), over(way, &base));
        assert_same(&held, &target.content());
        assert_eq!(target.written(), [((40 * BLOCK) as u64, BLOCK as u64)]);
    });
}

#[test]
fn of_changed_areas_only_what_differs_is_written_and_nothing_beside_them_is_read() {
    let mut content = before();
    content[5 << 20] ^= 1;
    content[7 << 20] ^= 1;
    every_engine(|way| {
        let dir = folder();
        let base = manifest_of(&dir.path().join("m"), &before(), true);
        let (source, target) = (source(&content), Hostile::builder().content(&before()));
        let target = target.start().unwrap();
        // The first of them begins and ends within blocks.
        let areas = [Area::new((4 << 20) + 70_000, 2 << 20), Area::new(8 << 20, 1)];
        let areas = AreaSet::from_unsorted(areas, SIZE as u64).unwrap();
        let settings = LaneSettings { extent: Extent::Areas(areas), ..over(way, &base) };
        let report = copied(way, &source.uri(), &target.uri(), settings);
        let mut expected = before();
        expected[5 << 20] ^= 1;
        assert_same(&expected, &target.content());
        assert_eq!(report.counts.sent, BLOCK as u64);
        assert_eq!(report.counts.read, (2 << 20) + 2 * BLOCK as u64);
    });
}

#[test]
fn a_file_that_holds_the_base_keeps_it_and_gets_what_differs() {
    let content = after(8);
    let wanted = differing(&before(), &content);
    every_engine(|way| {
        let dir = folder();
        let base = manifest_of(&dir.path().join("m"), &before(), true);
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, &content).unwrap();
        fs::write(&to, [&before()[..], &[9; 1000]].concat()).unwrap();
        let ends = (Endpoint::File(from), Endpoint::File(to.clone()));
        let report = ran(way, ends.0, ends.1, over(way, &base));
        report.outcome.unwrap();
        lanes::assert_counts(&report.counts);
        assert_eq!(report.counts.skipped, SIZE as u64 - total(&wanted));
        assert_same(&content, &fs::read(&to).unwrap());
    });
}

fn refusal(way: Way, settings: LaneSettings) -> String {
    let target = Hostile::builder().content(&before()).start().unwrap();
    let fault = lanes::fault_of(copy(way, &source(&after(1)).uri(), &target.uri(), settings));
    assert!(matches!(fault, Fault::Request(_)), "{fault:?}");
    assert_same(&before(), &target.content());
    let words = fault.to_string();
    assert!(!words.contains('\n'), "{words}");
    words
}

#[test]
fn a_base_that_cannot_decide_is_refused_in_one_line() {
    every_engine(|way| {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        let base = manifest_of(&path("m"), &before(), true);
        for digest in [None, Some(DigestAlgorithm::Xxh3)] {
            let words = refusal(way, LaneSettings { digest, ..over(way, &base) });
            assert!(words.contains("--digest blake3"), "{words}");
        }
        let zero = LaneSettings { target_is_zero: true, ..over(way, &base) };
        assert!(refusal(way, zero).contains("is not zero"));
        let spliced = LaneSettings { payload: PayloadChoice::Splice, ..over(way, &base) };
        assert!(refusal(way, spliced).contains("compared with the base"));
        let other = manifest_of(&path("other"), &before()[1..], true);
        let words = refusal(way, over(way, &other));
        assert!(words.contains(&format!("{} bytes", SIZE - 1)), "{words}");
        let writer =
            ManifestWriter::create(&path("x"), DigestAlgorithm::Xxh3, SIZE as u64).unwrap();
        writer.finish().unwrap();
        let foreign = Arc::new(Manifest::open(&path("x")).unwrap());
        assert!(refusal(way, over(way, &foreign)).contains("digests of xxh3"));
    });
}

#[test]
fn a_damaged_entry_of_the_base_ends_the_lane_and_is_named() {
    use std::os::unix::fs::FileExt;
    every_engine(|way| {
        let dir = folder();
        let path = dir.path().join("m");
        drop(manifest_of(&path, &before(), true));
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[9], 4096 + 90 * 33).unwrap();
        let base = Arc::new(Manifest::open(&path).unwrap());
        let target = Hostile::builder().content(&before()).start().unwrap();
        let report = copy(way, &source(&after(1)).uri(), &target.uri(), over(way, &base));
        let words = lanes::fault_of(report).to_string();
        assert!(words.contains("block 90 has the unknown tag 9"), "{words}");
    });
}

#[test]
fn a_file_that_is_missing_or_too_short_holds_no_base_and_is_not_made() {
    every_engine(|way| {
        let dir = folder();
        let base = manifest_of(&dir.path().join("m"), &before(), true);
        let file = dir.path().join("target");
        for length in [None, Some(SIZE - 1)] {
            length.iter().for_each(|length| fs::write(&file, &before()[..*length]).unwrap());
            let (source, target) = (source(&before()), Endpoint::File(file.clone()));
            let fault = lanes::fault_of(ran(way, nbd(&source.uri()), target, over(way, &base)));
            assert_eq!(fault.side(), Some(blockferry_dataplane::Side::Target), "{fault}");
            assert_eq!(fs::metadata(&file).ok().map(|data| data.len()), length.map(|l| l as u64));
        }
    });
}

#[test]
fn requests_that_adapt_to_less_than_a_digest_covers_are_as_long_as_that_at_least() {
    let content = before();
    every_engine(|way| {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        let settings = LaneSettings {
            adapt_bytes: 4096..=32_768,
            request_bytes: None,
            digest: Some(DigestAlgorithm::Blake3),
            manifest: Some(path("made")),
            ..lanes::settings(way)
        };
        let target = Hostile::builder().size(SIZE as u64).start().unwrap();
        copied(way, &source(&content).uri(), &target.uri(), settings);
        manifest_of(&path("wanted"), &content, true);
        assert!(fs::read(path("made")).unwrap() == fs::read(path("wanted")).unwrap());
    });
}

#[test]
fn of_what_a_bitmap_marks_only_what_differs_is_written() {
    let dir = folder();
    every_engine(|way| {
        let image = dir.path().join(format!("{way:?}.qcow2"));
        let qemu = |program: &str, args: &[&str], last: &[&str]| {
            let mut command = std::process::Command::new(program);
            command.args(args).arg(&image).args(last);
            blockferry_doubles::process::run_ok(command, lanes::HANG).unwrap();
        };
        qemu_img_create(&image, "qcow2", 4 * MIB, None).unwrap();
        qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 4M"], &[]);
        qemu("qemu-img", &["bitmap", "--add", "-f", "qcow2"], &["since"]);
        // Marked are a megabyte that is as it was, another block, and zeros.
        let writes =
            ["write -P 1 1M 1M", "write -P 2 1M 64k", "write -z 2M 64k"].map(|c| ["-c", c]);
        qemu("qemu-io", &[&["-f", "qcow2"], writes.as_flattened()].concat(), &[]);
        let source = QemuNbd::new(&image).format("qcow2").read_only().bitmap("since");
        let source = source.start().unwrap();
        let held = vec![1; 4 << 20];
        let base = manifest_of(&dir.path().join("m"), &held, true);
        let target = Hostile::builder().content(&held).start().unwrap();
        let settings = LaneSettings { extent: Extent::Bitmap("since".into()), ..over(way, &base) };
        let report = copied(way, &source.uri(), &target.uri(), settings);
        let mut expected = held;
        expected[1 << 20..(1 << 20) + BLOCK].fill(2);
        expected[2 << 20..(2 << 20) + BLOCK].fill(0);
        assert_same(&expected, &target.content());
        assert_eq!((report.counts.sent, report.counts.read), (BLOCK as u64, MIB));
    });
}

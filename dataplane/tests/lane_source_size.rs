//! Disks whose size is no multiple of 512: qemu serves them rounded up.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::fs;

use blockferry_dataplane::digest::DigestAlgorithm;
use blockferry_dataplane::manifest::{Entry, Manifest};
use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Endpoint, Extent, Fault, LaneSettings, Side};
use blockferry_doubles::disk::qemu_img_create;
use blockferry_doubles::hostile::Command;
use blockferry_doubles::process::run_ok;
use blockferry_doubles::{Hostile, QemuNbd, Server};
use lanes::ends::ran;
use lanes::{
    KIB, Way, assert_counts, assert_same, copied, copy, dense, every_engine, every_way, folder,
    nbd, serve_qcow2, settings,
};
use tempfile::TempDir;

/// Sizes of disks, and what qemu makes of them.
const SIZES: [(usize, u64); 3] = [(1000, 1024), (65_537, 66_048), ((1 << 20) + 1, 1_049_088)];

/// A layer that holds `content`, written by qemu itself and served rounded up.
fn layer(dir: &TempDir, content: &[u8]) -> Server {
    let (raw, image) = (dir.path().join("wanted.raw"), dir.path().join("layer.qcow2"));
    fs::write(&raw, content).unwrap();
    let _ = fs::remove_file(&image);
    let mut convert = std::process::Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &image]);
    run_ok(convert, lanes::HANG).unwrap();
    serve_qcow2(&image)
}

fn with_size(way: Way, bytes: usize) -> LaneSettings {
    LaneSettings { source_bytes: Some(bytes as u64), ..settings(way) }
}

#[test]
fn a_disk_of_an_odd_size_is_restored_to_a_file_of_exactly_that_size() {
    every_engine(|way| {
        for (size, served) in SIZES {
            let dir = folder();
            let content = dense(size, 3);
            let source = layer(&dir, &content);
            let (file, manifest) = (dir.path().join("restored"), dir.path().join("m"));
            // One that is longer, and one that is not there.
            fs::write(&file, vec![9; size + 70_000]).unwrap();
            let settings = LaneSettings {
                digest: Some(DigestAlgorithm::Blake3),
                manifest: Some(manifest.clone()),
                ..with_size(way, size)
            };
            for _ in 0..2 {
                let target = Endpoint::File(file.clone());
                let report = ran(way, nbd(&source.uri()), target, settings.clone());
                report.outcome.unwrap();
                assert_counts(&report.counts);
                assert_eq!((report.size, report.counts.planned), (Some(size as u64), size as u64));
                assert_same(&content, &fs::read(&file).unwrap());
                fs::remove_file(&file).unwrap();
            }
            let manifest = Manifest::open(&manifest).unwrap();
            assert_eq!(manifest.disk_size(), size as u64);
            let last = content.chunks(64 << 10).next_back().unwrap();
            let entry = manifest.entry(manifest.blocks() - 1).unwrap();
            assert_eq!(entry, Entry::Data(DigestAlgorithm::Blake3.digest_block(last)));
            // Without its size it is restored as it is served.
            let target = Endpoint::File(file.clone());
            let report = ran(way, nbd(&source.uri()), target, lanes::settings(way));
            assert_eq!((report.size, fs::metadata(&file).unwrap().len()), (Some(served), served));
        }
    });
}

#[test]
fn a_disk_of_an_odd_size_fits_an_image_that_was_made_for_it() {
    every_way(|way| {
        for (size, served) in SIZES {
            let dir = folder();
            let content = dense(size, 4);
            let source = layer(&dir, &content);
            let image = dir.path().join("target.qcow2");
            qemu_img_create(&image, "qcow2", size as u64, None).unwrap();
            let target = serve_qcow2(&image);
            copied(way, &source.uri(), &target.uri(), with_size(way, size));
            drop(target);
            let raw = dir.path().join("target.raw");
            blockferry_doubles::disk::convert_to_raw(&image, "qcow2", &raw).unwrap();
            let mut expected = content;
            expected.resize(usize::try_from(served).unwrap(), 0);
            assert_same(&expected, &fs::read(&raw).unwrap());
        }
    });
}

#[test]
fn what_is_behind_the_size_is_neither_read_nor_written() {
    let content = dense(300_000, 5);
    every_way(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        let target = Hostile::builder().content(&vec![7; 300_000]).start().unwrap();
        // Block status and the changed areas tell of the rest too.
        let areas = [Area::new(0, 1), Area::new(250_000, 50_000)];
        let areas = AreaSet::from_unsorted(areas, 300_000).unwrap();
        for (extent, planned) in
            [(Extent::Whole, 260_001), (Extent::Areas(areas), 64 * KIB + (260_001 - 3 * 64 * KIB))]
        {
            let settings = LaneSettings { extent, ..with_size(way, 260_001) };
            let report = copied(way, &source.uri(), &target.uri(), settings);
            assert_eq!(report.counts.planned, planned);
        }
        let mut expected = content.clone();
        expected[260_001..].fill(7);
        assert_same(&expected, &target.content());
        let reads = source.log().into_iter().filter(|request| request.command == Command::Read);
        assert!(reads.map(|read| read.offset + read.length).max() == Some(260_001));
    });
}

#[test]
fn a_file_is_read_as_far_as_the_disk_goes() {
    let dir = folder();
    every_engine(|way| {
        let (source, target) = (dir.path().join("served"), dir.path().join("disk"));
        let content = dense(66_048, 6);
        fs::write(&source, &content).unwrap();
        let ends = (Endpoint::File(source), Endpoint::File(target.clone()));
        let report = ran(way, ends.0, ends.1, with_size(way, 65_537));
        report.outcome.unwrap();
        assert_same(&content[..65_537], &fs::read(&target).unwrap());
    });
}

#[test]
fn a_source_that_is_smaller_than_its_disk_is_at_fault_and_nothing_is_written() {
    let dir = folder();
    every_engine(|way| {
        let raw = dir.path().join("raw");
        fs::write(&raw, dense(1000, 7)).unwrap();
        let source = QemuNbd::new(&raw).format("raw").read_only().start().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "as it was").unwrap();
        let target = Endpoint::File(file.clone());
        let report = ran(way, nbd(&source.uri()), target, with_size(way, 1025));
        let fault = lanes::fault_of(report);
        assert_eq!(fault.side(), Some(Side::Source), "{fault}");
        assert!(fault.to_string().contains("1024 bytes, and the disk has 1025"), "{fault}");
        assert_eq!(fs::read(&file).unwrap(), b"as it was");
    });
}

#[test]
fn a_stream_has_no_size_that_could_be_given() {
    every_engine(|way| {
        let (reader, _writer) = std::io::pipe().unwrap();
        let stream = std::sync::Arc::new(std::os::fd::OwnedFd::from(reader));
        let fault = lanes::fault_of(ran(
            way,
            Endpoint::Stream(stream),
            Endpoint::Null,
            with_size(way, 1000),
        ));
        assert!(matches!(fault, Fault::Request(_)), "{fault}");
    });
}

#[test]
fn an_area_behind_all_that_is_served_is_a_wrong_request() {
    every_way(|way| {
        let source = Hostile::builder().size(66_048).start().unwrap();
        let target = Hostile::builder().size(66_048).start().unwrap();
        let areas = AreaSet::from_unsorted([Area::new(66_000, 49)], 1 << 20).unwrap();
        let settings = LaneSettings { extent: Extent::Areas(areas), ..with_size(way, 65_537) };
        let fault = lanes::fault_of(copy(way, &source.uri(), &target.uri(), settings));
        assert!(matches!(fault, Fault::Request(_)), "{fault}");
        assert!(target.written().is_empty());
    });
}

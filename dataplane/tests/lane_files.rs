//! Files as ends of a lane.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Endpoint, Extent, Fault, LaneSettings, Side};
use blockferry_doubles::{Fault as Wrong, Hostile, Occasion, Trigger};
use lanes::ends::{collected, ran, succeeds};
use lanes::{MIB, assert_same, dense, disk, every_engine, folder, nbd, settings};

#[test]
fn holes_stay_holes_on_every_way_through_files() {
    let dir = folder();
    let size = 12 * MIB + 777;
    let (disk, content) = disk(&dir, size, 21);
    every_engine(|way| {
        let server = Hostile::builder().size(size).start().unwrap();
        succeeds(way, Endpoint::File(disk.path.clone()), nbd(&server.uri()));
        assert_same(&content, &server.content());

        let from_nbd = dir.path().join(format!("from-nbd-{way:?}"));
        succeeds(way, nbd(&server.uri()), Endpoint::File(from_nbd.clone()));
        let from_file = dir.path().join(format!("from-file-{way:?}"));
        succeeds(way, Endpoint::File(disk.path.clone()), Endpoint::File(from_file.clone()));
        for path in [from_nbd, from_file] {
            assert_same(&content, &fs::read(&path).unwrap());
            let blocks = fs::metadata(&path).unwrap().blocks();
            assert!(blocks * 512 < size * 8 / 10, "{} of {size} bytes are allocated", blocks * 512);
        }
    });
}

#[test]
fn odd_sizes_of_files_arrive_to_the_last_byte() {
    let dir = folder();
    every_engine(|way| {
        for size in [0, 1, 511, 4097, 65_537, MIB + 1] {
            let content = dense(usize::try_from(size).unwrap(), size);
            let source = dir.path().join("source");
            fs::write(&source, &content).unwrap();
            let target = dir.path().join("target");
            fs::write(&target, [7; 100_000]).unwrap();
            succeeds(way, Endpoint::File(source.clone()), Endpoint::File(target.clone()));
            assert_same(&content, &fs::read(&target).unwrap());

            let (pipe, collector) = collected();
            succeeds(way, Endpoint::File(source), pipe);
            assert_same(&content, &collector.join().unwrap());
        }
    });
}

#[test]
fn changed_areas_leave_the_rest_of_a_file_alone() {
    let dir = folder();
    let content = dense(2 << 20, 3);
    every_engine(|way| {
        let target = dir.path().join("target");
        fs::write(&target, vec![7; 2 << 20]).unwrap();
        let source = Hostile::builder().content(&content).start().unwrap();
        let extent =
            Extent::Areas(AreaSet::from_unsorted([Area::new(MIB, 4096)], 2 * MIB).unwrap());
        let report = ran(
            way,
            nbd(&source.uri()),
            Endpoint::File(target.clone()),
            LaneSettings { extent, ..settings(way) },
        );
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        let mut expected = vec![7; 2 << 20];
        expected[1 << 20..(1 << 20) + 4096].copy_from_slice(&content[1 << 20..(1 << 20) + 4096]);
        assert_same(&expected, &fs::read(&target).unwrap());
    });
}

#[test]
fn a_file_gets_the_size_of_the_source_also_where_only_changes_are_written() {
    let dir = folder();
    let size = (1 << 20) + 777;
    let content = dense(size, 4);
    let changed = Area::new(4096, 8192);
    every_engine(|way| {
        let source = Hostile::builder().content(&content).start().unwrap();
        for before in [0, 1000, size, 3 << 20] {
            for journal in [None, Some(dir.path().join("journal"))] {
                let target = dir.path().join("target");
                fs::write(&target, vec![7; before]).unwrap();
                let areas = AreaSet::from_unsorted([changed], size as u64).unwrap();
                let extent = Extent::Areas(areas);
                let settings = LaneSettings { extent, journal, ..settings(way) };
                let report = ran(way, nbd(&source.uri()), Endpoint::File(target.clone()), settings);
                assert!(report.outcome.is_ok(), "{:?}", report.outcome);
                let mut expected = vec![7; before];
                expected.resize(size, 0);
                expected[4096..12_288].copy_from_slice(&content[4096..12_288]);
                assert_same(&expected, &fs::read(&target).unwrap());
            }
        }
    });
}

#[test]
fn a_file_that_is_refused_keeps_its_length() {
    let dir = folder();
    every_engine(|way| {
        let source = Hostile::builder().size(MIB).start().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, vec![7; 3 << 20]).unwrap();
        let outside = AreaSet::from_unsorted([Area::new(2 * MIB, 4096)], u64::MAX).unwrap();
        let other_journal = dir.path().join("no-journal");
        fs::write(&other_journal, "something else").unwrap();
        for settings in [
            LaneSettings { extent: Extent::Areas(outside.clone()), ..settings(way) },
            LaneSettings { journal: Some(other_journal), ..settings(way) },
        ] {
            let endpoint = Endpoint::File(target.clone());
            let fault = lanes::fault_of(ran(way, nbd(&source.uri()), endpoint, settings));
            assert!(matches!(fault, Fault::Request(_)), "{fault}");
            assert_same(&vec![7; 3 << 20], &fs::read(&target).unwrap());
        }
    });
}

#[test]
fn a_file_that_shrinks_under_the_lane_is_the_sources_fault() {
    let dir = folder();
    every_engine(|way| {
        let path = dir.path().join("shrinks");
        fs::write(&path, dense(4 << 20, 1)).unwrap();
        let target = Hostile::builder()
            .size(4 * MIB)
            .fault_on(Occasion::Write, Wrong::SlowReply(Duration::from_millis(50)), Trigger::Nth(1))
            .start()
            .unwrap();
        let shrink = |log: &[blockferry_doubles::hostile::Request]| !log.is_empty();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(target.wait_for_log(lanes::HANG, shrink));
                File::options().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
            });
            let settings =
                LaneSettings { synchronous: true, request_bytes: Some(64 << 10), ..settings(way) };
            let fault = lanes::fault_of(ran(
                way,
                Endpoint::File(path.clone()),
                nbd(&target.uri()),
                settings,
            ));
            assert_eq!(fault.side(), Some(Side::Source), "{fault}");
            assert!(fault.to_string().contains("ended at"), "{fault}");
        });
    });
}

#[test]
fn a_file_copied_onto_itself_is_refused_and_stays_as_it_is() {
    let dir = folder();
    every_engine(|way| {
        let path = dir.path().join("same");
        fs::write(&path, [5; 70_000]).unwrap();
        let link = dir.path().join(format!("hard-{way:?}"));
        fs::hard_link(&path, &link).unwrap();
        for target in [
            path.clone(),
            dir.path().join("../").join(dir.path().file_name().unwrap()).join("same"),
            link,
        ] {
            let fault = lanes::fault_of(ran(
                way,
                Endpoint::File(path.clone()),
                Endpoint::File(target),
                settings(way),
            ));
            assert!(matches!(fault, Fault::Request(_)), "{fault}");
            assert_eq!(fs::read(&path).unwrap(), [5; 70_000]);
        }
    });
}

#[test]
fn files_that_cannot_be_opened_name_side_and_path() {
    let dir = folder();
    every_engine(|way| {
        let missing = dir.path().join("missing");
        let there = Hostile::builder().start().unwrap();
        let fault = lanes::fault_of(ran(
            way,
            Endpoint::File(missing.clone()),
            nbd(&there.uri()),
            settings(way),
        ));
        assert_eq!(fault.side(), Some(Side::Source));
        assert!(fault.to_string().contains("missing"), "{fault}");
        let fault = lanes::fault_of(ran(
            way,
            nbd(&there.uri()),
            Endpoint::File(missing.join("below")),
            settings(way),
        ));
        assert_eq!(fault.side(), Some(Side::Target));
        let fault = lanes::fault_of(ran(
            way,
            Endpoint::File(dir.path().into()),
            nbd(&there.uri()),
            settings(way),
        ));
        assert_eq!(fault.side(), Some(Side::Source), "{fault}");
    });
}

#[test]
fn allocated_files_have_no_holes() {
    let dir = folder();
    every_engine(|way| {
        let source = Hostile::builder().size(2 * MIB).content_at(MIB, &[1; 4096]).start().unwrap();
        let path = dir.path().join(format!("allocated-{way:?}"));
        let report = ran(
            way,
            nbd(&source.uri()),
            Endpoint::File(path.clone()),
            LaneSettings { allocated: true, ..settings(way) },
        );
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 2 * MIB);
        let mut byte = [0];
        File::open(&path).unwrap().read_exact_at(&mut byte, MIB).unwrap();
        assert_eq!(byte, [1]);
    });
}

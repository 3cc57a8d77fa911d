//! Every point of a chain, at any depth, is what its disks were.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Generations of a chain.
const GENERATIONS: usize = 30;

/// A write to a disk.
#[derive(Clone, Debug)]
struct Change {
    disk: usize,
    /// Where, as a share of the disk.
    at: f64,
    length: u64,
    /// Zero writes zeros.
    byte: u8,
}

/// One generation: writes, and how it is told what changed.
#[derive(Clone, Debug)]
struct Generation {
    changes: Vec<Change>,
    told: [Told; 2],
    mode: BackupMode,
}

#[derive(Clone, Copy, Debug)]
enum Told {
    Areas,
    Compared,
}

fn change() -> impl Strategy<Value = Change> {
    let length = prop_oneof![1_u64..2000, 1_u64..300_000];
    let byte = prop_oneof![Just(0_u8), any::<u8>()];
    (0_usize..2, 0.0..1.0, length, byte).prop_map(|(disk, at, length, byte)| Change {
        disk,
        at,
        length,
        byte,
    })
}

fn generation() -> impl Strategy<Value = Generation> {
    let told = || prop_oneof![3 => Just(Told::Areas), 1 => Just(Told::Compared)];
    let mode = prop_oneof![
        8 => Just(BackupMode::Auto),
        3 => Just(BackupMode::Incremental),
        1 => Just(BackupMode::Full),
    ];
    (prop::collection::vec(change(), 0..6), [told(), told()], mode)
        .prop_map(|(changes, told, mode)| Generation { changes, told, mode })
}

/// Makes the writes, and gives back the areas of each disk that they touched.
fn apply(changes: &[Change], disks: &[(PathBuf, u64); 2]) -> [Vec<(u64, u64)>; 2] {
    let mut touched = [Vec::new(), Vec::new()];
    for (round, change) in changes.iter().enumerate() {
        let (path, size) = &disks[change.disk];
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let start = ((*size as f64 * change.at) as u64).min(size - 1);
        let length = change.length.min(size - start);
        let bytes: Vec<u8> = (0..length)
            .map(|at| {
                let [low, ..] = (at ^ round as u64).to_le_bytes();
                if change.byte == 0 { 0 } else { change.byte ^ low }
            })
            .collect();
        write(path, start, &bytes);
        touched[change.disk].push((start, length));
    }
    touched
}

#[test]
fn every_point_of_a_chain_is_what_its_disks_were() {
    let runner =
        Config { cases: 1, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let sizes = (1_u64..3_000_000, 1_u64..400_000);
    let chain = prop::collection::vec(generation(), GENERATIONS);
    TestRunner::new(runner)
        .run(&(sizes, chain), |((root, data), chain)| {
            check(root, data, &chain);
            Ok(())
        })
        .unwrap();
}

fn check(root: u64, data: u64, chain: &[Generation]) {
    let place = Place::new();
    let disks = [(place.disk("root", root), root), (place.disk("data", data), data)];
    let mut request = request(&[("root", &disks[0].0), ("data", &disks[1].0)]);
    let mut points = vec![place.back_up(&request).unwrap().point.id];
    let mut contents = vec![contents_of(&disks)];
    for generation in chain {
        let touched = apply(&generation.changes, &disks);
        for (disk, (told, touched)) in
            request.disks.iter_mut().zip(generation.told.iter().zip(&touched))
        {
            disk.changes = match told {
                Told::Areas => areas(touched),
                Told::Compared => Changes::Compared,
            };
        }
        request.mode = generation.mode;
        points.push(place.back_up(&request).unwrap().point.id);
        contents.push(contents_of(&disks));
    }
    for (point, [root, data]) in points.iter().zip(&contents) {
        for (name, expected, size) in [("root", root, disks[0].1), ("data", data, disks[1].1)] {
            let found = place.content(*point, name, size);
            let differs =
                found.iter().zip(expected).position(|(found, expected)| found != expected);
            assert_eq!((found.len(), differs), (expected.len(), None), "{name} of point {point}");
        }
    }
    place.assert_tidy();
}

fn contents_of(disks: &[(PathBuf, u64); 2]) -> [Vec<u8>; 2] {
    [fs::read(&disks[0].0).unwrap(), fs::read(&disks[1].0).unwrap()]
}

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::digest::DigestAlgorithm;

const BLOCK: u64 = 65_536;
const ALGORITHM: DigestAlgorithm = DigestAlgorithm::Blake3;

fn digest(seed: u64) -> Entry {
    Entry::Data(ALGORITHM.digest_block(&seed.to_le_bytes()))
}

/// Writes a manifest that says this, each entry from its block on to the next.
fn write(path: &Path, blocks: u64, records: &[(u64, u64, Entry)]) -> Manifest {
    let mut writer = ManifestWriter::create(path, ALGORITHM, blocks * BLOCK - 7).unwrap();
    for (first, count, entry) in records {
        match entry {
            Entry::Zero => writer.record_zero(*first..first + count).unwrap(),
            Entry::Data(digest) => {
                let digests = vec![*digest; usize::try_from(*count).unwrap()];
                writer.record_blocks(*first, &digests).unwrap();
            }
            Entry::Absent => {}
        }
    }
    writer.finish().unwrap();
    Manifest::open(path).unwrap()
}

fn entries(manifest: &Manifest) -> Vec<Entry> {
    manifest.entries().map(Result::unwrap).collect()
}

/// Of each block the first entry that is not absent.
fn naive(newest_first: &[Manifest]) -> Vec<Entry> {
    let columns: Vec<_> = newest_first.iter().map(entries).collect();
    (0..columns[0].len())
        .map(|index| {
            let of_block = columns.iter().map(|column| column[index]);
            of_block.into_iter().find(|entry| *entry != Entry::Absent).unwrap_or(Entry::Absent)
        })
        .collect()
}

fn result() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole");
    (folder, path)
}

#[test]
fn of_each_block_the_newest_that_has_it_counts() {
    let (folder, path) = result();
    let file = |name: &str| folder.path().join(name);
    let chain = [
        write(&file("c"), 8, &[(1, 1, digest(3)), (4, 2, Entry::Zero)]),
        write(&file("b"), 8, &[(0, 2, digest(2)), (6, 1, Entry::Zero)]),
        write(&file("a"), 8, &[(0, 3, digest(1)), (4, 3, digest(1))]),
    ];
    let overlaid = Manifest::overlay(&chain, &path).unwrap();
    assert_eq!(overlaid, Overlaid { blocks: 8, absent: 2 });
    let whole = Manifest::open(&path).unwrap();
    let zero = Entry::Zero;
    let expected =
        [digest(2), digest(3), digest(1), Entry::Absent, zero, zero, zero, Entry::Absent];
    assert_eq!(entries(&whole), expected);
    assert_eq!((whole.disk_size(), whole.algorithm()), (8 * BLOCK - 7, ALGORITHM));
}

#[test]
fn zeros_stay_runs_also_under_layers_that_do_not_have_them() {
    let (folder, path) = result();
    let file = |name: &str| folder.path().join(name);
    let blocks = 33_000_000;
    let chain = [
        write(&file("b"), blocks, &[(20_000_000, 3, digest(2))]),
        write(&file("a"), blocks, &[(0, 32_000_000, Entry::Zero)]),
    ];
    let began = std::time::Instant::now();
    let overlaid = Manifest::overlay(&chain, &path).unwrap();
    // Block by block it would be a gigabyte of entries, and seconds.
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    assert_eq!(overlaid.absent, 1_000_000);
    let whole = Manifest::open(&path).unwrap();
    assert_eq!(whole.zeros.len(), 2);
    assert_eq!(whole.entry(20_000_001).unwrap(), digest(2));
    assert_eq!(whole.entry(31_999_999).unwrap(), Entry::Zero);
    assert_eq!(whole.entry(32_000_000).unwrap(), Entry::Absent);
    use std::os::unix::fs::MetadataExt;
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_manifest_alone_is_written_again_as_it_is() {
    let (folder, path) = result();
    let one = folder.path().join("one");
    let records = [(0, 900, Entry::Zero), (1000, 2000, digest(1)), (3500, 1, Entry::Zero)];
    let manifest = write(&one, 5000, &records);
    let overlaid = Manifest::overlay(&[Arc::new(manifest)], &path).unwrap();
    assert_eq!(overlaid.absent, 100 + 500 + 1499);
    assert_eq!(fs::read(&one).unwrap(), fs::read(&path).unwrap());
}

#[test]
fn the_result_may_take_the_place_of_a_layer() {
    let (folder, _) = result();
    let file = |name: &str| folder.path().join(name);
    let chain =
        [write(&file("b"), 3, &[(1, 1, digest(2))]), write(&file("a"), 3, &[(0, 3, digest(1))])];
    Manifest::overlay(&chain, &file("a")).unwrap();
    let whole = Manifest::open(&file("a")).unwrap();
    assert_eq!(entries(&whole), [digest(1), digest(2), digest(1)]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn manifests_of_other_disks_or_digests_are_not_laid_over_each_other() {
    let (folder, path) = result();
    let file = |name: &str| folder.path().join(name);
    let one = write(&file("a"), 3, &[]);
    let longer = write(&file("b"), 4, &[]);
    let line = Manifest::overlay(&[&one, &longer], &path).unwrap_err().to_string();
    assert!(line.contains("the size of the disk"), "{line}");
    let other = file("c");
    let writer = ManifestWriter::create(&other, DigestAlgorithm::Xxh3, 3 * BLOCK - 7).unwrap();
    writer.finish().unwrap();
    let other = Manifest::open(&other).unwrap();
    let line = Manifest::overlay(&[&one, &other], &path).unwrap_err().to_string();
    assert!(line.contains("the digest is blake3"), "{line}");
    let none: [&Manifest; 0] = [];
    assert!(matches!(Manifest::overlay(&none, &path), Err(ManifestError::NoLayers)));
    assert!(!path.exists());
}

#[test]
fn a_damaged_entry_is_named_and_leaves_no_file() {
    use std::os::unix::fs::FileExt;
    let (folder, path) = result();
    let one = folder.path().join("a");
    drop(write(&one, 5000, &[(2000, 100, digest(1))]));
    let file = fs::OpenOptions::new().write(true).open(&one).unwrap();
    file.write_all_at(&[9], 4096 + 2050 * 33).unwrap();
    let damaged = Manifest::open(&one).unwrap();
    let line = Manifest::overlay(&[&damaged], &path).unwrap_err().to_string();
    assert!(line.contains("block 2050 has the unknown tag 9"), "{line}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn records(blocks: u64) -> impl Strategy<Value = Vec<(u64, u64, Entry)>> {
    let what = prop_oneof![Just(Entry::Zero), (0_u64..5).prop_map(digest)];
    let count = prop_oneof![3 => 1_u64..20, 1 => 1_u64..blocks];
    let record = (0..blocks, count, what)
        .prop_map(move |(first, count, what)| (first, count.min(blocks - first), what));
    prop::collection::vec(record, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_chain_comes_to_what_looking_block_by_block_gives(
        layers in prop::collection::vec(records(5000), 1..6),
    ) {
        let (folder, path) = result();
        let chain: Vec<_> = (0..)
            .zip(&layers)
            .map(|(number, records): (u32, _)| {
                write(&folder.path().join(number.to_string()), 5000, records)
            })
            .collect();
        let overlaid = Manifest::overlay(&chain, &path).unwrap();
        let expected = naive(&chain);
        let absent = expected.iter().filter(|entry| **entry == Entry::Absent).count();
        prop_assert_eq!(overlaid.absent, u64::try_from(absent).unwrap());
        prop_assert_eq!(entries(&Manifest::open(&path).unwrap()), expected);
    }
}

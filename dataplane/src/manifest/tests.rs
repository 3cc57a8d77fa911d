use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;

use super::*;

const BLOCK: u64 = 65_536;

fn digest(algorithm: DigestAlgorithm, seed: u8) -> Digest {
    algorithm.digest_block(&[seed])
}

/// Writes the manifest of a disk of `blocks` blocks, the last of which is short.
fn write(
    path: &Path,
    algorithm: DigestAlgorithm,
    blocks: u64,
    record: impl FnOnce(&mut ManifestWriter),
) {
    let mut writer = ManifestWriter::create(path, algorithm, blocks * BLOCK - 100).unwrap();
    record(&mut writer);
    writer.finish().unwrap();
}

fn entries(manifest: &Manifest) -> Vec<Entry> {
    manifest.entries().map(Result::unwrap).collect()
}

fn change(path: &Path, offset: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn problem(path: &Path) -> String {
    Manifest::open(path).unwrap_err().to_string()
}

#[test]
fn what_was_recorded_is_read_back_with_every_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    for algorithm in DigestAlgorithm::ALL {
        let path = folder.path().join(algorithm.name());
        write(&path, algorithm, 6, |writer| {
            writer.record_blocks(1, &[digest(algorithm, 1), digest(algorithm, 2)]).unwrap();
            writer.record_zero(3..5).unwrap();
            writer.record(5, &digest(algorithm, 3)).unwrap();
        });
        let manifest = Manifest::open(&path).unwrap();
        assert_eq!((manifest.algorithm(), manifest.blocks()), (algorithm, 6));
        assert_eq!(manifest.disk_size(), 6 * BLOCK - 100);
        let expected = [
            Entry::Absent,
            Entry::Data(digest(algorithm, 1)),
            Entry::Data(digest(algorithm, 2)),
            Entry::Zero,
            Entry::Zero,
            Entry::Data(digest(algorithm, 3)),
        ];
        assert_eq!(entries(&manifest), expected);
        for (index, entry) in (0..).zip(expected) {
            assert_eq!(manifest.entry(index).unwrap(), entry);
        }
    }
}

#[test]
fn a_disk_without_bytes_has_a_manifest_without_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    ManifestWriter::create(&path, DigestAlgorithm::Xxh3, 0).unwrap().finish().unwrap();
    assert_eq!(entries(&Manifest::open(&path).unwrap()), []);
}

#[test]
fn what_is_recorded_last_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let one = digest(DigestAlgorithm::Crc32c, 1);
    write(&path, DigestAlgorithm::Crc32c, 300, |writer| {
        writer.record_zero(0..300).unwrap();
        writer.record(100, &one).unwrap();
        writer.record(200, &one).unwrap();
        writer.record_zero(200..201).unwrap();
    });
    let manifest = Manifest::open(&path).unwrap();
    assert_eq!(manifest.entry(100).unwrap(), Entry::Data(one));
    assert_eq!(manifest.entry(200).unwrap(), Entry::Zero);
}

#[test]
fn two_tebibytes_of_zeros_take_little_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let blocks = (2_u64 << 40) / BLOCK;
    write(&path, DigestAlgorithm::Blake3, blocks, |writer| writer.record_zero(0..blocks).unwrap());
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(Manifest::open(&path).unwrap().entry(blocks - 1).unwrap(), Entry::Zero);
}

#[test]
fn more_runs_of_zeros_than_fit_become_entries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let blocks = 3 * u64::try_from(MAX_ZERO_RUNS).unwrap();
    write(&path, DigestAlgorithm::Crc32c, blocks, |writer| {
        for index in (0..blocks).step_by(2) {
            writer.record_zero(index..index + 1).unwrap();
        }
    });
    let manifest = Manifest::open(&path).unwrap();
    for (index, entry) in (0_u64..).zip(manifest.entries()) {
        let expected = if index % 2 == 0 { Entry::Zero } else { Entry::Absent };
        assert_eq!(entry.unwrap(), expected);
    }
}

#[test]
fn the_final_name_appears_only_when_the_manifest_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let writer = ManifestWriter::create(&path, DigestAlgorithm::Xxh3, BLOCK).unwrap();
    assert!(!path.exists() && folder.path().join("m.partial").exists());
    writer.finish().unwrap();
    assert!(path.exists() && !folder.path().join("m.partial").exists());
}

#[test]
fn a_writer_that_is_dropped_leaves_the_manifest_of_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let before = DigestAlgorithm::Xxh3;
    write(&path, before, 2, |_| ());
    drop(ManifestWriter::create(&path, DigestAlgorithm::Blake3, 9 * BLOCK).unwrap());
    assert_eq!(Manifest::open(&path).unwrap().algorithm(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A manifest of 300 blocks with a checkpoint, left by a run that died, and its mark.
fn left_behind(path: &Path, record_more: impl FnOnce(&mut ManifestWriter)) -> ManifestMark {
    let algorithm = DigestAlgorithm::Xxh3;
    let mut writer = ManifestWriter::create(path, algorithm, 300 * BLOCK).unwrap();
    writer.record_zero(0..100).unwrap();
    writer.record(200, &digest(algorithm, 1)).unwrap();
    let mark = writer.checkpoint().unwrap();
    record_more(&mut writer);
    mark
}

fn resumed(path: &Path, mark: &ManifestMark) -> Result<ManifestWriter, ManifestError> {
    ManifestWriter::resume(path, DigestAlgorithm::Xxh3, 300 * BLOCK, mark)
}

#[test]
fn a_manifest_goes_on_from_its_checkpoint_and_is_equal_to_one_of_a_single_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let one = digest(DigestAlgorithm::Xxh3, 1);
    let mark = left_behind(&path, |_| ());
    let mut writer = resumed(&path, &mark).unwrap();
    writer.record_zero(100..120).unwrap();
    writer.record(250, &one).unwrap();
    // Once more, in the other place.
    let mark = writer.checkpoint().unwrap();
    drop(writer);
    resumed(&path, &mark).unwrap().finish().unwrap();

    let at_once = folder.path().join("n");
    let mut writer = ManifestWriter::create(&at_once, DigestAlgorithm::Xxh3, 300 * BLOCK).unwrap();
    writer.record_zero(0..120).unwrap();
    writer.record(200, &one).unwrap();
    writer.record(250, &one).unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&at_once).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_checkpoint_that_the_journal_does_not_know_of_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    for torn in [false, true] {
        let mark = left_behind(&path, |writer| {
            writer.record_zero(100..200).unwrap();
            writer.checkpoint().unwrap();
        });
        if torn {
            let partial = folder.path().join("m.partial");
            // The first checkpoint lies in the second place.
            let at = 4096 + 300 * 17;
            change(&partial, at + 100, &[0xee; 9]);
        }
        resumed(&path, &mark).unwrap().finish().unwrap();
        let manifest = Manifest::open(&path).unwrap();
        assert_eq!(manifest.entry(99).unwrap(), Entry::Zero);
        assert_eq!(manifest.entry(100).unwrap(), Entry::Absent);
    }
}

#[test]
fn a_manifest_that_does_not_go_with_the_journal_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let refusal = |mark: &ManifestMark| resumed(&path, mark).unwrap_err().to_string();
    let mark = left_behind(&path, |_| ());
    let other_disk = ManifestWriter::resume(&path, DigestAlgorithm::Xxh3, 299 * BLOCK, &mark);
    assert!(matches!(other_disk, Err(ManifestError::Unfit { .. })));
    let other_digest = ManifestWriter::resume(&path, DigestAlgorithm::Crc32c, 300 * BLOCK, &mark);
    assert!(matches!(other_digest, Err(ManifestError::Unfit { .. })));

    let other = left_behind(&path, |_| ());
    assert!(refusal(&mark).contains("another one"), "{}", refusal(&mark));
    let ManifestMark::Partial { id, .. } = other.clone() else { panic!("{other:?}") };
    let later = ManifestMark::Partial { id, checkpoint: 2 };
    assert!(refusal(&later).contains("is missing"), "{}", refusal(&later));
    // Its end is torn off.
    let partial = folder.path().join("m.partial");
    let length = fs::metadata(&partial).unwrap().len();
    fs::OpenOptions::new().write(true).open(&partial).unwrap().set_len(length - 1).unwrap();
    assert!(refusal(&other).contains("damaged"), "{}", refusal(&other));
    fs::remove_file(&partial).unwrap();
    assert!(refusal(&other).contains("cannot open"), "{}", refusal(&other));
}

#[test]
fn a_complete_manifest_is_known_again_until_it_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    write(&path, DigestAlgorithm::Xxh3, 2, |_| ());
    let mark = Manifest::mark(&path).unwrap();
    assert_eq!(Manifest::mark(&path).unwrap(), mark);
    write(&path, DigestAlgorithm::Xxh3, 2, |_| ());
    assert_ne!(Manifest::mark(&path).unwrap(), mark);
}

#[test]
fn a_block_behind_the_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let algorithm = DigestAlgorithm::Crc32c;
    write(&path, algorithm, 2, |writer| {
        let two = [digest(algorithm, 1); 2];
        let errors = [
            writer.record_blocks(1, &two).unwrap_err(),
            writer.record_blocks(u64::MAX, &two).unwrap_err(),
            writer.record_zero(0..3).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, ManifestError::NoSuchBlock { blocks: 2, .. }), "{error}");
        }
    });
    let manifest = Manifest::open(&path).unwrap();
    assert!(matches!(manifest.entry(2), Err(ManifestError::NoSuchBlock { index: 2, .. })));
}

#[test]
fn a_digest_of_another_algorithm_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    write(&path, DigestAlgorithm::Blake3, 2, |writer| {
        let error = writer.record(0, &digest(DigestAlgorithm::Xxh3, 1)).unwrap_err();
        assert!(matches!(error, ManifestError::ForeignDigest { length: 16, .. }));
    });
}

#[test]
fn a_disk_that_no_file_can_describe_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    assert!(ManifestWriter::create(&path, DigestAlgorithm::Blake3, u64::MAX).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_of_another_kind_is_no_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    for content in [vec![], vec![7; 100], vec![0; 10_000]] {
        fs::write(&path, content).unwrap();
        assert!(problem(&path).contains("is not a digest manifest"));
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    assert!(problem(Path::new("/nonexistent/manifest")).contains("/nonexistent/manifest"));
}

#[test]
fn another_version_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    write(&path, DigestAlgorithm::Xxh3, 2, |_| ());
    change(&path, 16, &2_u32.to_le_bytes());
    assert!(problem(&path).contains("version 2"));
}

#[test]
fn a_changed_header_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    for offset in [20, 24, 32, 40, 48, 56, 4000, 4095] {
        write(&path, DigestAlgorithm::Xxh3, 2, |_| ());
        change(&path, offset, &[0xee]);
        assert!(problem(&path).contains("checksum of its header"), "{offset}");
    }
}

#[test]
fn a_file_of_another_length_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    write(&path, DigestAlgorithm::Xxh3, 200, |writer| writer.record_zero(0..100).unwrap());
    let length = fs::metadata(&path).unwrap().len();
    for wrong in [4096, length - 1, length + 1] {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(wrong).unwrap();
        assert!(problem(&path).contains(&format!("{wrong} bytes instead of {length}")));
    }
}

#[test]
fn a_changed_run_of_zeros_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    write(&path, DigestAlgorithm::Xxh3, 200, |writer| writer.record_zero(0..100).unwrap());
    let length = fs::metadata(&path).unwrap().len();
    change(&path, length - 8, &[99]);
    assert!(problem(&path).contains("runs of zeros"));
}

#[test]
fn an_unknown_tag_is_damage_of_its_block_and_ends_the_entries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    write(&path, DigestAlgorithm::Crc32c, 5, |_| ());
    change(&path, 4096 + 3 * 5, &[9]);
    let manifest = Manifest::open(&path).unwrap();
    assert!(manifest.entry(3).unwrap_err().to_string().contains("block 3 has the unknown tag 9"));
    assert_eq!(manifest.entries().count(), 4);
}

#[test]
fn comparing_gives_ranges_of_same_different_and_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let algorithm = DigestAlgorithm::Xxh3;
    write(&one, algorithm, 10, |writer| {
        writer.record_blocks(0, &[digest(algorithm, 1); 6]).unwrap();
        writer.record_zero(6..8).unwrap();
    });
    write(&other, algorithm, 10, |writer| {
        writer.record_blocks(0, &[digest(algorithm, 1); 4]).unwrap();
        writer.record_blocks(4, &[digest(algorithm, 2); 2]).unwrap();
        writer.record_zero(6..9).unwrap();
    });
    let (one, other) = (Manifest::open(&one).unwrap(), Manifest::open(&other).unwrap());
    let verdicts: Vec<_> = one.compare(&other).unwrap().map(Result::unwrap).collect();
    let expected = [
        (0..4, Verdict::Same),
        (4..6, Verdict::Different),
        (6..8, Verdict::Same),
        (8..10, Verdict::Unknown),
    ];
    assert_eq!(verdicts, expected);
}

#[test]
fn zeros_that_were_digested_compare_as_zeros_also_in_the_short_last_block() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let algorithm = DigestAlgorithm::Blake3;
    write(&one, algorithm, 2, |writer| writer.record_zero(0..2).unwrap());
    write(&other, algorithm, 2, |writer| {
        writer.record(0, &algorithm.digest_block(&[0; 65_536])).unwrap();
        writer.record(1, &algorithm.digest_block(&[0; 65_436])).unwrap();
    });
    let (one, other) = (Manifest::open(&one).unwrap(), Manifest::open(&other).unwrap());
    let verdicts: Vec<_> = one.compare(&other).unwrap().map(Result::unwrap).collect();
    assert_eq!(verdicts, [(0..2, Verdict::Same)]);
}

#[test]
fn manifests_of_other_digests_or_disks_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(&path("a"), DigestAlgorithm::Xxh3, 2, |_| ());
    write(&path("b"), DigestAlgorithm::Blake3, 2, |_| ());
    write(&path("c"), DigestAlgorithm::Xxh3, 3, |_| ());
    let open = |name: &str| Manifest::open(&path(name)).unwrap();
    let line = open("a").compare(&open("b")).unwrap_err().to_string();
    assert!(line.contains("xxh3") && line.contains("blake3"), "{line}");
    let line = open("a").compare(&open("c")).unwrap_err().to_string();
    assert!(line.contains("130972") && line.contains("196508"), "{line}");
}

#[test]
fn comparing_ends_after_a_damaged_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    write(&path, DigestAlgorithm::Crc32c, 5, |_| ());
    change(&path, 4096 + 3 * 5, &[9]);
    let manifest = Manifest::open(&path).unwrap();
    let results: Vec<_> = manifest.compare(&manifest).unwrap().collect();
    assert!(results.len() == 1 && results[0].is_err());
}

#[derive(Clone, Debug)]
enum Record {
    Data { first: u64, seeds: Vec<u8> },
    Zero { first: u64, count: u64 },
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let data = (0_u64..120, prop::collection::vec(any::<u8>(), 0..9))
        .prop_map(|(first, seeds)| Record::Data { first, seeds });
    let zero = (0_u64..120, 0_u64..60).prop_map(|(first, count)| Record::Zero { first, count });
    prop::collection::vec(prop_oneof![data, zero], 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_order_of_records_reads_back_as_the_last_of_each(
        records in records(),
        max_runs in 1_usize..6,
        which in 0_usize..3,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let algorithm = DigestAlgorithm::ALL[which];
        let mut model = vec![Entry::Absent; 200];
        let mut writer = ManifestWriter::create(&path, algorithm, 200 * BLOCK).unwrap();
        writer.set_max_runs(max_runs);
        for record in records {
            match record {
                Record::Data { first, seeds } => {
                    let digests: Vec<_> = seeds.iter().map(|seed| digest(algorithm, *seed)).collect();
                    writer.record_blocks(first, &digests).unwrap();
                    for (index, digest) in (usize::try_from(first).unwrap()..).zip(digests) {
                        model[index] = Entry::Data(digest);
                    }
                }
                Record::Zero { first, count } => {
                    writer.record_zero(first..first + count).unwrap();
                    let first = usize::try_from(first).unwrap();
                    model[first..first + usize::try_from(count).unwrap()].fill(Entry::Zero);
                }
            }
        }
        writer.finish().unwrap();
        let manifest = Manifest::open(&path).unwrap();
        prop_assert_eq!(&entries(&manifest), &model);
        for (index, entry) in (0_u64..).zip(model) {
            prop_assert_eq!(manifest.entry(index).unwrap(), entry);
        }
    }
}

#[test]
fn a_manifest_replaced_what_was_none() {
    let folder = tempfile::tempdir().unwrap();
    let (path, partial) = (folder.path().join("m"), folder.path().join("m.partial"));
    let create = || ManifestWriter::create(&path, DigestAlgorithm::Crc32c, BLOCK).map(drop);
    for (there, other) in [(&path, &partial), (&partial, &path)] {
        for content in ["x", "blockferry-diggs and more than that"] {
            fs::write(there, content).unwrap();
            assert!(matches!(create(), Err(ManifestError::Occupied { .. })), "{content}");
            assert_eq!(fs::read(there).unwrap(), content.as_bytes());
            assert!(!other.exists());
        }
        fs::remove_file(there).unwrap();
        std::os::unix::fs::symlink("elsewhere", there).unwrap();
        assert!(matches!(create(), Err(ManifestError::Occupied { .. })));
        assert!(there.is_symlink() && !folder.path().join("elsewhere").exists());
        fs::remove_file(there).unwrap();
        fs::write(there, "").unwrap();
        create().unwrap();
        fs::remove_file(there).ok();
    }
    // What a run left that was killed, at its beginning and just before its end.
    for beginning in ["blockferry-parti", "blockferry-digst"] {
        fs::write(&partial, beginning).unwrap();
        create().unwrap();
    }
    write(&path, DigestAlgorithm::Crc32c, 1, |_| {});
    write(&path, DigestAlgorithm::Xxh3, 1, |_| {});
}

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn identity() -> Identity {
    Identity {
        source: Side { name: "nbd://node/disk".to_owned(), size: 1 << 30 },
        target: Side { name: "nbd://hub:10100/".to_owned(), size: 1 << 30 },
        plan: "5f3c".to_owned(),
        base: None,
        source_file: None,
    }
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    (folder, path)
}

fn witnessed(witness: &Witness) -> Entry {
    Entry { witness: Some(witness.clone()), ..Entry::default() }
}

fn partial(id: &str, checkpoint: u64) -> ManifestMark {
    ManifestMark::Partial { id: id.to_owned(), checkpoint }
}

fn set(areas: &[(u64, u64)]) -> AreaSet {
    let areas = areas.iter().map(|&(start, length)| Area::new(start, length));
    AreaSet::from_unsorted(areas, u64::MAX).unwrap()
}

fn append_to_file(path: &Path, bytes: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// A journal in which one area is safe, and its file's content.
fn begun(path: &Path) -> Vec<u8> {
    let mut journal = Journal::create(path, &identity()).unwrap();
    journal.append([Area::new(0, 4096)], None).unwrap();
    fs::read(path).unwrap()
}

fn refusal(path: &Path, identity: &Identity) -> String {
    Journal::resume(path, identity).unwrap_err().to_string()
}

#[test]
fn what_was_appended_is_safe_after_a_resume() {
    let (_folder, path) = place();
    let mut journal = Journal::create(&path, &identity()).unwrap();
    let witness = Witness::of(4096, b"content");
    journal.append([Area::new(0, 4096), Area::new(8192, 100)], None).unwrap();
    journal.note(&witnessed(&witness)).unwrap();
    journal.append([Area::new(4096, 4096)], None).unwrap();
    drop(journal);
    let resumed = Journal::resume(&path, &identity()).unwrap();
    assert_eq!(resumed.safe, set(&[(0, 8292)]));
    assert_eq!(resumed.witnesses, [witness]);
}

#[test]
fn a_resumed_journal_goes_on() {
    let (_folder, path) = place();
    begun(&path);
    let mut resumed = Journal::resume(&path, &identity()).unwrap();
    resumed.journal.append([Area::new(8192, 4096)], None).unwrap();
    drop(resumed);
    let safe = Journal::resume(&path, &identity()).unwrap().safe;
    assert_eq!(safe, set(&[(0, 4096), (8192, 4096)]));
}

#[test]
fn every_line_is_json_as_documented() {
    let (_folder, path) = place();
    let mut journal = Journal::create(&path, &identity()).unwrap();
    journal.append([Area::new(0, 4096)], Some(&partial("a", 7))).unwrap();
    journal.note(&witnessed(&Witness::of(0, b"x"))).unwrap();
    journal.note(&Entry { unsealed: true, ..Entry::default() }).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["blockferry_journal"], 3);
    assert_eq!(lines[0]["source"]["name"], "nbd://node/disk");
    assert!(lines[0]["base"].is_null() && lines[0]["started"].is_u64());
    let manifest = serde_json::json!({"partial": {"id": "a", "checkpoint": 7}});
    assert_eq!(lines[1], serde_json::json!({"safe": [[0, 4096]], "manifest": manifest}));
    assert_eq!(lines[2]["witness"]["digest"].as_str().map(str::len), Some(64));
    assert_eq!(lines[3], serde_json::json!({"safe": [], "unsealed": true}));
}

#[test]
fn nothing_safe_and_no_witness_appends_no_line() {
    let (_folder, path) = place();
    let before = begun(&path);
    let mut resumed = Journal::resume(&path, &identity()).unwrap();
    resumed.journal.append([Area::new(9, 0)], None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_witness_alone_is_kept() {
    let (_folder, path) = place();
    let witness = Witness::of(7, b"x");
    Journal::create(&path, &identity()).unwrap().note(&witnessed(&witness)).unwrap();
    assert_eq!(Journal::resume(&path, &identity()).unwrap().witnesses, [witness]);
}

#[test]
fn many_areas_become_several_lines_and_one_set() {
    let (_folder, path) = place();
    let many = (0..10_000).map(|i| Area::new(i * 100, 50));
    let mark = partial("a", 1);
    Journal::create(&path, &identity()).unwrap().append(many.clone(), Some(&mark)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
    let resumed = Journal::resume(&path, &identity()).unwrap();
    assert!(resumed.safe.iter().eq(many.clone()));
    assert!(resumed.digested.iter().eq(many));
}

#[test]
fn only_what_the_last_manifest_has_is_digested() {
    let (_folder, path) = place();
    let block = |number: u64| [Area::new(number * 4096, 4096)];
    let mut journal = Journal::create(&path, &identity()).unwrap();
    let marks = [
        Some(partial("a", 1)),
        None,
        Some(partial("a", 2)),
        Some(partial("b", 1)),
        None,
        Some(partial("b", 2)),
    ];
    for (number, mark) in (0..).zip(&marks) {
        journal.append(block(number), mark.as_ref()).unwrap();
    }
    drop(journal);
    let resumed = Journal::resume(&path, &identity()).unwrap();
    assert_eq!(resumed.safe, set(&[(0, 6 * 4096)]));
    assert_eq!(resumed.digested, set(&[(3 * 4096, 4096), (5 * 4096, 4096)]));
    assert_eq!(resumed.manifest, Some(partial("b", 2)));

    let mut journal = resumed.journal;
    let complete = ManifestMark::Complete { file: "c".to_owned() };
    journal.note(&Entry { manifest: Some(complete.clone()), ..Entry::default() }).unwrap();
    drop(journal);
    let resumed = Journal::resume(&path, &identity()).unwrap();
    assert_eq!(resumed.digested, set(&[(3 * 4096, 4096), (5 * 4096, 4096)]));
    assert_eq!(resumed.manifest, Some(complete));
}

#[test]
fn a_seal_counts_until_it_is_taken_off() {
    let (_folder, path) = place();
    let seal = Some(Witness::of(4096, b"x"));
    let mut journal = Journal::create(&path, &identity()).unwrap();
    journal.note(&Entry { seal: seal.clone(), ..Entry::default() }).unwrap();
    journal.append([Area::new(0, 4096)], None).unwrap();
    drop(journal);
    let mut resumed = Journal::resume(&path, &identity()).unwrap();
    assert_eq!(resumed.seal, seal);
    resumed.journal.note(&Entry { unsealed: true, ..Entry::default() }).unwrap();
    drop(resumed);
    assert_eq!(Journal::resume(&path, &identity()).unwrap().seal, None);
}

#[test]
fn only_the_last_witnesses_are_kept() {
    let (_folder, path) = place();
    let mut journal = Journal::create(&path, &identity()).unwrap();
    let witnesses: Vec<_> = (0..40).map(|offset| Witness::of(offset, b"x")).collect();
    for witness in &witnesses {
        journal.note(&witnessed(witness)).unwrap();
    }
    drop(journal);
    let kept = Journal::resume(&path, &identity()).unwrap().witnesses;
    assert_eq!(kept, witnesses[40 - MAX_WITNESSES..]);
}

#[test]
fn a_witness_knows_its_bytes_from_others() {
    let witness = Witness::of(4096, b"content");
    assert_eq!(witness.area(), Area::new(4096, 7));
    assert!(witness.matches(b"content"));
    assert!(!witness.matches(b"contents") && !witness.matches(b"Content"));
}

#[test]
fn a_witness_of_many_bytes_takes_the_first() {
    let bytes = [7; 10_000];
    let witness = Witness::of(0, &bytes);
    assert_eq!(witness.area().length, 4096);
    assert!(witness.matches(&bytes[..4096]));
}

#[test]
fn a_journal_in_use_is_refused() {
    let (_folder, path) = place();
    let _held = Journal::create(&path, &identity()).unwrap();
    assert!(matches!(Journal::create(&path, &identity()), Err(JournalError::InUse { .. })));
    assert!(matches!(Journal::resume(&path, &identity()), Err(JournalError::InUse { .. })));
}

#[test]
fn a_finished_journal_is_gone() {
    let (_folder, path) = place();
    Journal::create(&path, &identity()).unwrap().finish().unwrap();
    assert!(matches!(Journal::resume(&path, &identity()), Err(JournalError::Missing { .. })));
}

#[test]
fn resuming_without_a_journal_makes_none() {
    let (_folder, path) = place();
    assert!(matches!(Journal::resume(&path, &identity()), Err(JournalError::Missing { .. })));
    assert!(!path.exists());
}

#[test]
fn resume_or_create_begins_and_then_goes_on() {
    let (_folder, path) = place();
    let mut first = Journal::resume_or_create(&path, &identity()).unwrap();
    assert!(first.safe.is_empty());
    first.journal.append([Area::new(0, 512)], None).unwrap();
    drop(first);
    assert_eq!(Journal::resume_or_create(&path, &identity()).unwrap().safe, set(&[(0, 512)]));
}

#[test]
fn creating_again_for_the_same_copy_starts_over() {
    let (_folder, path) = place();
    begun(&path);
    drop(Journal::create(&path, &identity()).unwrap());
    assert!(Journal::resume(&path, &identity()).unwrap().safe.is_empty());
}

#[test]
fn creating_for_another_copy_leaves_the_journal_alone() {
    let (_folder, path) = place();
    let before = begun(&path);
    let other = Identity { plan: "0000".to_owned(), ..identity() };
    assert!(matches!(Journal::create(&path, &other), Err(JournalError::OtherCopy { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_of_another_kind_is_left_alone() {
    let (_folder, path) = place();
    for content in ["a letter to nobody", "{\"json\": 1}\n", "\n", "{\"blockferry\n"] {
        fs::write(&path, content).unwrap();
        for result in [
            Journal::create(&path, &identity()).map(|_| ()),
            Journal::resume(&path, &identity()).map(|_| ()),
            Journal::resume_or_create(&path, &identity()).map(|_| ()),
        ] {
            assert!(matches!(result, Err(JournalError::NotAJournal { .. })), "{content}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn a_device_is_no_journal() {
    let error = Journal::create(Path::new("/dev/null"), &identity()).unwrap_err();
    assert!(matches!(error, JournalError::NotAJournal { .. }), "{error}");
}

#[test]
fn every_field_that_differs_is_named_with_both_values() {
    let (_folder, path) = place();
    begun(&path);
    let side = |name: &str, size| Side { name: name.to_owned(), size };
    for (other, parts) in [
        (
            Identity { source: side("nbd://else/", 1 << 30), ..identity() },
            ["source is", "nbd://node/disk", "nbd://else/"],
        ),
        (
            Identity { source: side("nbd://node/disk", 5), ..identity() },
            ["source's size", "1073741824", "5 here"],
        ),
        (
            Identity { target: side("nbd://else/", 1 << 30), ..identity() },
            ["target is", "nbd://hub:10100/", "nbd://else/"],
        ),
        (
            Identity { target: side("nbd://hub:10100/", 5), ..identity() },
            ["target's size", "1073741824", "5 here"],
        ),
        (Identity { plan: "77".to_owned(), ..identity() }, ["plan", "5f3c there", "77 here"]),
        (
            Identity { base: Some("monday".to_owned()), ..identity() },
            ["base", "none there", "monday here"],
        ),
    ] {
        let line = refusal(&path, &other);
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert!(!line.contains("there, "), "one difference only: {line}");
    }
}

#[test]
fn another_version_is_named() {
    let (_folder, path) = place();
    fs::write(&path, "{\"blockferry_journal\":7,\"new\":true}\n").unwrap();
    assert!(refusal(&path, &identity()).contains("version 7"));
}

#[test]
fn a_header_that_is_damaged_is_told_from_a_foreign_file() {
    let (_folder, path) = place();
    let text = String::from_utf8(begun(&path)).unwrap();
    for damaged in [text.replacen("\"size\"", "\"size", 1), text.replacen("plan", "plam", 1)] {
        fs::write(&path, damaged).unwrap();
        assert!(refusal(&path, &identity()).starts_with("line 1 of the journal"));
    }
}

#[test]
fn a_last_line_without_its_end_is_cut_off() {
    let (_folder, path) = place();
    let good = begun(&path);
    append_to_file(&path, b"{\"safe\":[[8192,4096]],\"witness\":null}");
    let resumed = Journal::resume(&path, &identity()).unwrap();
    assert_eq!(resumed.safe, set(&[(0, 4096)]));
    assert_eq!(fs::read(&path).unwrap(), good);
}

#[test]
fn a_last_line_that_is_no_json_is_cut_off() {
    let (_folder, path) = place();
    let good = begun(&path);
    for torn in [b"{\"safe\":[[8\n".as_slice(), &[0; 5000], b"\0\0\0\n", b"\n"] {
        append_to_file(&path, torn);
        assert_eq!(Journal::resume(&path, &identity()).unwrap().safe, set(&[(0, 4096)]));
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}

#[test]
fn a_damaged_line_in_the_middle_is_an_error_and_nothing_is_cut() {
    let (_folder, path) = place();
    begun(&path);
    append_to_file(&path, b"{\"safe\":[[8192,40\n{\"safe\":[],\"witness\":null}\n");
    let before = fs::read(&path).unwrap();
    assert!(refusal(&path, &identity()).starts_with("line 3 of the journal"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn an_area_or_witness_behind_the_end_of_the_disk_is_damage() {
    let (_folder, path) = place();
    let digest = "0".repeat(64);
    let witness = format!(
        "{{\"safe\":[],\"witness\":{{\"offset\":1,\"length\":5000,\"digest\":\"{digest}\"}}}}\n"
    );
    for line in ["{\"safe\":[[1073741823,2]],\"witness\":null}\n", &witness] {
        let _ = fs::remove_file(&path);
        begun(&path);
        append_to_file(&path, line.as_bytes());
        append_to_file(&path, b"{\"safe\":[],\"witness\":null}\n");
        assert!(refusal(&path, &identity()).starts_with("line 3 of the journal"));
    }
}

#[test]
fn a_journal_whose_first_line_was_torn_is_not_there() {
    let (_folder, path) = place();
    let header_length = begun(&path).iter().position(|byte| *byte == b'\n').unwrap();
    for length in [0, 1, 10, 30, header_length] {
        let content = begun(&path);
        fs::write(&path, &content[..length]).unwrap();
        assert!(matches!(Journal::resume(&path, &identity()), Err(JournalError::Missing { .. })));
        assert!(Journal::resume_or_create(&path, &identity()).unwrap().safe.is_empty());
    }
}

#[test]
fn the_plan_is_another_for_other_areas_or_options() {
    let plan = Identity::plan_of(&set(&[(0, 512)]), "zeros");
    assert_eq!(plan, Identity::plan_of(&set(&[(0, 512)]), "zeros"));
    assert_eq!(plan.len(), 32);
    assert_ne!(plan, Identity::plan_of(&set(&[(0, 513)]), "zeros"));
    assert_ne!(plan, Identity::plan_of(&set(&[(0, 512)]), "none"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Kills the writer at any byte of its last line, in the middle of any row of appends.
    #[test]
    fn after_any_tear_of_the_last_line_all_lines_before_it_are_safe(
        appends in prop::collection::vec(prop::collection::vec((0_u64..1 << 20, 1_u64..5000), 1..5), 1..6),
        cut in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let (_folder, path) = place();
        let mut journal = Journal::create(&path, &identity()).unwrap();
        let mut before = AreaSet::new();
        let mut length_before = fs::metadata(&path).unwrap().len();
        for (index, areas) in appends.iter().enumerate() {
            length_before = fs::metadata(&path).unwrap().len();
            let areas = areas.iter().map(|&(start, length)| Area::new(start, length));
            journal.append(areas.clone(), None).unwrap();
            if index + 1 < appends.len() {
                areas.for_each(|area| before.insert(area));
            }
        }
        drop(journal);
        let content = fs::read(&path).unwrap();
        let start = usize::try_from(length_before).unwrap();
        // Without its newline at least, the line is torn.
        let keep = start + cut.index(content.len() - start);
        let mut torn = content[..keep].to_vec();
        torn.extend(garbage.iter().filter(|byte| **byte != b'\n'));
        fs::write(&path, &torn).unwrap();

        let mut resumed = Journal::resume(&path, &identity()).unwrap();
        prop_assert_eq!(&resumed.safe, &before);
        prop_assert_eq!(fs::read(&path).unwrap(), &content[..start]);
        resumed.journal.append([Area::new(1 << 25, 1)], None).unwrap();
        drop(resumed);
        before.insert(Area::new(1 << 25, 1));
        prop_assert_eq!(Journal::resume(&path, &identity()).unwrap().safe, before);
    }
}

#[test]
fn a_source_that_was_written_between_two_runs_was_not_noticed() {
    let (_folder, path) = place();
    let of = |inode, written_ns| Identity {
        source_file: Some(FileState { inode, written_ns }),
        ..identity()
    };
    drop(Journal::create(&path, &of(7, -1)).unwrap());
    drop(Journal::resume(&path, &of(7, -1)).unwrap());
    for (now, says) in [
        (of(7, 0), "the source was written to since"),
        (of(8, -1), "the source is another file of that name now"),
        (identity(), "the source is no file any more"),
    ] {
        let refusal = refusal(&path, &now);
        assert!(refusal.contains(says), "{refusal}");
    }
}

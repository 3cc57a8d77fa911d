use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::super::record::UNANSWERED_MS;
use super::*;
use crate::catalog::JobId;

fn record(vm: &str) -> SnapshotRecord {
    SnapshotRecord {
        server: "vc.example".into(),
        server_uuid: Some("5a0a".into()),
        vm: vm.into(),
        vm_uuid: Some(format!("5000-{vm}")),
        kind: WorkKind::Backup,
        vm_path: "DC/vm/db1".into(),
        job: JobId::new().to_string(),
        since_ms: UnixMillis::now().get(),
        made_at: None,
        asked_ms: None,
    }
}

/// As it was noted, but for where.
fn anywhere(record: &SnapshotRecord) -> SnapshotRecord {
    SnapshotRecord { made_at: None, ..record.clone() }
}

#[test]
fn what_is_noted_is_alive_until_its_owner_is_gone_and_dead_until_it_is_struck_out() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(&folder.path().join("snapshots")).unwrap();
    let noted = record("vm-1");
    let entry = ledger.note(noted.clone()).unwrap();
    let page = ledger.page().unwrap();
    assert_eq!((anywhere(&page.alive[0]), page.dead.len()), (noted.clone(), 0));
    drop(entry);
    let mut page = ledger.page().unwrap();
    assert_eq!((page.alive.len(), page.dead.len()), (0, 1));
    let dead = page.dead.remove(0);
    assert_eq!(anywhere(dead.record()), noted);
    // It is this one's now.
    let page = ledger.page().unwrap();
    assert_eq!((page.alive.len(), page.dead.len()), (0, 0));
    assert_eq!(anywhere(&page.swept[0]), noted);
    dead.strike().unwrap();
    let page = ledger.page().unwrap();
    assert_eq!((page.alive.len(), page.dead.len()), (0, 0));
}

#[test]
fn a_vm_has_one_snapshot_of_ours_at_a_time() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(&folder.path().join("snapshots")).unwrap();
    let first = ledger.note(record("vm-1")).unwrap();
    let other = ledger.note(record("vm-2")).unwrap();
    let refused = ledger.note(record("vm-1")).unwrap_err();
    assert!(matches!(&refused, LedgerError::Taken { job, .. } if *job == first.record().job));
    first.strike().unwrap();
    ledger.note(record("vm-1")).unwrap();
    // Registered anew it is still the same one; without the UUID nobody can tell.
    let anew = SnapshotRecord { vm: "vm-9".into(), ..record("vm-2") };
    assert!(matches!(ledger.note(anew.clone()).unwrap_err(), LedgerError::Taken { .. }));
    ledger.note(SnapshotRecord { vm_uuid: None, ..anew }).unwrap().strike().unwrap();
    // So it is at its server by another name, and not at another server.
    let renamed = SnapshotRecord { server: "10.0.0.7".into(), ..record("vm-2") };
    assert!(matches!(ledger.note(renamed.clone()).unwrap_err(), LedgerError::Taken { .. }));
    for server_uuid in [None, Some("0000".into())] {
        let elsewhere = SnapshotRecord { server_uuid, ..renamed.clone() };
        ledger.note(elsewhere).unwrap().strike().unwrap();
    }
    drop(other);
    // A dead one is no reason to refuse: a sweep removes it.
    ledger.note(record("vm-2")).unwrap();
}

#[test]
fn a_snapshot_that_is_asked_for_may_come_for_an_hour_unless_somebody_answers() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let mut entry = ledger.note(record("vm-1")).unwrap();
    let alive = || ledger.page().unwrap().alive.pop().unwrap();
    assert!(!alive().may_come());
    entry.asks().unwrap();
    // Written anew, it is still this process's.
    let asked = alive();
    assert!(asked.may_come());
    let long_ago = asked.asked_ms.map(|asked| asked - UNANSWERED_MS);
    assert!(!SnapshotRecord { asked_ms: long_ago, ..asked }.may_come());
    entry.is_answered().unwrap();
    assert!(!alive().may_come());
    entry.strike().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_record_of_an_older_program_is_read_and_acted_on_when_somebody_vouches_for_it() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let old = r#"{"server":"vc","vm":"vm-1","vm_path":"DC/web","job":"j","since_ms":1}"#;
    fs::write(folder.path().join("j.json"), old).unwrap();
    let page = ledger.page().unwrap();
    assert_eq!((page.dead.len(), page.copied.len()), (0, 1));
    drop(page);
    assert_eq!(ledger.adopt().unwrap(), 1);
    let page = ledger.page().unwrap();
    assert_eq!(page.dead[0].record().vm_path, "DC/web");
    assert!(!page.dead[0].record().may_come());
}

#[test]
fn what_a_copy_of_the_folder_has_brought_is_nobodys_until_somebody_vouches_for_it() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(&folder.path().join("snapshots")).unwrap();
    let entry = ledger.note(record("vm-1")).unwrap();
    let name = format!("{}.json", entry.record().job);
    let copy = Ledger::open(&folder.path().join("copy")).unwrap();
    fs::copy(ledger.folder.join(&name), copy.folder.join(&name)).unwrap();
    let page = copy.page().unwrap();
    assert_eq!((page.alive.len(), page.dead.len(), page.copied.len()), (0, 0, 1));
    drop(page);
    assert!(copy.names().unwrap().is_empty());
    // In place of the original it is a copy, too.
    fs::rename(copy.folder.join(&name), ledger.folder.join(&name)).unwrap();
    drop(entry);
    assert_eq!(ledger.page().unwrap().copied.len(), 1);
    assert_eq!(ledger.adopt().unwrap(), 1);
    let page = ledger.page().unwrap();
    assert_eq!((page.dead.len(), page.copied.len()), (1, 0));
}

#[test]
fn a_folder_that_is_renamed_has_its_records_as_before() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(&folder.path().join("snapshots")).unwrap();
    drop(ledger.note(record("vm-1")).unwrap());
    fs::rename(folder.path().join("snapshots"), folder.path().join("moved")).unwrap();
    let ledger = Ledger::open(&folder.path().join("moved")).unwrap();
    let page = ledger.page().unwrap();
    assert_eq!((page.dead.len(), page.copied.len()), (1, 0));
}

#[test]
fn a_file_knows_its_birth_and_machine_where_the_system_does() {
    let folder = TempDir::new().unwrap();
    let metadata = fs::metadata(folder.path()).unwrap();
    let place = Place::of(&metadata);
    assert_eq!(place.inode, metadata.ino());
    assert_eq!(place.born_ns.is_some(), metadata.created().is_ok());
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    assert_eq!(place.machine.is_some(), !id.trim().is_empty());
    assert!(place.machine.is_none_or(|machine| !id.contains(&machine)));
}

#[test]
fn a_place_of_another_inode_birth_or_machine_is_another() {
    let text = |text: &str| Some(text.to_owned());
    let here = Place { inode: 1, born_ns: text("2"), machine: text("3") };
    let less = [
        Place { born_ns: None, ..here.clone() },
        Place { machine: None, ..here.clone() },
        here.clone(),
    ];
    for same in less {
        assert!(here.is(&same) && same.is(&here), "{same:?}");
    }
    for other in [
        Place { inode: 0, ..here.clone() },
        Place { born_ns: text("0"), ..here.clone() },
        Place { machine: text("0"), ..here.clone() },
    ] {
        assert!(!here.is(&other) && !other.is(&here), "{other:?}");
    }
}

#[test]
fn who_looks_at_one_vm_keeps_no_dead_entry_of_another() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    for vm in ["vm-1", "vm-2"] {
        drop(ledger.note(record(vm)).unwrap());
    }
    let page = ledger.page_of(|record| record.vm == "vm-1").unwrap();
    assert_eq!(page.dead.len(), 1);
    // The job of the other one would have to wait for this one.
    let other = ledger.note(record("vm-2")).unwrap();
    let refused = ledger.note(record("vm-1")).unwrap_err();
    let dead = &page.dead[0].record().job;
    assert!(matches!(&refused, LedgerError::Swept { job, .. } if job == dead), "{refused}");
    drop((page, other));
}

#[test]
fn what_a_kill_left_half_written_goes_with_the_next_look() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let part = folder.path().join(JobId::new().to_string()).with_extension("part");
    fs::write(&part, "{").unwrap();
    let page = ledger.page().unwrap();
    assert_eq!((page.alive.len(), page.dead.len(), page.strange.len()), (0, 0, 0));
    assert!(!part.exists());
}

#[test]
fn what_is_no_record_is_told_and_touched_by_nobody() {
    let folder = TempDir::new().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    fs::write(folder.path().join("x.json"), "{").unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let page = ledger.page().unwrap();
    assert_eq!((page.alive.len(), page.dead.len(), page.strange.len()), (0, 0, 1));
    assert!(folder.path().join("x.json").exists());
    ledger.note(record("vm-1")).unwrap();
}

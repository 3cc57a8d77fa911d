//! What needs to see behind the trait: faults of the file, and versions of it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::*;
use crate::catalog::tests::{
    FILE_VARIABLE, Place, a, file_of_parent, full, new_job, new_point, this_test,
};
use crate::catalog::{Claim, JobFilter, Jobs, LayerId, Leases, PointFilter, Points};

fn storage_error<T: std::fmt::Debug>(result: Result<T, CatalogError>) -> StorageError {
    match result {
        Err(CatalogError::Storage(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_connection_is_durable_checks_its_references_and_keeps_a_log() {
    let place = Place::new();
    let settings = |tables: &Connection| -> Outcome<(i64, i64, String)> {
        let number = |name| tables.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let log = tables.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        Ok((number("foreign_keys")?, number("synchronous")?, log))
    };
    const FULL: i64 = 2;
    let expected = (1, FULL, "wal".to_owned());
    assert_eq!(place.catalog.write(settings).unwrap(), expected);
    assert_eq!(place.catalog.read(settings).unwrap(), expected);
}

#[test]
fn a_file_that_another_process_holds_is_busy_and_works_when_it_is_let_go() {
    let place = Place::new();
    let job = place.job();
    place.catalog.write(|tables| Ok(tables.busy_timeout(Duration::from_millis(20))?)).unwrap();
    let other = Connection::open(place.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = storage_error(place.catalog.lease(job, Claim::port(1)));
    assert!(matches!(error, StorageError::Busy { .. }), "{error}");
    // Reading goes on meanwhile.
    assert_eq!(place.catalog.leases().unwrap(), []);
    other.execute_batch("ROLLBACK").unwrap();
    place.catalog.lease(job, Claim::port(1)).unwrap();
}

#[test]
fn a_full_disk_is_told_and_what_was_committed_stays() {
    let place = Place::new();
    let limit = |pages: i64| {
        place
            .catalog
            .write(move |tables| {
                Ok(tables.pragma_update_and_check(None, "max_page_count", pages, |row| {
                    row.get::<_, i64>(0)
                })?)
            })
            .unwrap()
    };
    limit(60);
    let mut committed = 0;
    let error = loop {
        match place.catalog.add_job(new_job("db1")) {
            Ok(_) => committed += 1,
            Err(error) => break storage_error::<()>(Err(error)),
        }
    };
    assert_eq!(error, StorageError::Full { path: place.file() });
    assert!(committed > 10);
    assert_eq!(place.catalog.jobs(&JobFilter::default()).unwrap().len(), committed);
    limit(1_000_000);
    place.job();
    assert_eq!(place.catalog.jobs(&JobFilter::default()).unwrap().len(), committed + 1);
}

#[test]
fn a_fault_of_one_request_is_not_that_of_the_next() {
    let place = Place::new();
    let fault = place.catalog.write(|tables| Ok(tables.execute_batch("INSERT INTO nowhere")?));
    assert!(matches!(storage_error(fault), StorageError::Other { .. }));
    let job = place.job();
    let fault = place.catalog.write(|tables| {
        tables.execute_batch("DELETE FROM job_steps; DELETE FROM jobs; SELECT x")?;
        Ok(())
    });
    storage_error(fault);
    assert_eq!(place.catalog.job(job).unwrap().id, job);
}

#[test]
fn a_file_that_may_not_be_written_is_told_from_one_that_is_not_there() {
    let place = Place::new();
    let file = place.file();
    let Place { catalog, folder } = place;
    drop(catalog);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let mut command = this_test("sqlite::tests::opens_what_it_may_not_write");
    if rustix::process::geteuid().is_root() {
        // Root may write everywhere.
        command.uid(65_534).gid(65_534);
    }
    assert!(command.env(FILE_VARIABLE, &file).status().unwrap().success());
}

#[test]
#[ignore = "started by the test of files that may not be written"]
fn opens_what_it_may_not_write() {
    let Some(file) = file_of_parent() else { return };
    let error = SqliteCatalog::open(&file).unwrap_err();
    assert!(matches!(error, StorageError::ReadOnly { .. }), "{error}");
}

#[test]
fn a_damaged_page_is_told_as_damage() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    for _ in 0..200 {
        place.grow("db1", disk);
    }
    let file = place.file();
    let Place { catalog, folder: _folder } = place;
    drop(catalog);
    let damaged = OpenOptions::new().write(true).open(&file).unwrap();
    let bytes = damaged.metadata().unwrap().len();
    const PAGE: u64 = 4096;
    // The pages that came last: the tables themselves can still be read.
    for page in (bytes / PAGE / 2 * PAGE..bytes).step_by(4096) {
        damaged.write_all_at(&[0xa5; 64], page).unwrap();
    }
    drop(damaged);
    let catalog = SqliteCatalog::open(&file).unwrap();
    let error = storage_error(catalog.points(&PointFilter::default()).and_then(|points| {
        points.iter().try_for_each(|point| catalog.layers(point.id).map(|_| ()))
    }));
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
}

#[test]
fn a_path_that_leads_out_of_the_repository_is_damage_and_is_not_followed() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let layer = full(disk);
    let point = place.catalog.publish(new_point("db1", [layer])).unwrap();
    for path in ["../../etc/shadow", "/etc/shadow", "disks/../../x"] {
        place
            .catalog
            .write(move |tables| Ok(tables.execute("UPDATE layers SET path = ?1", [path])?))
            .unwrap();
        let error = storage_error(place.catalog.layers(point.id));
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn layers_that_stand_in_a_circle_do_not_hold_anybody_up() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let (_, first) = place.grow("db1", disk);
    let (_, second) = place.grow("db1", disk);
    place
        .catalog
        .write(move |tables| {
            let sql = "UPDATE layers SET kind = 'delta', parent = ?2 WHERE id = ?1";
            Ok(tables.execute(sql, [first.as_str(), second.as_str()])?)
        })
        .unwrap();
    let error = place.catalog.chain(second).unwrap_err();
    assert!(matches!(error, CatalogError::NoSuchLayer(_)), "{error}");
    assert_eq!(place.catalog.points_on(first).unwrap().len(), 2);
}

#[test]
fn the_tables_themselves_keep_a_layer_that_others_stand_on() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let (_, first) = place.grow("db1", disk);
    place.grow("db1", disk);
    let removed = place.catalog.write(move |tables| {
        Ok(tables.execute("DELETE FROM layers WHERE id = ?1", [LayerId::as_str(&first)])?)
    });
    storage_error(removed);
    assert_eq!(place.catalog.chain(first).unwrap().len(), 1);
}

const NEXT: &str = "ALTER TABLE disks ADD COLUMN seen_ms INTEGER; CREATE TABLE later (x) STRICT";
const NEXT_WORKS: &str = "ALTER TABLE disks ADD COLUMN seen_ms INTEGER";

fn with(path: &Path, next: &str) -> Result<Connection, StorageError> {
    let mut migrations = schema::MIGRATIONS.to_vec();
    migrations.push(next);
    open::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, BUSY_DEADLINE, &migrations)
}

fn version(path: &Path) -> i64 {
    let file = Connection::open(path).unwrap();
    file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn an_older_catalog_is_migrated_with_what_is_in_it_and_refused_by_the_older_program() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let file = place.file();
    let before = version(&file);
    let migrated = with(&file, NEXT_WORKS).unwrap();
    let kept: i64 = migrated
        .query_row("SELECT id FROM disks WHERE seen_ms IS NULL", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, disk.get());
    assert_eq!(version(&file), before + 1);
    let error = SqliteCatalog::open(&file).unwrap_err();
    assert!(matches!(error, StorageError::Newer { .. }), "{error}");
}

#[test]
fn layers_of_the_second_version_are_read_and_their_manifests_are_not_known_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(crate::catalog::CATALOG_FILE);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let old = open::connect(&path, flags, BUSY_DEADLINE, &schema::MIGRATIONS[..2]).unwrap();
    let (point, layer) = (crate::catalog::PointId::new(), LayerId::new());
    old.execute_batch(&format!(
        "INSERT INTO disks VALUES (1, 'db1', 'root', NULL);
         INSERT INTO points VALUES (1, '{point}', 'db1', 1, 2, 'auto', '{}');
         INSERT INTO layers VALUES ('{layer}', 1, 1, 'root', 'full', 'first', NULL,
             'points/{point}/{layer}.qcow2', 4096, 4096, NULL, 'blake3',
             'points/{point}/{layer}.manifest', 1, 2, 3, 4)",
        crate::catalog::JobId::new()
    ))
    .unwrap();
    drop(old);
    let catalog = SqliteCatalog::open(&path).unwrap();
    let layers = catalog.layers(point).unwrap();
    let manifest = layers[0].facts.manifest.as_ref().unwrap();
    assert_eq!((layers[0].facts.id, &manifest.id), (layer, &None));
    assert_eq!(manifest.path, crate::catalog::RelativePath::of_manifest(point, layer));
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let place = Place::new();
    let job = place.job();
    let before = version(&place.file());
    // Its first half works; a column without a type is an error in a strict table.
    with(&place.file(), NEXT).unwrap_err();
    assert_eq!(version(&place.file()), before);
    let again = SqliteCatalog::open(&place.file()).unwrap();
    assert_eq!(again.job(job).unwrap().vm, a("db1"));
    let columns: i64 = Connection::open(place.file())
        .unwrap()
        .query_row("SELECT count(*) FROM pragma_table_info('disks')", [], |row| row.get(0))
        .unwrap();
    assert_eq!(columns, 4);
}

#[test]
fn what_a_log_has_belongs_to_a_catalog_that_is_only_read() {
    let place = Place::new();
    place.job();
    let log = open::log_of(&place.file());
    // As a kill leaves it: the last job is in the log alone.
    let last = place.job();
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("what? #1.db");
    fs::copy(place.file(), &path).unwrap();
    fs::copy(log, open::log_of(&path)).unwrap();
    let taken = snapshot::snapshot(&path).unwrap();
    let found: i64 = taken
        .query_row("SELECT count(*) FROM jobs WHERE id = ?1", [last.as_str()], |row| row.get(0))
        .unwrap();
    assert_eq!(found, 1);
    assert!(taken.execute("DELETE FROM jobs", []).is_err());
    assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 2, "an index was made");
    // Without it, the file alone is read.
    fs::remove_file(open::log_of(&path)).unwrap();
    assert!(snapshot::snapshot(&path).is_ok());
    assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 1);
}

#[test]
fn an_older_catalog_that_is_only_read_is_brought_up_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(crate::catalog::CATALOG_FILE);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    drop(open::connect(&path, flags, BUSY_DEADLINE, &schema::MIGRATIONS[..2]).unwrap());
    let taken = snapshot::snapshot(&path).unwrap();
    let of = |name| {
        taken
            .query_row(
                "SELECT count(*) FROM pragma_table_info('layers')
        WHERE name = ?1",
                [name],
                |row| row.get::<_, i64>(0),
            )
            .unwrap()
    };
    assert_eq!((of("manifest_id"), of("damage")), (1, 1));
    assert_eq!(version(&path), 2);
}

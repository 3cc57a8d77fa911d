use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use super::*;

#[test]
fn a_catalog_is_made_once_and_found_again() {
    let place = Place::new();
    let job = place.job();
    let Place { catalog, folder } = place;
    drop(catalog);
    let file = folder.path().join(CATALOG_FILE);
    for again in [SqliteCatalog::open(&file), SqliteCatalog::open_or_create(&file)] {
        assert_eq!(again.unwrap().job(job).unwrap().id, job);
    }
}

#[test]
fn opening_makes_no_catalog_where_none_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(CATALOG_FILE);
    let error = SqliteCatalog::open(&file).unwrap_err();
    assert_eq!(error, StorageError::Missing { path: file.clone() });
    assert!(!file.exists());
}

#[test]
fn what_a_maker_left_that_was_killed_at_the_start_is_no_catalog_and_becomes_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(CATALOG_FILE);
    fs::write(&file, b"").unwrap();
    assert!(matches!(SqliteCatalog::open(&file), Err(StorageError::Missing { .. })));
    SqliteCatalog::open_or_create(&file).unwrap().add_job(new_job("db1")).unwrap();
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no/such").join(CATALOG_FILE);
    let error = SqliteCatalog::open_or_create(&file).unwrap_err();
    assert!(matches!(&error, StorageError::Denied { path, .. } if *path == file), "{error}");
}

#[test]
fn only_its_user_can_read_a_new_catalog_and_what_is_beside_it() {
    let place = Place::new();
    place.job();
    let mut seen = 0;
    for entry in fs::read_dir(place.folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
        seen += 1;
    }
    assert_eq!(seen, 3, "the file, its log, and the index of the log");
}

#[test]
fn what_is_no_catalog_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    fs::write(&text, "not a database at all, but long enough to be looked at. ".repeat(100))
        .unwrap();
    let short = folder.path().join("short.db");
    fs::write(&short, "x").unwrap();
    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .and_then(|other| other.execute_batch("CREATE TABLE songs (title TEXT)"))
        .unwrap();
    for file in [text, short, foreign] {
        let before = fs::read(&file).unwrap();
        for error in [SqliteCatalog::open(&file), SqliteCatalog::open_or_create(&file)] {
            let error = error.unwrap_err();
            assert!(matches!(error, StorageError::NotACatalog { .. }), "{error}");
        }
        assert_eq!(fs::read(&file).unwrap(), before);
    }
    let error = SqliteCatalog::open_or_create(folder.path()).unwrap_err();
    assert!(matches!(error, StorageError::NotACatalog { .. }), "{error}");
}

#[test]
fn a_catalog_of_a_newer_program_is_refused_in_a_line_that_says_what_to_do() {
    let place = Place::new();
    rusqlite::Connection::open(place.file())
        .and_then(|file| file.pragma_update(None, "user_version", 9))
        .unwrap();
    let error = SqliteCatalog::open(&place.file()).unwrap_err();
    assert!(matches!(error, StorageError::Newer { found: 9, .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("use the newer blockferry") && said.lines().count() == 1, "{said}");
}

#[test]
fn many_may_make_the_same_catalog_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(CATALOG_FILE);
    let jobs: Vec<JobId> = thread::scope(|scope| {
        let makers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let catalog = SqliteCatalog::open_or_create(&file).unwrap();
                    catalog.add_job(new_job("db1")).unwrap().into_job().id
                })
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    let catalog = SqliteCatalog::open(&file).unwrap();
    for job in jobs {
        catalog.job(job).unwrap();
    }
}

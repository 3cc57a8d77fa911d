use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

#[test]
fn a_copy_is_a_catalog_of_one_file_with_all_that_was_committed() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let (point, layer) = place.grow("db1", disk);
    let job = place.job();
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("copy.db");
    place.catalog.copy_to(&path).unwrap();
    let names: Vec<_> =
        fs::read_dir(target.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["copy.db"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let copy = SqliteCatalog::open(&path).unwrap();
    assert_eq!(copy.point(point).unwrap(), place.catalog.point(point).unwrap());
    assert_eq!(copy.chain(layer).unwrap(), place.catalog.chain(layer).unwrap());
    assert_eq!(copy.job(job).unwrap(), place.catalog.job(job).unwrap());
}

#[test]
fn a_copy_goes_its_own_way() {
    let place = Place::new();
    let path = place.folder.path().join("copy.db");
    place.catalog.copy_to(&path).unwrap();
    let copy = SqliteCatalog::open(&path).unwrap();
    let job = copy.add_job(new_job("db1")).unwrap().into_job().id;
    assert!(matches!(place.catalog.job(job), Err(CatalogError::NoSuchJob(_))));
}

#[test]
fn a_copy_does_not_replace_anything() {
    let place = Place::new();
    let path = place.folder.path().join("kept");
    fs::write(&path, "kept").unwrap();
    let error = place.catalog.copy_to(&path).unwrap_err();
    assert!(matches!(error, CatalogError::Storage(StorageError::Exists { .. })), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"kept");
    let error = place.catalog.copy_to(&place.file()).unwrap_err();
    assert!(matches!(error, CatalogError::Storage(StorageError::Exists { .. })), "{error}");
}

#[test]
fn a_copy_into_a_folder_that_is_not_there_says_so() {
    let place = Place::new();
    let path = place.folder.path().join("no/such/copy.db");
    let error = place.catalog.copy_to(&path).unwrap_err();
    assert!(
        matches!(&error, CatalogError::Storage(StorageError::Denied { path: p, .. }) if *p == path),
        "{error}"
    );
}

#[test]
fn a_copy_in_the_midst_of_writes_is_of_one_instant() {
    let place = Place::new();
    let (root, data) = (place.disk("db1", "root"), place.disk("db1", "data"));
    let over = AtomicBool::new(false);
    let publish_both = || {
        let layers = [root, data].map(|disk| match place.catalog.newest_layer(disk).unwrap() {
            Some(newest) => delta(disk, newest.facts.id),
            None => full(disk),
        });
        place.catalog.publish(new_point("db1", layers)).unwrap();
    };
    publish_both();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                publish_both();
            }
        });
        for round in 0..20 {
            let path = place.folder.path().join(format!("copy-{round}.db"));
            let before = place.catalog.points(&PointFilter::default()).unwrap().len();
            place.catalog.copy_to(&path).unwrap();
            let after = place.catalog.points(&PointFilter::default()).unwrap().len();
            let copy = SqliteCatalog::open(&path).unwrap();
            let points = copy.points(&PointFilter::default()).unwrap();
            assert!((before..=after).contains(&points.len()));
            for point in &points {
                assert_eq!(copy.layers(point.id).unwrap().len(), 2);
            }
            let newest = copy.newest_layer(root).unwrap().unwrap();
            assert_eq!(copy.chain(newest.facts.id).unwrap().len(), points.len());
        }
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

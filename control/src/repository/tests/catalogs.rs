use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

#[test]
fn newer_points_stay_on_disk_when_an_older_catalog_is_put_back() {
    let place = Place::new();
    let old = place.point().id;
    let copy = place.folder.path().join("copy.db");
    place.repository.catalog().copy_to(&copy).unwrap();
    let newer = [place.point().id, place.point().id];
    let (root, folders) = (place.root(), newer.map(|point| place.folder_of(point)));
    let before = folders.clone().map(|folder| names_in(&folder));

    let Place { repository, folder: _folder } = place;
    drop(repository);
    for end in ["-wal", "-shm"] {
        // SQLite takes them away with the last connection.
        let _ = fs::remove_file(root.join(format!("{CATALOG_FILE}{end}")));
    }
    fs::rename(copy, root.join(CATALOG_FILE)).unwrap();

    let repository = Repository::open(&root).unwrap();
    repository.clean_up().unwrap();
    assert_eq!(ids(&repository), [old]);
    assert_eq!(folders.clone().map(|folder| names_in(&folder)), before);
    // The next point stands on what the catalog knows, and touches nothing of the others.
    let (job, work) = begin(&repository);
    let next = publish(&repository, &job, work, UnixMillis::now()).id;
    assert_eq!(repository.hold(next).unwrap().layers[0].chain[1].point, old);
    assert_eq!(folders.map(|folder| names_in(&folder)), before);
}

#[test]
fn a_clock_that_was_set_back_changes_no_order_and_no_chain() {
    let place = Place::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut published = Vec::new();
    for days_ago in 0..4 {
        let at = now - Duration::from_secs(days_ago * 24 * 60 * 60);
        let created = UnixMillis::new(u64::try_from(at.as_millis()).unwrap()).unwrap();
        let (job, work) = begin(&place.repository);
        published.push(publish(&place.repository, &job, work, created).id);
    }
    assert_eq!(ids(&place.repository), published);
    let held = place.repository.hold(published[3]).unwrap();
    let chain: Vec<_> = held.layers[0].chain.iter().map(|layer| layer.point).collect();
    published.reverse();
    assert_eq!(chain, published);
}

#[test]
fn points_whose_catalog_is_gone_are_not_taken_for_an_empty_repository() {
    for empty in [false, true] {
        let place = Place::new();
        let point = place.point();
        let root = place.root();
        let Place { repository, folder } = place;
        drop(repository);
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _may_be_gone = fs::remove_file(root.join(name));
        }
        if empty {
            fs::write(root.join("catalog.db"), "").unwrap();
        }
        let error = Repository::open_or_create(&root).unwrap_err();
        assert!(error.to_string().contains("no catalog.db that knows them"), "{error}");
        let error = Repository::open(&root).unwrap_err();
        assert!(error.to_string().contains("no catalog.db that knows them"), "{error}");
        assert!(RelativePath::of_point(point.id).under(&root).is_dir());
        drop(folder);
    }
}

#[test]
fn a_repository_whose_points_are_elsewhere_is_refused_before_anything_is_copied() {
    let place = Place::new();
    let root = place.root();
    drop(place.repository);
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::remove_dir(root.join("points")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), root.join("points")).unwrap();
    let error = Repository::open_or_create(&root).unwrap_err();
    assert!(error.to_string().contains("different file systems"), "{error}");
}

use super::*;

#[test]
fn a_point_goes_with_its_files() {
    let place = Place::new();
    let (first, second) = (place.point().id, place.point().id);
    place.repository.delete(second).unwrap();
    assert_eq!(ids(&place.repository), [first]);
    assert!(!place.folder_of(second).exists());
    assert_whole(&place.repository, first);
}

#[test]
fn a_point_that_is_read_is_not_deleted_until_it_is_let_go() {
    let place = Place::new();
    let point = place.point().id;
    // As another process would.
    let reader = Repository::open(&place.root()).unwrap();
    let held = (reader.hold(point).unwrap(), reader.hold(point).unwrap());
    for held in [held.0, held.1] {
        let error = place.repository.delete(point).unwrap_err();
        assert!(matches!(error, RepositoryError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(point.as_str()), "{error}");
        assert_whole(&place.repository, point);
        drop(held);
    }
    place.repository.delete(point).unwrap();
    assert_eq!(ids(&place.repository), []);
}

#[test]
fn a_point_that_others_stand_on_is_not_deleted() {
    let place = Place::new();
    let (first, second) = (place.point().id, place.point().id);
    let error = place.repository.delete(first).unwrap_err();
    assert!(error.to_string().contains(second.as_str()), "{error}");
    assert_whole(&place.repository, second);
}

#[test]
fn what_a_delete_that_was_killed_has_left_goes_with_the_next_start() {
    let place = Place::new();
    let (first, second) = (place.point().id, place.point().id);
    // The catalog's transaction comes first.
    place.repository.catalog().delete_point(second).unwrap();
    assert!(place.folder_of(second).exists());
    drop(begin(&place.repository));
    assert!(!place.folder_of(second).exists());
    assert_eq!(place.repository.catalog().leftovers().unwrap(), []);
    assert_whole(&place.repository, first);
}

#[test]
fn a_layer_that_is_missing_is_named_with_all_points_that_it_takes_along() {
    let place = Place::new();
    let points = [place.point().id, place.point().id, place.point().id];
    let lost = place.repository.hold(points[1]).unwrap().layers[0].image.clone();
    fs::remove_file(&lost).unwrap();
    for point in &points[1..] {
        match place.repository.hold(*point).unwrap_err() {
            RepositoryError::LayerMissing { point, path, touched, .. } => {
                assert_eq!(point, points[1]);
                assert_eq!(path.under(&place.root()), lost);
                assert_eq!(touched, points[1..]);
            }
            other => panic!("{other}"),
        }
    }
    assert_whole(&place.repository, points[0]);
}

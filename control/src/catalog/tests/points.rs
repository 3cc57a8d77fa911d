use super::*;

#[test]
fn a_disk_is_known_by_its_uuid_whatever_it_is_called() {
    let place = Place::new();
    let ask =
        |name: &str, uuid: &str| place.catalog.disk(&a("db1"), &a(name), Some(&a(uuid))).unwrap();
    let (root, data) = (ask("root", "6000C29a"), ask("data", "6000C29b"));
    assert_ne!(root.id, data.id);
    // Their order, and so their names, were swapped.
    assert_eq!((ask("data", "6000C29a").id, ask("root", "6000C29b").id), (root.id, data.id));
    let names: Vec<_> =
        place.catalog.disks(&a("db1")).unwrap().into_iter().map(|disk| disk.name).collect();
    assert_eq!(names, [a("data"), a("root")]);
}

#[test]
fn a_new_disk_of_an_old_name_is_another_disk() {
    let place = Place::new();
    let old = place.catalog.disk(&a("db1"), &a("root"), Some(&a("old"))).unwrap();
    place.grow("db1", old.id);
    let new = place.catalog.disk(&a("db1"), &a("root"), Some(&a("new"))).unwrap();
    assert_ne!(old.id, new.id);
    assert_eq!(place.catalog.newest_layer(new.id).unwrap(), None);
}

#[test]
fn a_disk_without_a_uuid_is_known_by_its_name_and_is_not_one_with_a_uuid() {
    let place = Place::new();
    let unnamed = place.disk("db1", "root");
    assert_eq!(place.disk("db1", "root"), unnamed);
    let named = place.catalog.disk(&a("db1"), &a("root"), Some(&a("6000C29a"))).unwrap();
    assert_ne!(named.id, unnamed);
}

#[test]
fn disks_of_two_vms_are_different_also_with_equal_names_and_uuids() {
    let place = Place::new();
    assert_ne!(place.disk("db1", "root"), place.disk("db2", "root"));
    let of = |vm: &str| place.catalog.disk(&a(vm), &a("x"), Some(&a("6000C29a"))).unwrap().id;
    assert_ne!(of("db1"), of("db2"));
}

#[test]
fn a_layer_keeps_the_name_that_its_disk_had() {
    let place = Place::new();
    let disk = place.catalog.disk(&a("db1"), &a("old"), Some(&a("6000C29a"))).unwrap().id;
    let (point, _) = place.grow("db1", disk);
    place.catalog.disk(&a("db1"), &a("new"), Some(&a("6000C29a"))).unwrap();
    let (later, _) = place.grow("db1", disk);
    assert_eq!(place.catalog.layers(point).unwrap()[0].disk_name, a("old"));
    assert_eq!(place.catalog.layers(later).unwrap()[0].disk_name, a("new"));
}

#[test]
fn points_are_listed_as_they_were_published_by_vm_and_the_newest_only() {
    let place = Place::new();
    let (of_1, of_2) = (place.disk("db1", "root"), place.disk("db2", "root"));
    let first = place.grow("db1", of_1).0;
    let second = place.grow("db2", of_2).0;
    let third = place.grow("db1", of_1).0;
    let list = |filter: PointFilter| -> Vec<PointId> {
        place.catalog.points(&filter).unwrap().iter().map(|point| point.id).collect()
    };
    assert_eq!(list(PointFilter::default()), [first, second, third]);
    let of = |vm, newest, before| list(PointFilter { vm: Some(a(vm)), newest, before });
    assert_eq!(of("db1", None, None), [first, third]);
    assert_eq!(of("db1", Some(1), None), [third]);
    assert_eq!(of("db1", Some(1), Some(third)), [first]);
    assert_eq!(of("db1", None, Some(first)), []);
    assert_eq!(of("db3", None, None), []);
}

#[test]
fn a_clock_that_is_set_back_changes_neither_the_order_nor_the_newest_layer() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let (_, old) = place.grow("db1", disk);
    let layer = delta(disk, old);
    let newest = layer.id;
    let created = UnixMillis::new(1).unwrap();
    // An id of 1970 too.
    let id = "0000000001000000aa".parse().unwrap();
    let point = NewPoint { created, id, ..new_point("db1", [layer]) };
    place.catalog.publish(point).unwrap();
    assert_eq!(place.catalog.newest_layer(disk).unwrap().unwrap().facts.id, newest);
    assert_eq!(place.catalog.points(&PointFilter::default()).unwrap()[1].id, id);
}

#[test]
fn a_point_that_others_stand_on_is_not_deleted_and_they_are_named() {
    let place = Place::new();
    let (root, data) = (place.disk("db1", "root"), place.disk("db1", "data"));
    let (on_root, on_data) = (full(root), full(data));
    let (root_base, data_base) = (on_root.id, on_data.id);
    let base = place.catalog.publish(new_point("db1", [on_root, on_data])).unwrap().id;
    let first = place.catalog.publish(new_point("db1", [delta(root, root_base)])).unwrap().id;
    let second = place.catalog.publish(new_point("db1", [delta(data, data_base)])).unwrap().id;
    place.grow("db1", root);
    let error = place.catalog.delete_point(base).unwrap_err();
    match &error {
        CatalogError::StoodOn { point, by } => {
            assert_eq!((*point, by), (base, &vec![first, second]))
        }
        other => panic!("{other}"),
    }
    let said = error.to_string();
    assert!(said.contains(first.as_str()) && said.contains(second.as_str()), "{said}");
    assert_eq!(place.catalog.layers(base).unwrap().len(), 2);
    assert_eq!(place.catalog.leftovers().unwrap(), []);
}

#[test]
fn after_the_newest_point_is_deleted_the_one_before_is_the_newest() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let (_, old) = place.grow("db1", disk);
    let (newest, gone) = place.grow("db1", disk);
    place.catalog.delete_point(newest).unwrap();
    assert_eq!(place.catalog.newest_layer(disk).unwrap().unwrap().facts.id, old);
    let error = place.catalog.publish(new_point("db1", [delta(disk, gone)])).unwrap_err();
    assert!(matches!(error, CatalogError::Unpublishable { .. }), "{error}");
    let error = place.catalog.point(newest).unwrap_err();
    assert!(matches!(error, CatalogError::NoSuchPoint(id) if id == newest), "{error}");
    let error = place.catalog.chain(gone).unwrap_err();
    assert!(matches!(error, CatalogError::NoSuchLayer(id) if id == gone), "{error}");
}

#[test]
fn the_files_of_a_deleted_point_are_left_over_until_they_are_said_to_be_gone() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let layer = full(disk);
    let paths = vec![layer.path.clone(), layer.manifest.clone().unwrap().path];
    let point = place.catalog.publish(new_point("db1", [layer])).unwrap();
    assert_eq!(place.catalog.delete_point(point.id).unwrap(), paths);
    assert_eq!(place.catalog.leftovers().unwrap(), paths);
    for _ in 0..2 {
        place.catalog.forget_leftover(&paths[0]).unwrap();
        assert_eq!(place.catalog.leftovers().unwrap(), paths[1..]);
    }
}

#[test]
fn a_damaged_layer_touches_its_point_and_all_above_and_no_other() {
    let place = Place::new();
    let (root, data) = (place.disk("db1", "root"), place.disk("db1", "data"));
    let made: Vec<_> = (0..4).map(|_| place.grow("db1", root)).collect();
    place.grow("db1", data);
    place.catalog.publish(new_point("db1", [full(root)])).unwrap();
    let touched = place.catalog.points_on(made[1].1).unwrap();
    assert_eq!(touched, made[1..].iter().map(|(point, _)| *point).collect::<Vec<_>>());
}

#[test]
fn what_is_not_there_is_an_error_that_names_it() {
    let place = Place::new();
    let (point, layer) = (PointId::new(), LayerId::new());
    for error in [
        place.catalog.point(point).unwrap_err(),
        place.catalog.layers(point).unwrap_err(),
        place.catalog.delete_point(point).unwrap_err(),
    ] {
        assert!(matches!(error, CatalogError::NoSuchPoint(id) if id == point), "{error}");
    }
    for error in
        [place.catalog.chain(layer).unwrap_err(), place.catalog.points_on(layer).unwrap_err()]
    {
        assert!(matches!(error, CatalogError::NoSuchLayer(id) if id == layer), "{error}");
    }
    let error = place.catalog.newest_layer(DiskId::from_number(9).unwrap()).unwrap_err();
    assert!(matches!(error, CatalogError::NoSuchDisk(_)), "{error}");
}

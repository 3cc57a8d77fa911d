use super::*;

/// The rule that a point breaks; nothing of it may be there.
fn refused(place: &Place, point: NewPoint) -> PublishRule {
    let before = place.catalog.points(&PointFilter::default()).unwrap();
    let newest: Vec<_> =
        point.layers.iter().map(|layer| place.catalog.newest_layer(layer.disk).unwrap()).collect();
    let (id, layers) = (point.id, point.layers.clone());
    let rule = match place.catalog.publish(point).unwrap_err() {
        CatalogError::Unpublishable { point, rule } if point == id => rule,
        other => panic!("{other}"),
    };
    assert_eq!(place.catalog.points(&PointFilter::default()).unwrap(), before);
    for (layer, newest) in layers.iter().zip(newest) {
        assert_eq!(place.catalog.newest_layer(layer.disk).unwrap(), newest);
    }
    rule
}

#[test]
fn a_point_is_published_with_all_its_layers_as_they_were_given() {
    let place = Place::new();
    let (root, data) = (place.disk("db1", "root"), place.disk("db1", "data"));
    let bare = LayerFacts { change: None, manifest: None, ..full(data) };
    let new = new_point("db1", [full(root), bare]);
    let point = place.catalog.publish(new.clone()).unwrap();
    assert_eq!((point.id, &point.vm, point.job), (new.id, &new.vm, new.job));
    assert_eq!((point.created, point.mode), (new.created, new.mode));
    assert!(point.published >= new.created && point.published <= UnixMillis::now());
    assert_eq!(place.catalog.point(point.id).unwrap(), point);
    let layers = place.catalog.layers(point.id).unwrap();
    let names: Vec<&str> = layers.iter().map(|layer| layer.disk_name.as_str()).collect();
    assert_eq!(names, ["data", "root"]);
    assert_eq!(layers[0].facts, new.layers[1]);
    assert_eq!(layers[1].facts, new.layers[0]);
    assert!(layers.iter().all(|layer| layer.point == point.id));
}

#[test]
fn each_delta_stands_on_the_one_before_and_not_on_the_full() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let made: Vec<LayerId> = (0..30).map(|_| place.grow("db1", disk).1).collect();
    let chain = place.catalog.chain(made[29]).unwrap();
    let ids: Vec<LayerId> = chain.iter().map(|layer| layer.facts.id).collect();
    assert_eq!(ids, made.iter().rev().copied().collect::<Vec<_>>());
    let kinds: Vec<_> = chain.iter().map(|layer| layer.facts.kind).collect();
    assert_eq!(kinds[29], LayerKind::Full);
    assert!(kinds[..29].iter().all(|&kind| kind == LayerKind::Delta));
}

#[test]
fn a_delta_onto_an_older_layer_is_refused_with_the_newest_one() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let (old, newest) = (place.grow("db1", disk).1, place.grow("db1", disk).1);
    let layer = delta(disk, old);
    let id = layer.id;
    assert_eq!(
        refused(&place, new_point("db1", [layer])),
        PublishRule::NotOnNewest { layer: id, disk, parent: old, newest: Some(newest) }
    );
}

#[test]
fn a_delta_onto_a_layer_of_another_disk_is_refused() {
    let place = Place::new();
    let (root, data) = (place.disk("db1", "root"), place.disk("db1", "data"));
    let of_root = place.grow("db1", root).1;
    let rule = refused(&place, new_point("db1", [delta(data, of_root)]));
    assert!(matches!(rule, PublishRule::NotOnNewest { newest: None, .. }), "{rule}");
}

#[test]
fn a_delta_onto_a_layer_of_the_same_point_is_refused() {
    let place = Place::new();
    let (root, data) = (place.disk("db1", "root"), place.disk("db1", "data"));
    let base = full(root);
    let above = delta(data, base.id);
    let rule = refused(&place, new_point("db1", [base, above]));
    assert!(matches!(rule, PublishRule::NotOnNewest { .. }), "{rule}");
}

#[test]
fn a_delta_without_a_parent_is_refused() {
    let place = Place::new();
    let layer = LayerFacts { kind: LayerKind::Delta, ..full(place.disk("db1", "root")) };
    let id = layer.id;
    assert_eq!(refused(&place, new_point("db1", [layer])), PublishRule::DeltaWithoutParent(id));
}

#[test]
fn a_full_with_a_parent_is_refused_also_onto_the_newest() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let parent = place.grow("db1", disk).1;
    let layer = LayerFacts { kind: LayerKind::Full, ..delta(disk, parent) };
    let rule = PublishRule::FullWithParent { layer: layer.id, parent };
    assert_eq!(refused(&place, new_point("db1", [layer])), rule);
}

#[test]
fn a_full_begins_a_new_chain_on_which_the_next_delta_stands() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    place.grow("db1", disk);
    let again = full(disk);
    let id = again.id;
    place.catalog.publish(new_point("db1", [again])).unwrap();
    let top = place.grow("db1", disk).1;
    let chain = place.catalog.chain(top).unwrap();
    assert_eq!(chain.iter().map(|layer| layer.facts.id).collect::<Vec<_>>(), [top, id]);
}

#[test]
fn one_bad_layer_keeps_all_disks_of_the_point_out() {
    let place = Place::new();
    let (root, data) = (place.disk("db1", "root"), place.disk("db1", "data"));
    let bad = LayerFacts { kind: LayerKind::Delta, ..full(data) };
    let rule = refused(&place, new_point("db1", [full(root), bad]));
    assert!(matches!(rule, PublishRule::DeltaWithoutParent(_)), "{rule}");
}

#[test]
fn a_point_without_layers_is_refused() {
    let place = Place::new();
    assert_eq!(refused(&place, new_point("db1", [])), PublishRule::Empty);
}

#[test]
fn a_disk_of_another_vm_is_refused() {
    let place = Place::new();
    let disk = place.disk("db2", "root");
    let rule = PublishRule::OtherVm { disk, vm: a("db2") };
    assert_eq!(refused(&place, new_point("db1", [full(disk)])), rule);
}

#[test]
fn a_disk_is_in_a_point_once() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let rule = refused(&place, new_point("db1", [full(disk), full(disk)]));
    assert_eq!(rule, PublishRule::DiskTwice(disk));
}

#[test]
fn two_disks_of_one_name_are_refused_for_they_would_be_restored_onto_each_other() {
    let place = Place::new();
    let by_uuid =
        |uuid: &str| place.catalog.disk(&a("db1"), &a("root"), Some(&a(uuid))).unwrap().id;
    let rule = refused(&place, new_point("db1", [full(by_uuid("1")), full(by_uuid("2"))]));
    assert_eq!(rule, PublishRule::NameTwice(a("root")));
}

#[test]
fn sizes_are_exact_and_those_beyond_any_disk_are_refused() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let large = |bytes| LayerFacts { size_bytes: bytes, ..full(disk) };
    let most = u64::try_from(i64::MAX).unwrap();
    let rule = refused(&place, new_point("db1", [large(most + 1)]));
    assert!(matches!(rule, PublishRule::TooLarge(_)), "{rule}");
    place.catalog.publish(new_point("db1", [large(most)])).unwrap();
    assert_eq!(place.catalog.newest_layer(disk).unwrap().unwrap().facts.size_bytes, most);
}

#[test]
fn a_layer_has_an_id_and_files_of_its_own() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let first = full(disk);
    place.catalog.publish(new_point("db1", [first.clone()])).unwrap();
    let same_file = LayerFacts { path: first.path.clone(), ..full(disk) };
    let same_manifest = LayerFacts { manifest: first.manifest.clone(), ..full(disk) };
    for again in [LayerFacts { id: first.id, ..full(disk) }, same_file, same_manifest] {
        let id = again.id;
        assert_eq!(refused(&place, new_point("db1", [again])), PublishRule::LayerTwice(id));
    }
}

#[test]
fn the_file_of_a_deleted_point_cannot_be_published_again() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let layer = full(disk);
    let point = place.catalog.publish(new_point("db1", [layer.clone()])).unwrap();
    place.catalog.delete_point(point.id).unwrap();
    let rule = refused(&place, new_point("db1", [layer]));
    assert!(matches!(rule, PublishRule::LayerTwice(_)), "{rule}");
}

#[test]
fn a_point_has_an_id_of_its_own() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let first = place.grow("db1", disk).0;
    let again = NewPoint { id: first, ..new_point("db1", [full(disk)]) };
    assert_eq!(refused(&place, again), PublishRule::PointTwice);
}

#[test]
fn a_job_publishes_one_point() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let first = new_point("db1", [full(disk)]);
    place.catalog.publish(first.clone()).unwrap();
    let second = NewPoint { job: first.job, ..new_point("db1", [full(disk)]) };
    let error = place.catalog.publish(second).unwrap_err();
    assert!(matches!(error, CatalogError::Published { point, .. } if point == first.id), "{error}");
    assert_eq!(place.catalog.point_of(first.job).unwrap().unwrap().id, first.id);
    assert_eq!(place.catalog.point_of(JobId::new()).unwrap(), None);
}

#[test]
fn publishing_ends_the_job_in_the_same_transaction() {
    let place = Place::new();
    let job = place.job_that_is(JobState::Publishing);
    let disk = place.disk("db1", "root");
    let bad = LayerFacts { kind: LayerKind::Delta, ..full(disk) };
    refused(&place, NewPoint { job, ..new_point("db1", [bad]) });
    assert_eq!(place.catalog.job(job).unwrap().state, JobState::Publishing);
    let point = place.catalog.publish(NewPoint { job, ..new_point("db1", [full(disk)]) }).unwrap();
    let done = place.catalog.job(job).unwrap();
    assert_eq!(done.state, JobState::Done);
    assert!(done.reason.contains(point.id.as_str()), "{}", done.reason);
}

#[test]
fn only_a_job_that_is_publishing_publishes() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    for &state in JobState::ALL.iter().filter(|&&state| state != JobState::Publishing) {
        let job = place.job_that_is(state);
        let rule = refused(&place, NewPoint { job, ..new_point("db1", [full(disk)]) });
        assert_eq!(rule, PublishRule::JobElsewhere { job, state });
    }
}

#[test]
fn a_disk_that_is_not_in_the_catalog_is_refused() {
    let place = Place::new();
    let nowhere = DiskId::from_number(7).unwrap();
    let error = place.catalog.publish(new_point("db1", [full(nowhere)])).unwrap_err();
    assert!(matches!(error, CatalogError::NoSuchDisk(disk) if disk == nowhere), "{error}");
}

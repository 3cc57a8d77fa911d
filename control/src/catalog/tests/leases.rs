use super::*;

fn claim(kind: ClaimKind, key: &str) -> Claim {
    Claim::new(kind, key).unwrap()
}

#[test]
fn the_lowest_free_port_is_leased() {
    let place = Place::new();
    let job = place.job();
    let take = || place.catalog.lease_port(job, 10_100..=10_200).unwrap();
    let leases = [take(), take(), take()];
    let ports: Vec<_> = leases.iter().filter_map(|lease| lease.claim.port_number()).collect();
    assert_eq!(ports, [10_100, 10_101, 10_102]);
    place.catalog.release(leases[1].id, job).unwrap();
    assert_eq!(take().claim, Claim::port(10_101));
    assert_eq!(take().claim, Claim::port(10_103));
}

#[test]
fn a_range_without_a_free_port_says_so_until_one_is_released() {
    let place = Place::new();
    let job = place.job();
    let leases: Vec<Lease> =
        (0..3).map(|_| place.catalog.lease_port(job, 65_533..=65_535).unwrap()).collect();
    let error = place.catalog.lease_port(job, 65_533..=65_535).unwrap_err();
    let all = CatalogError::NoFreePort { first: 65_533, last: 65_535 };
    assert_eq!(error.to_string(), all.to_string());
    place.catalog.release(leases[2].id, job).unwrap();
    assert_eq!(place.catalog.lease_port(job, 65_533..=65_535).unwrap().claim, Claim::port(65_535));
}

#[test]
fn a_thing_is_leased_once_at_a_time_also_to_the_same_job() {
    let place = Place::new();
    let (owner, other) = (place.job(), place.job());
    for &kind in ClaimKind::ALL {
        let claim = claim(kind, "10150");
        place.catalog.lease(owner, claim.clone()).unwrap();
        for job in [owner, other] {
            let error = place.catalog.lease(job, claim.clone()).unwrap_err();
            assert!(matches!(error, CatalogError::Taken { owner: o, .. } if o == owner), "{error}");
        }
    }
    assert_eq!(place.catalog.leases_of(owner).unwrap().len(), ClaimKind::ALL.len());
}

#[test]
fn a_second_release_is_an_error_and_frees_nothing_of_others() {
    let place = Place::new();
    let (first, second) = (place.job(), place.job());
    let old = place.catalog.lease_port(first, 10_100..=10_100).unwrap();
    place.catalog.release(old.id, first).unwrap();
    let new = place.catalog.lease_port(second, 10_100..=10_100).unwrap();
    for job in [first, second] {
        let error = place.catalog.release(old.id, job).unwrap_err();
        assert!(matches!(error, CatalogError::NoSuchLease(id) if id == old.id), "{error}");
    }
    assert_eq!(place.catalog.leases().unwrap(), [new]);
}

#[test]
fn only_its_owner_releases_a_lease() {
    let place = Place::new();
    let (owner, other) = (place.job(), place.job());
    let lease = place.catalog.lease(owner, claim(ClaimKind::Snapshot, "snapshot-42")).unwrap();
    let error = place.catalog.release(lease.id, other).unwrap_err();
    assert!(matches!(error, CatalogError::NotOwner { owner: o, .. } if o == owner), "{error}");
    assert_eq!(place.catalog.leases_of(owner).unwrap(), [lease]);
}

#[test]
fn releasing_all_of_a_job_leaves_those_of_others() {
    let place = Place::new();
    let (job, other) = (place.job(), place.job());
    let port = place.catalog.lease_port(job, 10_100..=10_200).unwrap();
    let kept = place.catalog.lease_port(other, 10_100..=10_200).unwrap();
    let image = place.catalog.lease(job, claim(ClaimKind::Image, "disks/1/x.qcow2")).unwrap();
    assert_eq!(place.catalog.release_all(job).unwrap(), [port, image]);
    assert_eq!(place.catalog.release_all(job).unwrap(), []);
    assert_eq!(place.catalog.leases().unwrap(), [kept]);
}

#[test]
fn a_lease_has_an_owner_that_is_there_and_not_over() {
    let place = Place::new();
    let nobody = place.catalog.lease_port(JobId::new(), 1..=2).unwrap_err();
    assert!(matches!(nobody, CatalogError::NoSuchJob(_)), "{nobody}");
    for &state in JobState::ALL {
        let leased = place.catalog.lease_port(place.job_that_is(state), 1..=1000);
        assert_eq!(leased.is_ok(), !state.is_over(), "{state}");
        if let Err(error) = leased {
            assert!(matches!(error, CatalogError::JobOver { .. }), "{error}");
        }
    }
}

#[test]
fn leases_outlive_the_process_and_the_end_of_their_job_until_they_are_given_back() {
    let place = Place::new();
    let job = place.job();
    let lease = place.catalog.lease_port(job, 10_100..=10_200).unwrap();
    place.catalog.advance(job, JobState::Failed, "test").unwrap();
    let Place { catalog, folder } = place;
    drop(catalog);
    let again = SqliteCatalog::open(&folder.path().join(CATALOG_FILE)).unwrap();
    let id = lease.id;
    assert_eq!(again.leases().unwrap(), [lease]);
    again.release(id, job).unwrap();
}

#[test]
fn the_id_of_a_lease_is_not_used_again() {
    let place = Place::new();
    let job = place.job();
    let old = place.catalog.lease_port(job, 1..=1).unwrap();
    place.catalog.release(old.id, job).unwrap();
    assert!(place.catalog.lease_port(job, 1..=1).unwrap().id > old.id);
}

#[test]
fn several_things_are_leased_and_given_back_together_or_not_at_all() {
    let place = Place::new();
    let (first, second) = (place.job(), place.job());
    let both = vec![Claim::port(10_101), claim(ClaimKind::Export, "10101/disk")];
    let held = place.catalog.lease_all(first, both.clone()).unwrap();
    assert_eq!(held.iter().map(|lease| lease.claim.clone()).collect::<Vec<_>>(), both);

    let half = vec![Claim::port(10_102), both[1].clone()];
    let error = place.catalog.lease_all(second, half).unwrap_err();
    assert!(matches!(error, CatalogError::Taken { owner, .. } if owner == first), "{error}");
    assert_eq!(place.catalog.leases_of(second).unwrap(), []);

    let own = place.catalog.lease(second, Claim::port(10_103)).unwrap();
    let error = place.catalog.release_each(vec![held[0].id, own.id], first).unwrap_err();
    assert!(matches!(error, CatalogError::NotOwner { owner, .. } if owner == second), "{error}");
    assert_eq!(place.catalog.leases_of(first).unwrap(), held);
    place.catalog.release_each(held.iter().map(|lease| lease.id).collect(), first).unwrap();
    assert_eq!(place.catalog.leases().unwrap(), [own]);
}

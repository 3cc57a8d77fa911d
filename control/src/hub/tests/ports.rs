use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::catalog::{CatalogError, JobState, Leases};

#[test]
fn a_leased_port_is_bound_until_it_is_released() {
    let place = Place::new();
    let hub = place.hub();
    let lease = hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap();
    assert_eq!(lease.port, place.first());
    assert!(is_bound(lease.port));
    assert_eq!(hub.ports().release(lease.port, &holder("a")).unwrap(), lease);
    assert!(!is_bound(lease.port));
    assert_eq!(hub.ports().leases(), []);
}

#[test]
fn the_same_job_and_disk_get_the_same_port_whichever_way_the_job_is_named() {
    let place = Place::new();
    let hub = place.hub();
    let lease = hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap();
    for name in ["a", lease.job.as_str()] {
        let again = hub.ports().lease(&holder(name), &vm("db"), &disk("root")).unwrap();
        assert_eq!(again, lease);
    }
    let other = hub.ports().lease(&holder("a"), &vm("db"), &disk("data")).unwrap();
    assert_eq!((other.job, other.port), (lease.job, lease.port + 1));
    assert_ne!(other.export_name(), lease.export_name());
}

#[test]
fn asked_for_by_many_at_once_one_disk_gets_one_port() {
    let place = Place::new();
    let hub = place.hub();
    let start = Barrier::new(16);
    let ports: HashSet<u16> = thread::scope(|scope| {
        let asking: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap().port
                })
            })
            .collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ports.len(), 1, "{ports:?}");
    assert_eq!(hub.ports().metrics().in_use, 1);
}

#[test]
fn a_second_release_frees_nothing_of_the_next_owner() {
    let place = Place::new();
    let hub = place.hub();
    let old = hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap();
    hub.ports().release(old.port, &holder("a")).unwrap();
    let error = hub.ports().release(old.port, &holder("a")).unwrap_err();
    assert!(matches!(error, PortError::NotLeased(port) if port == old.port), "{error}");
    let new = hub.ports().lease(&holder("b"), &vm("web"), &disk("root")).unwrap();
    assert_eq!(new.port, old.port);
    let error = hub.ports().release(old.port, &holder("a")).unwrap_err();
    assert!(matches!(error, PortError::NotOwner(port) if port == old.port), "{error}");
    assert_eq!(hub.ports().release_all(&holder("a")).unwrap(), []);
    assert_eq!(hub.ports().leases(), [new]);
}

#[test]
fn a_port_of_a_process_outside_is_passed_over_and_named_until_it_is_gone() {
    let place = Place::new();
    let outsider = TcpListener::bind((Ipv4Addr::LOCALHOST, place.first())).unwrap();
    let hub = place.hub();
    let lease = hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap();
    assert_eq!(lease.port, place.first() + 1);
    let metrics = hub.ports().metrics();
    assert_eq!((metrics.outside, metrics.free, metrics.in_use), (vec![place.first()], 6, 1));
    drop(outsider);
    assert!(hub.ports().metrics().outside.is_empty());
    let next = hub.ports().lease(&holder("a"), &vm("db"), &disk("data")).unwrap();
    assert_eq!(next.port, place.first());
}

#[test]
fn a_port_that_an_outsider_gives_up_is_found_when_all_others_are_taken() {
    let place = Place::new();
    let outsider = TcpListener::bind((Ipv4Addr::LOCALHOST, place.first())).unwrap();
    let hub = place.hub();
    let lease = |name: &str| hub.ports().lease(&holder("a"), &vm("db"), &disk(name));
    for name in ["1", "2", "3", "4", "5", "6", "7"] {
        lease(name).unwrap();
    }
    assert!(matches!(lease("8"), Err(PortError::AllTaken { .. })));
    assert_eq!(hub.ports().metrics().waits, 1);
    drop(outsider);
    assert_eq!(lease("8").unwrap().port, place.first());
    let metrics = hub.ports().metrics();
    assert_eq!((metrics.total, metrics.in_use, metrics.peak, metrics.free), (8, 8, 8, 0));
}

#[test]
fn a_name_is_of_one_vm() {
    let place = Place::new();
    let hub = place.hub();
    hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap();
    let refused = |hub: &Hub| {
        let error = hub.ports().lease(&holder("a"), &vm("web"), &disk("root")).unwrap_err();
        assert!(matches!(&error, PortError::OtherVm { vm, .. } if vm.as_str() == "db"), "{error}");
    };
    refused(&hub);
    hub.ports().release_all(&holder("a")).unwrap();
    refused(&hub);
}

#[test]
fn a_job_of_the_hub_leases_by_its_id_until_it_is_over() {
    let place = Place::new();
    let hub = place.hub();
    let job = own_job(hub.catalog(), "db");
    let lease = hub.ports().lease(&job.id.into(), &vm("db"), &disk("root")).unwrap();
    assert_eq!(lease.job, job.id);
    assert_eq!(hub.catalog().leases_of(job.id).unwrap().len(), 2);
    hub.catalog().advance(job.id, JobState::Failed, "a test").unwrap();
    let error = hub.ports().lease(&job.id.into(), &vm("db"), &disk("data")).unwrap_err();
    assert!(matches!(error, PortError::Catalog(CatalogError::JobOver { .. })), "{error}");
    assert_eq!(hub.ports().metrics().in_use, 1, "the refused one left nothing");
    assert_eq!(hub.ports().release_all(&job.id.into()).unwrap(), [lease]);
    assert_eq!(hub.catalog().leases().unwrap(), []);
}

use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::catalog::{Claim, Leases};

#[test]
fn after_a_restart_callers_have_their_ports_and_jobs_of_the_hub_have_none() {
    let place = Place::new();
    let hub = place.hub();
    let caller = hub.ports().lease(&holder("a"), &vm("db"), &disk("my disk")).unwrap();
    let job = own_job(hub.catalog(), "web");
    let own = hub.ports().lease(&job.id.into(), &vm("web"), &disk("root")).unwrap();
    drop(hub);
    assert!(!is_bound(caller.port));

    let (hub, recovery) = place.open();
    assert_eq!(recovery.adopted.len(), 1);
    let adopted = &recovery.adopted[0];
    assert_eq!((adopted.port, &adopted.disk, adopted.job), (caller.port, &caller.disk, caller.job));
    assert_eq!(adopted.export_name(), caller.export_name());
    assert!(is_bound(caller.port));
    assert_eq!(recovery.undone.len(), 1, "{:?}", recovery.undone);
    assert!(recovery.undone[0].starts_with(&format!("port {} is free again", own.port)));
    assert!(!is_bound(own.port));
    assert_eq!(hub.catalog().leases().unwrap(), []);
    let again = hub.ports().lease(&holder("a"), &vm("db"), &disk("my disk")).unwrap();
    assert_eq!(&again, adopted);
    hub.ports().release(caller.port, &holder("a")).unwrap();
    drop(hub);
    assert_eq!(place.open().1, Recovery::default());
}

#[test]
fn half_a_lease_is_undone() {
    let place = Place::new();
    let hub = place.hub();
    let lease = hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap();
    drop(hub);
    let callers = SqliteCatalog::open(&place.folder.path().join("callers.db")).unwrap();
    let held = callers.leases().unwrap();
    assert_eq!(held[0].claim, Claim::port(lease.port));
    callers.release(held[1].id, lease.job).unwrap();
    drop(callers);
    let (hub, recovery) = place.open();
    assert_eq!((recovery.adopted.len(), recovery.undone.len()), (0, 1));
    assert_eq!(hub.ports().metrics().in_use, 0);
}

#[test]
fn a_port_that_somebody_took_meanwhile_is_undone_and_said() {
    let place = Place::new();
    let hub = place.hub();
    let lease = hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap();
    drop(hub);
    let _outsider = TcpListener::bind((Ipv4Addr::LOCALHOST, lease.port)).unwrap();
    let (hub, recovery) = place.open();
    assert_eq!(recovery.adopted, []);
    assert!(recovery.undone[0].contains("in use by another process"), "{:?}", recovery.undone);
    let next = hub.ports().lease(&holder("a"), &vm("db"), &disk("root")).unwrap();
    assert_eq!(next.port, lease.port + 1);
}

#[test]
fn a_second_hub_on_the_same_folder_is_refused_with_the_first_ones_process() {
    let place = Place::new();
    let _hub = place.hub();
    let error = Hub::open(&place.settings()).unwrap_err();
    let pid = std::process::id();
    let folder = place.folder.path().display();
    let expected = format!(
        "another hub (process {pid}) runs on {folder}; end that one, or choose another folder for \
         this one"
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn ports_that_a_narrower_range_has_no_more_are_counted_beside_it() {
    let place = Place::new();
    let hub = place.hub();
    let lease = |name: &str| hub.ports().lease(&holder("a"), &vm("db"), &disk(name)).unwrap().port;
    let leased = [lease("a"), lease("b"), lease("c")];
    let (last, total) = (leased[2], hub.ports().metrics().total);
    drop(hub);
    let range = last..=*place.settings().ports.end();
    let settings = HubSettings { ports: range, ..place.settings() };
    let (hub, recovery) = Hub::open(&settings).unwrap();
    assert_eq!(recovery.adopted.len(), 3);
    let counts = hub.ports().metrics();
    assert_eq!((counts.total, counts.in_use, counts.beyond), (total - 2, 1, 2));
    assert_eq!(counts.in_use + counts.free + counts.outside.len(), counts.total);
}

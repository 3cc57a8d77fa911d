use std::fs::{self, OpenOptions};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const PORTS: std::ops::RangeInclusive<u16> = 10_100..=10_200;

#[test]
fn sixty_four_threads_never_hold_the_same_port_and_leak_none() {
    const THREADS: usize = 64;
    const ROUNDS: usize = 20;
    // Fewer ports than threads, so that they are fought for.
    const FEW: std::ops::RangeInclusive<u16> = 10_100..=10_147;
    let place = Place::new();
    let held: Vec<AtomicBool> = FEW.map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (place, held) = (&place, &held);
            scope.spawn(move || {
                let job = place.job();
                let mut granted = 0;
                while granted < ROUNDS {
                    let lease = match place.catalog.lease_port(job, FEW) {
                        Ok(lease) => lease,
                        Err(CatalogError::NoFreePort { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    granted += 1;
                    let port = lease.claim.port_number().unwrap();
                    let slot = &held[usize::from(port - FEW.start())];
                    assert!(!slot.swap(true, Ordering::SeqCst), "port {port} was given twice");
                    assert!(slot.swap(false, Ordering::SeqCst));
                    if (thread + granted) % 2 == 0 {
                        place.catalog.release(lease.id, job).unwrap();
                    } else {
                        assert_eq!(place.catalog.release_all(job).unwrap(), [lease]);
                    }
                }
            });
        }
    });
    assert_eq!(place.catalog.leases().unwrap(), []);
}

#[test]
fn the_hundred_and_second_thread_is_told_that_no_port_is_free() {
    let place = Place::new();
    let job = place.job();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let takers: Vec<_> =
            (0..102).map(|_| scope.spawn(|| place.catalog.lease_port(job, PORTS))).collect();
        takers.into_iter().map(|taker| taker.join().unwrap()).collect()
    });
    let (granted, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    let mut ports: Vec<_> =
        granted.into_iter().map(|lease| lease.unwrap().claim.port_number().unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, PORTS.collect::<Vec<_>>());
    assert_eq!(refused.len(), 1);
    assert!(matches!(refused[0], Err(CatalogError::NoFreePort { .. })));
}

#[test]
fn one_request_that_is_refused_does_not_undo_its_neighbours() {
    let place = Place::new();
    let job = place.job();
    let claim = Claim::port(10_100);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let askers: Vec<_> = (0..64)
            .map(|number| {
                let (place, claim) = (&place, claim.clone());
                scope.spawn(move || match number % 2 {
                    0 => place.catalog.lease(job, claim).is_ok(),
                    _ => place.catalog.add_job(new_job("db1")).is_ok(),
                })
            })
            .collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|&&done| done).count(), 1 + 32);
    assert_eq!(place.catalog.leases().unwrap().len(), 1);
    assert_eq!(place.catalog.jobs(&JobFilter::default()).unwrap().len(), 1 + 32);
}

#[test]
fn one_idempotency_key_from_many_threads_gives_one_job() {
    let place = Place::new();
    let new = NewJob { key: Some(a("nightly")), ..new_job("db1") };
    let jobs: Vec<Admission> = thread::scope(|scope| {
        let askers: Vec<_> =
            (0..32).map(|_| scope.spawn(|| place.catalog.add_job(new.clone()).unwrap())).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    assert_eq!(jobs.iter().filter(|job| matches!(job, Admission::New(_))).count(), 1);
    let first = jobs[0].clone().into_job().id;
    assert!(jobs.into_iter().all(|job| job.into_job().id == first));
}

#[test]
fn one_disk_from_many_threads_is_one_disk() {
    let place = Place::new();
    let ids: Vec<DiskId> = thread::scope(|scope| {
        let askers: Vec<_> = (0..32).map(|_| scope.spawn(|| place.disk("db1", "root"))).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|&id| id == ids[0]));
}

#[test]
fn of_many_deltas_onto_the_same_layer_one_is_published() {
    let place = Place::new();
    let disk = place.disk("db1", "root");
    let base = place.grow("db1", disk).1;
    let outcomes: Vec<_> = thread::scope(|scope| {
        let publishers: Vec<_> = (0..16)
            .map(|_| {
                let point = new_point("db1", [delta(disk, base)]);
                scope.spawn(|| place.catalog.publish(point))
            })
            .collect();
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(place.catalog.points(&PointFilter::default()).unwrap().len(), 2);
}

#[test]
fn processes_on_one_file_never_hold_the_same_port_and_leak_none() {
    let place = Place::new();
    let children: Vec<_> = (0..6)
        .map(|_| {
            let mut command = this_test("tests::many::leases_ports_in_a_process_of_its_own");
            command.env(FILE_VARIABLE, place.file()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(place.catalog.leases().unwrap(), []);
    assert_eq!(place.catalog.jobs(&JobFilter::default()).unwrap().len(), 6 * 4);
}

#[test]
#[ignore = "started by the test of processes on one file"]
fn leases_ports_in_a_process_of_its_own() {
    let Some(file) = file_of_parent() else { return };
    // Fewer ports than the threads of all processes.
    const FEW: std::ops::RangeInclusive<u16> = 10_100..=10_115;
    let catalog = SqliteCatalog::open(&file).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let job = catalog.add_job(new_job("db1")).unwrap().into_job().id;
                let mut granted = 0;
                while granted < 25 {
                    let lease = match catalog.lease_port(job, FEW) {
                        Ok(lease) => lease,
                        Err(CatalogError::NoFreePort { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    granted += 1;
                    // Only one can make the file of a port.
                    let mark = file.with_file_name(format!("port-{}", lease.claim.key()));
                    OpenOptions::new().write(true).create_new(true).open(&mark).unwrap();
                    fs::remove_file(&mark).unwrap();
                    catalog.release(lease.id, job).unwrap();
                }
            });
        }
    });
}

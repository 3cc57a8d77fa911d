use std::collections::HashSet;
use std::sync::Barrier;

use super::*;

const CLIENTS: usize = 64;
const ROUNDS: usize = 5;

#[test]
fn of_64_clients_at_once_no_two_get_the_same_port_and_none_is_lost() {
    let place = Place::with_ports(101);
    let held = Mutex::new(HashSet::new());
    let start = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (place, held, start) = (&place, &held, &start);
            scope.spawn(move || {
                let mut client = place.client();
                let job = format!("job-{number}");
                start.wait();
                for round in 0..ROUNDS {
                    let disk = format!("disk-{round}");
                    let body = json!({ "job_id": job, "vm": "db", "disk": disk }).to_string();
                    let answer = client.ask("POST", ALLOCATE, Some(&body)).unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    let port = value(&answer)["port"].as_u64().unwrap();
                    assert!(held.lock().unwrap().insert(port), "{port} was given twice");
                    assert!(held.lock().unwrap().remove(&port));
                    let path = format!("/api/v1/nbd/ports/{port}?job_id={job}");
                    assert_eq!(client.ask("DELETE", &path, None).unwrap().status, 200);
                    // It may be another's by now.
                    let again = client.ask("DELETE", &path, None).unwrap();
                    assert!([404, 409].contains(&again.status), "{}", again.body);
                }
            });
        }
    });
    let metrics = place.hub.ports().metrics();
    assert_eq!((metrics.in_use, metrics.free, metrics.waits), (0, 101, 0));
    assert!(metrics.peak > 1, "they did not come at once");
    assert!(metrics.outside.is_empty());
}

#[test]
fn with_fewer_ports_than_clients_each_gets_its_turn() {
    let place = Place::with_ports(4);
    let held = Mutex::new(HashSet::new());
    thread::scope(|scope| {
        for number in 0..16 {
            let (place, held) = (&place, &held);
            scope.spawn(move || {
                let job = format!("job-{number}");
                let port = loop {
                    let answer = place.allocate(&job, "db", "root");
                    match answer.status {
                        200 => break value(&answer)["port"].as_u64().unwrap(),
                        503 => thread::yield_now(),
                        other => panic!("{other}: {}", answer.body),
                    }
                };
                assert!(held.lock().unwrap().insert(port), "{port} was given twice");
                assert!(held.lock().unwrap().remove(&port));
                let released = place.delete(&format!("/api/v1/nbd/ports/job/{job}"));
                assert_eq!(value(&released), json!({ "released": [port] }));
            });
        }
    });
    assert_eq!(place.hub.ports().metrics().in_use, 0);
}

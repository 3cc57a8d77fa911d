use super::*;
use crate::catalog::{BackupMode, JobKind, JobState, Jobs, NewJob};

#[test]
fn a_port_is_leased_listed_and_released() {
    let place = Place::new();
    let answer = place.allocate("nightly", "db 1", "root");
    let lease = value(&answer);
    assert_eq!(lease["port"], place.first());
    assert_eq!((&lease["job_id"], &lease["vm"]), (&json!("nightly"), &json!("db 1")));
    let job = lease["job"].as_str().unwrap();
    assert_eq!(lease["export_name"], format!("{job}.root"));
    assert_eq!(value(&place.get("/api/v1/nbd/ports")), json!({ "ports": [lease] }));
    assert_eq!(value(&place.allocate("nightly", "db 1", "root")), lease);

    let path = format!("/api/v1/nbd/ports/{}", place.first());
    refused(&place.delete(&format!("{path}?job_id=other")), 409, "not_owner");
    let released = place.delete(&format!("{path}?job_id=nightly"));
    assert_eq!(value(&released), json!({ "released": [place.first()] }));
    refused(&place.delete(&format!("{path}?job_id=nightly")), 404, "not_leased");
    assert_eq!(value(&place.get("/api/v1/nbd/ports")), json!({ "ports": [] }));
}

#[test]
fn all_ports_of_a_job_are_released_and_none_of_others() {
    let place = Place::new();
    let [a, b] = [place.port("x/y", "db", "root"), place.port("x/y", "db", "data")];
    let other = place.port("z", "web", "root");
    let release = |job: &str| place.delete(&format!("/api/v1/nbd/ports/job/{job}"));
    assert_eq!(value(&release("x%2Fy")), json!({ "released": [a, b] }));
    let again = release("x%2Fy");
    assert_eq!((again.status, value(&again)), (200, json!({ "released": [] })));
    let left = value(&place.get("/api/v1/nbd/ports"));
    assert_eq!(left["ports"][0]["port"], other);
    assert_eq!(left["ports"].as_array().unwrap().len(), 1);
}

#[test]
fn when_all_101_are_taken_the_next_one_is_told_when_to_ask_again() {
    let place = Place::with_ports(101);
    let mut client = place.client();
    let mut ask = |disk: u32| {
        let body = json!({ "job_id": "a", "vm": "db", "disk": disk.to_string() }).to_string();
        client.ask("POST", ALLOCATE, Some(&body)).unwrap()
    };
    for disk in 0..101 {
        assert_eq!(ask(disk).status, 200);
    }
    let full = ask(101);
    refused(&full, 503, "no_free_port");
    assert!(full.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(ask(7).status, 200, "who has one gets it again");
    let counts = value(&place.get("/api/v1/nbd/ports/metrics"));
    let expected = json!({
        "total": 101, "in_use": 101, "beyond": 0, "free": 0, "peak": 101, "waits": 1, "outside": []
    });
    assert_eq!(counts, expected);
    let last = place.ports.end();
    assert_eq!(place.delete(&format!("/api/v1/nbd/ports/{last}?job_id=a")).status, 200);
    assert_eq!(value(&ask(101))["port"], *last);
}

#[test]
fn a_job_of_another_vm_or_one_that_is_over_gets_no_port() {
    let place = Place::new();
    place.port("a", "db", "root");
    refused(&place.allocate("a", "web", "root"), 409, "other_vm");
    let vm = "db".parse().unwrap();
    let new = NewJob { kind: JobKind::Backup, vm, mode: BackupMode::Auto, key: None, asked: None };
    let job = place.hub.catalog().add_job(new).unwrap().into_job();
    assert_eq!(place.allocate(job.id.as_str(), "db", "root").status, 200);
    place.hub.catalog().advance(job.id, JobState::Cancelled, "a test").unwrap();
    refused(&place.allocate(job.id.as_str(), "db", "data"), 409, "job_over");
}

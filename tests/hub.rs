//! `blockferry hub`, as a person runs it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use blockferry::{Hub, code, place, run, stderr};
use blockferry_doubles::{HttpClient, PortBlock};
use rustix::process::Signal;
use serde_json::{Value, json};

const ALLOCATE: &str = "/api/v1/nbd/ports/allocate";

fn allocate(client: &mut HttpClient, job: &str, disk: &str) -> Value {
    let body = json!({ "job_id": job, "vm": "db", "disk": disk }).to_string();
    let answer = client.ask("POST", ALLOCATE, Some(&body)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn a_signal_stops_the_hub_in_order_with_code_0_and_all_ports_are_free() {
    for signal in [Signal::TERM, Signal::INT] {
        let (folder, token) = place();
        let ports = PortBlock::take();
        let mut hub = Hub::start(folder.path(), &ports);
        let port = allocate(&mut hub.client(&token), "a", "root")["port"].as_u64().unwrap();
        let port = u16::try_from(port).unwrap();
        assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_err());
        hub.signal(signal);
        assert_eq!(hub.child.wait().unwrap().code(), Some(0));
        std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let log = fs::read_to_string(folder.path().join("stderr")).unwrap();
        assert!(log.contains("POST /api/v1/nbd/ports/allocate 200"), "{log}");
        assert!(!log.contains(&token), "{log}");
    }
}

#[test]
fn a_hub_that_is_killed_and_started_again_has_every_lease_and_no_other() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let hub = Hub::start(folder.path(), &ports);
    let mut client = hub.client(&token);
    let leases: Vec<Value> =
        (0..5).map(|disk| allocate(&mut client, "a", &disk.to_string())).collect();
    let gone = leases[2]["port"].as_u64().unwrap();
    let path = format!("/api/v1/nbd/ports/{gone}?job_id=a");
    assert_eq!(client.ask("DELETE", &path, None).unwrap().status, 200);
    hub.signal(Signal::KILL);
    drop(hub);

    let hub = Hub::start(folder.path(), &ports);
    let mut client = hub.client(&token);
    let listed = client.ask("GET", "/api/v1/nbd/ports", None).unwrap();
    let listed: Value = serde_json::from_str(&listed.body).unwrap();
    let kept: Vec<&Value> = leases.iter().filter(|lease| lease["port"] != gone).collect();
    let facts = |lease: &Value| (lease["port"].clone(), lease["export_name"].clone());
    let found: Vec<_> = listed["ports"].as_array().unwrap().iter().map(facts).collect();
    assert_eq!(found, kept.into_iter().map(facts).collect::<Vec<_>>());
    let answer = client.ask("DELETE", "/api/v1/nbd/ports/job/a", None).unwrap();
    assert_eq!(answer.status, 200);
    hub.signal(Signal::KILL);
    drop(hub);

    let hub = Hub::start(folder.path(), &ports);
    let metrics = hub.client(&token).ask("GET", "/api/v1/nbd/ports/metrics", None).unwrap();
    let metrics: Value = serde_json::from_str(&metrics.body).unwrap();
    assert_eq!((&metrics["in_use"], &metrics["free"]), (&json!(0), &json!(101)));
    assert_eq!(metrics["outside"], json!([]));
}

#[test]
fn a_second_hub_on_the_same_state_is_refused_in_one_line() {
    let (folder, _token) = place();
    let ports = PortBlock::take();
    let hub = Hub::start(folder.path(), &ports);
    let args = "hub serve --state state --listen 127.0.0.1:0";
    let second = run(folder.path(), &args.split(' ').collect::<Vec<_>>());
    assert_eq!(code(&second), 1);
    let expected = format!("blockferry: another hub (process {}) runs on state;", hub.child.id());
    assert!(stderr(&second).starts_with(&expected), "{}", stderr(&second));
    assert_eq!(stderr(&second).lines().count(), 1);
}

#[test]
fn an_address_that_others_can_reach_has_to_be_meant() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["hub", "serve", "--state", "state", "--listen", "0.0.0.0:0"];
    let refused = run(folder.path(), &args);
    assert_eq!(code(&refused), 2);
    assert!(stderr(&refused).contains("say --beyond-loopback"), "{}", stderr(&refused));
    assert!(!folder.path().join("state").exists());
}

#[test]
fn an_address_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["hub", "serve", "--state", "state", "--listen", &address];
    let refused = run(folder.path(), &args);
    assert_eq!(code(&refused), 1);
    let expected = format!("blockferry: cannot listen on {address}; end what listens there");
    assert!(stderr(&refused).starts_with(&expected), "{}", stderr(&refused));
}

#[test]
fn a_token_is_printed_once_alone_on_standard_output_and_kept_as_a_hash() {
    let (folder, token) = place();
    assert!(token.starts_with("blockferry_") && token.len() > 64, "{token}");
    let state = folder.path().join("state");
    for entry in fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{path:?}");
        let content = fs::read(&path).unwrap();
        let secret = token.strip_prefix("blockferry_").unwrap().as_bytes();
        assert!(!content.windows(secret.len()).any(|window| window == secret), "{path:?}");
    }
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);

    let list = || {
        let args = ["hub", "token", "--state", "state", "--list", "--json"];
        let listed: Value = serde_json::from_slice(&run(folder.path(), &args).stdout).unwrap();
        listed["tokens"].as_array().unwrap().clone()
    };
    let id = list()[0]["id"].as_str().unwrap().to_owned();
    let revoke = ["hub", "token", "--state", "state", "--revoke", &id];
    assert_eq!(code(&run(folder.path(), &revoke)), 0);
    assert!(list().is_empty());
    let again = run(folder.path(), &revoke);
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).contains(&format!("there is no token {id}")), "{}", stderr(&again));
    let wrong = ["hub", "token", "--state", "state", "--revoke", "x"];
    assert_eq!(code(&run(folder.path(), &wrong)), 2);
}

#[test]
fn help_shows_examples() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["hub", "--help"][..], &["hub", "serve", "-h"], &["hub", "token", "--help"]] {
        let help = String::from_utf8(run(folder.path(), args).stdout).unwrap();
        assert!(help.contains("Examples:\n"), "{args:?}: {help}");
    }
}

//! Backups through a hub, over its API.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use blockferry::{Hub, place};
use blockferry_doubles::{Nbdkit, PortBlock, Server};
use rustix::process::Signal;
use serde_json::{Value, json};

fn source(size: u64) -> Server {
    Nbdkit::sparse_random(size, 1).tcp().start().unwrap()
}

/// A source that takes seconds, so that its job is met at work.
fn slow_source() -> Server {
    Nbdkit::pattern(8 << 20).filter("rate", &["rate=8M"]).tcp().start().unwrap()
}

fn backup(vm: &str, source: &Server) -> Value {
    json!({ "vm": vm, "disks": [{ "name": "root", "source": source.uri() }] })
}

/// Asks for a backup and gives the job's id.
fn submit(hub: &Hub, token: &str, body: &Value) -> String {
    let (status, job) = hub.ask(token, "POST", "/backups", body);
    assert_eq!(status, 202, "{job}");
    job["id"].as_str().unwrap().to_owned()
}

fn refused(hub: &Hub, token: &str, body: &Value, status: u16, code: &str) {
    let (found, answer) = hub.ask(token, "POST", "/backups", body);
    assert_eq!((found, answer["error"]["code"].as_str()), (status, Some(code)), "{answer}");
}

/// Nothing is left of any job: no port, no process, no folder.
fn assert_idle(hub: &Hub, token: &str, folder: &Path) {
    let started = Instant::now();
    while hub.get(token, "/nbd/ports/metrics")["in_use"] != 0 {
        assert!(started.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(hub.get(token, "/nbd/processes"), json!({ "processes": [] }));
    assert_eq!(fs::read_dir(folder.join("repository/work")).unwrap().count(), 0);
}

#[test]
fn a_job_is_followed_to_its_end_with_curl() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let hub = Hub::start_with(folder.path(), &ports, "--repository repository");
    let disk = slow_source();
    let job = submit(&hub, &token, &backup("db1", &disk));
    let follow = || {
        let url = format!("{}/api/v1/backups/{job}/events", hub.url());
        let header = format!("Authorization: Bearer {token}");
        let words = ["-sSN", "--max-time", "60", "-H", &header, &url];
        let followed = Command::new("curl").args(words).output().unwrap();
        assert!(followed.status.success(), "{followed:?}");
        let text = String::from_utf8(followed.stdout).unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap()).collect::<Vec<Value>>()
    };
    let states = |events: &[Value]| -> Vec<String> {
        let states = events.iter().filter(|event| event["type"] == "state");
        states.map(|event| event["state"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["queued", "planning", "copying", "publishing", "done"];
    let live = follow();
    assert_eq!(states(&live), all);
    for kind in ["plan", "progress", "moved"] {
        assert!(live.iter().any(|event| event["type"] == kind), "no {kind} in {live:?}");
    }
    // Of a job that is over, its states are told, and that is the end.
    assert_eq!(states(&follow()), all);
    let shown = hub.get(&token, &format!("/backups/{job}"));
    let point = hub.get(&token, &format!("/points/{}", shown["point"].as_str().unwrap()));
    assert_eq!(
        (&point["vm"], &point["mode"], &point["chain"]),
        (&json!("db1"), &json!("full"), &json!(1))
    );
    assert_eq!(point["disks"][0]["bytes"]["read"], 8 << 20);
    assert_idle(&hub, &token, folder.path());
}

#[test]
fn a_point_that_others_stand_on_is_not_deleted_and_the_newest_is() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let hub = Hub::start_with(folder.path(), &ports, "--repository repository");
    let disk = source(1 << 20);
    let points = [0, 1].map(|_| {
        let job = hub.wait_over(&token, &submit(&hub, &token, &backup("db1", &disk)));
        job["point"].as_str().unwrap_or_else(|| panic!("{job}")).to_owned()
    });
    let listed = hub.get(&token, "/points?vm=db1&repository=default");
    let listed = listed["points"].as_array().unwrap();
    let ids: Vec<&str> = listed.iter().map(|point| point["id"].as_str().unwrap()).collect();
    assert_eq!(ids, points);
    assert_eq!(hub.get(&token, "/points?limit=1")["points"][0]["id"], points[1].as_str());
    let before = |point: &str| hub.get(&token, &format!("/points?limit=1&before={point}"));
    assert_eq!(before(&points[1])["points"][0]["id"], points[0].as_str());
    assert_eq!(before(&points[0]), json!({ "points": [] }));
    let elsewhere = hub.ask(&token, "GET", "/points?before=01kat0h4m2f6q8r0s2", &Value::Null);
    assert_eq!(elsewhere.0, 404, "{}", elsewhere.1);
    let delete = |point: &str| hub.ask(&token, "DELETE", &format!("/points/{point}"), &Value::Null);
    let (status, answer) = delete(&points[0]);
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("stood_on")), "{answer}");
    let said = answer["error"]["message"].as_str().unwrap();
    assert!(said.contains(&format!("layers of {} stand on it", points[1])), "{said}");
    assert_eq!(delete(&points[1]).0, 200);
    assert_eq!(delete(&points[1]).0, 404);
    assert_eq!(delete(&points[0]).0, 200);
    assert_eq!(hub.get(&token, "/points"), json!({ "points": [] }));
    assert_eq!(fs::read_dir(folder.path().join("repository/points")).unwrap().count(), 0);
}

#[test]
fn the_same_key_from_many_clients_at_once_is_one_job() {
    const CLIENTS: usize = 16;
    let (folder, token) = place();
    let ports = PortBlock::take();
    let hub = Hub::start_with(folder.path(), &ports, "--repository repository");
    let disk = source(1 << 20);
    let mut body = backup("db1", &disk);
    body["idempotency_key"] = json!("nightly-1");
    let start = Barrier::new(CLIENTS);
    let answers: Vec<(u16, Value)> = thread::scope(|scope| {
        let asking = (0..CLIENTS).map(|_| {
            scope.spawn(|| {
                start.wait();
                hub.ask(&token, "POST", "/backups", &body)
            })
        });
        asking.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let jobs: HashSet<&str> = answers.iter().map(|(_, job)| job["id"].as_str().unwrap()).collect();
    assert_eq!(jobs.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|(status, _)| *status == 202).count(), 1);
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), CLIENTS - 1);
    hub.wait_over(&token, jobs.iter().next().unwrap());
    assert_eq!(hub.get(&token, "/points")["points"].as_array().unwrap().len(), 1);
    // Neither another VM nor other disks of the same one are what the key stands for.
    let other = source(1 << 20);
    let mut others = backup("db1", &other);
    others["idempotency_key"] = json!("nightly-1");
    refused(&hub, &token, &others, 409, "key_reused");
    body["vm"] = json!("db2");
    refused(&hub, &token, &body, 409, "key_reused");
}

#[test]
fn a_key_in_the_header_and_another_one_in_the_body_are_refused() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let hub = Hub::start_with(folder.path(), &ports, "--repository repository");
    let disk = source(1 << 20);
    let mut body = backup("db1", &disk);
    body["idempotency_key"] = json!("one");
    let body = body.to_string();
    let post = |key: &str| {
        let text = format!(
            "POST /api/v1/backups HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n\
             {body}",
            body.len()
        );
        let mut client = hub.client(&token);
        client.send(text.as_bytes()).unwrap();
        client.answer().unwrap()
    };
    let refused = post("two");
    assert_eq!(refused.status, 422, "{}", refused.body);
    let taken = post("one");
    assert_eq!(taken.status, 202, "{}", taken.body);
    let job: Value = serde_json::from_str(&taken.body).unwrap();
    let place = format!("/api/v1/backups/{}", job["id"].as_str().unwrap());
    assert_eq!(taken.header("location"), Some(place.as_str()));
    assert_eq!(job["idempotency_key"], "one");
}

#[test]
fn a_job_is_called_off_while_it_waits_and_while_it_copies() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let first = ports.range().start().to_owned();
    let options = format!("--repository repository --listen 127.0.0.1:0 --ports {first}-{first}");
    let hub = Hub::start_on(folder.path(), &options);
    let disk = slow_source();
    let running = submit(&hub, &token, &backup("db1", &disk));
    let waiting = submit(&hub, &token, &backup("db2", &disk));
    hub.wait(&token, &running, |job| job["state"] == "copying");
    let shown = hub.get(&token, &format!("/backups/{waiting}"));
    assert_eq!(shown["queue"], json!({ "position": 1, "ports_needed": 1, "ports_free": 0 }));
    let cancel =
        |job: &str| hub.ask(&token, "POST", &format!("/backups/{job}/cancel"), &Value::Null);
    let (status, job) = cancel(&waiting);
    assert_eq!((status, &job["state"]), (200, &json!("cancelled")), "{job}");
    assert_eq!(cancel(&running).0, 200);
    assert_eq!(hub.wait_over(&token, &running)["state"], "cancelled");
    // Once more is no error: it is what was wanted.
    assert_eq!(cancel(&running).0, 200);
    assert_eq!(hub.get(&token, "/points"), json!({ "points": [] }));
    assert_idle(&hub, &token, folder.path());
    let counts = hub.client(&token).ask("GET", "/metrics", None).unwrap().body;
    let cancelled = "blockferry_hub_jobs_total{state=\"cancelled\"} 2";
    assert!(counts.lines().any(|line| line == cancelled), "{counts}");
}

#[test]
fn what_cannot_become_a_point_is_refused_with_its_reason() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let first = ports.range().start().to_owned();
    let options = format!(
        "--repository repository --repository other=second --listen 127.0.0.1:0 --ports \
         {first}-{}",
        first + 1
    );
    let hub = Hub::start_on(folder.path(), &options);
    let uri = "nbd://127.0.0.1:1/x";
    let good = json!({ "vm": "db1", "repository": "default",
                       "disks": [{ "name": "root", "source": uri }] });
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let disk = |value: Value| with("disks", json!([value]));
    for path in ["../../etc", "/etc", "a/b", "..", ".", "", "a\\b", "-a", "a\u{0}b"] {
        refused(&hub, &token, &with("vm", json!(path)), 422, "wrong_field");
        let named = disk(json!({ "name": path, "source": uri }));
        refused(&hub, &token, &named, 422, "wrong_field");
        // A repository may be called so: it is no path, and looked up among those that there are.
        if path != "-a" {
            refused(&hub, &token, &with("repository", json!(path)), 422, "wrong_field");
        }
    }
    refused(&hub, &token, &with("repository", json!("none")), 422, "unknown_repository");
    refused(&hub, &token, &with("repository", Value::Null), 422, "unknown_repository");
    let three: Vec<Value> =
        (0..3).map(|n| json!({ "name": format!("d{n}"), "source": uri })).collect();
    refused(&hub, &token, &with("disks", json!(three)), 422, "too_many_disks");
    refused(&hub, &token, &with("disks", json!([])), 422, "wrong_field");
    let twice = json!([good["disks"][0], good["disks"][0]]);
    refused(&hub, &token, &with("disks", twice), 422, "wrong_field");
    refused(&hub, &token, &with("mode", json!("all")), 422, "wrong_field");
    let told_twice = json!({ "name": "a", "source": uri, "changed": [], "bitmap": "b" });
    refused(&hub, &token, &disk(told_twice), 422, "wrong_field");
    let beyond = json!([{ "start": u64::MAX, "length": 2 }]);
    let beyond = json!({ "name": "a", "source": uri, "changed": beyond });
    refused(&hub, &token, &disk(beyond), 422, "wrong_field");
    for local in [
        "nbd+unix:///x?socket=/run/secret.sock",
        "nbds+unix:///x?socket=/run/secret.sock",
        "nbds://host/x?tls-certificates=/root",
    ] {
        let body = disk(json!({ "name": "root", "source": local }));
        refused(&hub, &token, &body, 422, "local_source");
    }
    for no_uri in ["/etc/passwd", "file:///etc/passwd", "root.raw", "null:", "-", "[ nbdkit ]"] {
        let body = disk(json!({ "name": "root", "source": no_uri }));
        refused(&hub, &token, &body, 422, "wrong_field");
    }
    assert_eq!(hub.get(&token, "/backups"), json!({ "backups": [] }));
    // What is well-formed is taken in, and fails for what is wrong with it.
    let job = hub.wait_over(&token, &submit(&hub, &token, &good));
    assert_eq!(
        (&job["state"], &job["failure"]),
        (&json!("failed"), &json!("source_fault")),
        "{job}"
    );
}

#[test]
fn a_hub_without_a_repository_says_so_and_hands_out_ports() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let hub = Hub::start(folder.path(), &ports);
    let body = json!({ "vm": "a", "disks": [{ "name": "a", "source": "nbd://127.0.0.1:1" }] });
    refused(&hub, &token, &body, 409, "no_repository");
    assert_eq!(hub.get(&token, "/points"), json!({ "points": [] }));
    assert_eq!(hub.get(&token, "/backups"), json!({ "backups": [] }));
    let lease = json!({ "job_id": "a", "vm": "a", "disk": "a" });
    assert_eq!(hub.ask(&token, "POST", "/nbd/ports/allocate", &lease).0, 200);
}

#[test]
fn a_hub_that_is_stopped_in_the_middle_calls_off_its_jobs_tells_their_followers_and_exits_0() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    let first = ports.range().start().to_owned();
    let options = format!("--repository repository --listen 127.0.0.1:0 --ports {first}-{first}");
    let mut hub = Hub::start_on(folder.path(), &options);
    let disk = slow_source();
    let jobs = ["db1", "db2"].map(|vm| submit(&hub, &token, &backup(vm, &disk)));
    hub.wait(&token, &jobs[0], |job| job["state"] == "copying");
    let url = format!("{}/api/v1/backups/{}/events", hub.url(), jobs[0]);
    let header = format!("Authorization: Bearer {token}");
    let mut curl = Command::new("curl")
        .args(["-sSN", "--max-time", "60", "-H", &header, &url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(curl.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"type\":\"progress\"") {
        line.clear();
        assert_ne!(told.read_line(&mut line).unwrap(), 0, "it ended before there was progress");
    }
    hub.signal(Signal::TERM);
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert!(curl.wait().unwrap().success());
    assert!(rest.contains("\"state\":\"cancelled\""), "{rest}");
    assert_eq!(hub.child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(folder.path().join("repository/work")).unwrap().count(), 0);
    drop(hub);

    let hub = Hub::start_on(folder.path(), &options);
    for job in jobs {
        assert_eq!(hub.get(&token, &format!("/backups/{job}"))["state"], "cancelled");
    }
    assert_idle(&hub, &token, folder.path());
}

#[test]
fn of_150_vms_on_101_ports_all_are_done_in_their_order_while_64_clients_ask_for_other_things() {
    const VMS: usize = 150;
    const CLIENTS: usize = 64;
    let (folder, token) = place();
    let ports = PortBlock::take();
    let hub = Hub::start_with(folder.path(), &ports, "--repository repository");
    let disk = source(256 << 10);
    let jobs: Vec<String> =
        (0..VMS).map(|vm| submit(&hub, &token, &backup(&format!("vm{vm:03}"), &disk))).collect();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (hub, token, jobs) = (&hub, &token, &jobs);
            scope.spawn(move || {
                let mut http = hub.client(token);
                let lease = json!({ "job_id": format!("c{client}"), "vm": "x", "disk": "y" });
                for call in [
                    ("POST", "/nbd/ports/allocate".to_owned(), Some(lease.to_string())),
                    ("GET", "/nbd/ports".into(), None),
                    ("GET", "/nbd/ports/metrics".into(), None),
                    ("GET", "/nbd/processes".into(), None),
                    ("GET", format!("/backups/{}", jobs[client]), None),
                    ("DELETE", format!("/nbd/ports/job/c{client}"), None),
                ] {
                    let (method, path, body) = call;
                    let path = format!("/api/v1{path}");
                    let answer = http.ask(method, &path, body.as_deref()).unwrap();
                    // There may be no port just now.
                    let fits = [200, 503].contains(&answer.status);
                    assert!(fits, "{method} {path}: {} {}", answer.status, answer.body);
                }
            });
        }
    });
    let mut planned = 0;
    for job in &jobs {
        let job = hub.wait_over(&token, job);
        assert_eq!(job["state"], "done", "{job}");
        let steps = job["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["state"] == "planning").unwrap();
        let at = step["at_ms"].as_u64().unwrap();
        assert!(at >= planned, "a job was overtaken: {job}");
        planned = at;
    }
    assert_eq!(hub.get(&token, "/points?limit=1000")["points"].as_array().unwrap().len(), VMS);
    assert_idle(&hub, &token, folder.path());
}

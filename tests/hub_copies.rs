//! Points that several repositories of a hub have, for one is a copy of the other.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::process::Command;

use blockferry::{Hub, HubPlace, by, code, stderr};
use serde_json::{Value, json};

/// A hub with a repository and its copy, and the newest point of both.
fn two_copies() -> (HubPlace, Hub, String) {
    let place = HubPlace::new();
    let [_, _, newest] = place.kept.chain();
    let mut copy = Command::new("cp");
    copy.args(["-a", "repository", "copied"]).current_dir(place.kept.folder());
    assert!(copy.status().unwrap().success());
    let options = "--repository main=repository --repository copy=copied";
    let hub = Hub::start_with(place.kept.folder(), &place.ports, options);
    (place, hub, newest)
}

/// The repositories that have a point, by the hub's list.
fn having(place: &HubPlace, hub: &Hub, point: &str) -> Vec<String> {
    let list = hub.get(&place.token, "/points");
    let found = list["points"].as_array().unwrap().iter().filter(|found| found["id"] == point);
    found.map(|found| found["repository"].as_str().unwrap().to_owned()).collect()
}

fn ask(place: &HubPlace, hub: &Hub, method: &str, call: &str) -> (u16, Value) {
    hub.ask(&place.token, method, call, &Value::Null)
}

#[test]
fn a_point_of_two_repositories_is_deleted_only_where_that_was_said_and_again_nowhere() {
    let (place, hub, point) = two_copies();
    let call = format!("/points/{point}");
    let (status, refused) = ask(&place, &hub, "DELETE", &call);
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("which_repository")));
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("name one of copy, main"), "{message}");
    let named = format!("{call}?repository=main");
    assert_eq!(ask(&place, &hub, "DELETE", &named).0, 200);
    assert_eq!(having(&place, &hub, &point), ["copy"]);
    // An answer that was lost is asked for again.
    assert_eq!(ask(&place, &hub, "DELETE", &named).0, 404);
    assert_eq!(having(&place, &hub, &point), ["copy"]);
}

#[test]
fn every_call_about_a_point_of_two_repositories_wants_to_know_which() {
    let (place, hub, point) = two_copies();
    let body = json!({});
    for (method, call, body) in [
        ("GET", format!("/points/{point}"), &Value::Null),
        ("DELETE", format!("/points/{point}"), &Value::Null),
        ("POST", format!("/points/{point}/verify"), &body),
        ("POST", format!("/points/{point}/exports"), &body),
    ] {
        let (status, refused) = hub.ask(&place.token, method, &call, body);
        assert_eq!(status, 409, "{method} {call}: {refused}");
        let none = format!("{call}?repository=none");
        assert_eq!(hub.ask(&place.token, method, &none, body).0, 422, "{method} {none}");
    }
    let before = format!("/points?before={point}");
    assert_eq!(ask(&place, &hub, "GET", &before).0, 409);
    let older = hub.get(&place.token, &format!("{before}&repository=copy"));
    assert_eq!(older["points"].as_array().map(Vec::len), Some(2), "{older}");
    let differs = json!({ "repository": "main" });
    let call = format!("/points/{point}/verify?repository=copy");
    assert_eq!(hub.ask(&place.token, "POST", &call, &differs).0, 422);
    for name in ["copy", "main"] {
        let shown = hub.get(&place.token, &format!("/points/{point}?repository={name}"));
        assert_eq!(shown["repository"], name);
    }
}

#[test]
fn the_command_line_says_which_of_two_repositories_is_meant() {
    let (place, hub, point) = two_copies();
    let damaged = place.kept.image(&point, "root");
    place.kept.flip_a_bit_of(&damaged);
    for (line, in_main, in_copy) in [
        (format!("verify {point}"), 6, 0),
        (format!("restore {point} --to restored --force"), 6, 0),
        (format!("points delete {point}"), 0, 0),
    ] {
        let unsaid = place.run(&line, &hub);
        assert_eq!(code(&unsaid), 2, "{line}: {}", stderr(&unsaid));
        assert!(stderr(&unsaid).contains("name one of copy, main"), "{}", stderr(&unsaid));
        for (name, expected) in [("main", in_main), ("copy", in_copy)] {
            let said = place.kept.run(&format!("{line} {} --repository {name}", by(&hub)));
            assert_eq!(code(&said), expected, "{line} of {name}: {}", stderr(&said));
        }
    }
    assert_eq!(having(&place, &hub, &point), [""; 0]);
}

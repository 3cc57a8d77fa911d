//! What is asked for, and asked for again.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Place, two_disks};

#[test]
fn a_key_of_a_vm_is_that_of_its_node_and_of_nothing_else() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    let _other = place.hubs.node("n2", &place.options(""));
    let body = |node: &str| json!({ "vm": "web", "node": node, "idempotency_key": "nightly" });
    let first = place.hubs.submit_body(&body("n1"));
    let ask = |node: &str| place.hubs.hub.ask(&place.hubs.token, "POST", "/backups", &body(node));
    let (status, again) = ask("n1");
    assert_eq!((status, &again["id"]), (200, &json!(first)), "{again}");
    let (status, refused) = ask("n2");
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("key_reused")), "{refused}");
    place.hubs.point_of(&first);
    place.assert_nothing_left();
}

#[test]
fn settings_of_a_snapshot_that_mean_nothing_are_refused() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    let ask = |body: Value| place.hubs.hub.ask(&place.hubs.token, "POST", "/backups", &body);
    let disks = json!([{ "name": "root", "source": "nbd://127.0.0.1:1/root" }]);
    let none = json!({ "quiesce": "none" });
    for (body, says) in [
        (json!({ "vm": "web", "node": "n1", "snapshot": { "quiesce": "no" } }), "quiesce"),
        (json!({ "vm": "web", "node": "n1", "snapshot": { "audit_percent": 101 } }), "101"),
        (json!({ "vm": "web", "node": "n1", "snapshot": { "enable_cbt": 1 } }), "boolean"),
        (json!({ "vm": "web", "node": "n1", "snapshot": { "audit": 1 } }), "audit"),
        (json!({ "vm": "web", "node": "n1", "snapshot": ["none"] }), "an object"),
        (json!({ "vm": "web", "node": "n1", "disks": disks, "snapshot": none }), "no disks"),
        (json!({ "vm": "web", "disks": disks, "snapshot": none }), "no disks"),
    ] {
        let (status, answer) = ask(body);
        assert_eq!(status, 422, "{answer}");
        let said = answer["error"]["message"].as_str().unwrap();
        assert!(said.contains(says), "{said}");
    }
    for (words, says) in [
        ("--quiesce-deadline 1m", "options of its `node serve`"),
        ("--max-disks-per-host 2", "options of its `node serve`"),
        ("--disk root=nbd://127.0.0.1:1/root --cbt-audit 5", "name that with --vcenter"),
    ] {
        let (code, report) = place.try_back_up_with("web", words);
        assert_eq!(code, 2, "{report}");
        assert!(report["error"].as_str().unwrap().contains(says), "{report}");
    }
    assert_eq!(place.vms.vsphere.count("CreateSnapshot_Task"), 0);
}

#[test]
fn who_asks_again_under_a_key_has_the_same_job_while_the_node_is_away() {
    let place = Place::new(two_disks());
    let mut node = place.node("");
    let ask = |vm: &str, mode: &str| {
        let body = json!({ "vm": vm, "node": "n1", "mode": mode, "idempotency_key": "tonight" });
        place.hubs.hub.ask(&place.hubs.token, "POST", "/backups", &body)
    };
    let (status, job) = ask("web", "auto");
    assert_eq!(status, 202, "{job}");
    place.hubs.point_of(job["id"].as_str().unwrap());
    // Another way of naming it is asked for, and is the same.
    let (status, same) = ask(&format!("moref={}", place.vms.machine("web").id()), "auto");
    assert_eq!((status, &same["id"]), (200, &job["id"]), "{same}");
    // What is asked for otherwise is not.
    let (status, refused) = ask("web", "full");
    assert_eq!(status, 409, "{refused}");
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0), "{}", node.says());
    let asked = std::time::Instant::now();
    for word in ["web", "name=web"] {
        let (status, same) = ask(word, "auto");
        assert_eq!((status, &same["id"]), (200, &job["id"]), "{same}");
    }
    // A node that is away is waited for, for 30 s.
    assert!(asked.elapsed() < std::time::Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(place.hubs.points(), 1);
}

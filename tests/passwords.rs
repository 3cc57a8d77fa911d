//! Passwords that were written where none is taken: nothing shows them.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;

use blockferry::{HubPlace, Kept, by, code, stderr};
use serde_json::json;

/// What nobody is to see.
const PASSWORD: &str = "hunter2";

/// All that is in a folder, with what is below it.
fn content(folder: &std::path::Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        all.extend(path.as_os_str().as_encoded_bytes());
        match path.is_dir() {
            true => all.extend(content(&path)),
            false => all.extend(fs::read(&path).unwrap()),
        }
    }
    all
}

fn has_password(bytes: &[u8]) -> bool {
    bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes())
}

/// Uses of a source or target with a password, whatever else is wrong with it.
fn lines(point: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for uri in [
        "nbd://u:hunter2@127.0.0.1:999999/x",
        "nbd://u:hunter2@127.0.0.1:1/x",
        "nbd://u:hunter2%zz@127.0.0.1:1/x",
        "nbd://u:/hunter2@127.0.0.1:1/x",
        "nbdz://u:hunter2@127.0.0.1/x",
        "nbd+ssh://u:hunter2@127.0.0.1/x",
        "http://u:hunter2@127.0.0.1/x",
    ] {
        lines.extend([
            format!("backup --vm a --disk a={uri} --repository fresh -v --retries 0"),
            format!("backup --vm a --disk {uri} --repository fresh"),
            format!("backup --vm a --disk a={uri} --bitmap {uri} --repository fresh"),
            format!("backup --vm {uri} --disk a={uri} --repository fresh"),
            format!("restore {point} --repository repository --disk root --to {uri} --retries 0"),
            format!("restore {uri} --repository repository --to x"),
            format!("verify {point} --repository repository --against root={uri} --retries 0"),
            format!("verify {point} --repository repository --against {uri}"),
            format!("copy {uri} null: --retries 0 -v"),
            format!("copy root {uri} --retries 0"),
            format!("copy root null: {uri}"),
            format!("points --hub {uri} --repository main"),
            format!("points --repository repository {uri}"),
            format!("export {point} --repository repository --hub {uri}"),
        ]);
    }
    lines
}

#[test]
fn a_password_in_a_uri_is_in_no_word_of_the_command_line_and_in_no_catalog() {
    let kept = Kept::new();
    kept.disk("root", 1 << 20, 1);
    let point = kept.back_up(&["root"]);
    for line in lines(&point) {
        for line in [line.clone(), format!("{line} --json")] {
            let ended = kept.run(&line);
            assert_ne!(code(&ended), 0, "{line}");
            let said = stderr(&ended);
            assert!(!said.contains(PASSWORD), "{line}: {said}");
            assert!(!has_password(&ended.stdout), "{line}: {ended:?}");
        }
    }
    assert!(!has_password(&content(kept.folder())));
}

#[test]
fn a_password_in_the_file_of_a_batch_is_not_shown() {
    let kept = Kept::new();
    let vm = "[defaults]\nrepository = \"fresh\"\n[[vm]]\nname = \"a\"\n";
    for wrong in [
        "disks.a = { source = \"nbd://u:hunter2@127.0.0.1:999999/x\" }\n",
        "disks.a = { source = \"nbd+ssh://u:hunter2@127.0.0.1/x\" }\n",
        "disks.a = \"nbd://u:hunter2@127.0.0.1/x\"\n",
        "disks = \"nbd://u:hunter2@127.0.0.1/x\"\n",
        "disks.a = { source = \"nbd://u:hunter2@127.0.0.1:1/x\" }\nretries = 0\n",
    ] {
        fs::write(kept.path("jobs.toml"), format!("{vm}{wrong}")).unwrap();
        let ended = kept.run("batch jobs.toml --json -v");
        assert_ne!(code(&ended), 0, "{wrong}");
        assert!(!stderr(&ended).contains(PASSWORD), "{wrong}: {}", stderr(&ended));
        assert!(!has_password(&ended.stdout), "{wrong}: {ended:?}");
    }
    fs::remove_file(kept.path("jobs.toml")).unwrap();
    assert!(!has_password(&content(kept.folder())));
}

#[test]
fn a_hub_neither_answers_with_a_password_nor_logs_or_keeps_it() {
    let place = HubPlace::new();
    place.kept.disk("root", 1 << 20, 1);
    let point = place.kept.back_up(&["root"]);
    let hub = place.hub();
    let uri = "nbd+ssh://u:hunter2@127.0.0.1/x";
    let disk = json!({ "name": "a", "source": uri });
    for body in [
        json!({ "vm": "a", "disks": [disk] }),
        json!({ "vm": uri, "disks": [disk] }),
        json!({ "vm": "a", "disks": uri }),
        json!({ "vm": "a", "disks": [uri] }),
        json!({ "vm": "a", "disks": [], uri: 1 }),
        json!({ "vm": "a", "disks": [{ "name": uri, "source": uri }] }),
        json!({ "vm": "a", "disks": [{ "name": "a", "source": "nbd://u:hunter2@h:x/" }] }),
    ] {
        let (status, answer) = hub.ask(&place.token, "POST", "/backups", &body);
        assert_eq!(status, 422, "{answer}");
        assert!(!answer.to_string().contains(PASSWORD), "{answer}");
    }
    let taken = json!({ "name": "a", "source": "nbd://u:hunter2@127.0.0.1:1/x" });
    let asked = json!({ "vm": "a", "disks": [taken] });
    let (status, job) = hub.ask(&place.token, "POST", "/backups", &asked);
    assert_eq!(status, 202, "{job}");
    let ended = hub.wait_over(&place.token, job["id"].as_str().unwrap());
    assert_eq!(ended["state"], "failed");
    assert!(!ended.to_string().contains(PASSWORD), "{ended}");
    let against = json!({ "against": [{ "disk": "root", "source": uri }] });
    let call = format!("/points/{point}/verify");
    let (status, answer) = hub.ask(&place.token, "POST", &call, &against);
    assert_eq!((status, answer.to_string().contains(PASSWORD)), (422, false), "{answer}");
    hub.ask(&place.token, "GET", &format!("/{uri}"), &json!(null));
    for line in [
        "backup --vm a --disk a=nbd://u:hunter2@127.0.0.1:1/x".to_owned(),
        format!("verify {point} --against root=nbd://u:hunter2@127.0.0.1:1/x"),
    ] {
        let ended = place.kept.run(&format!("{line} {}", by(&hub)));
        assert_ne!(code(&ended), 0, "{line}");
        assert!(!stderr(&ended).contains(PASSWORD), "{line}: {}", stderr(&ended));
    }
    // The hub's log is in there, too.
    assert!(!has_password(&content(place.kept.folder())));
}

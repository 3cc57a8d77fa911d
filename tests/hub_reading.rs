//! Points that are read through a hub: verified, served, restored.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use blockferry::{Hub, Kept, code, signal, stderr};
use blockferry_doubles::{Nbdkit, PortBlock, Server};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A hub that has the repository of a folder with points, and its token in `hub.token`.
struct Place {
    kept: Kept,
    ports: PortBlock,
    token: String,
}

impl Place {
    fn new() -> Self {
        let kept = Kept::new();
        let made = kept.run("hub token --state state");
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        fs::write(kept.path("hub.token"), &token).unwrap();
        Self { kept, ports: PortBlock::take(), token }
    }

    fn hub(&self) -> Hub {
        Hub::start_with(self.kept.folder(), &self.ports, "--repository repository")
    }
}

/// The options that have a hub do it.
fn by(hub: &Hub) -> String {
    format!("--hub {} --token-file hub.token", hub.url())
}

/// Waits until something is true.
fn wait_until(what: &str, mut wanted: impl FnMut() -> bool) {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Nothing is left of what was read: no port, no process, no folder, no file, no backup.
fn assert_idle(hub: &Hub, place: &Place) {
    wait_until("a port is still leased", || {
        hub.get(&place.token, "/nbd/ports") == json!({ "ports": [] })
    });
    wait_until("a process is left", || {
        hub.get(&place.token, "/nbd/processes") == json!({ "processes": [] })
    });
    wait_until("something is left in the hub's folder", || {
        place.kept.names("state/reading").is_empty()
    });
    assert!(place.kept.names("repository/work").is_empty());
    assert_eq!(hub.get(&place.token, "/backups"), json!({ "backups": [] }));
}

/// The report without what differs from run to run.
fn settled(mut report: Value) -> Value {
    for field in ["seconds", "cpu_seconds"] {
        report[field] = Value::Null;
    }
    report
}

/// What a verification reads takes seconds.
fn slow_point(place: &Place) -> String {
    place.kept.disk("root", 192 << 20, 3);
    place.kept.back_up(&["root"])
}

fn live(file: &Path) -> Server {
    Nbdkit::file(file).tcp().start().unwrap()
}

#[test]
fn verify_by_a_hub_says_the_same_as_here() {
    let place = Place::new();
    let kept = &place.kept;
    let [full, _, newest] = kept.chain();
    let hub = place.hub();
    for asked in [newest.as_str(), "--all", &format!("{newest} --disk root")] {
        let (here, said) = kept.json(&format!("verify {asked} --repository repository --json"));
        let (there, heard) = kept.json(&format!("verify {asked} {} --json", by(&hub)));
        assert_eq!((here, there), (0, 0), "{said} {heard}");
        assert_eq!(settled(said), settled(heard), "{asked}");
    }
    kept.flip_a_bit_of(&kept.image(&full, "root"));
    for asked in [newest.as_str(), "--all"] {
        let (here, said) = kept.json(&format!("verify {asked} --repository repository --json"));
        let (there, heard) = kept.json(&format!("verify {asked} {} --json", by(&hub)));
        assert_eq!((here, there), (6, 6), "{said} {heard}");
        assert!(said["damage"][0]["points"].as_array().unwrap().contains(&json!(newest)));
        assert_eq!(settled(said), settled(heard), "{asked}");
    }
    let words = |with: &str| {
        let output = kept.run(&format!("verify {newest} {with}"));
        (code(&output), String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    assert_eq!(words("--repository repository"), words(&by(&hub)));
    assert_idle(&hub, &place);
}

#[test]
fn verify_by_a_hub_compares_with_a_live_source() {
    let place = Place::new();
    let kept = &place.kept;
    kept.disk("root", 1 << 20, 1);
    kept.disk("other", 1 << 20, 2);
    let point = kept.back_up(&["root"]);
    let hub = place.hub();
    for (file, expected, result) in [("root", 0, "same"), ("other", 6, "differs")] {
        let source = live(&kept.path(file));
        let asked = format!("verify {point} --against root={} --json", source.uri());
        let (here, said) = kept.json(&format!("{asked} --repository repository"));
        let (there, heard) = kept.json(&format!("{asked} {}", by(&hub)));
        assert_eq!((here, there), (expected, expected), "{said} {heard}");
        assert_eq!(heard["against"][0]["result"], result);
        assert_eq!(settled(said), settled(heard));
    }
    // A token opens no file of the hub's machine.
    let asked = format!("verify {point} --against root=nbd+unix:///?socket=/run/any");
    let refused = kept.run(&format!("{asked} {}", by(&hub)));
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("names files of the hub's machine"), "{}", stderr(&refused));
    assert_idle(&hub, &place);
}

#[test]
fn verify_by_a_hub_refuses_as_here_what_is_not_there() {
    let place = Place::new();
    let kept = &place.kept;
    let [_, _, newest] = kept.chain();
    let hub = place.hub();
    for (asked, said) in [
        ("01kat0h4m2f6q8r0s2".to_owned(), "there is no restore point 01kat0h4m2f6q8r0s2"),
        (format!("{newest} --disk swap"), "has no disk \"swap\"; it has root"),
        (format!("{newest} --against swap=nbd://127.0.0.1:1/"), "has no disk \"swap\""),
        (format!("{newest} --repository other"), "this hub has no repository \"other\""),
        (format!("{newest} --deadline 1s"), "the hub moves it"),
    ] {
        let refused = kept.run(&format!("verify {asked} {}", by(&hub)));
        assert_eq!(code(&refused), 2, "{asked}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(said), "{asked}: {}", stderr(&refused));
        assert_eq!(stderr(&refused).lines().count(), 1, "{}", stderr(&refused));
    }
    let named = format!("verify {newest} --repository default {}", by(&hub));
    assert_eq!(code(&kept.run(&named)), 0);
    drop(hub);
    let gone =
        kept.run(&format!("verify {newest} --hub http://127.0.0.1:1 --token-file hub.token"));
    assert_eq!(code(&gone), 1);
    assert!(stderr(&gone).contains("cannot be reached"), "{}", stderr(&gone));
}

#[test]
fn a_verification_ends_in_the_hub_when_its_caller_does() {
    let place = Place::new();
    let point = slow_point(&place);
    let hub = place.hub();
    let start = || {
        let line = format!("verify {point} {}", by(&hub));
        let child = place.kept.command(&line).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("it reads", || {
            hub.get(&place.token, "/nbd/processes")["processes"] != json!([])
        });
        child
    };
    let end = |child: Child, name: Signal| {
        signal(&child, name);
        child.wait_with_output().unwrap()
    };
    let interrupted = end(start(), Signal::INT);
    assert_eq!(code(&interrupted), 7, "{}", stderr(&interrupted));
    assert_idle(&hub, &place);
    end(start(), Signal::KILL);
    assert_idle(&hub, &place);
}

#[test]
fn a_hub_that_stops_says_so_to_who_verifies() {
    let place = Place::new();
    let point = slow_point(&place);
    let mut hub = place.hub();
    let line = format!("verify {point} {}", by(&hub));
    let child = place.kept.command(&line).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it reads", || hub.get(&place.token, "/nbd/processes")["processes"] != json!([]));
    hub.signal(Signal::TERM);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(code(&ended), 1, "{}", stderr(&ended));
    assert_eq!(stderr(&ended), "blockferry: the hub is being stopped\n");
    assert!(hub.child.wait().unwrap().success());
}

//! Points that a hub verifies.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::path::Path;
use std::process::{Child, Stdio};

use blockferry::{HubPlace, by, code, signal, stderr, wait_until};
use blockferry_doubles::{Nbdkit, Server};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The report without what differs from run to run.
fn settled(mut report: Value) -> Value {
    for field in ["seconds", "cpu_seconds"] {
        report[field] = Value::Null;
    }
    report
}

/// What a verification reads takes seconds.
fn slow_point(place: &HubPlace) -> String {
    place.kept.disk("root", 192 << 20, 3);
    place.kept.back_up(&["root"])
}

fn live(file: &Path) -> Server {
    Nbdkit::file(file).tcp().start().unwrap()
}

#[test]
fn verify_by_a_hub_says_the_same_as_here() {
    let place = HubPlace::new();
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
    place.assert_idle(&hub);
}

#[test]
fn verify_by_a_hub_compares_with_a_live_source() {
    let place = HubPlace::new();
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
    place.assert_idle(&hub);
}

#[test]
fn verify_by_a_hub_refuses_as_here_what_is_not_there() {
    let place = HubPlace::new();
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
    let place = HubPlace::new();
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
    place.assert_idle(&hub);
    end(start(), Signal::KILL);
    place.assert_idle(&hub);
}

#[test]
fn a_hub_that_stops_says_so_to_who_verifies() {
    let place = HubPlace::new();
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

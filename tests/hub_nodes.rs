//! Nodes: enrolled, reaching what is theirs, taken away.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use blockferry::{Hub, code, command, place, run, stderr};
use blockferry_doubles::PortBlock;
use serde_json::{Value, json};

/// A hub that takes nodes, and a file to copy.
struct Place {
    folder: tempfile::TempDir,
    token: String,
    ports: PortBlock,
    hub: Hub,
    /// `ssh://127.0.0.1:PORT`.
    dial: String,
}

impl Place {
    fn new() -> Self {
        let (folder, token) = place();
        let ports = PortBlock::take();
        let hub = Hub::start_with(folder.path(), &ports, "--tunnel 127.0.0.1:0");
        let dial = hub.tunnel.clone().unwrap();
        fs::write(folder.path().join("disk"), vec![7; 1 << 20]).unwrap();
        Self { folder, token, ports, hub, dial }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn invite(&self, name: &str) -> String {
        let made = run(self.path(), &["hub", "enroll", name, "--state", "state"]);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
        String::from_utf8(made.stdout).unwrap()
    }

    fn enroll(&self, enrollment: &str, state: &str) -> Output {
        self.enroll_from("-", enrollment, state)
    }

    /// With the code from a file, and on standard input, which is a pipe.
    fn enroll_from(&self, file: &str, enrollment: &str, state: &str) -> Output {
        let state = ["--state", state, "--json", "--code", file];
        let args = [&["node", "enroll", "--hub", &self.dial], &state[..]].concat();
        let mut child = command(self.path(), &args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(enrollment.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn copy(&self, state: &str, target: &str) -> Output {
        let node = format!("--node={state}");
        run(self.path(), &["copy", "--retries", "0", &node, "disk", target])
    }

    fn lease(&self, node: Option<&str>, disk: &str) -> u16 {
        let body = json!({ "job_id": "j", "vm": "v", "disk": disk, "node": node });
        let (status, port) = self.hub.ask(&self.token, "POST", "/nbd/ports/allocate", &body);
        assert_eq!(status, 200, "{port}");
        assert_eq!(port["node"].as_str(), node);
        port["port"].as_u64().unwrap().try_into().unwrap()
    }
}

#[test]
fn a_node_is_enrolled_by_a_code_that_is_good_once_and_knows_its_hub_from_then_on() {
    let place = Place::new();
    let invitation = place.invite("n1");
    let made = place.enroll(&invitation, "node");
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let said: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(said, json!({ "node": "n1", "hub": place.dial }));

    let again = place.enroll(&invitation, "other");
    assert_eq!(code(&again), 5);
    assert!(stderr(&again).contains("does not take the code"), "{}", stderr(&again));
    let secret = invitation.split('.').nth(1).unwrap();
    let log = fs::read_to_string(place.path().join("stderr")).unwrap();
    for said in [stderr(&made), stderr(&again), log] {
        assert!(!said.contains(secret), "{said}");
    }

    let listed = run(place.path(), &["hub", "enroll", "--list", "--state", "state", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["nodes"][0]["node"], "n1");
}

#[test]
fn a_code_of_another_hub_is_not_shown_to_this_one() {
    let (first, second) = (Place::new(), Place::new());
    let refused = second.enroll(&first.invite("n1"), "node");
    assert_eq!(code(&refused), 5);
    assert!(stderr(&refused).contains("not that of the hub that made the code"));
    assert!(!second.path().join("node/node.json").exists());
    // Nobody has seen it, so it is as good as before.
    let again = run(first.path(), &["hub", "enroll", "--list", "--state", "state", "--json"]);
    let listed: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(listed["nodes"], json!([]));
}

#[test]
fn what_is_no_code_is_refused_without_a_word_of_it() {
    let place = Place::new();
    for wrong in ["", "n1", "n1.0123456789abcdef.short", "a.b.c.d"] {
        let refused = place.enroll(wrong, "node");
        assert_eq!(code(&refused), 2, "{wrong}");
        assert!(stderr(&refused).contains("no code of `blockferry hub enroll`"));
        assert!(!stderr(&refused).contains("0123456789abcdef"));
    }
    let missing = run(place.path(), &["copy", "--node=node", "disk", "nbd://127.0.0.1:10100/x"]);
    assert_eq!(code(&missing), 2);
    assert!(stderr(&missing).contains("this machine is not a node yet"), "{}", stderr(&missing));
}

#[test]
fn a_code_that_others_can_read_is_refused_and_stays_good() {
    let place = Place::new();
    let path = place.path().join("code");
    fs::write(&path, place.invite("n1")).unwrap();
    for mode in [0o644, 0o640, 0o602] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let refused = place.enroll_from("code", "", "node");
        assert_eq!(code(&refused), 2, "{mode:o}: {}", stderr(&refused));
        let says = "--code code: others can read it; chmod 600 code";
        assert!(stderr(&refused).contains(says), "{}", stderr(&refused));
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let made = place.enroll_from("code", "", "node");
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    // Of a pipe there is nothing to be said.
    let made = place.enroll_from("/dev/stdin", &place.invite("n2"), "other");
    assert_eq!(code(&made), 0, "{}", stderr(&made));
}

#[test]
fn a_node_reaches_the_ports_that_are_leased_for_it_and_no_others() {
    let place = Place::new();
    for name in ["n1", "n2"] {
        assert_eq!(code(&place.enroll(&place.invite(name), name)), 0);
    }
    let (other, nobodys) = (place.lease(Some("n2"), "a"), place.lease(None, "b"));
    let outside = place.ports.range().end() - 1;
    for port in [other, nobodys, outside, 22] {
        let refused = place.copy("n1", &format!("nbd://127.0.0.1:{port}/x"));
        assert_eq!(code(&refused), 5, "{port}");
        assert!(stderr(&refused).contains("not leased for this node"), "{}", stderr(&refused));
    }
    let refused = place.copy("n1", "nbd://192.0.2.1:10809/x");
    assert_eq!(code(&refused), 5);
    let log = fs::read_to_string(place.path().join("stderr")).unwrap();
    assert!(log.contains("refused to node n1"), "{log}");
    assert!(log.contains("nodes reach nothing beyond this machine"), "{log}");

    // The API answers through the tunnel, to the client of OpenSSH too.
    let api = place.hub.address.port();
    let (host, port) = place.dial.strip_prefix("ssh://").unwrap().split_once(':').unwrap();
    let mut ssh = Command::new("timeout");
    ssh.args(["30", "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
        .args(["-o", "UserKnownHostsFile=n1/hub_keys", "-i", "n1/node_key", "-p", port])
        .args(["-W", &format!("127.0.0.1:{api}"), &format!("n1@{host}")])
        .current_dir(place.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = ssh.spawn().unwrap();
    let ask = b"GET /api/v1/health HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n";
    // Kept open: its end would be that of the channel.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(ask).unwrap();
    let answered = child.wait_with_output().unwrap();
    drop(stdin);
    let answer = String::from_utf8_lossy(&answered.stdout).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_node_that_was_taken_away_is_refused() {
    let place = Place::new();
    assert_eq!(code(&place.enroll(&place.invite("n1"), "n1")), 0);
    let removed = run(place.path(), &["hub", "enroll", "--remove", "n1", "--state", "state"]);
    assert_eq!(code(&removed), 0, "{}", stderr(&removed));
    let refused = place.copy("n1", "nbd://127.0.0.1:10100/x");
    assert_eq!(code(&refused), 5);
    assert!(stderr(&refused).contains("does not take the key"), "{}", stderr(&refused));
    let unknown = run(place.path(), &["hub", "enroll", "--remove", "n1", "--state", "state"]);
    assert_eq!(code(&unknown), 1);
    assert!(stderr(&unknown).contains("there is no node n1"));
}

#[test]
fn a_node_that_enrolls_again_has_a_new_key_and_the_old_one_opens_nothing() {
    let place = Place::new();
    let key = || fs::read(place.path().join("n1/node_key")).unwrap();
    let refusal = |state: &str| stderr(&place.copy(state, "nbd://127.0.0.1:10100/x"));
    assert_eq!(code(&place.enroll(&place.invite("n1"), "n1")), 0);
    let old = key();
    let copied = Command::new("cp").args(["-a", "n1", "stolen"]).current_dir(place.path()).status();
    assert!(copied.unwrap().success());

    // One that the hub does not take leaves the node as it was.
    let used = place.invite("n1").replace("n1.", "n2.");
    assert_eq!(code(&place.enroll(&used, "n1")), 5);
    assert_eq!(key(), old);
    assert!(refusal("n1").contains("not leased for this node"), "{}", refusal("n1"));

    assert_eq!(code(&place.enroll(&place.invite("n1"), "n1")), 0);
    assert_ne!(key(), old);
    assert!(!place.path().join("n1/node_key.new").exists());
    assert!(refusal("n1").contains("not leased for this node"), "{}", refusal("n1"));
    assert!(refusal("stolen").contains("does not take the key"), "{}", refusal("stolen"));
}

#[test]
fn a_hub_tells_of_its_nodes_and_whether_they_answer() {
    let place = Place::new();
    assert_eq!(code(&place.enroll(&place.invite("n1"), "n1")), 0);
    let behind = run(
        place.path(),
        &["hub", "enroll", "n2", "--sshd-port", "1", "--state", "state", "--json"],
    );
    assert_eq!(code(&behind), 0, "{}", stderr(&behind));
    let behind: Value = serde_json::from_slice(&behind.stdout).unwrap();
    assert_eq!((&behind["node"], &behind["sshd_port"]), (&json!("n2"), &json!(1)));

    let (status, listed) = place.hub.ask(&place.token, "GET", "/nodes", &Value::Null);
    assert_eq!(status, 200, "{listed}");
    let (first, second) = (&listed["nodes"][0], &listed["nodes"][1]);
    assert_eq!((&first["node"], &first["reachable"]), (&json!("n1"), &json!(false)));
    assert_eq!(
        (&first["reason"], &first["connections"]),
        (&json!("it is not connected"), &json!(0))
    );
    assert!(first["fingerprint"].as_str().unwrap().starts_with("SHA256:"));
    assert_eq!((&second["node"], &second["sshd_port"]), (&json!("n2"), &json!(1)));
    assert!(second["reason"].as_str().unwrap().contains("Connection refused"), "{second}");
    assert!(!listed.to_string().contains(behind["token"].as_str().unwrap()));
}

#[test]
fn a_node_behind_an_sshd_has_no_port_of_the_hub_that_runs() {
    let mut place = Place::new();
    let (first, last) = place.ports.range().into_inner();
    let tunnel = place.dial.rsplit(':').next().unwrap().parse().unwrap();
    let own = [first, last, place.hub.address.port(), tunnel];
    let enroll = |place: &Place, port: u16| {
        let port = port.to_string();
        run(place.path(), &["hub", "enroll", "n1", "--sshd-port", &port, "--state", "state"])
    };
    for port in own {
        let refused = enroll(&place, port);
        assert_eq!(code(&refused), 2, "{port}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("one of this hub's own"), "{}", stderr(&refused));
    }
    // What one had that is gone may be free.
    place.hub.child.kill().unwrap();
    place.hub.child.wait().unwrap();
    let made = enroll(&place, first);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
}

#[test]
fn two_nodes_have_no_port_of_sshd_in_common() {
    let place = Place::new();
    let enroll = |name: &str, port: &str| {
        run(place.path(), &["hub", "enroll", name, "--sshd-port", port, "--state", "state"])
    };
    assert_eq!(code(&enroll("n1", "10301")), 0);
    let taken = enroll("n2", "10301");
    assert_eq!(code(&taken), 2);
    assert!(stderr(&taken).contains("that of node n1 already"), "{}", stderr(&taken));
    // The same one gets another token.
    assert_eq!(code(&enroll("n1", "10301")), 0);
    assert_eq!(code(&enroll("n2", "10302")), 0);
}

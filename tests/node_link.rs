//! A node and its hub with a link between them that goes down: two network namespaces with a pair of
//! virtual devices, where this user may make them.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use blockferry::{code, run, stderr};
use blockferry_doubles::process::{Child, run_ok};
use blockferry_doubles::{TestDisk, disk};
use serde_json::Value;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// Two namespaces, which go with this.
struct Link {
    hub: String,
    node: String,
    device: String,
}

impl Link {
    /// `None` where this user may not make them.
    fn make() -> Option<Self> {
        let id = std::process::id();
        let link = Self {
            hub: format!("bf-hub-{id}"),
            node: format!("bf-node-{id}"),
            device: format!("bf{id}"),
        };
        let made =
            Command::new("ip").args(["netns", "add", &link.hub]).stderr(Stdio::null()).status();
        if !made.is_ok_and(|status| status.success()) {
            return None;
        }
        ip(&["netns", "add", &link.node]);
        let (near, far) = (&link.device, format!("{}p", link.device));
        ip(&[
            "link", "add", near, "netns", &link.hub, "type", "veth", "peer", "name", &far, "netns",
            &link.node,
        ]);
        for (space, device, address) in
            [(&link.hub, near, "10.77.0.1/24"), (&link.node, &far, "10.77.0.2/24")]
        {
            ip(&["-n", space, "addr", "add", address, "dev", device]);
            ip(&["-n", space, "link", "set", device, "up"]);
            ip(&["-n", space, "link", "set", "lo", "up"]);
        }
        Some(link)
    }

    fn set(&self, state: &str) {
        ip(&["-n", &self.hub, "link", "set", &self.device, state]);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for space in [&self.hub, &self.node] {
            // The other one goes nevertheless.
            let _ = Command::new("ip").args(["netns", "del", space]).status();
        }
    }
}

fn ip(args: &[&str]) {
    let mut command = Command::new("ip");
    command.args(args);
    run_ok(command, PATIENCE).unwrap();
}

/// A command in a namespace, and in a folder.
fn within(space: &str, folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space]).args(words).current_dir(folder);
    command
}

/// Starts it; the first line of its standard output, which tells that it is ready.
fn start(space: &str, folder: &Path, words: &[&str]) -> (Child, Value) {
    let child = Child::spawn(within(space, folder, words)).unwrap();
    let said = wait(|| serde_json::from_str(child.stdout().trim_end()).ok());
    (child, said)
}

fn wait<T>(mut get: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(started.elapsed() < PATIENCE);
        thread::sleep(LOOK);
    }
}

/// Bytes of the disk that are acknowledged, by the API of the hub.
fn acknowledged(link: &Link, folder: &Path, hub: &str, token: &str) -> Option<u64> {
    let header = format!("Authorization: Bearer {token}");
    let get = |call: &str| -> Option<Value> {
        let url = format!("{hub}/api/v1/{call}");
        let asked =
            within(&link.hub, folder, &["curl", "-sS", "-H", &header, &url]).output().ok()?;
        serde_json::from_slice(&asked.stdout).ok()
    };
    let job = get("backups")?["backups"][0]["id"].as_str()?.to_owned();
    get(&format!("backups/{job}"))?["disks"][0]["bytes"]["acknowledged"].as_u64()
}

#[test]
fn a_backup_goes_on_when_the_link_is_back() {
    let Some(link) = Link::make() else {
        eprintln!(
            "this user may not make network namespaces; tests/node_losses.rs has the same over a proxy"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let blockferry = env!("CARGO_BIN_EXE_blockferry");
    let token = run(path, &["hub", "token", "--state", "hub"]);
    let token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
    fs::write(path.join("token"), &token).unwrap();
    let serve = [
        blockferry,
        "hub",
        "serve",
        "--state",
        "hub",
        "--listen",
        "127.0.0.1:0",
        "--repository",
        "repository",
        "--ports",
        "10100-10101",
        "--tunnel",
        "10.77.0.1:10022",
        "--json",
        "--tunnel-keepalive",
        "500ms",
    ];
    let (hub_process, said) = start(&link.hub, path, &serve);
    let hub = said["url"].as_str().unwrap().to_owned();
    let code_of_node = run(path, &["hub", "enroll", "n1", "--state", "hub"]);
    fs::write(path.join("code"), &code_of_node.stdout).unwrap();
    let enroll = [
        blockferry,
        "node",
        "enroll",
        "--state",
        "node",
        "--hub",
        "ssh://10.77.0.1:10022",
        "--code",
        "code",
    ];
    let enrolled = within(&link.node, path, &enroll).output().unwrap();
    assert_eq!(code(&enrolled), 0, "{}", stderr(&enrolled));
    let serve = [
        blockferry,
        "node",
        "serve",
        "--state",
        "node",
        "--json",
        "--rate-limit",
        "8M",
        "--ports",
        "10100-10101",
        "--tunnel-keepalive",
        "500ms",
    ];
    let (_node, _) = start(&link.node, path, &serve);

    let source = TestDisk::random(path, 32 << 20, 1.0, 5).unwrap();
    let disk_path = source.path.to_str().unwrap();
    let nbdkit = ["nbdkit", "-f", "-r", "-p", "10809", "-i", "127.0.0.1", "file", disk_path];
    let _source = Child::spawn(within(&link.node, path, &nbdkit)).unwrap();
    wait(|| {
        within(&link.node, path, &["nbdinfo", "--size", "nbd://127.0.0.1"])
            .output()
            .ok()
            .filter(|o| o.status.success())
    });

    let backup = [
        blockferry,
        "backup",
        "--vm",
        "v",
        "--disk",
        "root=nbd://127.0.0.1",
        "--hub",
        &hub,
        "--token-file",
        "token",
        "--node",
        "n1",
        "-v",
    ];
    let job = within(&link.hub, path, &backup)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait(|| acknowledged(&link, path, &hub, &token).filter(|bytes| *bytes > 2 << 20));
    link.set("down");
    let before = acknowledged(&link, path, &hub, &token).unwrap();
    // The hub's end has given the connection up, by its keepalives, and so has the node's.
    wait(|| hub_process.stderr().contains("n1 (10.77.0.2").then_some(()));
    wait(|| (hub_process.stderr().matches("is closed").count() > 1).then_some(()));
    link.set("up");
    let back = Instant::now();
    wait(|| acknowledged(&link, path, &hub, &token).filter(|bytes| *bytes > before));
    eprintln!("data flows {:?} after the link is back", back.elapsed());
    let ended: Output = job.wait_with_output().unwrap();
    assert_eq!(code(&ended), 0, "{}", stderr(&ended));
    let points = run(path, &["points", "--repository", "repository", "--json"]);
    let points: Value = serde_json::from_slice(&points.stdout).unwrap();
    let point = points["points"][0]["id"].as_str().unwrap();
    let restored = run(path, &["restore", point, "--repository", "repository", "--to", "out"]);
    assert_eq!(code(&restored), 0, "{}", stderr(&restored));
    disk::compare_raw(&source.path, &path.join("out/root.raw")).unwrap();
}

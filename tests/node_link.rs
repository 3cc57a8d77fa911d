//! A node and its hub with a link between them that goes down: two network namespaces with a pair of
//! virtual devices, where this user may make them.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use blockferry::{code, run, stderr};
use blockferry_dataplane::tcp;
use blockferry_doubles::process::{Child, run_ok};
use blockferry_doubles::{TestDisk, disk};
use serde_json::Value;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Data is to flow again within three seconds; it takes one to be a flow, and a busy machine gets
/// another one.
const SOON: Duration = Duration::from_secs(5);
/// Bytes that tell a flow from what had been acknowledged and not told of.
const FLOW: u64 = 6 << 20;
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

    /// Takes the devices down: both ends know that nothing goes out.
    fn set(&self, state: &str) {
        ip(&["-n", &self.hub, "link", "set", &self.device, state]);
    }

    /// Has all frames go astray, as where a link breaks further on: nobody is told. With `astray`
    /// off they arrive again.
    fn set_astray(&self, astray: bool) {
        let peer = format!("{}p", self.device);
        let (hub, node) = ((&self.hub, &self.device), (&self.node, &peer));
        for ((space, device), (far_space, far), address) in
            [(hub, node, "10.77.0.2"), (node, hub, "10.77.0.1")]
        {
            let to = if astray { "02:00:00:00:00:01".to_owned() } else { mac(far_space, far) };
            ip(&[
                "-n",
                space,
                "neigh",
                "replace",
                address,
                "lladdr",
                &to,
                "dev",
                device,
                "nud",
                "permanent",
            ]);
        }
    }
}

fn mac(space: &str, device: &str) -> String {
    let mut command = Command::new("ip");
    command.args(["-n", space, "-j", "link", "show", "dev", device]);
    let shown = run_ok(command, PATIENCE).unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    shown[0]["address"].as_str().unwrap().to_owned()
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
fn within(space: &str, folder: &Path, words: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space]).args(words).current_dir(folder);
    command
}

/// Starts it; the first line of its standard output, which tells that it is ready.
fn start(space: &str, folder: &Path, words: &[String]) -> (Child, Value) {
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

/// How a link goes away.
#[derive(Clone, Copy)]
enum Away {
    /// Its devices are down.
    Down,
    /// What is sent does not arrive.
    Astray,
}

impl Away {
    fn begin(self, link: &Link) {
        match self {
            Self::Down => link.set("down"),
            Self::Astray => link.set_astray(true),
        }
    }

    fn end(self, link: &Link) {
        match self {
            Self::Down => link.set("up"),
            Self::Astray => link.set_astray(false),
        }
    }
}

/// A backup that goes on when the link is back; how long after that. `cut` lasts as long as the link
/// is away, and sees the hub.
fn cut_off(away: Away, options: &str, cut: impl FnOnce(&Child)) -> Option<Duration> {
    let Some(link) = Link::make() else {
        eprintln!("no network namespaces for this user; node_losses.rs has the same over a proxy");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let words = |line: &str| -> Vec<String> {
        let line = format!("{} {line}", env!("CARGO_BIN_EXE_blockferry"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    let token = run(path, &["hub", "token", "--state", "hub"]);
    let token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
    fs::write(path.join("token"), &token).unwrap();
    let serve = words(&format!(
        "hub serve --state hub --listen 127.0.0.1:0 --repository repository --ports 10100-10101 \
         --tunnel 10.77.0.1:10022 --json {options}"
    ));
    let (hub_process, said) = start(&link.hub, path, &serve);
    let hub = said["url"].as_str().unwrap().to_owned();
    let invited = run(path, &["hub", "enroll", "n1", "--state", "hub"]);
    fs::write(path.join("code"), &invited.stdout).unwrap();
    let enroll = words("node enroll --state node --hub ssh://10.77.0.1:10022 --code code");
    let enrolled = within(&link.node, path, &enroll).output().unwrap();
    assert_eq!(code(&enrolled), 0, "{}", stderr(&enrolled));
    let serve = words(&format!("node serve --state node --json --rate-limit 6M {options}"));
    let (_node, _) = start(&link.node, path, &serve);

    let source = TestDisk::random(path, 24 << 20, 1.0, 5).unwrap();
    let file = format!("file={}", source.path.display());
    let nbdkit = ["nbdkit", "-f", "-r", "-p", "10809", "-i", "127.0.0.1", "file", &file];
    let _source = Child::spawn(within(&link.node, path, &nbdkit)).unwrap();
    let size = ["nbdinfo", "--size", "nbd://127.0.0.1"];
    let has_size = || within(&link.node, path, &size).output().unwrap().status.success();
    wait(|| has_size().then_some(()));

    let backup = words(&format!(
        "backup --vm v --disk root=nbd://127.0.0.1 --hub {hub} --token-file token --node n1 -v"
    ));
    let backup = Child::spawn(within(&link.hub, path, &backup)).unwrap();
    wait(|| acknowledged(&link, path, &hub, &token).filter(|bytes| *bytes > 2 << 20));
    away.begin(&link);
    cut(&hub_process);
    // What was on its way has been told of, or is lost.
    let before = acknowledged(&link, path, &hub, &token).unwrap();
    away.end(&link);
    let back = Instant::now();
    wait(|| acknowledged(&link, path, &hub, &token).filter(|bytes| *bytes > before + FLOW));
    let back = back.elapsed();
    let ended = backup.output(PATIENCE).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let points = run(path, &["points", "--repository", "repository", "--json"]);
    let points: Value = serde_json::from_slice(&points.stdout).unwrap();
    let point = points["points"][0]["id"].as_str().unwrap();
    let restored = run(path, &["restore", point, "--repository", "repository", "--to", "out"]);
    assert_eq!(code(&restored), 0, "{}", stderr(&restored));
    disk::compare_raw(&source.path, &path.join("out/root.raw")).unwrap();
    eprintln!("data flows {back:?} after the link is back");
    Some(back)
}

#[test]
fn a_backup_goes_on_when_a_link_is_back_that_was_given_up() {
    let back = cut_off(Away::Down, "--tunnel-keepalive 500ms", |hub| {
        wait(|| (hub.stderr().matches("is closed").count() > 1).then_some(()));
    });
    assert!(back.is_none_or(|back| back < SOON), "{back:?}");
}

#[test]
fn a_connection_goes_on_soon_after_the_link_is_back() {
    // Shorter than the keepalives, and in the middle of a wait of TCP's own.
    const AWAY: Duration = Duration::from_secs(7);
    let back = cut_off(Away::Astray, "", |_| thread::sleep(AWAY));
    // Older kernels double their waits.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let known = tcp::resend_within(&socket, Duration::from_secs(1)).is_ok();
    assert!(back.is_none_or(|back| !known || back < SOON), "{back:?}");
}

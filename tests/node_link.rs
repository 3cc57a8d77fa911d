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

use blockferry::{code, run, stderr, write_secret};
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

/// A hub and a node with the link between them, a disk of the node's machine, and an empty repository.
struct Two {
    hub: Child,
    _node: Child,
    _source: Child,
    disk: TestDisk,
    folder: tempfile::TempDir,
    link: Link,
}

impl Two {
    /// With options of both, and of the node. `None` where this user may make no namespaces.
    fn start(options: &str, of_node: &str) -> Option<Self> {
        let Some(link) = Link::make() else {
            eprintln!("no network namespaces for this user; node_losses.rs cuts a proxy instead");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let token = run(path, &["hub", "token", "--state", "hub"]);
        fs::write(path.join("token"), token.stdout).unwrap();
        let serve = words(&format!(
            "hub serve --state hub --listen 127.0.0.1:10080 --repository repository --ports \
             10100-10101 --tunnel 10.77.0.1:10022 --json {options}"
        ));
        let (hub, _) = start(&link.hub, path, &serve);
        let invited = run(path, &["hub", "enroll", "n1", "--state", "hub"]);
        write_secret(&path.join("code"), str::from_utf8(&invited.stdout).unwrap());
        let enroll = words("node enroll --state node --hub ssh://10.77.0.1:10022 --code code");
        let enrolled = within(&link.node, path, &enroll).output().unwrap();
        assert_eq!(code(&enrolled), 0, "{}", stderr(&enrolled));
        let serve = words(&format!("node serve --state node --json {options} {of_node}"));
        let (node, _) = start(&link.node, path, &serve);

        let disk = TestDisk::random(path, 24 << 20, 1.0, 5).unwrap();
        let file = format!("file={}", disk.path.display());
        let nbdkit = ["nbdkit", "-f", "-r", "-p", "10809", "-i", "127.0.0.1", "file", &file];
        let source = Child::spawn(within(&link.node, path, &nbdkit)).unwrap();
        let size = ["nbdinfo", "--size", "nbd://127.0.0.1"];
        wait(|| within(&link.node, path, &size).output().unwrap().status.success().then_some(()));
        Some(Self { hub, _node: node, _source: source, disk, folder, link })
    }

    /// Starts the backup of the disk, which the node reads.
    fn backup(&self) -> Child {
        let line = format!("backup --vm v --disk root=nbd://127.0.0.1 --node n1 -v {HUB}");
        Child::spawn(within(&self.link.hub, self.folder.path(), &words(&line))).unwrap()
    }

    /// The id of the newest point.
    fn point(&self) -> String {
        let args = ["points", "--repository", "repository", "--json"];
        let points = run(self.folder.path(), &args);
        let points: Value = serde_json::from_slice(&points.stdout).unwrap();
        points["points"][0]["id"].as_str().unwrap().to_owned()
    }

    /// Bytes of the disk that are acknowledged, by the API of the hub.
    fn acknowledged(&self) -> Option<u64> {
        let token = fs::read_to_string(self.folder.path().join("token")).unwrap();
        let header = format!("Authorization: Bearer {}", token.trim());
        let get = |call: &str| -> Option<Value> {
            let url = format!("http://127.0.0.1:10080/api/v1/{call}");
            let curl = ["curl", "-sS", "-H", &header, &url];
            let asked = within(&self.link.hub, self.folder.path(), &curl).output().unwrap();
            serde_json::from_slice(&asked.stdout).ok()
        };
        let job = get("backups")?["backups"][0]["id"].as_str()?.to_owned();
        get(&format!("backups/{job}"))?["disks"][0]["bytes"]["acknowledged"].as_u64()
    }
}

/// Where the hub is asked.
const HUB: &str = "--hub http://127.0.0.1:10080 --token-file token";

fn words(line: &str) -> Vec<String> {
    let line = format!("{} {line}", env!("CARGO_BIN_EXE_blockferry"));
    line.split_whitespace().map(str::to_owned).collect()
}

/// A backup that goes on when the link is back; how long after that. `cut` lasts as long as the link
/// is away, and sees the hub.
fn cut_off(away: Away, options: &str, cut: impl FnOnce(&Child)) -> Option<Duration> {
    let two = Two::start(options, "--rate-limit 6M")?;
    let backup = two.backup();
    wait(|| two.acknowledged().filter(|bytes| *bytes > 2 << 20));
    away.begin(&two.link);
    cut(&two.hub);
    // What was on its way has been told of, or is lost.
    let before = two.acknowledged().unwrap();
    away.end(&two.link);
    let back = Instant::now();
    wait(|| two.acknowledged().filter(|bytes| *bytes > before + FLOW));
    let back = back.elapsed();
    let ended = backup.output(PATIENCE).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let path = two.folder.path();
    let args = ["restore", &two.point(), "--repository", "repository", "--to", "out"];
    let restored = run(path, &args);
    assert_eq!(code(&restored), 0, "{}", stderr(&restored));
    disk::compare_raw(&two.disk.path, &path.join("out/root.raw")).unwrap();
    eprintln!("data flows {back:?} after the link is back");
    Some(back)
}

#[test]
fn a_point_is_restored_on_the_machine_of_a_node_whose_ports_lead_to_the_hub() {
    let Some(two) = Two::start("", "--ports 10100-10101 --hub-api 10080") else { return };
    let ended = two.backup().output(PATIENCE).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let (path, node, point) = (two.folder.path(), &two.link.node, two.point());
    let restore = words(&format!("restore {point} --node n1 --to out {HUB}"));
    let restored = within(node, path, &restore).output().unwrap();
    assert_eq!(code(&restored), 0, "{}", stderr(&restored));
    disk::compare_raw(&two.disk.path, &path.join("out/root.raw")).unwrap();

    // For who knows nothing of all this.
    let export = words(&format!("export {point} --node n1 --json {HUB}"));
    let (_export, served) = start(&two.link.hub, path, &export);
    let uri = served["exports"][0]["uri"].as_str().unwrap();
    let copied = within(node, path, &["nbdcopy", uri, "copied"]).output().unwrap();
    assert_eq!(code(&copied), 0, "{}", stderr(&copied));
    disk::compare_raw(&two.disk.path, &path.join("copied")).unwrap();

    // What is leased for nobody leads nowhere.
    let export = words(&format!("export {point} --json {HUB}"));
    let (_other, served) = start(&two.link.hub, path, &export);
    let uri = served["exports"][0]["uri"].as_str().unwrap();
    let refused = within(node, path, &["nbdinfo", uri]).output().unwrap();
    assert_ne!(code(&refused), 0);
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

//! A node that comes through an sshd of the hub's machine, with the lines that scripts/sshd-lines
//! makes for it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use blockferry::{Hub, code, command, place, run, stderr};
use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::process::Child;
use blockferry_doubles::{HttpClient, Nbdkit, PortBlock, Server, SshServer, Sshd, TestDisk};
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    node: Option<Child>,
    hub: Hub,
    sshd: SshServer,
    source: Server,
    disk: TestDisk,
    token: String,
    /// The port of the sshd that leads to the node.
    port: u16,
    folder: tempfile::TempDir,
    _ports: PortBlock,
}

impl Place {
    fn new(node_options: &str) -> Self {
        let (folder, token) = place();
        let path = folder.path();
        let ports = PortBlock::take();
        let range = ports.range();
        // The last one is not the hub's.
        let (first, port) = (*range.start(), *range.end());
        let hub = Hub::start_on(
            path,
            &format!(
                "--ports {first}-{} --listen 127.0.0.1:0 --repository repository --node-deadline 20s",
                first + 3
            ),
        );
        let options =
            key_options(path, &format!("{first}-{}", first + 3), hub.address.port(), port);
        let sshd = Sshd::new().key_options(&options).start().unwrap();
        let made = run(
            path,
            &["hub", "enroll", "n1", "--sshd-port", &port.to_string(), "--state", "state"],
        );
        assert_eq!(code(&made), 0, "{}", stderr(&made));
        fs::write(path.join("node.token"), made.stdout).unwrap();
        fs::set_permissions(path.join("node.token"), Permissions::from_mode(0o600)).unwrap();
        let disk = TestDisk::random(path, 16 << 20, 0.9, 11).unwrap();
        let source = Nbdkit::file(&disk.path).read_only().tcp().start().unwrap();
        let mut place =
            Self { node: None, hub, sshd, source, disk, token, port, folder, _ports: ports };
        place.node = Some(place.start_node(node_options));
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn start_node(&self, options: &str) -> Child {
        let (tunnel, known) = (self.sshd.uri(), self.sshd.known_hosts().unwrap());
        let port = self.port.to_string();
        let mut args =
            vec!["node", "serve", "--state", "node", "--tunnel", &tunnel, "--api-port", &port];
        args.extend(["--token-file", "node.token", "--json", "--identity"]);
        args.extend([
            self.sshd.identity().to_str().unwrap(),
            "--known-hosts",
            known.to_str().unwrap(),
        ]);
        args.extend(options.split_whitespace());
        let child = Child::spawn(command(self.path(), &args)).unwrap();
        wait(|| child.stdout().contains("\"pid\"").then_some(()));
        child
    }

    fn backup(&self) -> Child {
        let (url, disk) = (self.hub.url(), format!("root={}", self.source.uri()));
        let args = [
            "backup",
            "--vm",
            "v",
            "--disk",
            &disk,
            "--hub",
            &url,
            "--token-file",
            "token",
            "--node",
            "n1",
            "--json",
        ];
        fs::write(self.path().join("token"), &self.token).unwrap();
        Child::spawn(command(self.path(), &args)).unwrap()
    }

    fn assert_restored(&self, point: &str) {
        let _ = fs::remove_dir_all(self.path().join("out"));
        let restored =
            run(self.path(), &["restore", point, "--repository", "repository", "--to", "out"]);
        assert_eq!(code(&restored), 0, "{}", stderr(&restored));
        compare_raw(&self.disk.path, &self.path().join("out/root.raw")).unwrap();
    }
}

/// What the script makes of a hub's file that has these ports.
fn key_options(folder: &Path, ports: &str, api: u16, node_port: u16) -> String {
    let key = folder.join("any");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/sshd-lines");
    let config = folder.join("hub.toml");
    let text = format!("listen = \"127.0.0.1:{api}\"  # of the API\nports = \"{ports}\"\n");
    fs::write(&config, text).unwrap();
    let lines = Command::new(script)
        .arg(key.with_extension("pub"))
        .arg("--config")
        .arg(&config)
        .args(["--node-port", &node_port.to_string()])
        .output()
        .unwrap();
    assert!(lines.status.success(), "{}", String::from_utf8_lossy(&lines.stderr));
    let lines = String::from_utf8(lines.stdout).unwrap();
    let line = lines.lines().find(|line| line.starts_with("restrict")).unwrap();
    line.split(" ssh-").next().unwrap().to_owned()
}

fn wait<T>(mut get: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(started.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
}

/// The point that a backup made.
fn point(backup: Child) -> String {
    let ended = backup.output(PATIENCE).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let said: Value = serde_json::from_slice(&ended.stdout).unwrap();
    said["point"].as_str().unwrap().to_owned()
}

#[test]
fn a_node_behind_an_sshd_reads_for_its_hub() {
    let place = Place::new("");
    let (status, nodes) = place.hub.ask(&place.token, "GET", "/nodes", &Value::Null);
    assert_eq!((status, &nodes["nodes"][0]["reachable"]), (200, &json!(true)), "{nodes}");
    place.assert_restored(&point(place.backup()));
    place.disk.overwrite(3 << 20..4 << 20, 5).unwrap();
    place.assert_restored(&point(place.backup()));
}

#[test]
fn who_has_no_token_of_the_node_learns_nothing_of_it() {
    let place = Place::new("");
    let address = ([127, 0, 0, 1], place.port).into();
    for client in [
        HttpClient::connect(address).unwrap(),
        HttpClient::connect(address).unwrap().with_token(&place.token),
    ] {
        let mut client = client;
        for (method, call) in [
            ("GET", "/api/v1/jobs"),
            ("GET", "/api/v1/health"),
            ("GET", "/"),
            ("POST", "/api/v1/look"),
        ] {
            let answer = client.ask(method, call, None).unwrap();
            assert_eq!(answer.status, 401, "{call}: {}", answer.body);
        }
    }
}

#[test]
fn a_backup_outlives_the_sessions_of_its_sshd() {
    let place = Place::new("--rate-limit 6M");
    let backup = place.backup();
    let job = wait(|| {
        let (_, jobs) = place.hub.ask(&place.token, "GET", "/backups", &Value::Null);
        jobs["backups"][0]["id"].as_str().map(str::to_owned)
    });
    let acknowledged = || {
        let (_, job) = place.hub.ask(&place.token, "GET", &format!("/backups/{job}"), &Value::Null);
        job["disks"][0]["bytes"]["acknowledged"].as_u64().unwrap_or(0)
    };
    wait(|| (acknowledged() > 2 << 20).then_some(()));
    assert!(place.sshd.kill_sessions() > 0);
    let point = point(backup);
    let said = place.node.as_ref().unwrap().stderr();
    assert!(said.contains("tunnel connection 1"), "{said}");
    place.assert_restored(&point);
}

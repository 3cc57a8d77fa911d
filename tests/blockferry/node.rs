//! A hub and nodes of it, as processes of their own, with a line between them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use blockferry_doubles::{Address, Nbdkit, PortBlock, Proxy, Server};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Hub, Kept, by, code, command, signal, stderr, wait_until};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of a hub that takes nodes.
const TAKES_NODES: &str = "--repository repository --tunnel 127.0.0.1:0";

/// A hub with a repository, which takes nodes; a line that they come over; and a folder with disks.
pub(crate) struct NodePlace {
    pub(crate) kept: Kept,
    pub(crate) ports: PortBlock,
    pub(crate) token: String,
    pub(crate) hub: Hub,
    /// From the nodes to the hub.
    pub(crate) line: Proxy,
    options: String,
}

impl NodePlace {
    /// With options of the hub.
    pub(crate) fn new(options: &str) -> Self {
        Self::over(options, |line| line)
    }

    /// The same, over a line of a kind.
    pub(crate) fn over(
        options: &str,
        kind: impl FnOnce(blockferry_doubles::proxy::Line) -> blockferry_doubles::proxy::Line,
    ) -> Self {
        let place = Self::made(|kept, ports| Some(start_hub(kept, ports, options))).unwrap();
        let line = kind(Proxy::to(&tunnel_of(&place.hub))).start().unwrap();
        Self { line, options: options.to_owned(), ..place }
    }

    fn made(hub: impl FnOnce(&Kept, &PortBlock) -> Option<Hub>) -> Option<Self> {
        let kept = Kept::new();
        let made = kept.run("hub token --state state");
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        fs::write(kept.path("hub.token"), &token).unwrap();
        let ports = PortBlock::take();
        let hub = hub(&kept, &ports)?;
        let line = Proxy::to(&tunnel_of(&hub)).start().unwrap();
        Some(Self { kept, ports, token, hub, line, options: String::new() })
    }

    /// With a repository on a file system of so many MiB, which only the hub sees. Nothing where this
    /// user may mount nothing.
    pub(crate) fn with_small_repository(mib: u32) -> Option<Self> {
        let mount = format!("mount -t tmpfs -o size={mib}m none repository");
        Self::made(|kept, ports| {
            fs::create_dir(kept.path("repository")).unwrap();
            let range = ports.range();
            let line = format!(
                "hub serve -v --json --state state --listen 127.0.0.1:0 --ports {}-{} {TAKES_NODES}",
                range.start(),
                range.end()
            );
            Some(Hub::of(apart(kept.folder(), &mount, &line)?, kept.folder()))
        })
    }

    /// Starts another hub on the same folder. The line leads to it, once it is there.
    pub(crate) fn restart_hub(&mut self) {
        self.hub.wait_gone();
        self.hub = start_hub(&self.kept, &self.ports, &self.options);
        self.line.lead_to(&tunnel_of(&self.hub));
    }

    /// Makes a node whose folder is called as itself.
    pub(crate) fn enroll(&self, node: &str) {
        let made = self.kept.run(&format!("hub enroll {node} --state state"));
        assert_eq!(code(&made), 0, "{}", stderr(&made));
        let line = format!("node enroll --hub {} --state {node}", self.dial());
        let mut command = self.kept.command(&line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&made.stdout).unwrap();
        let enrolled = child.wait_with_output().unwrap();
        assert_eq!(code(&enrolled), 0, "{}", stderr(&enrolled));
    }

    /// Where nodes dial: the near end of the line.
    pub(crate) fn dial(&self) -> String {
        format!("ssh://127.0.0.1:{}", self.line.address().port().unwrap())
    }

    /// Enrolls a node, starts it, and waits until the hub can reach it.
    pub(crate) fn node(&self, node: &str, options: &str) -> Node {
        self.enroll(node);
        let mut node = self.start_node(node, options);
        node.wait_until_served();
        node
    }

    /// Starts a node that is enrolled, with its folder on a file system of so many KiB, which only
    /// it sees. Nothing where this user may mount nothing.
    pub(crate) fn node_in_small_folder(&self, node: &str, kib: u32) -> Option<Node> {
        let folder = self.kept.folder();
        let mount = format!(
            "cp -a {node} {node}.made && mount -t tmpfs -o mode=700,size={kib}k none {node} && \
             cp -a {node}.made/. {node}"
        );
        let command = apart(folder, &mount, &format!("node serve --json --state {node}"))?;
        let mut node = Node::of(command, folder, node);
        node.wait_until_served();
        Some(node)
    }

    /// Starts a node that is enrolled.
    pub(crate) fn start_node(&self, node: &str, options: &str) -> Node {
        Node::start(self.kept.folder(), node, options)
    }

    /// A disk of random bytes, and its server.
    pub(crate) fn disk(&self, name: &str, size: usize, seed: u64) -> Server {
        self.kept.disk(name, size, seed);
        self.serve(name)
    }

    /// A server of a disk that is there.
    pub(crate) fn serve(&self, name: &str) -> Server {
        Nbdkit::file(self.kept.path(name)).read_only().tcp().start().unwrap()
    }

    /// Asks for a backup, and gives the job's id.
    pub(crate) fn submit(&self, vm: &str, node: Option<&str>, disks: &[(&str, &str)]) -> String {
        let disks = disks.iter().map(|(name, uri)| json!({ "name": name, "source": uri }));
        let disks: Vec<Value> = disks.collect();
        self.submit_body(&json!({ "vm": vm, "node": node, "disks": disks }))
    }

    pub(crate) fn submit_body(&self, body: &Value) -> String {
        let (status, job) = self.hub.ask(&self.token, "POST", "/backups", body);
        assert_eq!(status, 202, "{job}");
        job["id"].as_str().unwrap().to_owned()
    }

    /// The job, once bytes of it are acknowledged.
    pub(crate) fn wait_at_work(&self, job: &str) -> Value {
        self.wait_for_bytes(job, 1)
    }

    /// The job, once so much of its first disk is acknowledged.
    pub(crate) fn wait_for_bytes(&self, job: &str, bytes: u64) -> Value {
        let found = self.hub.wait(&self.token, job, |job| {
            let over = ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap());
            over || job["disks"][0]["bytes"]["acknowledged"].as_u64().unwrap_or(0) >= bytes
        });
        assert_eq!(found["state"], "copying", "{found}");
        found
    }

    pub(crate) fn end_of(&self, job: &str) -> Value {
        self.hub.wait_over(&self.token, job)
    }

    /// The point of a job that has to be done.
    pub(crate) fn point_of(&self, job: &str) -> String {
        let job = self.end_of(job);
        assert_eq!(job["state"], "done", "{job}");
        job["point"].as_str().unwrap().to_owned()
    }

    /// The reason of a job that has to have failed.
    pub(crate) fn reason_of(&self, job: &str) -> String {
        let job = self.end_of(job);
        assert_eq!(job["state"], "failed", "{job}");
        assert_eq!(job["point"], Value::Null);
        job["reason"].as_str().unwrap().to_owned()
    }

    /// What the catalog says of the disks of a point.
    pub(crate) fn disks_of(&self, point: &str) -> Vec<Value> {
        let point = self.hub.get(&self.token, &format!("/points/{point}"));
        point["disks"].as_array().unwrap().clone()
    }

    /// `backup` by the hub, with further words; its exit code and its report.
    pub(crate) fn back_up(&self, words: &str) -> (i32, Value) {
        self.kept.json(&format!("backup --json --vm db1 {words} {}", by(&self.hub)))
    }

    /// Each disk of the point is its file, byte for byte, and `verify` finds nothing.
    pub(crate) fn assert_equal(&self, point: &str, disks: &[&str]) {
        let out = format!("restored-{point}");
        self.hubs(&format!("restore {point} --to {out}"));
        for disk in disks {
            self.kept.assert_same(disk, &format!("{out}/{disk}.raw"));
        }
        fs::remove_dir_all(self.kept.path(&out)).unwrap();
        self.hubs(&format!("verify {point}"));
    }

    /// Runs the program by the hub, which has to succeed.
    pub(crate) fn hubs(&self, line: &str) -> Output {
        let done = self.kept.run(&format!("{line} {}", by(&self.hub)));
        assert_eq!(code(&done), 0, "{line}: {}", stderr(&done));
        done
    }

    /// Waits until nothing is left of any job at the hub: no port, no process, no folder.
    pub(crate) fn assert_idle(&self) {
        let get = |call: &str| self.hub.get(&self.token, call);
        wait_until("a port is still leased", || get("/nbd/ports")["ports"] == json!([]));
        wait_until("a port is still open", || get("/nbd/ports/metrics")["in_use"] == 0);
        let none = json!({ "processes": [] });
        wait_until("a process is left", || get("/nbd/processes") == none);
        wait_until("a folder is left in the repository", || {
            self.kept.names("repository/work").is_empty()
        });
    }

    /// Waits until nothing is left of any job at a node either.
    pub(crate) fn assert_forgotten(&self, node: &str) {
        self.assert_idle();
        wait_until("a folder of a job is left at the node", || {
            self.kept.names(&format!("{node}/jobs")).is_empty()
        });
    }

    /// Another backup of disk `root` by node `n1` is made, and is what is served; there were so many
    /// points before.
    pub(crate) fn assert_next(&self, root: &Server, points: usize) {
        let next = self.submit("db1", Some("n1"), &[("root", &root.uri())]);
        self.assert_equal(&self.point_of(&next), &["root"]);
        assert_eq!(self.points(), points + 1);
    }

    /// How many points there are.
    pub(crate) fn points(&self) -> usize {
        let listed = self.hub.get(&self.token, "/points?limit=1000");
        listed["points"].as_array().unwrap().len()
    }

    /// What the hub has said.
    pub(crate) fn hub_says(&self) -> String {
        fs::read_to_string(self.kept.path("stderr")).unwrap()
    }
}

fn start_hub(kept: &Kept, ports: &PortBlock, options: &str) -> Hub {
    let options = format!("{TAKES_NODES} {options}");
    if options.contains("--ports") {
        return Hub::start_on(kept.folder(), &format!("--listen 127.0.0.1:0 {options}"));
    }
    Hub::start_with(kept.folder(), ports, &options)
}

/// The program in a folder, with the words of a line, in a namespace of mounts of its own, in which
/// something was mounted before. Nothing where this user may mount nothing.
fn apart(folder: &Path, mount: &str, line: &str) -> Option<Command> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-ec", script]).current_dir(folder);
        command.stdin(Stdio::null());
        command
    };
    let probed = unshare("mount -t tmpfs none temporary").output().unwrap();
    if !probed.status.success() {
        eprintln!("skipped: {}", stderr(&probed));
        return None;
    }
    let mut command = unshare(&format!("{mount}; exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_blockferry")).args(line.split_whitespace());
    Some(command)
}

/// A path as a process sees it.
pub(crate) fn seen_by(child: &Child, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/{}/root", child.id())).join(path.strip_prefix("/").unwrap())
}

/// Where a hub takes nodes.
pub(crate) fn tunnel_of(hub: &Hub) -> Address {
    let url = hub.tunnel.as_ref().unwrap();
    Address::Tcp(url.strip_prefix("ssh://").unwrap().parse().unwrap())
}

/// A node at work. It is killed when this is dropped.
pub(crate) struct Node {
    pub(crate) child: Child,
    log: PathBuf,
    stdout: BufReader<ChildStdout>,
}

impl Node {
    fn start(folder: &Path, node: &str, options: &str) -> Self {
        let line = format!("node serve --json --state {node} {options}");
        Self::of(command(folder, &line.split_whitespace().collect::<Vec<_>>()), folder, node)
    }

    /// A command that becomes a node.
    pub(crate) fn of(mut command: Command, folder: &Path, node: &str) -> Self {
        let log = folder.join(format!("{node}.log"));
        let mut child =
            command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, log, stdout }
    }

    /// Waits until the hub can reach it for the first time.
    pub(crate) fn wait_until_served(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(line.contains("\"node\""), "{line}{}", self.says());
    }

    /// What it has said.
    pub(crate) fn says(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has said something.
    pub(crate) fn wait_for(&self, words: &str) {
        self.wait_for_times(words, 1);
    }

    /// Waits until it has said something so many times.
    pub(crate) fn wait_for_times(&self, words: &str, times: usize) {
        wait_until(words, || self.says().matches(words).count() >= times);
    }

    pub(crate) fn signal(&self, of_kind: Signal) {
        signal(&self.child, of_kind);
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its exit code, once it has ended by itself.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "it goes on: {}", self.says());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

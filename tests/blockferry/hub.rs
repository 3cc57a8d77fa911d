//! A hub as a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use blockferry_doubles::{HttpClient, PortBlock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{code, command, run, stderr};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A hub on the folder `state`. It is killed when this is dropped.
pub(crate) struct Hub {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    /// Where nodes dial it, if they do.
    #[allow(dead_code)]
    pub(crate) tunnel: Option<String>,
    _stdout: BufReader<ChildStdout>,
}

impl Hub {
    pub(crate) fn start(folder: &Path, ports: &PortBlock) -> Self {
        Self::start_with(folder, ports, "")
    }

    /// The same, with further options.
    pub(crate) fn start_with(folder: &Path, ports: &PortBlock, options: &str) -> Self {
        let range = format!("{}-{}", ports.range().start(), ports.range().end());
        Self::start_on(folder, &format!("--ports {range} --listen 127.0.0.1:0 {options}"))
    }

    pub(crate) fn start_on(folder: &Path, options: &str) -> Self {
        let line = format!("hub serve -v --json --state state {options}");
        let args: Vec<&str> = line.split_whitespace().collect();
        Self::of(command(folder, &args), folder)
    }

    /// A command that becomes a hub.
    pub(crate) fn of(mut command: Command, folder: &Path) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let said = fs::read_to_string(folder.join("stderr")).unwrap();
        let started: Value = serde_json::from_str(&line).expect(&said);
        let url = started["url"].as_str().unwrap();
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        let tunnel = started["tunnel"].as_str().map(str::to_owned);
        Self { child, address, tunnel, _stdout: stdout }
    }

    /// Connections to its API that it has not closed.
    pub(crate) fn callers(&self) -> usize {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X}", self.address.port());
        let is_open = |line: &&str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            // Established, or closed by the caller alone.
            columns[1].ends_with(&port) && ["01", "08"].contains(&columns[3])
        };
        table.lines().skip(1).filter(is_open).count()
    }

    pub(crate) fn client(&self, token: &str) -> HttpClient {
        HttpClient::connect(self.address).unwrap().with_token(token)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits for the end of one that was told to end, or killed: its folder is free then.
    pub(crate) fn wait_gone(&mut self) {
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Status and body of a call.
    pub(crate) fn ask(&self, token: &str, method: &str, call: &str, body: &Value) -> (u16, Value) {
        let body = (!body.is_null()).then(|| body.to_string());
        let path = format!("/api/v1{call}");
        let answer = self.client(token).ask(method, &path, body.as_deref()).unwrap();
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    /// The body of a call that is answered with 2xx.
    pub(crate) fn get(&self, token: &str, call: &str) -> Value {
        let (status, body) = self.ask(token, "GET", call, &Value::Null);
        assert!(status < 300, "{call}: {status} {body}");
        body
    }

    /// The job, when `wanted` is true of it.
    pub(crate) fn wait(&self, token: &str, job: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let found = self.get(token, &format!("/backups/{job}"));
            if wanted(&found) {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "{found}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The job at its end.
    pub(crate) fn wait_over(&self, token: &str, job: &str) -> Value {
        self.wait(token, job, |job| {
            ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap())
        })
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a token for the hub that will be in it.
pub(crate) fn place() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let made = run(folder.path(), &["hub", "token", "--state", "state"]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    (folder, token)
}

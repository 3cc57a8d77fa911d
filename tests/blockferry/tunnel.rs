//! Copies through a tunnel.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::{Address, Nbdkit, QemuNbd, Server, SshServer, TestDisk};
use serde_json::Value;

use super::{code, command, stderr};

/// A disk, its server, and an export at the far end that it is to be copied into.
pub(crate) struct Pair {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) disk: TestDisk,
    image: TestDisk,
    pub(crate) source: Server,
    pub(crate) target: Server,
}

impl Pair {
    pub(crate) fn new(mib: u64, far: fn(QemuNbd) -> QemuNbd) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = mib << 20;
        let disk = TestDisk::random(folder.path(), size, 0.8, mib).unwrap();
        let image = TestDisk::sized(folder.path(), size).unwrap();
        let source = Nbdkit::file(&disk.path).read_only().start().unwrap();
        let target = far(QemuNbd::new(&image.path).format("raw").shared(0)).start().unwrap();
        Self { folder, disk, image, source, target }
    }

    /// Starts a copy with further options; its shares come from standard output.
    pub(crate) fn start(&self, tunnel: &Way, options: &str) -> Running {
        let line = format!("copy --progress=1 {options}");
        let mut args: Vec<&str> = line.split_whitespace().collect();
        args.extend(tunnel.words.iter().map(String::as_str));
        let (source, target) = (self.source.uri(), self.target.uri());
        args.extend([source.as_str(), target.as_str()]);
        Running::of(self.folder.path(), &args)
    }

    pub(crate) fn assert_equal(&self) {
        compare_raw(&self.disk.path, &self.image.path).unwrap();
    }
}

/// Disks, and exports at the far end, in a file of lanes; every second export is on a Unix socket.
pub(crate) struct Fleet {
    folder: tempfile::TempDir,
    lanes: Vec<(TestDisk, TestDisk, Server)>,
}

impl Fleet {
    pub(crate) fn new(count: u64, mib: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut lanes = Vec::new();
        let mut text = String::new();
        for seed in 0..count {
            let size = (mib << 20) + (seed << 16);
            let disk = TestDisk::random(folder.path(), size, 0.8, seed).unwrap();
            let image = TestDisk::sized(folder.path(), size).unwrap();
            let far = QemuNbd::new(&image.path).format("raw").shared(0);
            let far = if seed % 2 == 0 { far.tcp() } else { far.unix() }.start().unwrap();
            let (source, target) = (disk.path.display(), far.uri());
            text += &format!("{{\"source\":\"{source}\",\"target\":\"{target}\"}}\n");
            lanes.push((disk, image, far));
        }
        fs::write(folder.path().join("lanes"), text).unwrap();
        Self { folder, lanes }
    }

    pub(crate) fn start(&self, way: &Way, options: &str) -> Running {
        let line = format!("copy --lanes lanes --progress=1 {options}");
        let mut args: Vec<&str> = line.split_whitespace().collect();
        args.extend(way.words.iter().map(String::as_str));
        Running::of(self.folder.path(), &args)
    }

    /// As [`Fleet::start`], in a process that may have so many files open.
    pub(crate) fn start_with_open_files(&self, limit: u64, way: &Way, options: &str) -> Running {
        let line = format!("copy --lanes lanes --progress=1 {options}");
        let mut args: Vec<&str> = line.split_whitespace().collect();
        args.extend(way.words.iter().map(String::as_str));
        let program = command(self.folder.path(), &args);
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"]);
        limited.arg(program.get_program()).args(program.get_args());
        limited.current_dir(self.folder.path()).stdin(Stdio::null());
        Running::start(limited)
    }

    pub(crate) fn assert_equal(&self) {
        for (disk, image, _far) in &self.lanes {
            compare_raw(&disk.path, &image.path).unwrap();
        }
    }
}

/// The options that name a tunnel.
pub(crate) struct Way {
    pub(crate) words: Vec<String>,
}

impl Way {
    pub(crate) fn to(sshd: &SshServer) -> Self {
        Self::at(sshd, sshd.address())
    }

    /// Behind another address.
    pub(crate) fn at(sshd: &SshServer, address: &Address) -> Self {
        let known = sshd.known_hosts_at(address).unwrap();
        Self::with(&sshd.uri_at(address), sshd.identity(), &known)
    }

    pub(crate) fn with(uri: &str, identity: &Path, known_hosts: &Path) -> Self {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let words = ["--tunnel", "--identity", "--known-hosts"].map(str::to_owned);
        let values = [uri.to_owned(), path(identity), path(known_hosts)];
        Self { words: words.into_iter().zip(values).flat_map(<[String; 2]>::from).collect() }
    }
}

/// A copy at work.
pub(crate) struct Running {
    child: Option<Child>,
    lines: Lines<BufReader<ChildStdout>>,
    started: Instant,
}

impl Running {
    pub(crate) fn of(folder: &Path, args: &[&str]) -> Self {
        Self::start(command(folder, args))
    }

    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child: Some(child), lines, started: Instant::now() }
    }

    /// Waits until so much is done, in percent.
    pub(crate) fn wait_for(&mut self, percent: u32) {
        let enough = |line: &str| {
            line.strip_suffix("/100").is_some_and(|share| share.parse::<u32>().unwrap() >= percent)
        };
        if !self.lines.any(|line| enough(&line.unwrap())) {
            let ended = self.child.take().unwrap().wait_with_output().unwrap();
            panic!("it ended before {percent} %: {}", stderr(&ended));
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        // The pipe ends with the process.
        let report = self.lines.by_ref().map(Result::unwrap).filter(|line| !line.ends_with("/100"));
        let report = report.collect::<String>();
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        let report = serde_json::from_str(&report).unwrap_or_default();
        Ended { took: self.started.elapsed(), says: stderr(&output), code: code(&output), report }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended.
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

/// How a copy went.
pub(crate) struct Ended {
    pub(crate) took: Duration,
    pub(crate) code: i32,
    pub(crate) says: String,
    /// With `--json`.
    pub(crate) report: Value,
}

impl Ended {
    pub(crate) fn assert_done(&self) {
        assert_eq!(self.code, 0, "{}", self.says);
    }
}

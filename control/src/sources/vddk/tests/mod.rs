//! The real nbdkit, with the double of its plugin.

mod ending;
mod looking;
mod many;
mod refusals;
mod secrets;
mod serving;
mod versions;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::nbd::Address;
use blockferry_dataplane::{Endpoint, Lane, LaneReport, LaneSettings, Mover, MoverSettings};
use blockferry_doubles::{TestDisk, Vddk, vddk};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const PASSWORD: &str = "correct horse, battery";
const THUMBPRINT: &str = "AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD";
const VM: &str = "vm-57";
const SNAPSHOT: &str = "snapshot-64";

/// A vCenter with one VM, and how to reach it.
struct Bench {
    folder: TempDir,
    vcenter: Vddk,
    settings: Settings,
    credentials: Credentials,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let libdir = folder.path().join("libdir");
        fs::create_dir(&libdir).unwrap();
        let vcenter = Vddk::new(&libdir, THUMBPRINT, "backup", PASSWORD);
        let mut settings = Settings::new(folder.path().join("run"));
        settings.plugin = vddk::plugin().into();
        settings.libdir = Some(libdir);
        settings.start_deadline = PATIENCE;
        let credentials = Credentials {
            server: "vc.example".into(),
            user: "backup".into(),
            password: Password::new(PASSWORD.into()).unwrap(),
            thumbprint: THUMBPRINT.into(),
        };
        Self { folder, vcenter, settings, credentials }
    }

    /// One with a disk of the snapshot.
    fn with_disk(size: u64) -> (Self, Disk, TestDisk) {
        let mut bench = Self::new();
        let (disk, content) = bench.disk(0, size);
        (bench, disk, content)
    }

    /// Adds a disk to the snapshot, and the same to the VM.
    fn disk(&mut self, number: u64, size: u64) -> (Disk, TestDisk) {
        let content = TestDisk::random(self.folder.path(), size, 0.5, number + 1).unwrap();
        let file = format!("[ds one] vm/vm_{number}-000001.vmdk");
        self.vcenter.snapshot_disk(VM, SNAPSHOT, &file, &content.path);
        self.vcenter.current_disk(VM, &file, &content.path).power(VM, true).write().unwrap();
        let access = Access::Snapshot { id: SNAPSHOT.into() };
        (Disk { vm: VM.into(), file, access }, content)
    }

    fn start(&self, disk: &Disk) -> Result<Running, SourceError> {
        VddkSource::start(&self.settings, disk, &self.credentials)
    }

    /// An nbdkit that is this script.
    fn script(&mut self, text: &str) {
        let path = self.folder.path().join("fake-nbdkit");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.settings.nbdkit = path.into();
    }

    /// Whatever is in the folder for the private ones.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.settings.runtime).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Settings of a lane as a job has them for such a source.
fn lane_settings() -> LaneSettings {
    LaneSettings { request_bytes: Some(REQUEST_BYTES), retries: 0, ..LaneSettings::default() }
}

/// Copies by the data plane.
fn copy(source: Endpoint, target: Endpoint, settings: LaneSettings) -> LaneReport {
    let lane = Lane::new(source, target).with_settings(settings);
    let running = Mover::new(MoverSettings::default()).start(vec![lane]).unwrap();
    running.wait().lanes.remove(0)
}

fn assert_same(left: &Path, right: &Path) {
    assert!(fs::read(left).unwrap() == fs::read(right).unwrap(), "the content differs");
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what} does not happen");
        thread::yield_now();
    }
}

/// What it writes takes a moment to come.
fn wait_until_said(running: &Running, words: &str) {
    let said = || running.last_words().iter().any(|line| line.contains(words));
    wait_until(words, said);
}

/// A client that has negotiated by the bare protocol, and waits.
fn bare_client(running: &Running) -> UnixStream {
    let Address::Unix { path } = &running.uri().address else { panic!("it is a Unix socket") };
    let mut connection = UnixStream::connect(path).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.read_exact(&mut [0; 18]).unwrap();
    // Fixed newstyle without zeroes, then EXPORT_NAME of the default export.
    connection.write_all(&3_u32.to_be_bytes()).unwrap();
    let option = [&b"IHAVEOPT"[..], &1_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat();
    connection.write_all(&option).unwrap();
    connection.read_exact(&mut [0; 10]).unwrap();
    connection
}

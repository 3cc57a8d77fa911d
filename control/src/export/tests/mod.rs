//! Exports by the real qemu-nbd.

mod ending;
mod many;
mod serving;
mod starting;
mod tuning;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::*;
use crate::image::{CheckVerdict, Image, ImageTool};

const MIB: u64 = 1 << 20;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with images.
struct Bench {
    folder: TempDir,
    settings: ExportSettings,
}

impl Bench {
    fn new() -> Self {
        let settings = ExportSettings::for_exports(4);
        Self { folder: tempfile::tempdir().unwrap(), settings }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        Image::create(&path, 16 * MIB, None, ImageTool::default()).unwrap();
        path
    }

    fn spec(&self, image: &Path, access: ExportAccess) -> ExportSpec {
        ExportSpec {
            image: image.to_owned(),
            name: "disk".into(),
            listener: Listener::unix(self.folder.path()).unwrap(),
            access,
            connections: 1,
        }
    }

    fn start(&self, image: &Path, access: ExportAccess) -> Result<Export, ExportError> {
        Export::start(self.spec(image, access), &self.settings)
    }

    /// A qemu-nbd that is this script, with the real one as `qemu-nbd`.
    fn script(&mut self, text: &str) {
        let path = self.path("fake-qemu-nbd");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.settings.program = path.into();
    }
}

fn qemu_io(target: &str, commands: &[&str]) -> process::Output {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]);
    for line in commands {
        command.args(["-c", line]);
    }
    command.arg(target).output().unwrap()
}

fn does(export: &Export, commands: &[&str]) {
    let output = qemu_io(&export.uri().to_string(), commands);
    assert!(output.status.success(), "{output:?}");
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

fn is_stopped(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
}

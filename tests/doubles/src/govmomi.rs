//! VMware's own simulator of vSphere: what Debian's golang-github-vmware-govmomi-dev brings, with a
//! main of ours (`govmomi/main.go`), built when it is first wanted.
//!
//! It has login, inventory, tasks and snapshots, and neither change ids nor changed areas.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::process::{Child, run_ok};

/// For a build on a busy machine, below what a test may take; once it is built, it takes a second.
const BUILD_DEADLINE: Duration = Duration::from_secs(100);
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Whom it lets in: everybody who has both.
pub const USER: &str = "user";
/// The password.
pub const PASSWORD: &str = "pass";

/// A running simulator; it ends with this value.
#[derive(Debug)]
pub struct Govmomi {
    child: Child,
    port: u16,
    thumbprint: String,
}

impl Govmomi {
    /// A vCenter with a datacenter in a folder, or an ESXi host, each with a few VMs.
    pub fn start(vcenter: bool) -> Self {
        let mut command = Command::new(built());
        command.arg(if vcenter { "vcenter" } else { "esxi" });
        let child = Child::spawn(command).expect("the simulator starts");
        let end = Instant::now() + START_DEADLINE;
        while !child.stdout().contains('\n') {
            assert!(Instant::now() < end, "the simulator says nothing: {}", child.stderr());
            thread::sleep(Duration::from_millis(5));
        }
        let said = child.stdout();
        let (port, thumbprint) = said.trim().split_once(' ').expect("port and thumbprint");
        let port = port.parse().expect("a port");
        Self { port, thumbprint: thumbprint.to_owned(), child }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SHA-1 of its certificate, without colons.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// What it complains of.
    pub fn stderr(&self) -> String {
        self.child.stderr()
    }
}

impl Drop for Govmomi {
    fn drop(&mut self) {
        // It removes the folders of its datastores then.
        let _killed_by_the_next_drop = self.child.term_and_wait(Duration::from_secs(5));
    }
}

/// The program, beside the tests' own; built by one of them at a time.
fn built() -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a program");
    let folder = tests.parent().expect("it is in a folder");
    let lock = File::create(folder.join("govmomi-simulator.lock")).expect("a lock");
    flock(&lock, FlockOperation::LockExclusive).expect("a lock");
    let program = folder.join("govmomi-simulator");
    let mut command = Command::new("go");
    command
        .args(["build", "-o"])
        .arg(&program)
        .arg("main.go")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("govmomi"))
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", folder.join("govmomi-cache"));
    run_ok(command, BUILD_DEADLINE)
        .expect("the simulator is built: golang-go and golang-github-vmware-govmomi-dev of Debian");
    program
}

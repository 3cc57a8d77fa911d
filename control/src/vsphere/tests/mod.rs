//! The client against a server with a state of its own.

mod asking;
mod changes;
mod finding;
mod hostile;
mod load;
mod making;
mod sessions;
mod simulator;
mod snapshotting;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use blockferry_doubles::vsphere::{NewMachine, VirtualMachine, Vsphere as Double, VsphereBuilder};
use tempfile::TempDir;

use super::*;
use crate::backup::Cancellation;
use crate::catalog::JobId;
use crate::snapshots::{
    Hypervisor, HypervisorError, QuiescePolicy, SnapshotName, SnapshotRequest, VmId,
};

const USER: &str = "backup@vsphere.local";
const PASSWORD: &str = "pa<ss>&\"wo'rd é";
/// For what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(20);

/// A server with what it takes to reach it.
struct Stage {
    folder: TempDir,
    double: Double,
}

impl Stage {
    fn of(builder: VsphereBuilder) -> Self {
        let folder = TempDir::new().unwrap();
        write_password(&folder.path().join("password"), PASSWORD);
        let builder = builder.user(USER, PASSWORD).drawn_spelling();
        let double = builder.start(&folder.path().join("vsphere")).unwrap();
        Self { folder, double }
    }

    /// With one VM that has two tracked disks.
    fn with_web() -> Self {
        Self::of(Double::builder().machine(web()))
    }

    fn password(&self) -> std::path::PathBuf {
        self.folder.path().join("password")
    }

    fn server(&self) -> VsphereServer {
        let password = PasswordFile::at(&self.password()).unwrap();
        let trust = Trust::Thumbprint(self.double.thumbprint().parse().unwrap());
        let mut server = VsphereServer::new("127.0.0.1", USER, password, trust);
        server.port = self.double.address().port();
        server.deadlines.cancel = Duration::from_secs(2);
        server
    }

    fn connect(&self) -> Vsphere {
        Vsphere::connect(&self.server()).unwrap()
    }

    fn web(&self) -> VirtualMachine {
        self.double.machine_named("web").unwrap()
    }

    fn web_id(&self) -> VmId {
        VmId::new(self.web().id())
    }
}

const DISK_BYTES: u64 = 64 << 20;

fn web() -> NewMachine {
    NewMachine::new("web").folder("prod/linux").disk(DISK_BYTES).disk(DISK_BYTES / 2).tracked()
}

fn write_password(path: &Path, password: &str) {
    fs::write(path, password).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn request(job: JobId, quiesce: QuiescePolicy) -> SnapshotRequest {
    SnapshotRequest {
        name: SnapshotName::of(job),
        description: "made by a test <of> & for".into(),
        quiesce,
        quiesce_deadline: None,
    }
}

fn never() -> Cancellation {
    Cancellation::default()
}

/// Waits for something that another thread does.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::yield_now();
    }
}

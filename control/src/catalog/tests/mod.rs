//! The catalog's rules, on real files.

mod copying;
mod crash;
mod jobs;
mod leases;
mod many;
mod model;
mod names;
mod opening;
mod points;
mod publish;

use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use tempfile::TempDir;

use super::*;

/// A catalog in a folder that goes with it.
pub(super) struct Place {
    // Before the folder: it is closed before its file goes.
    pub(super) catalog: SqliteCatalog,
    pub(super) folder: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open_or_create(&folder.path().join(CATALOG_FILE)).unwrap();
        Self { catalog, folder }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join(CATALOG_FILE)
    }

    /// A job that has just been asked for.
    pub(super) fn job(&self) -> JobId {
        self.catalog.add_job(new_job("db1")).unwrap().into_job().id
    }

    /// A job in a state.
    pub(super) fn job_that_is(&self, state: JobState) -> JobId {
        let job = self.job();
        for step in way_to(state) {
            self.catalog.advance(job, step, "test").unwrap();
        }
        job
    }

    pub(super) fn disk(&self, vm: &str, disk: &str) -> DiskId {
        self.catalog.disk(&a(vm), &a(disk), None).unwrap().id
    }

    /// A point of one disk that stands on its newest layer, if it has one.
    pub(super) fn grow(&self, vm: &str, disk: DiskId) -> (PointId, LayerId) {
        let newest = self.catalog.newest_layer(disk).unwrap();
        let layer = match newest {
            Some(newest) => delta(disk, newest.facts.id),
            None => full(disk),
        };
        let id = layer.id;
        (self.catalog.publish(new_point(vm, [layer])).unwrap().id, id)
    }
}

/// A checked text.
pub(super) fn a<T: FromStr<Err = ValueError>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(super) fn new_job(vm: &str) -> NewJob {
    NewJob { kind: JobKind::Backup, vm: a(vm), mode: BackupMode::Auto, key: None, asked: None }
}

/// The states after the first one that lead to a state.
pub(super) fn way_to(state: JobState) -> Vec<JobState> {
    use JobState::{Cancelled, Copying, Done, Failed, Planning, Publishing};
    match state {
        JobState::Queued => vec![],
        Planning => vec![Planning],
        Copying => vec![Planning, Copying],
        Publishing => vec![Planning, Copying, Publishing],
        Done => vec![Planning, Copying, Publishing, Done],
        Failed => vec![Failed],
        Cancelled => vec![Cancelled],
    }
}

pub(super) fn full(disk: DiskId) -> LayerFacts {
    let (point, id) = (PointId::new(), LayerId::new());
    LayerFacts {
        id,
        disk,
        kind: LayerKind::Full,
        reason: "the first layer of the disk".to_owned(),
        parent: None,
        path: RelativePath::of_layer(point, id),
        size_bytes: 10_737_418_753,
        stored_bytes: 196_640,
        file_bytes: Some(262_144),
        checked: Some(CheckedFile {
            inode: u64::MAX,
            modified_ns: 1_800_000_000_000_000_007,
            bytes: 262_144,
        }),
        change: Some(a("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/81")),
        manifest: Some(ManifestFacts {
            algorithm: "xxh3".parse().unwrap(),
            path: RelativePath::of_manifest(point, id),
            id: Some(a("0123456789abcdef0123456789abcdef")),
        }),
        counts: ByteCounts { read: 4, zero: 3, sent: 2, skipped: 1 },
    }
}

pub(super) fn delta(disk: DiskId, parent: LayerId) -> LayerFacts {
    let reason = "changed areas are known".to_owned();
    LayerFacts { kind: LayerKind::Delta, parent: Some(parent), reason, ..full(disk) }
}

/// A point of a job that is kept elsewhere.
pub(super) fn new_point(vm: &str, layers: impl IntoIterator<Item = LayerFacts>) -> NewPoint {
    NewPoint {
        vm_uuid: None,
        notes: Vec::new(),
        id: PointId::new(),
        vm: a(vm),
        created: UnixMillis::now(),
        mode: BackupMode::Auto,
        job: JobId::new(),
        layers: layers.into_iter().collect(),
    }
}

/// This test program again, to run one of these tests that is marked as ignored: for what has to
/// happen in a process of its own.
///
/// The link is followed in the child, also by a user who may not enter the folders on the way.
pub(super) fn this_test(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let name = format!("catalog::{name}");
    command.args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

/// Where the test that started this one wants it to work.
pub(super) const FILE_VARIABLE: &str = "BLOCKFERRY_TEST_CATALOG";

/// What [`FILE_VARIABLE`] says. Nothing when somebody runs the ignored tests by hand.
pub(super) fn file_of_parent() -> Option<PathBuf> {
    std::env::var_os(FILE_VARIABLE).map(PathBuf::from)
}

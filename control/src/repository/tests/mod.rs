//! The rules of a repository, on real folders and with real processes.

mod catalogs;
mod deleting;
mod folders;
mod processes;
mod storage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::work::UNPUBLISHED;
use super::*;
use crate::catalog::{
    BackupMode, ByteCounts, Catalog, CatalogError, Job, JobFilter, JobId, JobState, Jobs,
    LayerFacts, LayerId, LayerKind, NewPoint, Point, PointFilter, PointId, Points, RelativePath,
    UnixMillis,
};

/// A repository in a folder that goes with it.
struct Place {
    repository: Repository,
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(&folder.path().join("repository")).unwrap();
        Self { repository, folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn folder_of(&self, point: PointId) -> PathBuf {
        RelativePath::of_point(point).under(&self.root())
    }

    fn point(&self) -> Point {
        let (job, work) = begin(&self.repository);
        publish(&self.repository, &job, work, UnixMillis::now())
    }

    fn job(&self, job: JobId) -> Job {
        self.repository.catalog().job(job).unwrap()
    }
}

fn begin(repository: &Repository) -> (Job, Work) {
    repository.begin("db1".parse().unwrap(), BackupMode::Auto).unwrap()
}

/// Publishes a point of one disk, whose layer stands on the newest one.
fn publish(repository: &Repository, job: &Job, mut work: Work, created: UnixMillis) -> Point {
    let catalog = repository.catalog();
    for state in [JobState::Planning, JobState::Copying, JobState::Publishing] {
        catalog.advance(job.id, state, "test").unwrap();
    }
    let point = new_point(repository, job, &work, created);
    work.publish(point).unwrap()
}

/// A point of that disk whose files are there.
fn new_point(repository: &Repository, job: &Job, work: &Work, created: UnixMillis) -> NewPoint {
    let catalog = repository.catalog();
    let (id, layer) = (PointId::new(), LayerId::new());
    let disk = catalog.disk(&job.vm, &job.vm.as_str().parse().unwrap(), None).unwrap().id;
    let parent = catalog.newest_layer(disk).unwrap().map(|newest| newest.facts.id);
    fs::write(work.image(layer), id.as_str()).unwrap();
    let layer = LayerFacts {
        id: layer,
        disk,
        kind: if parent.is_some() { LayerKind::Delta } else { LayerKind::Full },
        reason: "test".into(),
        parent,
        path: RelativePath::of_layer(id, layer),
        size_bytes: 1 << 20,
        stored_bytes: 4096,
        file_bytes: None,
        checked: None,
        change: None,
        manifest: None,
        counts: ByteCounts::default(),
    };
    NewPoint {
        id,
        vm: job.vm.clone(),
        vm_uuid: None,
        created,
        mode: job.mode,
        job: job.id,
        notes: Vec::new(),
        layers: vec![layer],
    }
}

fn ids(repository: &Repository) -> Vec<PointId> {
    let points = repository.catalog().points(&PointFilter::default()).unwrap();
    points.into_iter().map(|point| point.id).collect()
}

/// All that a point needs is there, and holds what it was published with.
fn assert_whole(repository: &Repository, point: PointId) {
    let held = repository.hold(point).unwrap();
    for layer in held.layers.iter().flat_map(|held| &held.chain) {
        let content = fs::read_to_string(layer.facts.path.under(repository.root())).unwrap();
        assert_eq!(content, layer.point.as_str());
    }
}

fn names_in(path: &Path) -> Vec<String> {
    folder::names(path).unwrap()
}

/// Where the test that started another process wants it to work.
const ROOT_VARIABLE: &str = "BLOCKFERRY_TEST_REPOSITORY";

/// This test program again, to run one of these tests that is marked as ignored.
fn this_test(name: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("repository::tests::{name}");
    command.args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROOT_VARIABLE, root);
    command
}

/// What [`ROOT_VARIABLE`] says. Nothing when somebody runs the ignored tests by hand.
fn root_of_parent() -> Option<PathBuf> {
    std::env::var_os(ROOT_VARIABLE).map(PathBuf::from)
}

//! Backups of real files by real qemu programs; what was kept is read by qemu-img.

mod chains;
mod ending;
mod planning;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::plan::{Area, AreaSet};
use tempfile::TempDir;

use super::*;
use crate::catalog::{
    BackupMode, Job, JobState, Jobs, LayerKind, Leases, PointFilter, PointId, Points,
};
use crate::child::held;
use crate::repository::Repository;

/// A repository, and files that are disks.
struct Place {
    folder: TempDir,
    repository: Repository,
}

/// Notes what it is told.
#[derive(Debug, Default)]
struct Noted {
    jobs: Mutex<Vec<(JobState, String)>>,
    notes: Mutex<Vec<String>>,
}

impl Watch for Noted {
    fn job(&self, job: &Job) {
        held(&self.jobs).push((job.state, job.reason.clone()));
    }

    fn note(&self, text: &str) {
        held(&self.notes).push(text.to_owned());
    }
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(&folder.path().join("repository")).unwrap();
        Self { folder, repository }
    }

    fn disk(&self, name: &str, size: u64) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.raw"));
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    fn back_up(&self, request: &BackupRequest) -> Result<BackupReport, BackupError> {
        let watch: Arc<dyn Watch> = Arc::new(Noted::default());
        let settings = BackupSettings::for_disks(2);
        back_up(&self.repository, request, &settings, &watch, &Cancellation::default())
    }

    /// The manifest of the only disk of a point.
    fn manifest(&self, point: PointId) -> PathBuf {
        let layers = self.repository.catalog().layers(point).unwrap();
        layers[0].facts.manifest.as_ref().unwrap().path.under(self.repository.root())
    }

    /// What a disk was at a point, as qemu-img reads it.
    fn content(&self, point: PointId, disk: &str, size: u64) -> Vec<u8> {
        let held = self.repository.hold(point).unwrap();
        let layer = held.layers.iter().find(|held| held.layer().disk_name.as_str() == disk);
        let image = layer.unwrap().image.clone();
        let raw = self.folder.path().join(format!("{point}-{disk}.restored"));
        let output = Command::new("qemu-img")
            .args(["convert", "-f", "qcow2", "-O", "raw"])
            .args([&image, &raw])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut content = fs::read(&raw).unwrap();
        fs::remove_file(raw).unwrap();
        // qemu rounds sizes up, and nothing but zeros may be there.
        let tail = content.split_off(usize::try_from(size).unwrap());
        assert!(tail.len() < 512 && tail.iter().all(|byte| *byte == 0), "{}", tail.len());
        content
    }

    /// Nothing is left but what is published.
    fn assert_tidy(&self) {
        let root = self.repository.root();
        let work = fs::read_dir(root.join("work")).unwrap().count();
        assert_eq!(work, 0, "folders of jobs are left");
        let catalog = self.repository.catalog();
        assert_eq!(catalog.leases().unwrap(), []);
        let published: BTreeSet<String> = catalog
            .points(&PointFilter::default())
            .unwrap()
            .iter()
            .map(|point| point.id.to_string())
            .collect();
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(root.join("points")).unwrap() {
            let entry = entry.unwrap();
            found.insert(entry.file_name().into_string().unwrap());
            for file in fs::read_dir(entry.path()).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                let known = name.ends_with(".qcow2") || name.ends_with(".manifest");
                assert!(known, "{name} is left in a point");
            }
        }
        assert_eq!(found, published);
    }
}

fn request(disks: &[(&str, &Path)]) -> BackupRequest {
    let disks = disks.iter().map(|(name, path)| DiskRequest {
        name: name.parse().unwrap(),
        uuid: None,
        source: Endpoint::File(path.to_path_buf()),
        changes: Changes::Compared,
    });
    BackupRequest { vm: "db1".parse().unwrap(), disks: disks.collect(), mode: BackupMode::Auto }
}

fn write(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn areas(list: &[(u64, u64)]) -> Changes {
    let list: Vec<_> = list.iter().map(|(start, length)| Area::new(*start, *length)).collect();
    Changes::Areas(AreaSet::from_unsorted(list, u64::MAX).unwrap())
}

//! A VM of two disks that change, their backups, and what each point has to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use blockferry_control::catalog::{
    JobFilter, JobState, Jobs, Leases, PointFilter, PointId, Points,
};
use blockferry_control::repository::Repository;
use blockferry_doubles::disk::{BLOCK, Random, TestDisk, convert_to_raw};
use blockferry_doubles::{Nbdkit, QemuNbd, Server};
use tempfile::TempDir;

use super::run::{Run, Took};
use crate::blockferry::command;

const MIB: u64 = 1 << 20;
/// Not a whole number of sectors, as only nbdkit serves it.
const ROOT_BYTES: u64 = 12 * MIB + 777;
const DATA_BYTES: u64 = 3 * MIB + 512;

/// A kind of backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    Full,
    /// Everything is read, and what differs is sent.
    Compared,
    /// The changed areas are given.
    Changed,
}

impl How {
    pub(crate) const ALL: [Self; 3] = [Self::Full, Self::Compared, Self::Changed];
}

/// A hash of each block of a disk.
type Content = Vec<u64>;
/// What tells a file from one that was written since.
type Stamp = (u64, u64, i64, i64);

struct Disk {
    name: &'static str,
    file: TestDisk,
    server: Server,
    /// Written since the newest point.
    changed: Vec<(u64, u64)>,
}

pub(crate) struct Workload {
    folder: TempDir,
    repository: PathBuf,
    disks: [Disk; 2],
    random: Random,
    usual: BTreeMap<How, Took>,
    /// What each published point holds, by the names of its disks.
    points: BTreeMap<PointId, BTreeMap<String, Content>>,
    files: BTreeMap<PathBuf, Stamp>,
    jobs_seen: usize,
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("temporary")).unwrap();
        let root = TestDisk::random(folder.path(), ROOT_BYTES, 0.7, seed).unwrap();
        let data = TestDisk::random(folder.path(), DATA_BYTES, 0.5, seed ^ 1).unwrap();
        // nbdkit before 1.33.10 aborts, some time later, when one of its threads sends to a client
        // that another one has found to be gone. With a single one there is no other.
        let root_server = Nbdkit::file(&root.path).read_only().threads(1).start().unwrap();
        let data_server = QemuNbd::new(&data.path).format("raw").read_only().shared(0).start();
        let disk = |name, file, server| Disk { name, file, server, changed: Vec::new() };
        Self {
            repository: folder.path().join("repository"),
            disks: [disk("root", root, root_server), disk("data", data, data_server.unwrap())],
            folder,
            random: Random::new(seed ^ 2),
            usual: BTreeMap::new(),
            points: BTreeMap::new(),
            files: BTreeMap::new(),
            jobs_seen: 0,
        }
    }

    pub(crate) fn repository(&self) -> &Path {
        &self.repository
    }

    /// The guest writes; its server has outlived all that was killed.
    pub(crate) fn change(&mut self) {
        for disk in &mut self.disks {
            assert!(disk.server.child.is_running(), "the source of {} is gone", disk.name);
            for _ in 0..self.random.below(6) {
                let start = self.random.below(disk.file.size);
                let length = (1 + self.random.below(300_000)).min(disk.file.size - start);
                if self.random.below(4) == 0 {
                    let zeros = vec![0; usize::try_from(length).unwrap()];
                    let file = File::options().write(true).open(&disk.file.path).unwrap();
                    file.write_all_at(&zeros, start).unwrap();
                } else {
                    disk.file.overwrite(start..start + length, self.random.next()).unwrap();
                }
                disk.changed.push((start, length));
            }
        }
    }

    /// Starts a backup.
    pub(crate) fn backup(&self, how: How) -> Run {
        let mut args = vec!["backup".to_owned(), "--vm=db1".to_owned(), "-v".to_owned()];
        args.push(format!("--repository={}", self.repository.display()));
        args.push(format!("--mode={}", if how == How::Full { "full" } else { "auto" }));
        for disk in &self.disks {
            args.push(format!("--disk={}={}", disk.name, disk.server.uri()));
            if how == How::Changed {
                let areas = disk.changed.iter();
                let areas = areas
                    .map(|(start, length)| serde_json::json!({"start": start, "length": length}));
                let file = self.folder.path().join(format!("{}.json", disk.name));
                fs::write(&file, serde_json::Value::Array(areas.collect()).to_string()).unwrap();
                args.push(format!("--changed={}={}", disk.name, file.display()));
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = command(self.folder.path(), &args);
        command.env("TMPDIR", self.folder.path().join("temporary"));
        Run::start(command)
    }

    /// How long such a backup takes; half of it is what the last one took.
    pub(crate) fn usual(&self, how: How) -> Took {
        self.usual[&how]
    }

    /// A backup ended by itself.
    pub(crate) fn note_run(&mut self, how: How, took: Took) {
        let usual = self.usual.entry(how).or_insert(took);
        usual.all = (usual.all + took.all) / 2;
        usual.copying = (usual.copying + took.copying) / 2;
        usual.publishing = (usual.publishing + took.publishing) / 2;
        let before = self.points.len();
        self.note_points();
        assert_eq!(self.points.len(), before + 1, "it has published a point");
    }

    /// Looks for a new point, which has what its disks have; those that were there are as they
    /// were.
    pub(crate) fn note_points(&mut self) {
        // One that was killed at once has made none.
        let Ok(repository) = Repository::open(&self.repository) else { return };
        let published = ids(&repository);
        let lost: Vec<_> = self.points.keys().filter(|id| !published.contains(id)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        self.assert_files();
        let new: Vec<_> = published.iter().filter(|id| !self.points.contains_key(id)).collect();
        assert!(new.len() <= 1, "{new:?}");
        let Some(&new) = new.first() else { return };
        let disks = self.disks.iter_mut().map(|disk| {
            disk.changed.clear();
            (disk.name.to_owned(), content(&disk.file.path))
        });
        let disks = disks.collect();
        self.points.insert(*new, disks);
        self.assert_point(&repository, *new);
        for file in fs::read_dir(self.repository.join(format!("points/{new}"))).unwrap() {
            let path = file.unwrap().path();
            if !path.ends_with("unpublished") {
                self.files.insert(path.clone(), stamp(&path));
            }
        }
    }

    /// The files of points are the same, and nobody wrote to them.
    fn assert_files(&self) {
        for (path, before) in &self.files {
            assert_eq!(stamp(path), *before, "{}", path.display());
        }
    }

    fn assert_point(&self, repository: &Repository, id: PointId) {
        let held = repository.hold(id).unwrap();
        assert_eq!(held.layers.len(), self.disks.len());
        for layer in &held.layers {
            let name = layer.layer().disk_name.to_string();
            let raw = self.folder.path().join("restored.raw");
            convert_to_raw(&layer.image, "qcow2", &raw).unwrap();
            // qemu rounds sizes up.
            let size = layer.layer().facts.size_bytes;
            File::options().write(true).open(&raw).unwrap().set_len(size).unwrap();
            let (is, was) = (content(&raw), &self.points[&id][&name]);
            assert_eq!(is.len(), was.len(), "disk {name} of point {id}");
            let differs = is.iter().zip(was).position(|(is, was)| is != was);
            assert_eq!(differs, None, "block of disk {name} of point {id}");
        }
    }

    /// Every point that was ever published holds what its disks held.
    pub(crate) fn assert_all_points(&self) {
        let repository = Repository::open(&self.repository).unwrap();
        for id in self.points.keys() {
            self.assert_point(&repository, *id);
        }
    }

    /// After a backup that ended by itself: nothing is left but what is published, and all jobs are
    /// over.
    pub(crate) fn assert_tidy(&mut self) {
        let repository = Repository::open(&self.repository).unwrap();
        let catalog = repository.catalog();
        assert_eq!(names(&self.repository.join("work")), BTreeSet::new());
        assert_eq!(names(&self.folder.path().join("temporary")), BTreeSet::new());
        assert_eq!(catalog.leases().unwrap(), []);
        let published = ids(&repository);
        let folders: BTreeSet<String> = published.iter().map(ToString::to_string).collect();
        assert_eq!(names(&self.repository.join("points")), folders);
        for point in &published {
            let mut expected = BTreeSet::new();
            for layer in catalog.layers(*point).unwrap() {
                expected.insert(format!("{}.qcow2", layer.facts.id));
                expected.insert(format!("{}.manifest", layer.facts.id));
            }
            assert_eq!(names(&self.repository.join(format!("points/{point}"))), expected);
        }
        let jobs = catalog.jobs(&JobFilter::default()).unwrap();
        for job in &jobs[self.jobs_seen..] {
            let published = catalog.point_of(job.id).unwrap().is_some();
            let expected = if published { JobState::Done } else { JobState::Failed };
            assert_eq!(job.state, expected, "job {}: {}", job.id, job.reason);
            assert!(!job.reason.is_empty());
        }
        self.jobs_seen = jobs.len();
    }

    /// State and reason of the job that was begun last: done, where one was killed before it had
    /// begun, or after its point was published.
    pub(crate) fn newest_job(&self) -> (JobState, String) {
        let newest = JobFilter { newest: Some(1), ..JobFilter::default() };
        let repository = Repository::open(&self.repository).unwrap();
        let mut jobs = repository.catalog().jobs(&newest).unwrap();
        let job = jobs.pop().unwrap();
        (job.state, job.reason)
    }
}

fn ids(repository: &Repository) -> BTreeSet<PointId> {
    let points = repository.catalog().points(&PointFilter::default()).unwrap();
    points.into_iter().map(|point| point.id).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn stamp(path: &Path) -> Stamp {
    let file = path.metadata().unwrap();
    (file.ino(), file.len(), file.mtime(), file.mtime_nsec())
}

fn content(path: &Path) -> Content {
    let mut file = File::open(path).unwrap();
    let mut blocks = Vec::new();
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        block.clear();
        file.by_ref().take(BLOCK as u64).read_to_end(&mut block).unwrap();
        if block.is_empty() {
            return blocks;
        }
        let mut hash = DefaultHasher::new();
        hash.write(&block);
        blocks.push(hash.finish());
    }
}

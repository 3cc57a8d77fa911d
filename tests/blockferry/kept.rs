//! A repository with points, made by the program itself, and what was backed up.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use blockferry_doubles::disk::Random;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{code, command, stderr};

/// A folder with a repository `repository` and disks beside it.
pub(crate) struct Kept {
    folder: tempfile::TempDir,
}

impl Kept {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("temporary")).unwrap();
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// A disk of random bytes.
    pub(crate) fn disk(&self, name: &str, size: usize, seed: u64) {
        let mut content = vec![0; size];
        Random::new(seed).fill(&mut content);
        fs::write(self.path(name), content).unwrap();
    }

    /// A disk that is a hole, but for a few bytes at its end.
    pub(crate) fn sparse(&self, name: &str, size: u64) {
        let file = File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(b"the end", size - 7).unwrap();
    }

    /// Writes to a disk.
    pub(crate) fn write(&self, name: &str, offset: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(self.path(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// Backs up disks, each of which is a file of its name. Returns the point.
    pub(crate) fn back_up(&self, disks: &[&str]) -> String {
        let mut line = "backup --vm db1 --repository repository --json".to_owned();
        for disk in disks {
            line += &format!(" --disk {disk}={disk}");
        }
        let (code, report) = self.json(&line);
        assert_eq!(code, 0, "{report}");
        report["point"].as_str().unwrap().to_owned()
    }

    /// A full and two deltas of disk `root`, of 5 MiB: the last one changes 64 KiB at 1 MiB.
    pub(crate) fn chain(&self) -> [String; 3] {
        self.disk("root", 5 << 20, 7);
        let full = self.back_up(&["root"]);
        self.write("root", 3 << 20, &[1; 64 << 10]);
        let delta = self.back_up(&["root"]);
        self.write("root", 1 << 20, &[2; 64 << 10]);
        [full, delta, self.back_up(&["root"])]
    }

    /// A file of this text, or another text in it.
    pub(crate) fn write_text(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Runs the program with the words of a line.
    pub(crate) fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// The same, to be waited for. What a kill leaves behind goes with the folder.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = command(self.folder(), &line.split_whitespace().collect::<Vec<_>>());
        command.env("TMPDIR", self.path("temporary"));
        command
    }

    /// Its exit code, and what it prints as JSON.
    pub(crate) fn json(&self, line: &str) -> (i32, Value) {
        let output = self.run(line);
        let report = serde_json::from_slice(&output.stdout);
        let report: Value =
            report.unwrap_or_else(|error| panic!("{line}: {error}: {}", stderr(&output)));
        assert_eq!(report["exit_code"], code(&output), "{report}");
        (code(&output), report)
    }

    /// The image of a disk in a point.
    pub(crate) fn image(&self, point: &str, disk: &str) -> PathBuf {
        let (_, listed) = self.json("points --repository repository --json");
        let points = listed["points"].as_array().unwrap();
        let point = points.iter().find(|found| found["id"] == point).unwrap();
        let disks = point["disks"].as_array().unwrap();
        let disk = disks.iter().find(|found| found["name"] == disk).unwrap();
        self.path("repository").join(disk["file"].as_str().unwrap())
    }

    pub(crate) fn manifest(&self, point: &str, disk: &str) -> PathBuf {
        self.image(point, disk).with_extension("manifest")
    }

    /// Puts the manifest of another point in the place of that of a point. Both are whole.
    pub(crate) fn swap_manifest(&self, point: &str) {
        let (_, listed) = self.json("points --repository repository --json");
        let points = listed["points"].as_array().unwrap();
        let other = points.iter().find(|other| other["id"] != point).unwrap();
        let other = self.manifest(other["id"].as_str().unwrap(), "root");
        fs::copy(other, self.manifest(point, "root")).unwrap();
    }

    /// Makes the catalog one whose layers were published by a program that did not note which
    /// manifests they have.
    pub(crate) fn forget_manifests(&self) {
        let catalog = rusqlite::Connection::open(self.path("repository/catalog.db")).unwrap();
        assert_ne!(catalog.execute("UPDATE layers SET manifest_id = NULL", []).unwrap(), 0);
    }

    /// Flips a bit of the first data that an image has of its own.
    pub(crate) fn flip_a_bit_of(&self, image: &Path) {
        let at = self.first_data_of(image);
        let file = File::options().read(true).write(true).open(image).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    /// Where an image has the first data of its own, by qemu-img.
    pub(crate) fn first_data_of(&self, image: &Path) -> u64 {
        let map = Command::new("qemu-img")
            .args(["map", "--output=json", "-f", "qcow2"])
            .arg(image)
            .output()
            .unwrap();
        let map: Value = serde_json::from_slice(&map.stdout).unwrap();
        let own = |area: &&Value| area["depth"] == 0 && area["data"] == true;
        map.as_array().unwrap().iter().find(own).unwrap()["offset"].as_u64().unwrap()
    }

    /// The names in a folder; none of one that is not there.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }

    /// A restored file is what was backed up, by cmp(1), which reads to the last byte.
    pub(crate) fn assert_same(&self, disk: &str, restored: &str) {
        let compared =
            Command::new("cmp").args([self.path(disk), self.path(restored)]).output().unwrap();
        assert!(compared.status.success(), "{restored}: {compared:?}");
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

//! Real block devices as ends of a copy: loop devices over files, which only root can make.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blockferry_doubles::TestDisk;
use blockferry_doubles::disk::Random;
use blockferry_doubles::{Nbdkit, QemuNbd};

use blockferry::{code, command, copy, stderr};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 4 * MIB;

/// A loop device over a file; it is let go with this value.
struct Loop {
    path: PathBuf,
    file: PathBuf,
}

impl Loop {
    /// Over a new file of `size` bytes that are all 0xEE, so that what is not written is seen.
    fn over(folder: &Path, name: &str, size: u64, options: &[&str]) -> Self {
        let file = folder.join(name);
        fs::write(&file, vec![0xEE; usize::try_from(size).unwrap()]).unwrap();
        Self::attach(file, options)
    }

    fn attach(file: PathBuf, options: &[&str]) -> Self {
        let mut losetup = Command::new("losetup");
        let output = losetup.args(["--find", "--show"]).args(options).arg(&file).output().unwrap();
        assert!(output.status.success(), "losetup: {}", stderr(&output));
        let path = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Self { path, file }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn content(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// Whether this user can make loop devices here; says why not.
fn can_have_devices() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !can {
        eprintln!("skipped: loop devices need root and /dev/loop-control");
    }
    can
}

/// A folder with a disk of data and holes in `a`, and its content.
fn disk() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let disk = TestDisk::random(folder.path(), SIZE, 0.6, 91).unwrap();
    let content = disk.content().unwrap();
    fs::rename(&disk.path, folder.path().join("a")).unwrap();
    (folder, content)
}

fn succeeds(folder: &Path, line: &str) {
    let output = copy(folder, line);
    assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
}

#[test]
fn a_device_is_read_and_written_by_each_engine() {
    if !can_have_devices() {
        return;
    }
    let (folder, content) = disk();
    let path = folder.path();
    for engine in ["uring", "poll"] {
        let source = Loop::attach(path.join("a"), &["--read-only"]);
        let target = Loop::over(path, "target", SIZE, &[]);
        succeeds(path, &format!("--engine {engine} {} {}", source.name(), target.name()));
        assert!(target.content() == content, "another content on the device");
        succeeds(path, &format!("--engine {engine} {} out", target.name()));
        assert!(fs::read(path.join("out")).unwrap() == content, "another content from it");
    }
}

#[test]
fn a_device_goes_into_an_export_and_back() {
    if !can_have_devices() {
        return;
    }
    let (folder, content) = disk();
    let path = folder.path();
    fs::File::create(path.join("image")).unwrap().set_len(SIZE).unwrap();
    let server = QemuNbd::new(path.join("image")).format("raw").shared(4).start().unwrap();
    let source = Loop::attach(path.join("a"), &["--read-only"]);
    let target = Loop::over(path, "target", SIZE, &[]);
    succeeds(path, &format!("{} {}", source.name(), server.uri()));
    succeeds(path, &format!("{} {}", server.uri(), target.name()));
    assert!(target.content() == content);
}

#[test]
fn zeros_free_the_room_of_a_device_unless_it_is_to_stay_allocated() {
    if !can_have_devices() {
        return;
    }
    let (folder, content) = disk();
    let path = folder.path();
    let allocated = |option: &str| {
        let target = Loop::over(path, "target", 2 * SIZE, &[]);
        succeeds(path, &format!("{option} a {}", target.name()));
        assert!(target.content()[..content.len()] == content);
        // What lies behind the source is not the copy's.
        assert!(target.content()[content.len()..].iter().all(|byte| *byte == 0xEE));
        fs::metadata(&target.file).unwrap().blocks() * 512
    };
    let (freed, kept) = (allocated("-S 4096"), allocated("--allocated"));
    assert!(freed < 2 * SIZE * 9 / 10, "{freed} bytes are allocated");
    assert!(kept >= 2 * SIZE, "{kept} bytes are allocated");
}

#[test]
fn only_changed_areas_of_a_device_are_written() {
    if !can_have_devices() {
        return;
    }
    let (folder, content) = disk();
    let path = folder.path();
    let areas = r#"[{"start": 65536, "length": 4096}, {"start": 1048576, "length": 1048576}]"#;
    fs::write(path.join("areas"), areas).unwrap();
    let target = Loop::over(path, "target", SIZE, &[]);
    let mut expected = vec![0xEE; content.len()];
    for range in [65_536..69_632, 1 << 20..2 << 20] {
        expected[range.clone()].copy_from_slice(&content[range]);
    }
    succeeds(path, &format!("--changed areas a {}", target.name()));
    assert!(target.content() == expected);
}

#[test]
fn a_device_that_does_not_fit_is_the_targets_fault_and_stays_as_it_is() {
    if !can_have_devices() {
        return;
    }
    let (folder, _) = disk();
    let path = folder.path();
    let small = Loop::over(path, "small", SIZE - 4096, &[]);
    let read_only = Loop::over(path, "read-only", SIZE, &["--read-only"]);
    let server = Nbdkit::file(path.join("a")).read_only().start().unwrap();
    for source in ["a", &server.uri()] {
        for (target, says) in [(&small, "too small"), (&read_only, "the device is read-only")] {
            let output = copy(path, &format!("{source} {}", target.name()));
            let text = stderr(&output);
            assert_eq!(code(&output), 5, "{text}");
            assert!(text.contains(says) && text.contains(target.name()), "{text}");
            assert!(target.content().iter().all(|byte| *byte == 0xEE));
        }
    }
}

#[test]
fn a_device_is_not_copied_onto_itself_under_another_name() {
    if !can_have_devices() {
        return;
    }
    let (folder, _) = disk();
    let path = folder.path();
    let device = Loop::over(path, "device", SIZE, &[]);
    std::os::unix::fs::symlink(&device.path, path.join("link")).unwrap();
    let output = copy(path, &format!("{} link", device.name()));
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(device.content().iter().all(|byte| *byte == 0xEE));
}

#[test]
fn a_copy_onto_a_device_is_resumed_after_a_kill_and_another_device_is_refused() {
    if !can_have_devices() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut content = vec![0; usize::try_from(SIZE).unwrap()];
    Random::new(92).fill(&mut content);
    fs::write(path.join("a"), &content).unwrap();
    let target = Loop::over(path, "target", SIZE, &[]);
    let line = format!("copy --resume journal a {}", target.name());
    let slowly = format!(
        "{line} --flush-interval 0s --request-size 65536 -R 1 --rate-limit 8M --progress=1"
    );
    let words: Vec<&str> = slowly.split(' ').collect();
    let mut child = command(path, &words).stdout(Stdio::piped()).spawn().unwrap();
    let mut shares = BufReader::new(child.stdout.take().unwrap()).lines();
    let half = |share: String| share.split_once('/').unwrap().0.parse::<u32>().unwrap() >= 50;
    assert!(shares.any(|share| half(share.unwrap())));
    child.kill().unwrap();
    child.wait().unwrap();
    let journal = fs::read(path.join("journal")).unwrap();
    assert!(String::from_utf8_lossy(&journal).contains("{\"safe\":[["));

    // What was written, but for a byte of the seal at its end.
    let mut other = target.content();
    *other.last_mut().unwrap() ^= 1;
    let before = target.content();
    fs::write(&target.path, &other).unwrap();
    let resume: Vec<&str> = line.split(' ').collect();
    let output = blockferry::run(path, &resume);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("not of this target"), "{}", stderr(&output));
    assert!(target.content() == other, "it was written");

    fs::write(&target.path, &before).unwrap();
    let output = command(path, &resume).arg("--json").output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["lanes"][0]["bytes"]["skipped"].as_u64().unwrap() > MIB, "{report}");
    assert!(target.content() == content);
    assert!(!path.join("journal").exists());
}

//! Images by the real qemu-img.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn tool() -> ImageTool {
    ImageTool::default()
}

/// A qemu-img that is this script.
fn script(folder: &Path, text: &str) -> ImageTool {
    let path = folder.join("fake-qemu-img");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    ImageTool { program: path.into(), ..tool() }
}

fn made(folder: &TempDir, name: &str, size: u64, parent: Option<&Path>) -> NewImage {
    Image::create(&folder.path().join(name), size, parent, tool()).unwrap()
}

fn qemu_io(image: &Path, commands: &[&str]) {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "qcow2"]);
    for line in commands {
        command.args(["-c", line]);
    }
    let output = command.arg(image).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_full_image_has_no_parent_and_the_size_asked_for() {
    let folder = folder();
    let new = made(&folder, "a.qcow2", 10 << 20, None);
    assert_eq!((new.size_bytes, new.virtual_bytes), (10 << 20, 10 << 20));
    let info = new.image.info().unwrap();
    assert_eq!(info.virtual_bytes, 10 << 20);
    assert_eq!(info.cluster_bytes, DEFAULT_CLUSTER_BYTES);
    assert_eq!((info.backing_file, info.dirty, info.corrupt), (None, false, false));
    assert!(info.actual_bytes < 1 << 20, "{}", info.actual_bytes);
}

#[test]
fn a_size_that_is_no_multiple_of_512_is_rounded_up_and_the_true_one_kept() {
    let folder = folder();
    for size in [1, 511, 513, (10 << 20) + 1] {
        let new = made(&folder, &format!("{size}.qcow2"), size, None);
        assert_eq!(new.size_bytes, size);
        assert_eq!(new.virtual_bytes, size.next_multiple_of(512));
        assert_eq!(new.image.info().unwrap().virtual_bytes, new.virtual_bytes);
    }
}

#[test]
fn sizes_that_no_disk_has_are_refused_and_leave_nothing() {
    let folder = folder();
    for size in [0, u64::MAX, 1 << 63] {
        let path = folder.path().join("a.qcow2");
        let error = Image::create(&path, size, None, tool()).unwrap_err();
        assert!(matches!(error, ImageError::Size { .. }), "{error}");
        assert!(!path.exists());
    }
}

#[test]
fn a_delta_names_its_parent_relative_to_itself_and_with_its_format() {
    let folder = folder();
    let other = folder.path().join("old:er, still");
    fs::create_dir(&other).unwrap();
    let base = Image::create(&other.join("b:ase.qcow2"), 1 << 20, None, tool()).unwrap();
    let delta = made(&folder, "delta.qcow2", 1 << 20, Some(base.image.path()));
    let info = delta.image.info().unwrap();
    assert_eq!(info.backing_file.unwrap(), PathBuf::from("./old:er, still/b:ase.qcow2"));
    assert_eq!(info.backing_format.as_deref(), Some("qcow2"));
}

#[test]
fn a_chain_is_whole_after_its_repository_was_moved() {
    let folder = folder();
    let old = folder.path().join("old");
    fs::create_dir(&old).unwrap();
    let base = Image::create(&old.join("base"), 1 << 20, None, tool()).unwrap();
    qemu_io(base.image.path(), &["write -P 7 0 64k"]);
    Image::create(&old.join("delta"), 1 << 20, Some(base.image.path()), tool()).unwrap();
    let new = folder.path().join("new");
    fs::rename(&old, &new).unwrap();
    qemu_io(&new.join("delta"), &["read -P 7 0 64k"]);
}

#[test]
fn nothing_is_written_over() {
    let folder = folder();
    let path = folder.path().join("a.qcow2");
    fs::write(&path, "precious").unwrap();
    let error = Image::create(&path, 1 << 20, None, tool()).unwrap_err();
    assert!(matches!(error, ImageError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn an_image_is_for_its_owner_only() {
    let folder = folder();
    let new = made(&folder, "a.qcow2", 1 << 20, None);
    assert_eq!(new.image.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_parent_that_is_not_there_is_named_and_leaves_nothing() {
    let folder = folder();
    let path = folder.path().join("delta");
    let parent = folder.path().join("nope.qcow2");
    let error = Image::create(&path, 1 << 20, Some(&parent), tool()).unwrap_err();
    assert!(matches!(error, ImageError::BackingMissing { .. }), "{error}");
    assert!(error.to_string().contains("nope.qcow2"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_missing_qemu_img_says_what_to_install_and_leaves_nothing() {
    let folder = folder();
    let path = folder.path().join("a");
    let none = ImageTool { program: "no-such-qemu-img".into(), ..tool() };
    let error = Image::create(&path, 1 << 20, None, none).unwrap_err().to_string();
    assert!(error.contains("no-such-qemu-img") && error.contains("qemu-utils"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_full_file_system_is_told_and_leaves_nothing() {
    let folder = folder();
    let path = folder.path().join("a");
    let full = script(folder.path(), "echo 'qemu-img: x: No space left on device' >&2; exit 1");
    let error = Image::create(&path, 1 << 20, None, full).unwrap_err();
    assert!(matches!(error, ImageError::NoSpace { .. }), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_qemu_img_that_hangs_is_ended_at_its_deadline_and_leaves_nothing() {
    let folder = folder();
    let path = folder.path().join("a");
    let mut hangs = script(folder.path(), "echo thinking >&2; exec sleep 600");
    hangs.quick_deadline = Duration::from_millis(400);
    let asked = Instant::now();
    let error = Image::create(&path, 1 << 20, None, hangs).unwrap_err();
    assert!(matches!(error, ImageError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("thinking"), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(!path.exists());
}

#[test]
fn what_qemu_img_says_is_in_the_error_when_nothing_better_is_known() {
    let folder = folder();
    let path = folder.path().join("a");
    fs::write(&path, "no image").unwrap();
    let error = Image::at(&path, tool()).unwrap().info().unwrap_err();
    assert!(matches!(error, ImageError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("Image is not in qcow2 format"), "{error}");
}

#[test]
fn an_answer_that_is_no_json_is_told() {
    let folder = folder();
    let image = Image::at(&folder.path().join("a"), script(folder.path(), "echo hello")).unwrap();
    assert!(matches!(image.info().unwrap_err(), ImageError::Answer { .. }));
}

#[test]
fn a_missing_image_is_told_by_info_and_by_check() {
    let folder = folder();
    let image = Image::at(&folder.path().join("nope"), tool()).unwrap();
    assert!(matches!(image.info().unwrap_err(), ImageError::Missing { .. }));
    assert!(matches!(image.check().unwrap_err(), ImageError::Missing { .. }));
}

#[test]
fn a_check_tells_a_clean_image() {
    let folder = folder();
    let new = made(&folder, "a", 1 << 20, None);
    qemu_io(new.image.path(), &["write -P 7 0 128k"]);
    let report = new.image.check().unwrap();
    assert_eq!(report.verdict, CheckVerdict::Clean);
    assert_eq!((report.allocated_clusters, report.total_clusters), (2, 16));
}

#[test]
fn a_check_tells_leaks() {
    let folder = folder();
    let new = made(&folder, "a", 1 << 20, None);
    qemu_io(new.image.path(), &["write -P 7 0 64k"]);
    forget_first_cluster(new.image.path());
    assert!(matches!(new.image.check().unwrap().verdict, CheckVerdict::Leaks { clusters: 1 }));
}

/// Clears the first entry of the first L2 table: its cluster belongs to nobody then.
fn forget_first_cluster(path: &Path) {
    let l2 = first_l2(path);
    overwrite(path, l2, &[0; 8]);
}

#[test]
fn a_check_tells_corruptions() {
    let folder = folder();
    let new = made(&folder, "a", 1 << 20, None);
    qemu_io(new.image.path(), &["write -P 7 0 128k"]);
    let l2 = first_l2(new.image.path());
    // Both guest clusters are made to lie in the same cluster of the file.
    let bytes = fs::read(new.image.path()).unwrap();
    let at = usize::try_from(l2).unwrap();
    overwrite(new.image.path(), l2 + 8, &bytes[at..at + 8]);
    let verdict = new.image.check().unwrap().verdict;
    assert!(matches!(verdict, CheckVerdict::Corrupt { corruptions: 1.., .. }), "{verdict:?}");
}

#[test]
fn a_check_that_could_not_read_everything_is_neither_clean_nor_corrupt() {
    let folder = folder();
    let answer = r#"echo '{"check-errors": 3, "filename": "a", "format": "qcow2"}'; exit 1"#;
    let image = Image::at(&folder.path().join("a"), script(folder.path(), answer)).unwrap();
    assert_eq!(image.check().unwrap().verdict, CheckVerdict::Incomplete { errors: 3 });
}

#[test]
fn an_image_with_a_missing_parent_is_told_by_its_check() {
    let folder = folder();
    let base = made(&folder, "base", 1 << 20, None);
    let delta = made(&folder, "delta", 1 << 20, Some(base.image.path()));
    fs::remove_file(base.image.path()).unwrap();
    let error = delta.image.check().unwrap_err();
    assert!(matches!(error, ImageError::BackingMissing { .. }), "{error}");
    // The header can be read all the same.
    assert_eq!(delta.image.info().unwrap().backing_file.unwrap(), PathBuf::from("./base"));
}

/// Offset of the first L2 table, by the L1 table of the header (docs/interop/qcow2.rst of QEMU).
fn first_l2(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let offset = |at: u64| {
        let at = usize::try_from(at).unwrap();
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
    };
    offset(offset(40)) & 0x00ff_ffff_ffff_fe00
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

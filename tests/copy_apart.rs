//! No file of a copy takes the place of another one, or of anything else that was there.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use blockferry::{code, command, copy, folder, stderr};

/// What is in a folder and those below: of files the content, of all else what it is.
fn content(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            all.extend(content(&path));
        }
        let shown = if kind.is_file() {
            format!("{:x?}", fs::read(&path).unwrap())
        } else {
            format!("{kind:?}")
        };
        all.insert(path, shown);
    }
    all
}

/// Refused with a line, and all is as it was.
fn refused(folder: &Path, line: &str, says: &str) {
    let before = content(folder);
    let output = copy(folder, line);
    let text = stderr(&output);
    assert_eq!(code(&output), 2, "{line}: {text}");
    assert!(text.contains(says) && text.lines().count() == 1, "{line}: {text}");
    assert!(content(folder) == before, "{line}: something has changed");
}

#[test]
fn a_manifest_or_journal_was_written_over_the_disks_of_its_copy() {
    let folder = folder();
    fs::write(folder.path().join("b"), "precious").unwrap();
    fs::write(folder.path().join("m.partial"), "precious").unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    symlink("a", folder.path().join("link")).unwrap();
    symlink("not-there", folder.path().join("to-nothing")).unwrap();
    fs::hard_link(folder.path().join("empty"), folder.path().join("same")).unwrap();
    for (line, says) in [
        ("--manifest a a c", "a is something else, no digest manifest, and is left alone"),
        ("--manifest b a b", "b is something else"),
        ("--manifest c a c", "--manifest c: that file is the target too"),
        ("--manifest ./c a folder/../c", "is the target too"),
        ("--manifest not-there a to-nothing", "is the target too"),
        ("--manifest empty empty c", "is the source too"),
        ("--manifest same empty c", "is the source too"),
        ("--manifest link a c", "link is a symbolic link"),
        ("--manifest m m.partial c", "m.partial is something else"),
        ("--manifest m a m.partial", "m.partial is something else"),
        ("--manifest d a d.partial", "d, which is d.partial while it is made: that file is"),
        ("--manifest j --resume j a c", "--resume j: that file is the file of --manifest too"),
        ("--manifest j --resume j.partial a c", "is the file of --manifest too"),
        ("--resume c a c", "--resume c: that file is the target too"),
        ("--resume empty a same", "is the target too"),
        ("--resume a a c", "--resume a: that file is the source too"),
    ] {
        refused(folder.path(), &format!("--digest blake3 {line}"), says);
    }
}

#[test]
fn a_manifest_was_written_over_the_file_behind_a_standard_stream() {
    let folder = folder();
    for (name, line) in [("in", "- null:"), ("out", "a -")] {
        let path = folder.path().join(name);
        fs::write(&path, "").unwrap();
        let file = || fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let words = format!("copy --digest blake3 --manifest {name} {line}");
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = command(folder.path(), &words);
        let output = match name {
            "in" => command.stdin(file()).output(),
            _ => command.stdout(file()).output(),
        };
        let output = output.unwrap();
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        assert_eq!(fs::read(&path).unwrap(), b"", "{name}");
    }
}

#[test]
fn a_target_was_written_over_what_says_what_to_copy() {
    let folder = folder();
    fs::write(folder.path().join("areas"), "[{\"start\": 0, \"length\": 4096}]").unwrap();
    let lane = "{\"source\": \"a\", \"target\": \"lanes\"}\n";
    fs::write(folder.path().join("lanes"), lane).unwrap();
    refused(folder.path(), "--changed areas a areas", "is the target too");
    refused(folder.path(), "--lanes lanes", "--lanes lanes: that file is the target of lane 0 too");
    assert_eq!(code(&copy(folder.path(), "--digest blake3 --manifest m a b")), 0);
    let over = "--digest blake3 --base-manifest m a m";
    refused(folder.path(), over, "--base-manifest m: that file is the target too");
}

#[test]
fn a_manifest_replaced_devices_pipes_and_folders() {
    let folder = folder();
    let made = Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap();
    assert!(made.success());
    fs::create_dir(folder.path().join("folder.partial")).unwrap();
    for (manifest, says) in
        [("pipe", "pipe is a device, a pipe or a socket"), ("folder", "folder.partial is a folder")]
    {
        let line = format!("--digest blake3 --manifest {manifest} a null:");
        refused(folder.path(), &line, says);
    }
    let node = folder.path().join("node");
    let made = Command::new("mknod").arg(&node).args(["c", "1", "3"]).output().unwrap();
    if !made.status.success() {
        eprintln!("skipped: a device node can be made by root only");
        return;
    }
    refused(folder.path(), "--digest blake3 --manifest node a null:", "node is a device");
    assert!(node.metadata().unwrap().file_type().is_char_device());
}

#[test]
fn a_manifest_of_one_lane_was_written_over_the_disk_of_another() {
    let folder = folder();
    fs::create_dir(folder.path().join("mm")).unwrap();
    let lanes = |lines: &[[&str; 2]]| {
        let line = |[source, target]: &[&str; 2]| {
            format!("{{\"source\": \"{source}\", \"target\": \"{target}\"}}\n")
        };
        fs::write(folder.path().join("lanes"), lines.iter().map(line).collect::<String>()).unwrap();
    };
    let options = "--digest blake3 --manifest mm --lanes lanes";
    fs::copy(folder.path().join("a"), folder.path().join("mm/0.manifest")).unwrap();
    lanes(&[["a", "b"], ["mm/0.manifest", "c"]]);
    refused(folder.path(), options, "mm/0.manifest is something else");
    fs::write(folder.path().join("mm/0.manifest"), "").unwrap();
    refused(folder.path(), options, "is the source of lane 1 too");
    fs::remove_file(folder.path().join("mm/0.manifest")).unwrap();
    lanes(&[["a", "b"], ["a", "mm/0.manifest.partial"]]);
    refused(folder.path(), options, "is the target of lane 1 too");
    // Folders that are yet to be made.
    lanes(&[["a", "b"], ["a", "./jj/0.journal"]]);
    refused(folder.path(), "--resume jj --lanes lanes", "is the target of lane 1 too");
}

#[test]
fn a_manifest_in_the_place_of_an_older_one_or_of_an_empty_file_is_no_loss() {
    let folder = folder();
    fs::write(folder.path().join("m"), "").unwrap();
    for base in ["", "--base-manifest m"] {
        for _ in 0..2 {
            let output = copy(folder.path(), &format!("--digest blake3 {base} --manifest m a b"));
            assert_eq!(code(&output), 0, "{}", stderr(&output));
        }
    }
    assert!(fs::read(folder.path().join("m")).unwrap().starts_with(b"blockferry-digst"));
}

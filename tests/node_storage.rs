//! A repository, or the folder of a node, that is full or read-only while a node reads for a backup.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use blockferry::{NodePlace, seen_by, wait_until};

const MIB: usize = 1 << 20;

#[test]
fn a_repository_that_is_full_is_the_reason_and_takes_what_there_is_room_for() {
    let Some(place) = NodePlace::with_small_repository(12) else { return };
    let node = place.node("n1", "");
    let (small, big) = (place.disk("root", 2 * MIB, 1), place.disk("big", 24 * MIB, 2));
    let reason = place.reason_of(&place.submit("big", Some("n1"), &[("root", &big.uri())]));
    assert!(reason.starts_with("disk root: the repository, from the node: "), "{reason}");
    assert!(reason.to_lowercase().contains("no space"), "{reason}");
    assert_eq!(place.points(), 0);
    let work = seen_by(&place.hub.child, &place.kept.path("repository/work"));
    wait_until("a folder is left", || fs::read_dir(&work).unwrap().count() == 0);
    place.assert_forgotten("n1");
    place.assert_next(&small, 0);
    drop(node);
}

/// A file that takes all the room that there is.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[1; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_node_whose_folder_is_full_says_so_and_goes_on_when_there_is_room() {
    let place = NodePlace::new("");
    place.enroll("n1");
    let Some(node) = place.node_in_small_folder("n1", 128) else { return };
    let source = place.disk("root", 4 * MIB, 1);
    let ballast = seen_by(&node.child, &place.kept.path("n1/ballast"));
    let reason = || place.reason_of(&place.submit("db1", Some("n1"), &[("root", &source.uri())]));
    let jobs = seen_by(&node.child, &place.kept.path("n1/jobs"));
    let assert_forgotten = || {
        place.assert_idle();
        wait_until("a job's folder", || fs::read_dir(&jobs).unwrap().count() == 0);
    };
    for points in 0..2 {
        // The digests of the disk have no room, and next time those of its base.
        fill(&ballast);
        let reason = reason();
        assert!(reason.contains("node"), "{reason}");
        assert!(reason.contains("No space left on device"), "{reason}");
        assert_forgotten();
        fs::remove_file(&ballast).unwrap();
        place.assert_next(&source, points);
        assert_forgotten();
    }
}

#[test]
fn a_node_whose_folder_is_read_only_says_so_and_goes_on_when_it_is_not() {
    let place = NodePlace::new("");
    place.enroll("n1");
    let Some(node) = place.node_in_small_folder("n1", 128) else { return };
    let source = place.disk("root", 4 * MIB, 1);
    let jobs = place.kept.path("n1/jobs");
    let within = |script: &str| {
        let pid = node.child.id().to_string();
        let done = Command::new("nsenter")
            .args(["--preserve-credentials", "-U", "-m", "-t", &pid, "sh", "-ec", script])
            .arg(&jobs)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    within("mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro \"$0\"");
    let reason = place.reason_of(&place.submit("db1", Some("n1"), &[("root", &source.uri())]));
    assert!(reason.contains("node n1"), "{reason}");
    assert!(reason.contains("Read-only file system"), "{reason}");
    within("umount \"$0\"");
    place.assert_next(&source, 0);
}

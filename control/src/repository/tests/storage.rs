//! Folders that are not as they should be. Small and read-only file systems are mounted in a
//! namespace of the test's own, which a user without rights can have too.

use std::io::Write;

use super::*;

fn said(error: &RepositoryError) -> String {
    let said = error.to_string();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn opening_makes_no_repository_where_none_is() {
    let folder = tempfile::tempdir().unwrap();
    for root in [folder.path().to_owned(), folder.path().join("missing")] {
        let error = Repository::open(&root).unwrap_err();
        assert!(matches!(error, RepositoryError::Missing { .. }), "{error}");
        assert!(said(&error).starts_with(root.to_str().unwrap()));
    }
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn a_file_in_the_place_of_a_repository_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("file");
    fs::write(&root, "mine").unwrap();
    for opened in [Repository::open(&root), Repository::open_or_create(&root)] {
        assert!(said(&opened.unwrap_err()).contains(root.to_str().unwrap()));
    }
    assert_eq!(fs::read_to_string(root).unwrap(), "mine");
}

#[test]
fn a_full_file_system_is_told_of_and_nothing_is_lost() {
    in_a_small_file_system("fills_a_file_system");
}

#[test]
#[ignore = "started by the test of full file systems"]
fn fills_a_file_system() {
    let Some(root) = root_of_parent() else { return };
    let repository = Repository::open_or_create(&root).unwrap();
    let (job, work) = begin(&repository);
    let point = publish(&repository, &job, work, UnixMillis::now()).id;

    let ballast = root.join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    // The catalog's log has a little room of its own.
    let mut tries = 0..10_000;
    let error = tries.find_map(|_| repository.begin(job.vm.clone(), job.mode).err()).unwrap();
    assert!(said(&error).contains(" room "), "{error}");
    assert!(repository.clean_up().is_ok_and(|done| done.folders == 0), "it has left a folder");
    assert_eq!(ids(&repository), [point]);
    assert_whole(&repository, point);

    drop(file);
    fs::remove_file(ballast).unwrap();
    let (job, work) = begin(&repository);
    let next = publish(&repository, &job, work, UnixMillis::now()).id;
    assert_eq!(ids(&repository), [point, next]);
    drop(repository);
    assert_whole(&Repository::open(&root).unwrap(), next);
    println!("all is well");
}

#[test]
fn a_read_only_file_system_is_told_of_and_nothing_is_lost() {
    in_a_small_file_system("meets_a_read_only_file_system");
}

#[test]
#[ignore = "started by the test of read-only file systems"]
fn meets_a_read_only_file_system() {
    let Some(root) = root_of_parent() else { return };
    let empty = root.join("empty");
    fs::create_dir(&empty).unwrap();
    let full = root.join("full");
    let repository = Repository::open_or_create(&full).unwrap();
    let (job, work) = begin(&repository);
    let point = publish(&repository, &job, work, UnixMillis::now()).id;
    drop(repository);
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", how]).arg(&root).status().unwrap();
        assert!(status.success());
    };
    remount("remount,ro");
    for opened in [Repository::open(&full), Repository::open_or_create(&full)] {
        let said = said(&opened.unwrap_err());
        assert!(said.contains(full.to_str().unwrap()) && said.contains("writ"), "{said}");
    }
    let error = Repository::open_or_create(&empty).unwrap_err();
    assert!(said(&error).contains(empty.to_str().unwrap()), "{error}");

    remount("remount,rw");
    let repository = Repository::open(&full).unwrap();
    assert_eq!(ids(&repository), [point]);
    assert_whole(&repository, point);
    println!("all is well");
}

/// Runs an ignored test with its folder on a file system of 2 MiB.
fn in_a_small_file_system(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let test = this_test(&format!("storage::{name}"), folder.path());
    let unshared = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]).args(words);
        command.env(ROOT_VARIABLE, folder.path());
        command
    };
    let mount = "mount -t tmpfs -o size=2m none \"$0\"";
    let folder_name = folder.path().to_str().unwrap();
    if !unshared(&[mount, folder_name]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may mount nothing, not even in a namespace");
        return;
    }
    let script = format!("{mount} && exec \"$@\"");
    let mut command = unshared(&[&script, folder_name]);
    let output = command.arg(test.get_program()).args(test.get_args()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("all is well"), "{text}{errors}");
}

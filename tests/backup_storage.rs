//! A repository whose file system is full or read-only: backups into it, and what is read of it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use blockferry::{code, stderr};
use blockferry_doubles::TestDisk;

const MIB: u64 = 1 << 20;

/// Runs a script with the program as `$0` in a folder whose `r` is a file system of 12 MiB, in a
/// namespace of its own. Nothing where this user may mount nothing.
fn with_small_file_system(folder: &Path, script: &str) -> Option<Output> {
    const MAY_NOT: i32 = 99;
    fs::create_dir(folder.join("r")).unwrap();
    let script = format!("mount -t tmpfs -o size=12m none r || exit {MAY_NOT}\n{script}");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    let output = command.arg(env!("CARGO_BIN_EXE_blockferry")).current_dir(folder).output();
    let output = output.unwrap();
    let may = !stderr(&output).contains("unshare:") && code(&output) != MAY_NOT;
    if !may {
        eprintln!("skipped: {}", stderr(&output));
    }
    may.then_some(output)
}

/// A folder with the disks `small` and `big`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, size) in [("small", 2 * MIB), ("big", 24 * MIB)] {
        let disk = TestDisk::random(folder.path(), size, 0.9, size).unwrap();
        fs::rename(disk.path, folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn a_backup_that_finds_no_room_says_so_and_costs_no_point() {
    let folder = folder();
    let script = "
        \"$0\" backup --vm small --disk d=small --repository r/x || exit 98
        \"$0\" backup --vm big --disk d=big --repository r/x; full=$?
        test -z \"$(ls r/x/work)\" || exit 97
        \"$0\" verify --all --repository r/x || exit 96
        \"$0\" backup --vm small --disk d=small --repository r/x --mode incremental || exit 95
        exit $full";
    let Some(output) = with_small_file_system(folder.path(), script) else { return };
    let said = stderr(&output);
    assert_eq!(code(&output), 5, "{said}");
    let said: Vec<&str> = said.lines().filter(|line| line.starts_with("blockferry: ")).collect();
    let [said] = said.as_slice() else { panic!("{said:?}") };
    assert!(said.contains("disk d: the repository: "), "{said}");
    assert!(said.to_lowercase().contains("no space"), "{said}");
}

#[test]
fn a_backup_into_a_read_only_file_system_says_so_and_costs_no_point() {
    let folder = folder();
    let script = "
        \"$0\" backup --vm small --disk d=small --repository r/x || exit 98
        mount -o remount,ro r || exit 97
        \"$0\" backup --vm small --disk d=small --repository r/x; read_only=$?
        mount -o remount,rw r || exit 97
        \"$0\" verify --all --repository r/x || exit 96
        \"$0\" backup --vm small --disk d=small --repository r/x --mode incremental || exit 95
        exit $read_only";
    let Some(output) = with_small_file_system(folder.path(), script) else { return };
    let said = stderr(&output);
    assert_eq!(code(&output), 5, "{said}");
    let said: Vec<&str> = said.lines().filter(|line| line.starts_with("blockferry: ")).collect();
    let [said] = said.as_slice() else { panic!("{said:?}") };
    assert!(said.contains("its file system is read-only; make its folder"), "{said}");
}

/// What is done to a repository of one point that cannot be written, in words of sh(1): all that
/// reads it works, and says why nothing else does.
const READ_ONLY: &str = "
    read_all() {
        \"$0\" points --repository $1 --json > listed 2> said || exit 90
        grep -q \"$point\" listed || exit 91
        grep -q 'note: the repository is only read' said || exit 92
        \"$0\" verify --all --repository $1 || exit 93
        rm -rf out
        \"$0\" restore $point --repository $1 --to out || exit 94
        cmp small out/d.raw || exit 95
        : > served
        \"$0\" export $point --repository $1 --socket-dir . --json > served & export=$!
        while ! grep -q uri served; do kill -0 $export || exit 96; sleep 0.02; done
        kill -TERM $export
        wait $export
    }";

#[test]
fn a_repository_on_a_read_only_file_system_is_listed_verified_restored_and_exported() {
    let folder = folder();
    let script = format!(
        "{READ_ONLY}
        \"$0\" backup --vm small --disk d=small --repository r/x --json > made || exit 98
        point=$(sed 's/.*\"point\":\"\\([^\"]*\\)\".*/\\1/' made)
        mount -o remount,ro r || exit 97
        read_all r/x"
    );
    let Some(output) = with_small_file_system(folder.path(), &script) else { return };
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn a_repository_of_another_user_that_may_be_read_is_listed_verified_restored_and_exported() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let folder = folder();
    let path = folder.path();
    let run = |command: &mut Command| {
        let output = command.current_dir(path).output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        output
    };
    let program = path.join("program");
    fs::copy(env!("CARGO_BIN_EXE_blockferry"), &program).unwrap();
    let line = ["backup", "--vm", "small", "--disk", "d=small", "--repository", "r", "--json"];
    let made = run(Command::new(&program).args(line));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    run(Command::new("chmod").args(["-R", "a+rX", "."]));
    fs::create_dir(path.join("theirs")).unwrap();
    std::os::unix::fs::chown(path.join("theirs"), Some(65_534), None).unwrap();
    let before = listing(&path.join("r"));
    let script = format!(
        "{READ_ONLY}
        cd theirs; ln -s ../small small; TMPDIR=.; export TMPDIR
        point={}; read_all ../r",
        made["point"].as_str().unwrap()
    );
    run(Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "sh", "-c", &script])
        .arg(&program));
    assert_eq!(listing(&path.join("r")), before, "something was written");
}

/// The names in a folder.
fn listing(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_full_file_system_keeps_nobody_from_reading_points_and_from_deleting_one() {
    // With nothing free, with less than the index of a log takes, and with a little more.
    for free in [0, 4, 16, 32, 48, 64, 100] {
        let folder = folder();
        let script = format!(
            "
            \"$0\" backup --vm small --disk d=small --repository r/x || exit 98
            dd if=/dev/zero of=small bs=64k count=2 conv=notrunc 2> /dev/null
            \"$0\" backup --vm small --disk d=small --repository r/x --json > made || exit 98
            point=$(sed 's/.*\"point\":\"\\([^\"]*\\)\".*/\\1/' made)
            test {free} = 0 || dd if=/dev/zero of=r/free bs=1k count={free} 2> /dev/null || exit 97
            dd if=/dev/zero of=r/fill bs=4k 2> /dev/null && exit 97
            rm -f r/free
            \"$0\" points --repository r/x || exit 90
            \"$0\" verify --all --repository r/x || exit 91
            \"$0\" restore $point --repository r/x --to out || exit 92
            cmp small out/d.raw || exit 93
            \"$0\" backup --vm small --disk d=small --repository r/x 2> said
            test $? = 5 || {{ cat said; exit 94; }}
            grep -qi 'no room\\|no space\\|make room' said || {{ cat said; exit 95; }}
            \"$0\" points delete $point --repository r/x || exit 96
            \"$0\" points --repository r/x --json > left
            grep -q $point left && exit 89
            test -e r/x/catalog.db-reserve || exit 88
            rm r/fill
            \"$0\" backup --vm small --disk d=small --repository r/x --mode incremental || exit 87
            \"$0\" verify --all --repository r/x || exit 86"
        );
        let Some(output) = with_small_file_system(folder.path(), &script) else { return };
        assert_eq!(code(&output), 0, "{free} KiB free: {}", stderr(&output));
    }
}

//! The files beside a copy, journal and manifest, where there is no room or no place for them.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use blockferry::{code, folder, stderr};
use blockferry_doubles::QemuNbd;

/// Runs a shell's script with the program as `$0` and `uri` as `$1`.
fn script(folder: &Path, shell: &[&str], script: &str, uri: &str) -> Output {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args(["-c", script, env!("CARGO_BIN_EXE_blockferry"), uri]);
    command.current_dir(folder).output().unwrap()
}

fn image(folder: &Path) -> blockferry_doubles::Server {
    fs::File::create(folder.join("image")).unwrap().set_len(1 << 20).unwrap();
    QemuNbd::new(folder.join("image")).format("raw").shared(4).start().unwrap()
}

#[test]
fn a_journal_or_manifest_past_the_limit_on_files_is_a_failure_of_its_own() {
    let folder = folder();
    let server = image(folder.path());
    for (limit, options, says) in [
        (0, "--resume j", "cannot use the resume journal"),
        (1, "--resume j", "cannot write the resume journal"),
        (1, "--digest xxh3 --manifest m", "cannot begin the manifest"),
    ] {
        let limited = format!("ulimit -f {limit}; exec \"$0\" copy {options} a \"$1\"");
        let output = script(folder.path(), &["bash"], &limited, &server.uri());
        let text = stderr(&output);
        assert_eq!(code(&output), 1, "{text}");
        assert!(text.contains(says) && text.lines().count() == 1, "{text}");
    }
    // Nothing of it stands in the way of the next run.
    let line = format!("--resume j --digest xxh3 --manifest m a {}", server.uri());
    let output = blockferry::copy(folder.path(), &line);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn a_target_was_emptied_for_a_copy_whose_manifest_could_not_be_begun() {
    let folder = folder();
    fs::write(folder.path().join("t"), "precious").unwrap();
    for engine in ["uring", "poll"] {
        for (script, says) in [
            ("\"$0\" copy --manifest nosuch/m $1 a t", "nosuch/m.partial"),
            ("\"$0\" copy --manifest nosuch/m $1 a new", "nosuch/m.partial"),
            ("cat a | \"$0\" copy --manifest m $1 - t", "a source that is a stream has no size"),
            ("cat a | \"$0\" copy --manifest m $1 - new", "a source that is a stream has no size"),
        ] {
            let options = format!("--digest blake3 --engine {engine}");
            let output = self::script(folder.path(), &["sh"], script, &options);
            let text = stderr(&output);
            assert_eq!(code(&output), 2, "{script}: {text}");
            assert!(text.contains(says) && text.lines().count() == 1, "{script}: {text}");
            assert_eq!(fs::read(folder.path().join("t")).unwrap(), b"precious", "{script}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "{script}");
        }
    }
}

#[test]
fn a_copy_whose_journal_found_no_room_ends_with_code_1_and_is_resumed_when_there_is() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a small file system can be mounted by root only");
        return;
    }
    for (options, says) in [
        ("--resume small/j", "cannot write the resume journal"),
        ("--resume j --digest blake3 --manifest small/m", "cannot write the manifest"),
    ] {
        let folder = folder();
        let server = image(folder.path());
        fs::create_dir(folder.path().join("small")).unwrap();
        // Slow enough that there are many FLUSHes on a machine whose disks are busy, too.
        let line = format!(
            "\"$0\" copy {options} --flush-interval 0s --request-size 4096 -R 1 --rate-limit 1M a \"$1\""
        );
        let both = format!(
            "mount -t tmpfs -o size=4k none small || exit 99
             {line}; first=$?
             mount -o remount,size=1m none small || exit 99
             {line} --json && exit $first"
        );
        let output = script(folder.path(), &["unshare", "--mount", "sh"], &both, &server.uri());
        let text = stderr(&output);
        assert_eq!(code(&output), 1, "{options}: {text}");
        assert!(text.contains(says) && text.contains("space"), "{text}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["outcome"], "done", "{report}");
        assert!(
            fs::read(folder.path().join("a")).unwrap()
                == fs::read(folder.path().join("image")).unwrap()
        );
    }
}

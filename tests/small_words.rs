//! What is refused before anything is made, each in a line that says what to write.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::process::Output;

use blockferry::{HubPlace, Kept, by, code, stderr};

/// Fails unless it ended with this code and one line that has these words.
fn refused(output: &Output, expected: i32, words: &str) {
    let said = stderr(output);
    assert_eq!((code(output), said.contains(words)), (expected, true), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_target_of_a_scheme_that_is_not_spoken_is_no_folder_of_that_name() {
    let kept = Kept::new();
    let [_, _, point] = kept.chain();
    let before = kept.names(".");
    for (target, words) in [
        ("http://foo/x", "http:// is not spoken here"),
        ("ssh://x/y", "ssh:// is not spoken here"),
        ("nbdz://x/y", "nbdz:// is not spoken here"),
        ("-", "not standard output"),
    ] {
        for disk in ["", "--disk root"] {
            let line = format!("restore {point} --repository repository {disk} --to {target}");
            refused(&kept.run(&line), 2, words);
        }
        assert_eq!(kept.names("."), before);
    }
    // A folder may have such a name, if that is meant.
    let line = format!("restore {point} --repository repository --to ./ssh:/x");
    assert_eq!(code(&kept.run(&line)), 0);
    kept.assert_same("root", "ssh:/x/root.raw");
}

#[test]
fn temporary_files_without_a_folder_are_nobodys_fault_and_tmpdir_is_named() {
    let place = HubPlace::new();
    let kept = &place.kept;
    let [point, ..] = kept.chain();
    let hub = place.hub();
    fs::write(kept.path("file"), "").unwrap();
    for folder in ["none", "file"] {
        for line in [
            format!("restore {point} --repository repository --to restored"),
            format!("restore {point} --to restored {}", by(&hub)),
            format!("verify {point} --repository repository"),
            format!("export {point} --repository repository"),
        ] {
            let ended = kept.command(&line).env("TMPDIR", kept.path(folder)).output().unwrap();
            refused(&ended, 1, "set TMPDIR to another");
        }
    }
    assert_eq!(kept.names("restored"), [""; 0]);
}

#[test]
fn a_batch_of_no_vm_at_once_is_told_what_it_may_be() {
    let kept = Kept::new();
    let ended = kept.run("batch jobs.toml --concurrency 0");
    let said = stderr(&ended);
    assert_eq!((code(&ended), said.contains("1 or more")), (2, true), "{said}");
}

#[test]
fn a_repository_without_a_name_is_told_as_that() {
    let kept = Kept::new();
    let vm = "[[vm]]\nname = \"a\"\nrepository = \"\"\ndisks.root = { source = \"root\" }\n";
    fs::write(kept.path("jobs.toml"), vm).unwrap();
    refused(&kept.run("batch jobs.toml"), 2, "line 1, column 1: VM a has an empty name as its");
}

#[test]
fn a_hub_that_is_told_of_one_folder_twice_does_not_speak_of_another_hub() {
    let kept = Kept::new();
    let line = "hub serve --state state --listen 127.0.0.1:0 --repository a=r --repository b=./r";
    refused(&kept.run(line), 2, "a and b are the same folder");
}

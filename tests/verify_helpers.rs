//! `verify` where a program that it needs is killed: that is the machine's trouble, and no damage.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use blockferry::{Kept, code, stderr};

/// Has a program of qemu killed whenever `condition`, a command of sh(1) with its arguments, is true.
fn killed_when(kept: &Kept, program: &str, condition: &str) {
    let folder = kept.path("programs");
    fs::create_dir_all(&folder).unwrap();
    let path = env::var("PATH").unwrap();
    let script = format!(
        "#!/bin/sh\n{condition} && kill -9 $$\nPATH={path}\nexport PATH\nexec {program} \"$@\"\n"
    );
    fs::write(folder.join(program), script).unwrap();
    fs::set_permissions(folder.join(program), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_program_that_was_killed_is_no_damage() {
    for (program, condition) in [
        ("qemu-img", "test \"$1\" = check"),
        ("qemu-img", "test \"$1\" = info"),
        // It tells which layer differs.
        ("qemu-img", "test \"$1\" = map"),
        ("qemu-nbd", "true"),
    ] {
        let kept = Kept::new();
        let points = kept.chain();
        let image = kept.image(&points[0], "root");
        fs::copy(&image, kept.path("copy")).unwrap();
        if condition.contains("map") {
            kept.flip_a_bit_of(&image);
        }
        killed_when(&kept, program, condition);
        let path = format!("{}:{}", kept.path("programs").display(), env::var("PATH").unwrap());
        let line = format!("verify {} --repository repository --json", points[2]);
        let mut command = kept.command(&line);
        let output = command.env("PATH", path).output().unwrap();
        let said = stderr(&output);
        assert_eq!(code(&output), 4, "{program}, {condition}: {said}");
        assert!(said.contains("was ended by signal 9"), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["damage"], serde_json::json!([]));
        // Nothing of it is kept either.
        fs::copy(kept.path("copy"), &image).unwrap();
        let (_, listed) = kept.json("points --repository repository --json");
        assert_eq!(listed["points"][0]["state"], "whole", "{listed}");
        assert_eq!(kept.json("verify --all --repository repository --json").0, 0);
    }
}

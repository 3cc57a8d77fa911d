//! `restore`, as a person or a script meets it: what it writes, and what it refuses to write.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use blockferry::{Kept, code, signal, stderr};
use blockferry_doubles::{Nbdkit, QemuNbd, disk};
use rustix::process::Signal;

#[test]
fn disks_of_all_sizes_come_back_byte_for_byte_from_each_point_of_a_chain() {
    let kept = Kept::new();
    let sizes = [("a", 1), ("b", 511), ("c", 513), ("d", 1000), ("e", (64 << 10) + 1)];
    for (name, size) in sizes {
        kept.disk(name, size, 3);
    }
    kept.sparse("f", 1 << 30);
    let names = ["a", "b", "c", "d", "e", "f"];
    let full = kept.back_up(&names);
    for name in names {
        fs::copy(kept.path(name), kept.path(&format!("{name}.before"))).unwrap();
    }
    for name in names {
        kept.write(name, 0, b"!");
    }
    kept.write("f", 512 << 20, &[7; 100_000]);
    let delta = kept.back_up(&names);
    for (point, before) in [(full, ".before"), (delta, "")] {
        let output = kept.run(&format!("restore {point} --repository repository --to {point}"));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        for name in names {
            kept.assert_same(&format!("{name}{before}"), &format!("{point}/{name}.raw"));
        }
        // Holes stay holes.
        let restored = fs::metadata(kept.path(&format!("{point}/f.raw"))).unwrap();
        assert!(restored.blocks() * 512 < 1 << 20, "{} blocks", restored.blocks());
        assert_eq!(kept.names(&point).len(), names.len());
    }
}

#[test]
fn images_hold_what_was_backed_up() {
    let kept = Kept::new();
    let [full, _, newest] = kept.chain();
    kept.disk("other", 1000, 9);
    for point in [&full, &newest] {
        let line = format!("restore {point} --repository repository --to {point} --format qcow2");
        assert_eq!(code(&kept.run(&line)), 0);
    }
    let image = |point: &str| kept.path(&format!("{point}/root.qcow2"));
    disk::compare(&kept.path("root"), &image(&newest), "qcow2").unwrap();
    disk::compare(&kept.path("root"), &image(&full), "qcow2").unwrap_err();
}

#[test]
fn some_disks_are_restored_and_a_strange_one_is_wrong_usage() {
    let kept = Kept::new();
    for name in ["root", "data", "log"] {
        kept.disk(name, 70_000, 1);
    }
    let point = kept.back_up(&["root", "data", "log"]);
    let line = format!("restore {point} --repository repository --to out --disk log --disk root");
    assert_eq!(code(&kept.run(&line)), 0);
    assert_eq!(kept.names("out"), ["log.raw", "root.raw"]);
    for (line, says) in [
        (format!("{point} --repository repository --to new --disk swap"), "no disk \"swap\""),
        (format!("{point} --repository repository --to nbd://localhost:1"), "takes one disk"),
        ("01kat0h4m2f6q8r0s2 --repository repository --to new".into(), "01kat0h4m2f6q8r0s2"),
        ("nonsense --repository repository --to new".into(), "18 characters"),
        (format!("{point} --repository nosuch --to new"), "no repository"),
        (format!("{point} --repository repository --to root"), "no folder"),
        (format!("{point} --repository repository --to null:"), "null:"),
        (format!("{point} --repository repository --to out"), "exists already"),
        (format!("{point} --repository repository --to nbd://h --disk log --force"), "about files"),
    ] {
        let output = kept.run(&format!("restore {line}"));
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{line}: {}", stderr(&output));
        assert_eq!(kept.names("new"), [] as [&str; 0], "{line}");
    }
}

#[test]
fn a_file_that_is_there_is_replaced_only_by_force_and_only_by_a_whole_one() {
    let kept = Kept::new();
    let [full, _, newest] = kept.chain();
    let line = format!("restore {newest} --repository repository --to out");
    fs::create_dir(kept.path("out")).unwrap();
    fs::write(kept.path("out/root.raw"), "mine").unwrap();
    let (code, report) = kept.json(&format!("{line} --json"));
    assert_eq!((code, &report["outcome"]), (2, &"wrong_usage".into()), "{report}");
    assert_eq!(fs::read(kept.path("out/root.raw")).unwrap(), b"mine");

    // Not by one that turned out to be damaged.
    let image = kept.image(&full, "root");
    kept.flip_a_bit_of(&image);
    let (code, report) = kept.json(&format!("{line} --force --json"));
    assert_eq!(code, 6, "{report}");
    assert_eq!(fs::read(kept.path("out/root.raw")).unwrap(), b"mine");
    kept.flip_a_bit_of(&image);

    let (code, report) = kept.json(&format!("{line} --force --json"));
    assert_eq!(code, 0, "{report}");
    kept.assert_same("root", "out/root.raw");
    assert_eq!(kept.names("out"), ["root.raw"]);
}

#[test]
fn an_export_gets_the_disk_with_its_zeros_and_keeps_what_lies_behind() {
    let kept = Kept::new();
    kept.disk("root", 300_000, 5);
    kept.write("root", 100_000, &[0; 100_000]);
    let point = kept.back_up(&["root"]);
    fs::write(kept.path("target"), vec![0xEE; 400_000]).unwrap();
    let server = QemuNbd::new(kept.path("target")).format("raw").start().unwrap();
    let line = format!("restore {point} --repository repository --disk root --to {}", server.uri());
    let output = kept.run(&line);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    drop(server);
    let (target, disk) =
        (fs::read(kept.path("target")).unwrap(), fs::read(kept.path("root")).unwrap());
    assert_eq!(disk::first_difference(&target[..300_000], &disk), None);
    assert!(target[300_000..].iter().all(|byte| *byte == 0xEE));
}

#[test]
fn a_target_that_is_too_small_or_fails_is_code_5() {
    let kept = Kept::new();
    kept.disk("root", 300_000, 5);
    let point = kept.back_up(&["root"]);
    let small = Nbdkit::memory(100_000).start().unwrap();
    let failing = Nbdkit::memory(1 << 20).filter("error", &["error-pwrite-rate=100%"]).start();
    let failing = failing.unwrap();
    for target in [small.uri(), failing.uri(), "nbd+unix:///?socket=nosuch".into()] {
        let (code, report) = kept.json(&format!(
            "restore {point} --repository repository --to {target} --retries 0 --json"
        ));
        assert_eq!(code, 5, "{report}");
        assert_eq!(report["disks"][0]["outcome"], "target_fault", "{report}");
    }
    fs::write(kept.path("file"), "").unwrap();
    let (code, report) =
        kept.json(&format!("restore {point} --repository repository --to file/out --json"));
    assert_eq!(code, 5, "{report}");
}

#[test]
fn a_signal_in_the_middle_leaves_no_file_and_is_code_7() {
    let kept = Kept::new();
    kept.disk("root", 30 << 20, 1);
    let point = kept.back_up(&["root"]);
    for format in ["raw", "qcow2"] {
        let child = kept
            .command(&format!(
                "restore {point} --repository repository --to out --format {format} --json \
                 --rate-limit 1M -v"
            ))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while !has_grown(&kept.path(&format!("out/root.{format}.partial"))) {
            thread::yield_now();
        }
        assert_eq!(kept.names("out"), [format!("root.{format}.partial")]);
        signal(&child, Signal::TERM);
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 7, "{}", stderr(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["outcome"], "interrupted");
        assert_eq!(kept.names("out"), [] as [&str; 0]);
    }
}

#[test]
fn what_a_killed_restore_left_is_taken_over_by_the_next() {
    let kept = Kept::new();
    kept.disk("root", 3 << 20, 1);
    let point = kept.back_up(&["root"]);
    for format in ["raw", "qcow2"] {
        let line = format!("restore {point} --repository repository --to out --format {format}");
        let mut child = kept.command(&format!("{line} --rate-limit 100K")).spawn().unwrap();
        while !has_grown(&kept.path(&format!("out/root.{format}.partial"))) {
            thread::yield_now();
        }
        // Nobody else writes the same file meanwhile.
        let output = kept.run(&line);
        assert_eq!(code(&output), 1, "{}", stderr(&output));
        assert!(stderr(&output).contains("another restore"), "{}", stderr(&output));
        // Its sockets and digests were not taken from it.
        let temporary = kept.names("temporary");
        assert_eq!(temporary.len(), 1, "{temporary:?}");
        let its = kept.names(&format!("temporary/{}", temporary[0]));
        assert!(its.iter().any(|name| name.starts_with("export-")), "{its:?}");
        assert!(its.iter().any(|name| name.starts_with("digests-")), "{its:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(kept.names("temporary"), temporary);
        assert_eq!(code_of(&kept, &line), 0);
        assert_eq!(kept.names("temporary"), [] as [&str; 0]);
        assert!(!kept.path(&format!("out/root.{format}.partial")).exists());
    }
    kept.assert_same("root", "out/root.raw");
}

#[test]
fn two_restores_read_the_same_chain_at_once() {
    let kept = Kept::new();
    let [full, delta, newest] = kept.chain();
    let start = |point: &str| {
        let line = format!("restore {point} --repository repository --to {point}");
        kept.command(&line).stdout(Stdio::null()).spawn().unwrap()
    };
    let children = [start(&newest), start(&delta), start(&full)];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    kept.assert_same("root", &format!("{newest}/root.raw"));
}

fn code_of(kept: &Kept, line: &str) -> i32 {
    let output = kept.run(line);
    let code = code(&output);
    if code != 0 {
        eprintln!("{line}: {}", stderr(&output));
    }
    code
}

/// Whether data has come to a file.
fn has_grown(path: &Path) -> bool {
    // A new image has 196,616 bytes, which take 196 KiB, before it is written.
    fs::metadata(path).is_ok_and(|data| data.blocks() * 512 > 500 << 10)
}

#[test]
fn a_block_device_is_written_and_a_mounted_or_small_one_is_not() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: loop devices need root and /dev/loop-control");
        return;
    }
    let kept = Kept::new();
    kept.disk("root", 3_000_001, 1);
    let point = kept.back_up(&["root"]);
    for (size, expected) in [(4_u64 << 20, 0), (3_000_000 / 512 * 512, 5)] {
        fs::write(kept.path("device"), vec![0xEE; usize::try_from(size).unwrap()]).unwrap();
        let device = Loop::over(&kept.path("device"));
        let line = format!("restore {point} --repository repository --to {}", device.0);
        assert_eq!(code_of(&kept, &line), expected, "{size}");
        drop(device);
        if expected == 0 {
            let written = fs::read(kept.path("device")).unwrap();
            let disk = fs::read(kept.path("root")).unwrap();
            assert_eq!(disk::first_difference(&written[..disk.len()], &disk), None);
            assert!(written[disk.len()..].iter().all(|byte| *byte == 0xEE));
        }
    }
    // Somebody has it for himself alone, as a mount has.
    fs::write(kept.path("device"), vec![0xEE; 4 << 20]).unwrap();
    let device = Loop::over(&kept.path("device"));
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::EXCL.bits().cast_signed(),
    );
    let taken = options.read(true).open(&device.0).unwrap();
    let line = format!("restore {point} --repository repository --to {}", device.0);
    assert_eq!(code_of(&kept, &line), 5);
    drop(taken);
    drop(device);
    assert!(fs::read(kept.path("device")).unwrap().iter().all(|byte| *byte == 0xEE));
}

/// A loop device over a file; it is let go with this value.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Self {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(output.status.success(), "losetup: {}", stderr(&output));
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn an_export_that_dies_meanwhile_is_started_anew() {
    let kept = Kept::new();
    kept.disk("root", 6 << 20, 1);
    let point = kept.back_up(&["root"]);
    for format in ["raw", "qcow2"] {
        let child = kept
            .command(&format!(
                "restore {point} --repository repository --to out --format {format} \
                 --rate-limit 2M"
            ))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while !has_grown(&kept.path(&format!("out/root.{format}.partial"))) {
            thread::yield_now();
        }
        let killed = Command::new("pkill")
            .args(["-KILL", "-P", &child.id().to_string(), "qemu-nbd"])
            .status()
            .unwrap();
        assert!(killed.success(), "it has no qemu-nbd");
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains("started anew"), "{}", stderr(&output));
    }
    kept.assert_same("root", "out/root.raw");
    disk::compare(&kept.path("root"), &kept.path("out/root.qcow2"), "qcow2").unwrap();
}

#[test]
fn a_partial_file_that_has_another_name_is_not_written_and_is_told() {
    let kept = Kept::new();
    kept.disk("root", 1 << 20, 7);
    let point = kept.back_up(&["root"]);
    fs::create_dir(kept.path("out")).unwrap();
    fs::write(kept.path("precious"), "content").unwrap();
    for format in ["raw", "qcow2"] {
        let partial = kept.path(&format!("out/root.{format}.partial"));
        fs::hard_link(kept.path("precious"), &partial).unwrap();
        let restored = kept
            .run(&format!("restore {point} --repository repository --to out --format {format}"));
        assert_eq!(code(&restored), 5, "{}", stderr(&restored));
        assert!(stderr(&restored).contains("it has another name too"), "{}", stderr(&restored));
        assert_eq!(fs::read(kept.path("precious")).unwrap(), b"content");
        assert!(!kept.path(&format!("out/root.{format}")).exists());
    }
}

//! `restore`, as a person or a script meets it: what it writes, and what it refuses to write.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use blockferry::{Kept, code, signal, stderr};
use blockferry_doubles::{Nbdkit, QemuNbd, disk};
use rustix::process::Signal;

/// Damages something that a point needs.
type Damage = fn(&Kept, &str);

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
fn damage_is_found_while_it_is_read_and_no_file_is_left() {
    let damages: [(&str, Damage, &[i32]); 8] = [
        ("a flipped bit", |kept, point| kept.flip_a_bit_of(&kept.image(point, "root")), &[6]),
        (
            "a cut image",
            |kept, point| {
                let image = kept.image(point, "root");
                let at = kept.first_data_of(&image);
                File::options().write(true).open(image).unwrap().set_len(at).unwrap();
            },
            &[4, 6],
        ),
        (
            "a missing image",
            |kept, point| fs::remove_file(kept.image(point, "root")).unwrap(),
            &[4],
        ),
        (
            "a missing manifest",
            |kept, point| fs::remove_file(kept.manifest(point, "root")).unwrap(),
            &[4],
        ),
        (
            "a cut manifest",
            |kept, point| {
                let manifest = kept.manifest(point, "root");
                File::options().write(true).open(manifest).unwrap().set_len(4000).unwrap();
            },
            &[4],
        ),
        (
            "a manifest with another digest",
            |kept, point| {
                // Behind the header: the digests of the first blocks, whichever there are.
                let path = kept.manifest(point, "root");
                let manifest = File::options().read(true).write(true).open(path).unwrap();
                let mut entries = vec![0; 80 * 33];
                manifest.read_exact_at(&mut entries, 4096).unwrap();
                let at = entries.iter().rposition(|byte| *byte != 0).unwrap();
                manifest.write_all_at(&[entries[at] ^ 1], 4096 + at as u64).unwrap();
            },
            &[6],
        ),
        (
            "a corrupt header",
            |kept, point| {
                let image = File::options().write(true).open(kept.image(point, "root")).unwrap();
                image.write_all_at(b"QFX", 0).unwrap();
            },
            &[4],
        ),
        (
            "a corrupt table",
            |kept, point| {
                // The mappings of the disk (docs/interop/qcow2.rst of QEMU).
                let path = kept.image(point, "root");
                let image = File::options().read(true).write(true).open(path).unwrap();
                let mut table = [0; 8];
                image.read_exact_at(&mut table, 40).unwrap();
                image.write_all_at(&[0xFF; 16], u64::from_be_bytes(table)).unwrap();
            },
            &[4, 6],
        ),
    ];
    for (what, damage, codes) in damages {
        for which in [0, 2] {
            let kept = Kept::new();
            let points = kept.chain();
            damage(&kept, &points[which]);
            for format in ["raw", "qcow2"] {
                let (code, report) = kept.json(&format!(
                    "restore {} --repository repository --to out --format {format} --json",
                    points[2]
                ));
                assert!(codes.contains(&code), "{what} of point {which}: {report}");
                assert_eq!(kept.names("out"), [] as [&str; 0], "{what} of point {which}");
                let error = report["error"].as_str().unwrap();
                if code == 6 {
                    assert!(error.contains("disk root"), "{error}");
                    assert!(error.contains(&points[which]), "{what} of point {which}: {error}");
                    assert!(error.contains("first at bytes"), "{error}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_disk_leaves_the_others_alone() {
    let kept = Kept::new();
    kept.disk("root", 300_000, 1);
    kept.disk("data", 300_000, 2);
    let point = kept.back_up(&["root", "data"]);
    kept.flip_a_bit_of(&kept.image(&point, "root"));
    let (code, report) =
        kept.json(&format!("restore {point} --repository repository --to out --json"));
    assert_eq!(code, 6, "{report}");
    let outcomes: Vec<_> = report["disks"].as_array().unwrap().iter().collect();
    assert_eq!((&outcomes[0]["name"], &outcomes[0]["outcome"]), (&"data".into(), &"done".into()));
    assert_eq!(outcomes[1]["outcome"], "content_differs");
    assert_eq!(kept.names("out"), ["data.raw"]);
    kept.assert_same("data", "out/data.raw");
    // Neither does one that is gone.
    fs::remove_file(kept.image(&point, "root")).unwrap();
    let line = format!("restore {point} --repository repository --disk data --to again");
    assert_eq!(code_of(&kept, &line), 0);
    kept.assert_same("data", "again/data.raw");
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
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(code_of(&kept, &line), 0);
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

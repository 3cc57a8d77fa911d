//! `verify`, as a person or a script meets it: what it finds, and what it leaves alone.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blockferry::{Kept, code, stderr};
use blockferry_doubles::QemuNbd;
use serde_json::Value;

/// Damages what a point has of disk `root`.
type Damage = fn(&Kept, &str);

const DAMAGES: [(&str, Damage, &[&str]); 10] = [
    ("a flipped bit", |kept, point| kept.flip_a_bit_of(&kept.image(point, "root")), &["content"]),
    (
        "a cut image",
        |kept, point| {
            let image = kept.image(point, "root");
            let at = kept.first_data_of(&image);
            File::options().write(true).open(image).unwrap().set_len(at).unwrap();
        },
        &["content", "image_corrupt", "image_unfit", "unreadable"],
    ),
    (
        "a missing image",
        |kept, point| fs::remove_file(kept.image(point, "root")).unwrap(),
        &["image_missing"],
    ),
    (
        "a missing manifest",
        |kept, point| fs::remove_file(kept.manifest(point, "root")).unwrap(),
        &["no_digests"],
    ),
    (
        "a cut manifest",
        |kept, point| {
            let manifest = kept.manifest(point, "root");
            File::options().write(true).open(manifest).unwrap().set_len(4000).unwrap();
        },
        &["no_digests"],
    ),
    (
        "a manifest of something else",
        |kept, point| fs::write(kept.manifest(point, "root"), vec![7; 9000]).unwrap(),
        &["no_digests"],
    ),
    ("the manifest of another layer", Kept::swap_manifest, &["no_digests"]),
    (
        "a corrupt header",
        |kept, point| {
            let image = File::options().write(true).open(kept.image(point, "root")).unwrap();
            image.write_all_at(b"QFX", 0).unwrap();
        },
        &["image_unfit"],
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
        &["image_corrupt", "image_unfit", "unreadable", "content"],
    ),
    (
        "the folder of a point",
        |kept, point| {
            let folder = kept.image(point, "root").parent().unwrap().to_owned();
            fs::remove_dir_all(folder).unwrap();
        },
        &["image_missing", "no_digests"],
    ),
];

#[test]
fn damage_to_any_layer_is_found_from_any_point_above_it_and_all_touched_points_are_named() {
    for (what, damage, kinds) in DAMAGES {
        for which in 0..3 {
            let kept = Kept::new();
            let points = kept.chain();
            damage(&kept, &points[which]);
            for (number, point) in points.iter().enumerate() {
                let line = format!("verify {point} --repository repository --json");
                let (code, report) = kept.json(&line);
                if number < which {
                    assert_eq!(code, 0, "{what} of {which} does not touch {number}: {report}");
                    assert_eq!(report["points"][0]["whole"], true);
                    continue;
                }
                assert_eq!(code, 6, "{what} of {which} from {number}: {report}");
                assert_eq!(report["outcome"], "content_differs");
                assert_eq!(report["points"][0]["whole"], false, "{report}");
                assert_damage(&report, &points[which], kinds, &points[which..]);
            }
            let (code, report) = kept.json("verify --all --repository repository --json");
            assert_eq!(code, 6, "{what} of {which}: {report}");
            assert_damage(&report, &points[which], kinds, &points[which..]);
            let whole = report["points"].as_array().unwrap().iter().map(|point| &point["whole"]);
            assert!(whole.eq((0..3).map(|number| number < which).collect::<Vec<_>>().iter()));
        }
    }
}

fn assert_damage(report: &Value, point: &str, kinds: &[&str], touched: &[String]) {
    let damage = report["damage"].as_array().unwrap();
    assert!(!damage.is_empty(), "{report}");
    for damage in damage {
        assert_eq!(damage["point"], point, "{report}");
        assert_eq!(damage["disk"], "root");
        assert!(kinds.contains(&damage["kind"].as_str().unwrap()), "{damage}");
        let named: Vec<_> = damage["points"].as_array().unwrap().iter().collect();
        assert_eq!(named, touched.iter().collect::<Vec<_>>(), "{damage}");
        assert!(damage["file"].as_str().unwrap().starts_with("points/"), "{damage}");
    }
    let says = report["error"].as_str().unwrap();
    for point in touched {
        assert!(says.contains(point), "{says}");
    }
}

#[test]
fn layers_that_an_older_program_published_are_verified_by_the_manifests_that_are_there() {
    let kept = Kept::new();
    let [_, _, newest] = kept.chain();
    kept.forget_manifests();
    let (code, report) = kept.json("verify --all --repository repository --json");
    assert_eq!(code, 0, "{report}");
    // A manifest that goes with another content is only found by that.
    kept.swap_manifest(&newest);
    let (code, report) = kept.json(&format!("verify {newest} --repository repository --json"));
    assert_eq!((code, &report["damage"][0]["kind"]), (6, &"content".into()), "{report}");
}

#[test]
fn the_ranges_that_differ_are_named() {
    let kept = Kept::new();
    let [full, delta, newest] = kept.chain();
    // The first data of the delta is the block that was written, at 3 MiB.
    kept.flip_a_bit_of(&kept.image(&delta, "root"));
    let (_, report) = kept.json(&format!("verify {newest} --repository repository --json"));
    let damage = &report["damage"][0];
    let range = serde_json::json!([{"start": 3 << 20, "length": 64 << 10}]);
    assert_eq!(damage["ranges"], range, "{report}");
    assert_eq!((&damage["ranges_total"], &damage["bytes"]), (&1.into(), &(64 << 10).into()));
    let output = kept.run(&format!("verify {newest} --repository repository"));
    let (text, line) = (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output));
    assert!(text.contains("first at bytes 3145728 to 3211264"), "{text}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains(&delta) && line.contains(&newest) && !line.contains(&full), "{line}");
}

#[test]
fn a_layer_that_stands_on_another_image_than_it_should_is_damage() {
    let kept = Kept::new();
    let [full, delta, newest] = kept.chain();
    // The same content otherwise: a copy of the parent that nobody knows of.
    let (parent, image) = (kept.image(&full, "root"), kept.image(&delta, "root"));
    fs::copy(&parent, kept.path("copy.qcow2")).unwrap();
    let moved = std::process::Command::new("qemu-img")
        .args(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([&kept.path("copy.qcow2"), &image])
        .status()
        .unwrap();
    assert!(moved.success());
    let (code, report) = kept.json(&format!("verify {newest} --repository repository --json"));
    assert_eq!(code, 6, "{report}");
    assert_damage(&report, &delta, &["image_unfit"], &[delta.clone(), newest]);
}

#[test]
fn a_live_source_is_compared_zeros_included() {
    let kept = Kept::new();
    kept.disk("root", 200_000, 1);
    kept.sparse("data", 10_000_000);
    let point = kept.back_up(&["root", "data"]);
    // Rounded up to 512 bytes by its server.
    let served = QemuNbd::new(kept.path("root")).format("raw").read_only().start().unwrap();
    let line = |more: &str| format!("verify {point} --repository repository --json {more}");
    let same = format!("--against root={} --against data=data", served.uri());
    let (code, report) = kept.json(&line(&same));
    assert_eq!(code, 0, "{report}");
    let results = report["against"].as_array().unwrap().iter().map(|live| &live["result"]);
    assert!(results.eq([&Value::from("same"), &Value::from("same")]), "{report}");
    drop(served);

    kept.write("data", 5_000_000, b"x");
    let (code, report) = kept.json(&line("--against data=data"));
    assert_eq!(code, 6, "{report}");
    let live = &report["against"][0];
    assert_eq!((&live["result"], &live["bytes"]), (&"differs".into(), &(64 << 10).into()));
    assert_eq!(live["ranges"][0]["start"], 5_000_000 / 65_536 * 65_536);
    assert_eq!(report["damage"], serde_json::json!([]));

    File::options().write(true).open(kept.path("data")).unwrap().set_len(10_000_001).unwrap();
    let (code, report) = kept.json(&line("--against data=data"));
    assert_eq!((code, &report["against"][0]["result"]), (6, &"size".into()), "{report}");

    let (code, report) = kept.json(&line("--retries 0 --against data=nbd+unix:///?socket=no"));
    assert_eq!((code, &report["against"][0]["result"]), (4, &"failed".into()), "{report}");
    for (more, says) in [
        ("--against swap=data", "no disk \"swap\""),
        ("--disk root --against data=data", "--against is about data"),
        ("--against data", "equals sign"),
        ("--all", "cannot be used with"),
    ] {
        let output = kept.run(&line(more));
        assert_eq!(blockferry::code(&output), 2, "{more}: {}", stderr(&output));
        let said = stderr(&output) + &String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(says.trim_matches('"').split('"').next().unwrap()), "{more}: {said}");
    }
}

#[test]
fn one_disk_is_verified_alone() {
    let kept = Kept::new();
    kept.disk("root", 200_000, 1);
    kept.disk("data", 200_000, 2);
    let point = kept.back_up(&["root", "data"]);
    fs::remove_file(kept.image(&point, "root")).unwrap();
    let line = format!("verify {point} --repository repository --json");
    assert_eq!(kept.json(&format!("{line} --disk data")).0, 0);
    let (code, report) = kept.json(&line);
    assert_eq!(code, 6);
    let disks = report["points"][0]["disks"].as_array().unwrap();
    let contents: Vec<_> = disks.iter().map(|disk| disk["content"].as_str().unwrap()).collect();
    assert_eq!(contents, ["same", "unknown"]);
}

#[test]
fn nothing_is_changed_by_it_whatever_it_finds() {
    let kept = Kept::new();
    let [full, ..] = kept.chain();
    kept.flip_a_bit_of(&kept.image(&full, "root"));
    let before = files(&kept.path("repository/points"));
    assert_eq!(code(&kept.run("verify --all --repository repository")), 6);
    assert_eq!(files(&kept.path("repository/points")), before);
    assert_eq!(kept.names("repository/work"), [] as [&str; 0]);
}

/// All files below a folder with their content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn a_point_or_repository_that_is_not_there_is_wrong_usage() {
    let kept = Kept::new();
    kept.disk("root", 1000, 1);
    kept.back_up(&["root"]);
    for line in [
        "verify 01kat0h4m2f6q8r0s2 --repository repository --json",
        "verify --all --repository nosuch --json",
    ] {
        assert_eq!(kept.json(line).0, 2);
    }
    assert_eq!(code(&kept.run("verify --repository repository")), 2);
}

#[test]
fn a_block_that_was_stored_once_more_is_held_against_the_layer_that_has_it_last() {
    let kept = Kept::new();
    kept.disk("root", 1 << 20, 7);
    let full = kept.back_up(&["root"]);
    // Said to have changed, and the same as before: the digests are those of the full.
    fs::write(kept.path("areas"), r#"[{"start": 131072, "length": 65536}]"#).unwrap();
    let (code, report) = kept.json(
        "backup --vm db1 --repository repository --json --disk root=root --changed root=areas",
    );
    assert_eq!(code, 0, "{report}");
    let delta = report["point"].as_str().unwrap().to_owned();
    kept.flip_a_bit_of(&kept.image(&delta, "root"));
    let (code, report) = kept.json(&format!("verify {delta} --repository repository --json"));
    assert_eq!(code, 6, "{report}");
    assert_damage(&report, &delta, &["content"], std::slice::from_ref(&delta));
    assert_eq!(kept.json(&format!("verify {full} --repository repository --json")).0, 0);
}

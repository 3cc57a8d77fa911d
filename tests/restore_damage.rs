//! `restore` of what is damaged: it is found, told, and nothing that looks good is left.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use blockferry::{Kept, code};

/// Damages something that a point needs.
type Damage = fn(&Kept, &str);

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
        ("the manifest of another layer", Kept::swap_manifest, &[4]),
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
                let (exit, report) = kept.json(&format!(
                    "restore {} --repository repository --to out --format {format} --json",
                    points[2]
                ));
                assert!(codes.contains(&exit), "{what} of point {which}: {report}");
                assert_eq!(kept.names("out"), [] as [&str; 0], "{what} of point {which}");
                let error = report["error"].as_str().unwrap();
                if exit == 6 {
                    assert!(error.contains("disk root"), "{error}");
                    assert!(error.contains(&points[which]), "{what} of point {which}: {error}");
                    assert!(error.contains("first at bytes"), "{error}");
                }
            }
        }
    }
}

/// Changes the digest of the last of 80 blocks of disk `root`.
fn change_a_digest(kept: &Kept, point: &str) {
    // Behind the header, one entry of 33 bytes for each.
    let path = kept.manifest(point, "root");
    let manifest = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    manifest.read_exact_at(&mut byte, 4096 + 79 * 33 + 20).unwrap();
    manifest.write_all_at(&[byte[0] ^ 1], 4096 + 79 * 33 + 20).unwrap();
}

#[test]
fn digests_that_were_changed_vouch_for_nothing_and_all_points_are_named_that_they_touch() {
    let kept = Kept::new();
    let [full, delta, newest] = kept.chain();
    change_a_digest(&kept, &delta);
    for point in [&delta, &newest] {
        let line = format!("restore {point} --repository repository --to out --json");
        let (exit, report) = kept.json(&line);
        assert_eq!(exit, 4, "{report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("is not what was published with the layer"), "{error}");
        let touched = format!("points that stand on it: {delta}, {newest} ");
        assert!(error.contains(&touched), "{error}");
        assert_eq!(kept.names("out"), [] as [&str; 0]);
    }
    let line = format!("restore {full} --repository repository --to out --json");
    assert_eq!(kept.json(&line).0, 0);
}

#[test]
fn content_that_is_not_what_its_digest_says_is_not_restored() {
    let kept = Kept::new();
    let [.., newest] = kept.chain();
    kept.forget_manifests();
    let line = format!("restore {newest} --repository repository --to out --json");
    let (exit, report) = kept.json(&format!("{line} --force"));
    assert_eq!(exit, 0, "layers of an older program are read: {report}");
    fs::remove_file(kept.path("out/root.raw")).unwrap();
    change_a_digest(&kept, &newest);
    let (exit, report) = kept.json(&line);
    assert_eq!(exit, 6, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("first at bytes 5177344 to 5242880"), "{error}");
    assert_eq!(kept.names("out"), [] as [&str; 0]);
}

#[test]
fn a_damaged_disk_leaves_the_others_alone() {
    let kept = Kept::new();
    kept.disk("root", 300_000, 1);
    kept.disk("data", 300_000, 2);
    let point = kept.back_up(&["root", "data"]);
    kept.flip_a_bit_of(&kept.image(&point, "root"));
    let (exit, report) =
        kept.json(&format!("restore {point} --repository repository --to out --json"));
    assert_eq!((exit, &report["outcome"]), (3, &"partly_done".into()), "{report}");
    let outcomes: Vec<_> = report["disks"].as_array().unwrap().iter().collect();
    assert_eq!((&outcomes[0]["name"], &outcomes[0]["outcome"]), (&"data".into(), &"done".into()));
    assert_eq!(outcomes[1]["outcome"], "content_differs");
    assert_eq!(kept.names("out"), ["data.raw"]);
    kept.assert_same("data", "out/data.raw");
    // Of those that were asked for none is right.
    let line = format!("restore {point} --repository repository --disk root --to other --json");
    assert_eq!(kept.json(&line).0, 6);
    kept.flip_a_bit_of(&kept.image(&point, "data"));
    let line = format!("restore {point} --repository repository --to other --json");
    assert_eq!(kept.json(&line).0, 6);
    kept.flip_a_bit_of(&kept.image(&point, "data"));
    // Neither does one that is gone.
    fs::remove_file(kept.image(&point, "root")).unwrap();
    let line = format!("restore {point} --repository repository --disk data --to again");
    assert_eq!(code(&kept.run(&line)), 0);
    kept.assert_same("data", "again/data.raw");
}

#[test]
fn a_disk_whose_files_are_damaged_or_missing_keeps_no_other_from_being_restored() {
    let damages: [(&str, Damage); 5] = [
        ("a missing image", |kept, point| fs::remove_file(kept.image(point, "root")).unwrap()),
        ("a missing manifest", |kept, point| {
            fs::remove_file(kept.manifest(point, "root")).unwrap()
        }),
        ("an image that was cut at an odd size", |kept, point| {
            let image = kept.image(point, "root");
            let length = fs::metadata(&image).unwrap().len();
            File::options().write(true).open(image).unwrap().set_len(length - 70_001).unwrap();
        }),
        ("a corrupt header", |kept, point| {
            let image = File::options().write(true).open(kept.image(point, "root")).unwrap();
            image.write_all_at(b"QFX", 0).unwrap();
        }),
        ("a flipped bit", |kept, point| kept.flip_a_bit_of(&kept.image(point, "root"))),
    ];
    let kept = Kept::new();
    kept.disk("root", 1 << 20, 7);
    kept.disk("data", 1 << 20, 8);
    let point = kept.back_up(&["root", "data"]);
    let files = [kept.image(&point, "root"), kept.manifest(&point, "root")];
    for (index, file) in files.iter().enumerate() {
        fs::copy(file, kept.path(&format!("copy{index}"))).unwrap();
    }
    for (what, damage) in damages {
        damage(&kept, &point);
        let line = format!("restore {point} --repository repository --to out --force --json");
        let (exit, report) = kept.json(&line);
        assert_eq!(exit, 3, "{what}: {report}");
        assert!(report["error"].as_str().unwrap().contains(&point), "{what}: {report}");
        assert_eq!(kept.names("out"), ["data.raw"], "{what}");
        kept.assert_same("data", "out/data.raw");
        let disks = report["disks"].as_array().unwrap();
        let outcomes: Vec<_> = disks
            .iter()
            .map(|disk| (disk["name"].as_str().unwrap(), disk["error"].is_null()))
            .collect();
        assert_eq!(outcomes, [("data", true), ("root", false)], "{what}");
        for (index, file) in files.iter().enumerate() {
            fs::copy(kept.path(&format!("copy{index}")), file).unwrap();
        }
    }
    assert_eq!(
        code(&kept.run(&format!("restore {point} --repository repository --to out --force"))),
        0
    );
}

#[test]
fn a_point_of_two_disks_does_not_go_to_one_device_because_one_of_them_is_missing() {
    let kept = Kept::new();
    kept.disk("root", 1 << 20, 7);
    kept.disk("data", 1 << 20, 8);
    let point = kept.back_up(&["root", "data"]);
    fs::remove_file(kept.image(&point, "root")).unwrap();
    let line = format!("restore {point} --repository repository --to nbd://127.0.0.1:1/x");
    assert_eq!(code(&kept.run(&line)), 2);
}

//! What a verification finds is kept: it is told by `points`, and nothing stands on it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, File};

use blockferry::{Kept, code, stderr};
use serde_json::Value;

/// The states of all points.
fn states(kept: &Kept) -> Vec<Value> {
    let (_, listed) = kept.json("points --repository repository --json");
    let points = listed["points"].as_array().unwrap();
    points.iter().map(|point| point["state"].clone()).collect()
}

fn backup(kept: &Kept, mode: &str) -> (i32, Value) {
    kept.json(&format!(
        "backup --vm db1 --repository repository --disk root=root --mode {mode} --json"
    ))
}

#[test]
fn a_backup_after_a_verification_that_found_damage_stands_on_none_of_it() {
    let kept = Kept::new();
    let [full, ..] = kept.chain();
    let image = kept.image(&full, "root");
    fs::copy(&image, kept.path("copy")).unwrap();
    kept.flip_a_bit_of(&image);
    // Nobody has looked yet.
    assert_eq!(states(&kept), ["whole"; 3]);
    assert_eq!(kept.json("verify --all --repository repository --json").0, 6);
    assert_eq!(states(&kept), ["damaged"; 3]);
    let listed = kept.run("points --repository repository");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.matches("damaged: 1 file").count(), 3, "{listed}");

    let (exit, refused) = backup(&kept, "incremental");
    assert_eq!(exit, 2, "{refused}");
    let (exit, made) = backup(&kept, "auto");
    assert_eq!((exit, &made["disks"][0]["mode"]), (0, &Value::from("full")), "{made}");
    let reason = made["disks"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("was found damaged") && reason.contains(&full), "{reason}");
    let new = made["point"].as_str().unwrap();
    let restored = kept.run(&format!("restore {new} --repository repository --to out"));
    assert_eq!(code(&restored), 0, "{}", stderr(&restored));
    kept.assert_same("root", "out/root.raw");
    assert_eq!(states(&kept), ["damaged", "damaged", "damaged", "whole"]);

    // Mended: the marks stay until somebody has looked, at all that the layer has.
    fs::copy(kept.path("copy"), &image).unwrap();
    assert_eq!(states(&kept)[0], "damaged");
    assert_eq!(kept.json(&format!("verify {new} --repository repository --json")).0, 0);
    assert_eq!(states(&kept)[0], "damaged");
    assert_eq!(kept.json("verify --all --repository repository --json").0, 0);
    assert_eq!(states(&kept), ["whole"; 4]);
}

#[test]
fn a_backup_after_a_restore_that_found_damage_stands_on_none_of_it() {
    let kept = Kept::new();
    let [full, _, newest] = kept.chain();
    kept.flip_a_bit_of(&kept.image(&full, "root"));
    let line = format!("restore {newest} --repository repository --to out --json");
    let (exit, restored) = kept.json(&line);
    assert_eq!((exit, &restored["outcome"]), (6, &"content_differs".into()), "{restored}");
    // The layer that it is, and so all that stand on it.
    assert_eq!(states(&kept), ["damaged"; 3]);
    let (_, listed) = kept.json("points --repository repository --json");
    let damaged = &listed["points"][2]["disks"][0]["damaged"];
    assert_eq!(damaged.as_array().unwrap().len(), 1, "{damaged}");
    assert!(damaged[0]["file"].as_str().unwrap().contains(&full), "{damaged}");
    assert!(damaged[0]["says"].as_str().unwrap().contains("the content differs"), "{damaged}");
    assert_eq!(backup(&kept, "incremental").0, 2);
    let (exit, made) = backup(&kept, "auto");
    assert_eq!((exit, &made["disks"][0]["mode"]), (0, &Value::from("full")), "{made}");
    // It is verify that takes the mark off.
    kept.flip_a_bit_of(&kept.image(&full, "root"));
    assert_eq!(kept.json(&line.replace("out", "again")).0, 0);
    assert_eq!(states(&kept)[0], "damaged");
    assert_eq!(kept.json("verify --all --repository repository --json").0, 0);
    assert_eq!(states(&kept), ["whole"; 4]);
}

#[test]
fn a_chain_that_was_mended_and_verified_is_stood_on_again() {
    let kept = Kept::new();
    let points = kept.chain();
    let manifest = kept.manifest(&points[1], "root");
    fs::rename(&manifest, kept.path("away")).unwrap();
    assert_eq!(kept.json("verify --all --repository repository --json").0, 6);
    fs::rename(kept.path("away"), &manifest).unwrap();
    assert_eq!(states(&kept), ["whole", "damaged", "damaged"]);
    assert_eq!(backup(&kept, "incremental").0, 2);
    // The point of the layer itself: one above it does not show all that it has.
    let verified = kept.json(&format!("verify {} --repository repository --json", points[2]));
    assert_eq!(verified.0, 0);
    assert_eq!(states(&kept), ["whole", "damaged", "damaged"]);
    let verified = kept.json(&format!("verify {} --repository repository --json", points[1]));
    assert_eq!(verified.0, 0);
    assert_eq!(states(&kept), ["whole"; 3]);
    assert_eq!(backup(&kept, "incremental").0, 0);
}

#[test]
fn a_layer_that_was_cut_to_nothing_or_swapped_with_another_is_not_called_whole() {
    for damage in ["cut", "swapped"] {
        let kept = Kept::new();
        let points = kept.chain();
        let image = kept.image(&points[0], "root");
        if damage == "cut" {
            File::create(&image).unwrap();
        } else {
            let other = kept.image(&points[1], "root");
            fs::rename(&image, kept.path("between")).unwrap();
            fs::rename(&other, &image).unwrap();
            fs::rename(kept.path("between"), &other).unwrap();
        }
        assert_eq!(states(&kept), ["damaged"; 3], "{damage}");
        let (_, listed) = kept.json("points --repository repository --json");
        let says = listed["points"][0]["disks"][0]["damaged"][0]["says"].as_str().unwrap();
        assert!(says.contains("when it was published"), "{says}");
        let (exit, made) = backup(&kept, "auto");
        assert_eq!((exit, &made["disks"][0]["mode"]), (0, &Value::from("full")), "{made}");
        assert_eq!(kept.json("verify --all --repository repository --json").0, 6, "{damage}");
    }
}

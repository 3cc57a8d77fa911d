//! `points`, as a person or a script meets it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;

use blockferry::{Kept, code, stderr};

#[test]
fn points_are_listed_with_what_a_person_and_a_script_want_to_know() {
    let kept = Kept::new();
    kept.disk("root", 200_000, 1);
    let full = kept.back_up(&["root"]);
    kept.disk("data", 1000, 2);
    let mixed = kept.back_up(&["root", "data"]);
    let delta = kept.back_up(&["root", "data"]);
    let output = kept.run("points --repository repository");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["point", "VM", "time", "mode"]);
    for (row, (point, mode, chain)) in rows[1..].iter().zip([
        (&full, "full", "1"),
        (&mixed, "mixed", "2"),
        (&delta, "incremental", "3"),
    ]) {
        assert_eq!((row[0], row[1], row[3]), (point.as_str(), "db1", mode));
        assert_eq!(row[row.len() - 2..], [chain, "whole"]);
        let time = row[2];
        assert!(time.len() == 20 && time.ends_with('Z') && time.contains('T'), "{time}");
    }
    let (_, report) = kept.json("points --repository repository --json");
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 3);
    let newest = &points[2];
    assert_eq!((&newest["id"], &newest["size"]), (&delta.clone().into(), &201_000.into()));
    let root = &newest["disks"][1];
    assert_eq!((&root["name"], &root["parent"]), (&"root".into(), &mixed.clone().into()));
    let chain: Vec<_> =
        root["chain"].as_array().unwrap().iter().map(|layer| &layer["point"]).collect();
    assert_eq!(chain, [&delta, &mixed, &full]);
}

#[test]
fn only_the_points_of_one_vm_are_listed_if_it_is_named() {
    let kept = Kept::new();
    kept.disk("root", 1000, 1);
    kept.back_up(&["root"]);
    let (_, all) = kept.json("points --repository repository --vm db1 --json");
    assert_eq!(all["points"].as_array().unwrap().len(), 1);
    let (code, none) = kept.json("points --repository repository --vm db2 --json");
    assert_eq!((code, &none["points"]), (0, &serde_json::json!([])));
}

#[test]
fn a_point_with_a_missing_file_is_damaged_and_so_are_those_that_stand_on_it() {
    let kept = Kept::new();
    let [full, delta, newest] = kept.chain();
    fs::remove_file(kept.manifest(&delta, "root")).unwrap();
    let (_, report) = kept.json("points --repository repository --json");
    let states: Vec<_> = report["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| (point["id"].as_str().unwrap(), point["state"].as_str().unwrap()))
        .collect();
    let expected =
        [(full.as_str(), "whole"), (delta.as_str(), "damaged"), (newest.as_str(), "damaged")];
    assert_eq!(states, expected);
    let missing = &report["points"][2]["disks"][0]["missing"];
    assert!(missing[0].as_str().unwrap().ends_with(".manifest"), "{missing}");
    let output = kept.run("points --repository repository");
    assert!(String::from_utf8(output.stdout).unwrap().contains("damaged: 1 file is missing"));
}

#[test]
fn a_point_is_deleted_when_nothing_stands_on_it() {
    let kept = Kept::new();
    let [full, delta, newest] = kept.chain();
    let delete =
        |point: &str| kept.json(&format!("points delete {point} --repository repository --json"));
    for (point, by) in [(&full, &delta), (&delta, &newest)] {
        let (code, report) = delete(point);
        assert_eq!(code, 1, "{report}");
        assert!(report["error"].as_str().unwrap().contains(by.as_str()), "{report}");
    }
    for point in [&newest, &delta, &full] {
        let (code, report) = delete(point);
        assert_eq!((code, &report["point"]), (0, &point.clone().into()), "{report}");
        assert_eq!(delete(point).0, 2, "it is gone");
    }
    assert_eq!(kept.names("repository/points"), [] as [&str; 0]);
    let output = kept.run("points --repository repository --json");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn a_folder_that_is_no_repository_is_wrong_usage_and_stays_as_it_is() {
    let kept = Kept::new();
    fs::create_dir(kept.path("empty")).unwrap();
    for folder in ["empty", "nosuch"] {
        let (code, report) = kept.json(&format!("points --repository {folder} --json"));
        assert_eq!((code, &report["outcome"]), (2, &"wrong_usage".into()), "{report}");
        assert_eq!(kept.names(folder), [] as [&str; 0]);
    }
    assert!(!kept.path("nosuch").exists());
    assert_eq!(code(&kept.run("points")), 2);
}

#[test]
fn wrong_options_are_told_as_json_too() {
    let kept = Kept::new();
    for words in [
        "points --json --nonsense",
        "backup --json --vm ../x --disk d=x --repository r",
        "restore nonsense --repository r --to out --json",
    ] {
        let output = kept.run(words);
        assert_eq!(code(&output), 2, "{words}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["outcome"], &report["exit_code"]), (&"wrong_usage".into(), &2.into()));
        let said = stderr(&output);
        assert_eq!(said, format!("blockferry: {}\n", report["error"].as_str().unwrap()));
    }
}

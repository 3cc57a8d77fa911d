//! A catalog that is damaged: what it hides is told.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;

use blockferry::{Kept, code, stderr};
use serde_json::Value;

/// Where some bytes are in others.
fn places(of: &[u8], within: &[u8]) -> Vec<usize> {
    (0..within.len()).filter(|at| within[*at..].starts_with(of)).collect()
}

fn listed(kept: &Kept) -> Option<Vec<String>> {
    let output = kept.run("points --repository repository --json");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let points = report["points"].as_array().unwrap().iter();
    (code(&output) == 0).then(|| points.map(|point| point["id"].as_str().unwrap().into()).collect())
}

#[test]
fn a_point_that_one_flipped_bit_of_the_catalog_hides_is_missed() {
    let kept = Kept::new();
    let [first, ..] = kept.chain();
    let catalog = kept.path("repository/catalog.db");
    let whole = fs::read(&catalog).unwrap();
    let mut hidden = 0;
    for at in places(first.as_bytes(), &whole) {
        let mut flipped = whole.clone();
        flipped[at + 4] ^= 1;
        fs::write(&catalog, &flipped).unwrap();
        if listed(&kept).is_some_and(|points| points.contains(&first)) {
            continue;
        }
        hidden += 1;
        let output = kept.run("verify --all --repository repository");
        let said = stderr(&output);
        assert_ne!(code(&output), 0, "at {at}");
        assert!(said.contains(&first) || said.contains("is damaged"), "at {at}: {said}");
        let output = kept.run(&format!("verify {first} --repository repository"));
        let said = stderr(&output);
        assert_ne!(code(&output), 0, "at {at}");
        assert!(!said.contains("there is no restore point"), "at {at}: {said}");
    }
    assert!(hidden >= 2, "in the table and in its index: {hidden}");
    fs::write(&catalog, &whole).unwrap();
    assert_eq!(code(&kept.run("verify --all --repository repository")), 0);
}

#[test]
fn a_folder_without_its_point_and_a_point_without_its_folder_are_told_by_name() {
    let kept = Kept::new();
    kept.disk("root", 1 << 20, 7);
    let first = kept.back_up(&["root"]);
    fs::copy(kept.path("repository/catalog.db"), kept.path("older.db")).unwrap();
    let second = kept.back_up(&["root"]);
    fs::copy(kept.path("older.db"), kept.path("repository/catalog.db")).unwrap();
    let (exit, report) = kept.json("verify --all --repository repository --json");
    assert_eq!(exit, 6, "{report}");
    let faults = report["catalog"].as_array().unwrap();
    assert_eq!(faults.len(), 1, "{report}");
    assert_eq!(faults[0]["kind"], "folder_without_point");
    assert_eq!(faults[0]["point"], *second);
    let error = report["error"].as_str().unwrap();
    assert!(error.contains(&format!("points/{second} is there")), "{error}");
    // What is known is right all the same.
    assert_eq!(report["points"][0]["whole"], true);
    assert_eq!(kept.json(&format!("verify {first} --repository repository --json")).0, 0);
    let restored = kept.run(&format!("restore {second} --repository repository --to out"));
    assert!(stderr(&restored).contains("the catalog does not know the point"));

    fs::remove_dir_all(kept.path(&format!("repository/points/{first}"))).unwrap();
    let (_, report) = kept.json("verify --all --repository repository --json");
    let kinds: Vec<_> =
        report["catalog"].as_array().unwrap().iter().map(|fault| fault["kind"].clone()).collect();
    assert_eq!(kinds, ["folder_without_point", "point_without_folder"]);
}

#[test]
fn rows_of_the_catalog_that_lead_nowhere_are_found() {
    let kept = Kept::new();
    let [first, ..] = kept.chain();
    let catalog = rusqlite::Connection::open(kept.path("repository/catalog.db")).unwrap();
    catalog.pragma_update(None, "foreign_keys", false).unwrap();
    assert_eq!(catalog.execute("DELETE FROM points WHERE id = ?1", [&first]).unwrap(), 1);
    drop(catalog);
    let (exit, report) = kept.json("verify --all --repository repository --json");
    assert_ne!(exit, 0, "{report}");
    let says = report["error"].as_str().unwrap();
    assert!(says.contains("leads to none of points") || says.contains(&first), "{report}");
}

//! Answers of the server that are spelled in any way, and that are no answers.

use std::time::{Duration, Instant};

use blockferry_doubles::vsphere::{NewMachine, Trouble, Vsphere};

use super::{MIB, Stage};
use crate::blockferry::{VmPlace, code, stderr};

const RETRIEVE: &str = "RetrievePropertiesEx";
const LOGIN: &str = "Login";
const CREATE: &str = "CreateSnapshot_Task";
const AREAS: &str = "QueryChangedDiskAreas";
const REMOVE: &str = "RemoveSnapshot_Task";

#[test]
fn namespaces_prefixes_and_the_order_of_attributes_make_no_difference_to_a_backup() {
    for seed in 0..8 {
        let machine = NewMachine::new("web").disk(2 * MIB).disk(MIB + 512).tracked();
        let builder = Vsphere::builder().seed(seed).drawn_spelling().page_areas(2).page_objects(1);
        let place = VmPlace::with(builder.machine(machine));
        let web = place.machine("web");
        for (mode, byte) in [("full", 1), ("incremental", 2)] {
            web.write_all(&[(2000, 5000, &[byte; 99]), (2001, 0, &[byte; 512])]).unwrap();
            web.write(2000, MIB, &[byte; 70_000]).unwrap();
            let backed = place.back_up("web", "--quiesce require");
            assert_eq!(backed.mode(super::DISK), mode, "seed {seed}");
            place.assert_equal(&backed);
        }
        place.assert_nothing_left();
        assert_eq!(place.vsphere.sessions(), 0, "seed {seed}");
    }
}

/// A backup while one answer is spoiled: it goes well, for the call is made again or the snapshot
/// looked for by its name, or it fails in one line; it ends soon, and leaves nothing behind.
fn is_borne(stage: &mut Stage, what: &str, trouble: Trouble) {
    let points = stage.points();
    stage.place.vsphere.trouble(trouble);
    let began = Instant::now();
    let output = stage.place.kept.run(&stage.place.backup("web", ""));
    let said = stderr(&output);
    assert!(began.elapsed() < Duration::from_secs(30), "{what}: {:?}", began.elapsed());
    match code(&output) {
        0 => assert_eq!(stage.points(), points + 1, "{what}"),
        4 => {
            let line = said.lines().last().unwrap();
            assert!(line.starts_with("blockferry: ") && line.len() < 500, "{what}: {said}");
            assert_eq!(stage.points(), points, "{what}");
        }
        other => panic!("{what}: {other}: {said}"),
    }
    let to_come = stage.place.vsphere.troubles();
    assert!(to_come.is_empty(), "{what}: {to_come:?}");
    stage.place.assert_nothing_left();
    // The cookie of a login that was not understood is lost with it.
    stage.place.vsphere.expire_sessions();
    stage.write();
}

#[test]
fn a_backup_bears_answers_that_are_bombs_of_entities() {
    let mut stage = Stage::new();
    for method in [LOGIN, RETRIEVE, CREATE, AREAS, REMOVE] {
        is_borne(&mut stage, method, Trouble::EntityBomb { method });
    }
    stage.recovers();
}

#[test]
fn a_backup_bears_answers_that_end_in_their_middle() {
    let mut stage = Stage::new();
    for method in [LOGIN, RETRIEVE, CREATE, AREAS, REMOVE] {
        for bytes in [0, 40, 300] {
            is_borne(&mut stage, method, Trouble::Truncated { method, bytes });
        }
    }
    stage.recovers();
}

#[test]
fn a_backup_bears_answers_of_many_times_the_bound() {
    let mut stage = Stage::new();
    for method in [LOGIN, RETRIEVE, CREATE, AREAS, REMOVE] {
        is_borne(&mut stage, method, Trouble::Huge { method, bytes: 128 << 20 });
    }
    stage.recovers();
}

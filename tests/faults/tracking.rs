//! What the server says of changes: late, twice, wrong, or not at all.

use std::time::{Duration, Instant};

use blockferry_doubles::vsphere::{Failure, Page, Trouble, Vsphere};

use super::{DISK, Stage};

const QUERY: &str = "QueryChangedDiskAreas";

/// Pages of two areas, so that there are several.
fn paged() -> Stage {
    Stage::with(Vsphere::builder().page_areas(2))
}

#[test]
fn pages_that_cannot_be_the_truth_end_the_job_and_publish_nothing() {
    let stage = paged();
    for (page, after, words) in [
        (Page::Stalls, 0, "stands still"),
        (Page::Stalls, 1, "stands still"),
        (Page::Repeats, 1, "from byte 0 on"),
        (Page::Overlaps, 1, "is not within the part"),
        (Page::Exceeds, 1, "and the disk has"),
        (Page::Unordered, 0, "is not behind the one before it"),
    ] {
        for _ in 0..after {
            // Legal, and so the page before the one that counts.
            stage.place.vsphere.trouble(Trouble::Areas(Page::EndsEarly));
        }
        stage.place.vsphere.trouble(Trouble::Areas(page));
        stage.fails("", 4, &["tells nonsense of what changed", words, "full backup"]);
        assert_eq!(stage.points(), 1, "{page:?}");
    }
    stage.recovers();
}

#[test]
fn pages_that_end_early_are_asked_on_from_where_they_end() {
    let stage = paged();
    for _ in 0..3 {
        stage.place.vsphere.trouble(Trouble::Areas(Page::EndsEarly));
    }
    let backed = stage.succeeds("", &[]);
    assert_eq!(backed.mode(DISK), "incremental");
    stage.assert_tidy();
}

#[test]
fn a_base_that_the_server_does_not_know_any_more_makes_that_disk_a_full_and_says_why() {
    for kind in ["FileFault", "InvalidArgument"] {
        let stage = Stage::new();
        let failure = Failure::new(kind, "Error caused by file");
        stage.place.vsphere.trouble(Trouble::CallFails { method: QUERY, failure });
        let backed = stage.succeeds("", &[]);
        assert_eq!(backed.mode(DISK), "full");
        assert!(backed.reason(DISK).contains(kind), "{}", backed.reason(DISK));
        assert_eq!(backed.mode("disk-2001"), "incremental");
        stage.assert_tidy();
    }
}

#[test]
fn a_question_that_may_not_be_asked_ends_the_job() {
    let stage = Stage::new();
    let failure = Failure::new("NoPermission", "Permission to perform this operation was denied");
    stage.place.vsphere.trouble(Trouble::CallFails { method: QUERY, failure });
    stage.fails("", 4, &[QUERY, "NoPermission", "give the user the privilege"]);
    stage.recovers();
}

#[test]
fn a_session_that_is_refused_again_and_again_ends_the_job_and_the_snapshot_goes() {
    let stage = Stage::new();
    for _ in 0..40 {
        let failure = Failure::new("NotAuthenticated", "The session is not authenticated");
        stage.place.vsphere.trouble(Trouble::CallFails { method: QUERY, failure });
    }
    stage.fails_and_leaves("", 4, &[QUERY, "NotAuthenticated"]);
    stage.place.assert_nothing_left();
    stage.place.vsphere.clear_troubles();
    // What was called over is never logged out, and here it was not.
    stage.place.vsphere.expire_sessions();
    stage.recovers();
}

#[test]
fn a_question_without_an_answer_is_asked_again_and_not_for_ever() {
    let stage = Stage::new();
    for _ in 0..4 {
        let by = Duration::from_secs(20);
        stage.place.vsphere.trouble(Trouble::CallSlow { method: QUERY, by });
    }
    let began = Instant::now();
    stage.fails("--vcenter-deadline 1s", 4, &["did not answer", QUERY, "within 1 s"]);
    // Four times a second, and 1, 2 and 4 between.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    stage.recovers();
}

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_point_that_was_published_keeps_its_folder_and_loses_the_mark() {
    let place = Place::new();
    let point = place.point().id;
    let mark = place.folder_of(point).join(UNPUBLISHED);
    assert!(!mark.exists());
    // Its process was killed between the transaction and the last step.
    fs::write(&mark, "").unwrap();
    assert_eq!(place.repository.clean_up().unwrap(), CleanedUp::default());
    assert!(!mark.exists());
    assert_whole(&place.repository, point);
}

#[test]
fn a_folder_that_has_its_place_and_was_not_published_goes() {
    let place = Place::new();
    let folder = place.folder_of(PointId::new());
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(UNPUBLISHED), "").unwrap();
    fs::write(folder.join("image.qcow2"), "whole, and of no point").unwrap();
    let cleaned = place.repository.clean_up().unwrap();
    assert_eq!(cleaned, CleanedUp { folders: 1, ..CleanedUp::default() });
    assert!(!folder.exists());
}

#[test]
fn what_nobody_here_has_made_stays() {
    let place = Place::new();
    let root = place.root();
    let strange = [
        // The id of a point that the catalog does not know, and no mark.
        place.folder_of(PointId::new()),
        root.join(POINTS).join("letters"),
        root.join(WORK).join("notes"),
        root.join("copies"),
    ];
    for folder in &strange {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("file"), "mine").unwrap();
    }
    drop(begin(&place.repository));
    place.repository.clean_up().unwrap();
    for folder in &strange {
        assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "mine");
    }
}

#[test]
fn a_point_that_the_catalog_refuses_leaves_no_folder() {
    let place = Place::new();
    let (job, mut work) = begin(&place.repository);
    // The job is not publishing.
    let point = new_point(&place.repository, &job, &work, UnixMillis::now());
    let error = work.publish(point).unwrap_err();
    let refused = matches!(error, RepositoryError::Catalog(CatalogError::Unpublishable { .. }));
    assert!(refused, "{error}");
    // It is alive until it has noted why it ends.
    assert_eq!(place.repository.clean_up().unwrap(), CleanedUp::default());
    drop(work);
    assert_eq!(names_in(&place.root().join(WORK)), [""; 0]);
    assert_eq!(names_in(&place.root().join(POINTS)), [""; 0]);
    place.point();
}

#[test]
fn a_job_that_gives_up_leaves_no_folder_and_is_told_of_by_the_next_one() {
    let place = Place::new();
    let (job, work) = begin(&place.repository);
    fs::write(work.path().join("image.qcow2"), "half").unwrap();
    drop(work);
    assert_eq!(names_in(&place.root().join(WORK)), [""; 0]);
    drop(begin(&place.repository));
    assert_eq!(place.job(job.id).state, JobState::Failed);
}

#[test]
fn a_program_of_a_dead_job_that_still_makes_files_does_not_keep_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let dying = folder.path().join("dying");
    fs::create_dir(&dying).unwrap();
    for file in 0..200 {
        fs::write(dying.join(format!("old-{file}")), "").unwrap();
    }
    // It dies in the midst of the removal.
    let dies = Instant::now() + Duration::from_millis(200);
    let (making, makes) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            for file in 0.. {
                let made = fs::write(dying.join(format!("new-{file}")), "");
                // Without the folder there is nothing to make.
                if made.is_err() || Instant::now() > dies {
                    return;
                }
                // The test has heard it once, and that is enough.
                let _ = making.send(());
            }
        });
        makes.recv().unwrap();
        folder::remove(&dying).unwrap();
    });
    assert!(!dying.exists());
}

#[test]
fn a_folder_without_a_name_is_told_as_that() {
    for opened in [Repository::open(Path::new("")), Repository::open_or_create(Path::new(""))] {
        let refused = opened.unwrap_err().to_string();
        assert_eq!(refused, "the name of the repository is empty; name a folder");
    }
}

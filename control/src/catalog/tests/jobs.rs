use super::*;

fn keyed(vm: &str, key: &str) -> NewJob {
    NewJob { key: Some(a(key)), ..new_job(vm) }
}

#[test]
fn a_job_begins_in_the_queue() {
    let place = Place::new();
    let Admission::New(job) = place.catalog.add_job(new_job("db1")).unwrap() else {
        panic!("it is new");
    };
    assert_eq!(job.state, JobState::Queued);
    assert_eq!(place.catalog.job(job.id).unwrap(), job);
}

#[test]
fn jobs_are_told_apart_by_what_they_are_for() {
    let place = Place::new();
    let add = |kind| {
        let job = place.catalog.add_job(NewJob { kind, ..new_job("db1") });
        job.unwrap().into_job()
    };
    let (backup, export) = (add(JobKind::Backup), add(JobKind::Export));
    for job in [&backup, &export] {
        assert_eq!(&place.catalog.job(job.id).unwrap(), job);
        let filter = JobFilter { kind: Some(job.kind), ..JobFilter::default() };
        assert_eq!(place.catalog.jobs(&filter).unwrap(), std::slice::from_ref(job));
    }
    assert_eq!(place.catalog.jobs(&JobFilter::default()).unwrap(), [backup, export]);
}

#[test]
fn a_job_takes_every_legal_step_and_no_other() {
    let place = Place::new();
    for &from in JobState::ALL {
        for &to in JobState::ALL {
            let job = place.job_that_is(from);
            let before = place.catalog.job(job).unwrap();
            // Said here once more, so that a change of the rule is one of this table too.
            use JobState::{Cancelled, Copying, Done, Failed, Planning, Publishing, Queued};
            let legal = matches!(
                (from, to),
                (Queued, Planning)
                    | (Planning, Copying)
                    | (Copying, Publishing)
                    | (Publishing, Done)
                    | (Queued | Planning | Copying | Publishing, Failed | Cancelled)
            );
            match place.catalog.advance(job, to, "test") {
                Ok(after) => {
                    assert!(legal, "{from} became {to}");
                    assert_eq!(after.state, to);
                }
                Err(error) => {
                    assert!(!legal, "{from} to {to}: {error}");
                    assert!(matches!(error, CatalogError::IllegalStep { .. }), "{error}");
                    assert_eq!(place.catalog.job(job).unwrap(), before);
                    assert_eq!(place.catalog.steps(job).unwrap().len(), way_to(from).len() + 1);
                }
            }
        }
    }
}

#[test]
fn each_step_is_kept_with_its_time_and_reason() {
    let place = Place::new();
    let before = UnixMillis::now();
    let job = place.job();
    place.catalog.advance(job, JobState::Planning, "a slot is free").unwrap();
    place.catalog.advance(job, JobState::Failed, "no route to the source").unwrap();
    let steps = place.catalog.steps(job).unwrap();
    let said: Vec<(JobState, &str)> = steps.iter().map(|s| (s.state, s.reason.as_str())).collect();
    assert_eq!(
        said,
        [
            (JobState::Queued, "asked for"),
            (JobState::Planning, "a slot is free"),
            (JobState::Failed, "no route to the source"),
        ]
    );
    assert!(steps.iter().all(|step| step.at >= before && step.at <= UnixMillis::now()));
    assert_eq!(place.catalog.job(job).unwrap().reason, "no route to the source");
}

#[test]
fn an_idempotency_key_gives_back_the_same_job_whatever_became_of_it() {
    let place = Place::new();
    let first = place.catalog.add_job(keyed("db1", "nightly-7")).unwrap().into_job();
    let failed = place.catalog.advance(first.id, JobState::Failed, "test").unwrap();
    assert_eq!(place.catalog.add_job(keyed("db1", "nightly-7")).unwrap(), Admission::Known(failed));
    assert_eq!(place.catalog.jobs(&JobFilter::default()).unwrap().len(), 1);
}

#[test]
fn an_idempotency_key_cannot_stand_for_another_job() {
    let place = Place::new();
    place.catalog.add_job(keyed("db1", "k")).unwrap();
    let other_mode = NewJob { mode: BackupMode::Full, ..keyed("db1", "k") };
    for other in [keyed("db2", "k"), other_mode] {
        let error = place.catalog.add_job(other).unwrap_err();
        assert!(matches!(error, CatalogError::KeyReused { .. }), "{error}");
    }
}

#[test]
fn an_idempotency_key_cannot_stand_for_another_request_where_it_was_noted() {
    let place = Place::new();
    let asked = |text: &str, key: &str| NewJob { asked: Some(a(text)), ..keyed("db1", key) };
    let (one, other) = ("1".repeat(64), "2".repeat(64));
    let first = place.catalog.add_job(asked(&one, "k")).unwrap().into_job();
    assert_eq!(place.catalog.add_job(asked(&one, "k")).unwrap(), Admission::Known(first));
    let error = place.catalog.add_job(asked(&other, "k")).unwrap_err();
    assert!(matches!(error, CatalogError::KeyReused { .. }), "{error}");
    // One of a version that did not note it.
    let before = place.catalog.add_job(keyed("db1", "before")).unwrap().into_job();
    let again = place.catalog.add_job(asked(&one, "before")).unwrap();
    assert_eq!(again, Admission::Known(before));
}

#[test]
fn a_job_is_found_by_its_key_alone() {
    let place = Place::new();
    place.catalog.add_job(keyed("db1", "other")).unwrap();
    let job = place.catalog.add_job(keyed("db1", "k")).unwrap().into_job();
    assert_eq!(place.catalog.job_of_key(&a("k")).unwrap(), Some(job));
    assert_eq!(place.catalog.job_of_key(&a("K")).unwrap(), None);
}

#[test]
fn jobs_without_a_key_are_different_jobs() {
    let place = Place::new();
    assert_ne!(place.job(), place.job());
}

#[test]
fn a_job_that_is_not_there_is_an_error_that_names_it() {
    let place = Place::new();
    let job = JobId::new();
    for error in [
        place.catalog.job(job).unwrap_err(),
        place.catalog.steps(job).unwrap_err(),
        place.catalog.advance(job, JobState::Planning, "test").unwrap_err(),
    ] {
        assert!(matches!(error, CatalogError::NoSuchJob(id) if id == job), "{error}");
    }
}

#[test]
fn jobs_are_listed_as_they_came_by_vm_and_state_and_the_newest_only() {
    let place = Place::new();
    let add = |vm| place.catalog.add_job(new_job(vm)).unwrap().into_job().id;
    let (first, second, third) = (add("db1"), add("db2"), add("db1"));
    place.catalog.advance(third, JobState::Planning, "test").unwrap();
    place.catalog.advance(second, JobState::Cancelled, "test").unwrap();
    let list = |filter: JobFilter| -> Vec<JobId> {
        place.catalog.jobs(&filter).unwrap().iter().map(|job| job.id).collect()
    };
    let of_db1 = JobFilter { vm: Some(a("db1")), ..JobFilter::default() };
    assert_eq!(list(JobFilter::default()), [first, second, third]);
    assert_eq!(list(of_db1.clone()), [first, third]);
    let open = vec![JobState::Queued, JobState::Planning];
    assert_eq!(list(JobFilter { states: open.clone(), ..JobFilter::default() }), [first, third]);
    assert_eq!(list(JobFilter { states: open, newest: Some(1), ..of_db1 }), [third]);
    assert_eq!(list(JobFilter { newest: Some(2), ..JobFilter::default() }), [second, third]);
}

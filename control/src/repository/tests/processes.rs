use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::catalog::{Claim, ClaimKind, Leases};

/// Processes at one repository, and jobs of each.
const PROCESSES: usize = 4;
const JOBS: usize = 12;

/// Ends a process whatever becomes of the test.
struct Other(Child);

impl Other {
    fn start(name: &str, root: &Path) -> Self {
        let mut command = this_test(&format!("processes::{name}"), root);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// What it says, until it has no more to say.
    fn said(&mut self) -> impl Iterator<Item = String> + use<> {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        // The test harness has its own to say.
        lines.filter_map(|line| line.unwrap().strip_prefix("says ").map(str::to_owned))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "\nsays {text}").unwrap();
    output.flush().unwrap();
}

#[test]
fn what_a_living_process_works_on_is_left_alone_until_it_dies() {
    let place = Place::new();
    let mut other = Other::start("begins_a_job_and_waits", &place.root());
    let job: JobId = other.said().next().unwrap().parse().unwrap();
    let folder = RelativePath::of_work(job).under(&place.root());

    assert_eq!(place.repository.clean_up().unwrap(), CleanedUp::default());
    drop(begin(&place.repository));
    assert!(folder.is_dir());
    assert_eq!(place.job(job).state, JobState::Queued);

    drop(other);
    let cleaned = place.repository.clean_up().unwrap();
    assert!(cleaned.jobs.contains(&job) && cleaned.folders == 1, "{cleaned:?}");
    assert!(!folder.exists());
    let (state, reason) = (place.job(job).state, place.job(job).reason);
    assert_eq!(state, JobState::Failed);
    assert_eq!(reason, "its process ended while it was queued");
    assert_eq!(place.repository.clean_up().unwrap(), CleanedUp::default());
}

#[test]
#[ignore = "started by the test of living processes"]
fn begins_a_job_and_waits() {
    let Some(root) = root_of_parent() else { return };
    // Another VM than that of its parent: one of the same would be kept out while it lives.
    let repository = Repository::open(&root).unwrap();
    let (job, _work) = repository.begin("db2".parse().unwrap(), BackupMode::Auto).unwrap();
    say(job.id.as_str());
    // Its parent never writes: this ends with it.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn what_a_job_gives_back_at_the_same_time_is_no_failure_of_cleaning_up() {
    let place = Place::new();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let other = Repository::open(&place.root()).unwrap();
            while !over.load(Ordering::Relaxed) {
                other.clean_up().unwrap();
            }
        });
        for _ in 0..60 {
            let (job, work) = begin(&place.repository);
            let catalog = place.repository.catalog();
            let claim = Claim::new(ClaimKind::Image, "all of VM db1").unwrap();
            let lease = catalog.lease(job.id, claim).unwrap().id;
            publish(&place.repository, &job, work, UnixMillis::now());
            match catalog.release(lease, job.id) {
                Ok(()) | Err(CatalogError::NoSuchLease(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(place.repository.catalog().leases().unwrap(), []);
}

#[test]
fn processes_that_begin_publish_give_up_and_clean_up_at_once_lose_nothing() {
    let place = Place::new();
    let mut others: Vec<_> =
        (0..PROCESSES).map(|_| Other::start("publishes_every_other_job", &place.root())).collect();
    let mut said = Vec::new();
    for other in &mut others {
        for point in other.said() {
            said.push(point.parse::<PointId>().unwrap());
            place.repository.clean_up().unwrap();
        }
        assert!(other.0.wait().unwrap().success());
    }
    place.repository.clean_up().unwrap();

    assert_eq!(said.len(), PROCESSES * JOBS / 2);
    let mut published = ids(&place.repository);
    published.iter().for_each(|point| assert_whole(&place.repository, *point));
    published.sort_unstable();
    said.sort_unstable();
    assert_eq!(published, said);
    assert_eq!(names_in(&place.root().join(WORK)), [""; 0]);
    assert_eq!(names_in(&place.root().join(POINTS)).len(), said.len());
    for job in place.repository.catalog().jobs(&JobFilter::default()).unwrap() {
        assert!(job.state.is_over(), "{job:?}");
    }
}

#[test]
#[ignore = "started by the test of many processes"]
fn publishes_every_other_job() {
    let Some(root) = root_of_parent() else { return };
    let repository = Repository::open(&root).unwrap();
    // A VM of its own: two that publish onto the same layer are another matter.
    let vm = format!("vm{}", std::process::id());
    for turn in 0..JOBS {
        let (job, work) = repository.begin(vm.parse().unwrap(), BackupMode::Auto).unwrap();
        assert!(work.path().is_dir(), "another process took it away");
        if turn % 2 == 0 {
            say(publish(&repository, &job, work, UnixMillis::now()).id.as_str());
        }
    }
}

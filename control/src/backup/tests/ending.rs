use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::*;
use crate::catalog::FailureKind;
use crate::repository::RepositoryError;

const MIB: u64 = 1 << 20;

fn jobs(place: &Place) -> Vec<(JobState, String)> {
    let jobs = place.repository.catalog().jobs(&Default::default()).unwrap();
    jobs.into_iter().map(|job| (job.state, job.reason)).collect()
}

#[test]
fn one_disk_that_cannot_be_read_means_no_point_and_nothing_left() {
    let place = Place::new();
    let disk = place.disk("root", 64 * MIB);
    write(&disk, 0, &[1; 1 << 20]);
    let missing = place.folder.path().join("missing.raw");
    let error = place.back_up(&request(&[("root", &disk), ("data", &missing)])).unwrap_err();
    assert!(error.to_string().starts_with("disk data: source "), "{error}");
    assert_eq!(error.side(), Some(blockferry_dataplane::Side::Source));
    assert_eq!(jobs(&place), [(JobState::Failed, error.to_string())]);
    assert_eq!(place.repository.catalog().points(&PointFilter::default()).unwrap(), []);
    place.assert_tidy();
}

#[test]
fn a_backup_that_is_called_off_leaves_nothing() {
    /// Calls off as soon as a certain state is reached.
    struct CallingOff(JobState, Cancellation);
    impl Watch for CallingOff {
        fn job(&self, job: &Job) {
            if job.state == self.0 {
                self.1.cancel();
            }
        }
    }
    for state in [JobState::Queued, JobState::Planning, JobState::Copying, JobState::Publishing] {
        let place = Place::new();
        let disk = place.disk("root", 16 * MIB);
        write(&disk, 0, &[1; 8 << 20]);
        let cancellation = Cancellation::default();
        let watch: Arc<dyn Watch> = Arc::new(CallingOff(state, cancellation.clone()));
        let request = request(&[("root", &disk)]);
        let settings = BackupSettings::for_disks(1);
        let ended = back_up(&place.repository, &request, &settings, &watch, &cancellation);
        assert!(matches!(ended, Err(BackupError::Cancelled)), "{state}: {ended:?}");
        assert_eq!(jobs(&place), [(JobState::Cancelled, "interrupted".into())], "{state}");
        place.assert_tidy();
    }
}

#[test]
fn an_export_that_is_killed_is_started_anew_and_the_point_is_right() {
    /// Kills the exports of the repository once, when data has been moved.
    struct Killing(PathBuf, Mutex<u32>);
    impl Watch for Killing {
        fn progress(&self, disks: &[blockferry_dataplane::Counts]) {
            let mut left = held(&self.1);
            if *left > 0 && disks[0].sent > 0 && kill_exports_of(&self.0) {
                *left -= 1;
            }
        }
    }
    let place = Place::new();
    let disk = place.disk("root", 32 * MIB);
    let noise: Vec<u8> =
        (0..32_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    write(&disk, 0, &noise);
    let root = place.repository.root().to_owned();
    let killing = Arc::new(Killing(root, Mutex::new(2)));
    let watch: Arc<dyn Watch> = Arc::clone(&killing) as _;
    let mut settings = BackupSettings::for_disks(1);
    // Slow enough to be met at work, twice.
    settings.mover.rate_limit = Some(24 << 20);
    settings.lane.backoff = Duration::from_millis(20);
    let request = request(&[("root", &disk)]);
    let report =
        back_up(&place.repository, &request, &settings, &watch, &Cancellation::default()).unwrap();
    assert_eq!(*held(&killing.1), 0, "both kills found an export");
    assert_eq!(place.content(report.point.id, "root", 32 * MIB), noise);
    place.assert_tidy();
}

/// Kills the qemu-nbd processes that have an image in `folder` on their command line.
fn kill_exports_of(folder: &Path) -> bool {
    let folder = folder.to_str().unwrap();
    let mut found = false;
    for entry in fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let program = line.split('\0').next().unwrap_or_default();
        if program.ends_with("qemu-nbd") && line.contains(folder) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            found |= rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
        }
    }
    found
}

#[test]
fn a_vm_is_backed_up_by_one_job_at_a_time() {
    /// Starts the same backup again from within.
    struct Again(Repository, BackupRequest, Mutex<Option<String>>);
    impl Watch for Again {
        fn job(&self, job: &Job) {
            if job.state == JobState::Copying {
                let watch: Arc<dyn Watch> = Arc::new(Noted::default());
                let settings = BackupSettings::for_disks(1);
                let cancellation = Cancellation::default();
                let second = back_up(&self.0, &self.1, &settings, &watch, &cancellation);
                *held(&self.2) =
                    Some(second.unwrap_err().to_string().replace(job.id.as_str(), "ID"));
            }
        }
    }
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let request = request(&[("root", &disk)]);
    let again = Arc::new(Again(place.repository.clone(), request.clone(), Mutex::default()));
    let watch: Arc<dyn Watch> = Arc::clone(&again) as _;
    let settings = BackupSettings::for_disks(1);
    let cancellation = Cancellation::default();
    back_up(&place.repository, &request, &settings, &watch, &cancellation).unwrap();
    let said = held(&again.2).clone();
    let expected = "VM \"db1\" is being backed up by job ID; wait until that has ended";
    assert_eq!(said.as_deref(), Some(expected));
    place.assert_tidy();
}

#[test]
fn states_are_told_in_their_order_with_their_reasons() {
    use JobState::{Copying, Planning, Publishing, Queued};
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let noted = Arc::new(Noted::default());
    let watch: Arc<dyn Watch> = Arc::clone(&noted) as _;
    let settings = BackupSettings::for_disks(1);
    let cancellation = Cancellation::default();
    let report =
        back_up(&place.repository, &request(&[("root", &disk)]), &settings, &watch, &cancellation)
            .unwrap();
    let told: Vec<JobState> = held(&noted.jobs).iter().map(|(state, _)| *state).collect();
    assert_eq!(told, [Queued, Planning, Copying, Publishing]);
    let reason = format!("published point {}", report.point.id);
    assert_eq!(jobs(&place), [(JobState::Done, reason)]);
}

#[test]
fn a_folder_that_is_used_for_something_else_does_not_become_a_repository() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let error = Repository::open_or_create(folder.path()).unwrap_err();
    assert!(matches!(error, RepositoryError::NotEmpty { .. }));
    assert!(error.to_string().contains("letter.txt"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_job_that_fails_while_others_clean_up_keeps_its_own_reason() {
    let place = Place::new();
    let missing = place.folder.path().join("missing.raw");
    let over = AtomicBool::new(false);
    let reasons = thread::scope(|scope| {
        let cleaning = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let cleaned = place.repository.clean_up().unwrap();
                assert_eq!(cleaned.jobs, [], "taken for dead");
            }
        });
        for _ in 0..20 {
            place.back_up(&request(&[("root", &missing)])).unwrap_err();
        }
        over.store(true, Ordering::Relaxed);
        cleaning.join().unwrap();
        jobs(&place)
    });
    assert_eq!(reasons.len(), 20);
    for (state, reason) in reasons {
        assert_eq!(state, JobState::Failed);
        assert!(reason.starts_with("disk root: source "), "{reason}");
    }
    place.assert_tidy();
}

#[test]
fn areas_outside_of_the_disk_are_a_fault_of_the_request() {
    let place = Place::new();
    let disk = place.disk("root", MIB);
    let mut request = request(&[("root", &disk)]);
    place.back_up(&request).unwrap();
    request.disks[0].changes = areas(&[(2 * MIB, 512)]);
    let error = place.back_up(&request).unwrap_err();
    assert_eq!(error.failure(), FailureKind::Request, "{error}");
    assert!(error.to_string().contains("lies outside of the source"), "{error}");
    place.assert_tidy();
}

#[test]
fn a_source_that_has_another_size_when_it_is_copied_makes_no_point() {
    /// Changes the size of the disk once it was looked at.
    struct Resizing(PathBuf, u64);
    impl Watch for Resizing {
        fn planned(&self, _plan: &DiskPlan) {
            File::options().write(true).open(&self.0).unwrap().set_len(self.1).unwrap();
        }
    }
    let place = Place::new();
    let disk = place.disk("root", 8 * MIB);
    write(&disk, 0, &[1; 1 << 20]);
    place.back_up(&request(&[("root", &disk)])).unwrap();
    let mut asked = request(&[("root", &disk)]);
    for (changes, mode) in [
        (Changes::Compared, BackupMode::Full),
        (Changes::Compared, BackupMode::Incremental),
        (Changes::Areas(AreaSet::new()), BackupMode::Incremental),
    ] {
        for size in [4 * MIB, 16 * MIB] {
            File::options().write(true).open(&disk).unwrap().set_len(8 * MIB).unwrap();
            asked.disks[0].changes = changes.clone();
            asked.mode = mode;
            let watch: Arc<dyn Watch> = Arc::new(Resizing(disk.clone(), size));
            let settings = BackupSettings::for_disks(1);
            let calls_off = Cancellation::default();
            let ended = back_up(&place.repository, &asked, &settings, &watch, &calls_off);
            let error = ended.unwrap_err();
            assert_eq!(error.failure(), FailureKind::Source, "{error}");
            let says = format!("it has {size} bytes now, and had 8388608 before");
            assert!(error.to_string().contains(&says), "{error}");
            place.assert_tidy();
        }
    }
    assert_eq!(place.repository.catalog().points(&PointFilter::default()).unwrap().len(), 1);
}

//! Backups of a hub, with real exports and few ports.

mod at_node;

use std::fs::{self, File};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_dataplane::Endpoint;
use tempfile::TempDir;

use super::*;
use crate::backup::{BackupRequest, BackupSettings, Changes, DiskRequest};
use crate::catalog::{
    Admission, BackupMode, Claim, ClaimKind, Job, JobId, JobKind, JobState, Jobs, Leases,
    PointFilter, Points, SqliteCatalog,
};
use crate::hub::{Hub, HubSettings};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    // Before the hub: its threads use it.
    backups: Backups,
    hub: Hub,
    folder: TempDir,
}

impl Place {
    /// A hub with as many ports.
    fn new(ports: u16) -> Self {
        Self::again(tempfile::tempdir().unwrap(), ports)
    }

    fn again(folder: TempDir, ports: u16) -> Self {
        let mut settings = HubSettings::on(&folder.path().join("hub"));
        settings.ports = free_ports(ports);
        let (hub, _) = Hub::open(&settings).unwrap();
        let repository = folder.path().join("repository");
        let repositories = Repositories::open([("default".parse().unwrap(), repository)]).unwrap();
        let mut settings = BackupSettings::for_disks(ports);
        // Long enough to be met at work.
        settings.mover.rate_limit = Some(8 << 20);
        let (catalog, ports) = (Arc::clone(hub.catalog()), Arc::clone(hub.ports()));
        let exports = Arc::clone(hub.exports());
        let backups =
            Backups::start(catalog, ports, exports, repositories, settings, None).unwrap();
        Self { backups, hub, folder }
    }

    fn request(&self, vm: &str, disks: usize) -> BackupRequest {
        let disks = (0..disks).map(|disk| DiskRequest {
            name: format!("disk{disk}").parse().unwrap(),
            uuid: None,
            source: Endpoint::File(self.disk(&format!("{vm}-{disk}"))),
            changes: Changes::Compared,
        });
        let vm = vm.parse().unwrap();
        BackupRequest { vm, disks: disks.collect(), mode: BackupMode::Auto }
    }

    fn disk(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        if !path.exists() {
            let noise: Vec<u8> =
                (0..1_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            File::create(&path).unwrap().write_all(&noise).unwrap();
        }
        path
    }

    fn submit(&self, vm: &str, disks: usize) -> JobId {
        self.backups.submit(self.request(vm, disks), None, None, None).unwrap().into_job().id
    }

    fn job(&self, job: JobId) -> Job {
        self.hub.catalog().job(job).unwrap()
    }

    /// The job, when `wanted` is true of it.
    fn wait(&self, id: JobId, wanted: impl Fn(&Job) -> bool) -> Job {
        let started = Instant::now();
        loop {
            let job = self.job(id);
            if wanted(&job) {
                return job;
            }
            assert!(started.elapsed() < PATIENCE, "{job:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_busy(&self) -> bool {
        let counts = self.backups.counts();
        counts.waiting + counts.running > 0
    }

    fn assert_idle(&self) {
        let started = Instant::now();
        while self.is_busy() || self.hub.ports().metrics().in_use > 0 {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.hub.ports().metrics());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.hub.catalog().leases().unwrap(), []);
        assert_eq!(self.hub.exports().count(), 0);
        let work = self.folder.path().join("repository/work");
        assert_eq!(fs::read_dir(work).unwrap().count(), 0);
    }
}

/// So many ports in a row that nobody has now, from outside of the range of ephemeral ones.
fn free_ports(count: u16) -> RangeInclusive<u16> {
    let first = 12_000 + u16::try_from(std::process::id() % 180).unwrap() * 100;
    first..=first + count - 1
}

fn is_over(job: &Job) -> bool {
    job.state.is_over()
}

#[test]
fn a_backup_is_queued_runs_on_leased_ports_and_publishes_its_point() {
    let place = Place::new(3);
    let id = place.submit("db1", 2);
    let mut feed = place.backups.feed(id).unwrap().follow();
    place.wait(id, |job| job.state == JobState::Copying);
    let exports = place.hub.exports().list();
    assert_eq!(exports.len(), 2);
    let range = free_ports(3);
    for export in &exports {
        assert!(range.contains(&export.port.unwrap()), "{export:?}");
        assert!(export.name.starts_with(id.as_str()), "{export:?}");
    }
    let job = place.wait(id, is_over);
    assert_eq!(job.state, JobState::Done, "{}", job.reason);
    place.assert_idle();
    let (_, repository) = place.backups.repositories().named(None).unwrap();
    let point = repository.catalog().point_of(id).unwrap().unwrap();
    assert_eq!(job.reason, format!("published point {}", point.id));
    assert_eq!(repository.catalog().layers(point.id).unwrap().len(), 2);
    let mut states = Vec::new();
    let mut planned = 0;
    // It ends: the job is over.
    let events = tokio::runtime::Builder::new_current_thread().build().unwrap();
    while let Some(event) = events.block_on(feed.next()) {
        match event {
            JobEvent::State { state, .. } => states.push(state),
            JobEvent::Planned { .. } => planned += 1,
            _ => {}
        }
    }
    assert_eq!(planned, 2);
    use JobState::{Copying, Done, Planning, Publishing, Queued};
    assert_eq!(states, [Queued, Planning, Copying, Publishing, Done]);
}

#[test]
fn who_finds_no_port_waits_in_order_and_nobody_overtakes() {
    let place = Place::new(2);
    let first = place.submit("db1", 2);
    place.wait(first, |job| job.state == JobState::Copying);
    let (wide, small) = (place.submit("db2", 2), place.submit("db3", 1));
    let waits = place.backups.place(wide).unwrap();
    assert_eq!((waits.position, waits.ports_needed, waits.ports_free), (1, 2, 0));
    assert_eq!(place.backups.place(small).unwrap().position, 2);
    let mut ends = Vec::new();
    for id in [first, wide, small] {
        ends.push(place.wait(id, is_over));
    }
    assert!(ends.iter().all(|job| job.state == JobState::Done), "{ends:?}");
    let steps = |id| place.hub.catalog().steps(id).unwrap();
    let planned = |id| steps(id).into_iter().find(|step| step.state == JobState::Planning).unwrap();
    assert!(planned(wide).at >= ends[0].changed, "it started before there were ports");
    assert!(planned(small).at >= planned(wide).at, "it was overtaken");
    place.assert_idle();
}

#[test]
fn a_vm_with_more_disks_than_ports_is_refused_at_once() {
    let place = Place::new(2);
    let refused = place.backups.submit(place.request("db1", 3), None, None, None).unwrap_err();
    assert!(matches!(refused, SubmitError::TooManyDisks { disks: 3, ports: 2 }), "{refused}");
    assert_eq!(place.hub.catalog().jobs(&Default::default()).unwrap(), []);
}

#[test]
fn the_same_key_gives_the_same_job_and_no_second_backup() {
    let place = Place::new(2);
    let key = || Some("nightly-1".parse().unwrap());
    let first = place.backups.submit(place.request("db1", 1), None, None, key()).unwrap();
    let Admission::New(first) = first else { panic!("{first:?}") };
    for _ in 0..3 {
        let again = place.backups.submit(place.request("db1", 1), None, None, key()).unwrap();
        assert!(matches!(&again, Admission::Known(job) if job.id == first.id), "{again:?}");
    }
    place.wait(first.id, is_over);
    let again = place.backups.submit(place.request("db1", 1), None, None, key()).unwrap();
    assert!(matches!(again, Admission::Known(job) if job.state == JobState::Done));
    let (_, repository) = place.backups.repositories().named(None).unwrap();
    assert_eq!(repository.catalog().points(&PointFilter::default()).unwrap().len(), 1);
}

#[test]
fn a_job_is_called_off_while_it_waits_and_while_it_runs() {
    let place = Place::new(1);
    let (first, second) = (place.submit("db1", 1), place.submit("db2", 1));
    place.wait(first, |job| job.state == JobState::Copying);
    let called_off = place.backups.cancel(second).unwrap();
    assert_eq!(called_off.state, JobState::Cancelled);
    place.backups.cancel(first).unwrap();
    let job = place.wait(first, is_over);
    assert_eq!((job.state, job.reason.as_str()), (JobState::Cancelled, "interrupted"));
    place.assert_idle();
    let third = place.submit("db3", 1);
    assert_eq!(place.wait(third, is_over).state, JobState::Done);
    let refused = place.backups.cancel(third).unwrap_err();
    assert!(matches!(refused, SubmitError::Over { .. }), "{refused}");
}

#[test]
fn a_hub_that_stops_calls_off_what_it_does_and_leaves_nothing() {
    let place = Place::new(1);
    let (first, second) = (place.submit("db1", 1), place.submit("db2", 1));
    place.wait(first, |job| job.state == JobState::Copying);
    place.backups.stop();
    for id in [first, second] {
        assert_eq!(place.job(id).state, JobState::Cancelled);
    }
    place.assert_idle();
    let refused = place.backups.submit(place.request("db3", 1), None, None, None).unwrap_err();
    assert!(matches!(refused, SubmitError::Stopping), "{refused}");
}

#[test]
fn jobs_of_a_hub_that_was_killed_have_failed_or_are_done_by_their_point() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("hub");
    fs::create_dir(&state).unwrap();
    let (waiting, copying) = {
        let catalog = SqliteCatalog::open_or_create(&state.join("hub.db")).unwrap();
        let add = |vm: &str| {
            let (vm, mode) = (vm.parse().unwrap(), BackupMode::Auto);
            let job = catalog.add_job(crate::catalog::NewJob {
                kind: JobKind::Backup,
                vm,
                mode,
                key: None,
                asked: None,
            });
            job.unwrap().into_job().id
        };
        let (waiting, copying) = (add("db1"), add("db2"));
        for state in [JobState::Planning, JobState::Copying] {
            catalog.advance(copying, state, "as it was").unwrap();
        }
        let vm = Claim::new(ClaimKind::Image, "all of VM db2").unwrap();
        catalog.lease(copying, vm).unwrap();
        (waiting, copying)
    };
    let place = Place::again(folder, 1);
    for (id, reason) in [
        (waiting, "the hub ended while it was queued"),
        (copying, "the hub ended while it was copying"),
    ] {
        let job = place.job(id);
        assert_eq!((job.state, job.reason.as_str()), (JobState::Failed, reason));
    }
    // The VM of the dead one can be backed up.
    assert_eq!(place.hub.catalog().leases().unwrap(), []);
}

#[test]
fn a_repository_has_one_hub_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Repositories::open([("default".parse().unwrap(), path.to_owned())]);
    let first = open(folder.path()).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(refused.to_string().starts_with("another hub works in "), "{refused}");
    drop(first);
    open(folder.path()).unwrap();
}

#[test]
fn one_folder_under_two_names_is_said_to_be_that_and_no_other_hub() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str, path: PathBuf| (name.parse().unwrap(), path);
    let repository = folder.path().join("repository");
    let again = folder.path().join("x/../repository");
    fs::create_dir(folder.path().join("x")).unwrap();
    for other in [repository.clone(), again] {
        let both = [named("a", repository.clone()), named("b", other)];
        let refused = Repositories::open(both).unwrap_err();
        let said = refused.to_string();
        assert!(said.starts_with("a and b are the same folder, "), "{said}");
        assert_eq!(refused.failure(), crate::catalog::FailureKind::Request);
    }
    // None of them is held any more.
    Repositories::open([named("a", repository)]).unwrap();
}

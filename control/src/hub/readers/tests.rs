//! Readers of a hub, with real exports of a point that was backed up.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::Endpoint;
use blockferry_doubles::PortBlock;
use tempfile::TempDir;

use super::*;
use crate::backup::{
    BackupRequest, BackupSettings, Cancellation, Changes, DiskRequest, Watch, back_up,
};
use crate::catalog::{
    BackupMode, Claim, FailureKind, Job, JobFilter, JobKind, JobState, Jobs, Leases, NewJob,
    PointId, SqliteCatalog,
};
use crate::hub::{
    Backups, Holder, Hub, HubSettings, PortError, PortLease, Recovery, Repositories, SubmitError,
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ports of the hub: for all exports that there may be, and one more.
const PORTS: u16 = 17;

struct Place {
    // Before the hub: its threads use it.
    readers: Readers,
    hub: Hub,
    recovery: Recovery,
    point: PointId,
    folder: TempDir,
    _block: PortBlock,
}

impl Place {
    fn new(ports: u16) -> Self {
        Self::again(tempfile::tempdir().unwrap(), ports)
    }

    fn again(folder: TempDir, ports: u16) -> Self {
        let block = PortBlock::take();
        let settings = HubSettings {
            ports: block.first(ports),
            ..HubSettings::on(&folder.path().join("hub"))
        };
        let (hub, recovery) = Hub::open(&settings).unwrap();
        let root = folder.path().join("repository");
        let repositories = Repositories::open([("default".parse().unwrap(), root)]).unwrap();
        let point = point(&repositories, &folder);
        let (catalog, exports) = (Arc::clone(hub.catalog()), Arc::clone(hub.exports()));
        let settings = BackupSettings::for_disks(ports);
        let ports = Arc::clone(hub.ports());
        let backups =
            Backups::start(catalog, ports, exports, repositories, settings, None).unwrap();
        let mut readers = Readers::start(&hub, Arc::new(backups)).unwrap();
        // Long enough to be met at work.
        let shared = Arc::get_mut(&mut readers.shared).unwrap();
        shared.settings.mover.rate_limit = Some(64 << 10);
        Self { readers, hub, recovery, point, folder, _block: block }
    }

    fn export(&self) -> Result<Reading, ReaderError> {
        let disks = vec!["root".parse().unwrap()];
        let (point, repository) = (self.point, None);
        let asked =
            ExportAsked { point, repository, disks, writable: false, connections: 1, node: None };
        let mut reading = self.readers.export(asked)?;
        wait_for(reading.opened())?;
        Ok(reading)
    }

    fn verify(&self) -> Result<Reading, ReaderError> {
        let (point, repository) = (Some(self.point), None);
        let (disks, against) = (Vec::new(), Vec::new());
        let mut reading = self.readers.verify(VerifyAsked { point, repository, disks, against })?;
        wait_for(reading.opened())?;
        Ok(reading)
    }

    fn jobs(&self) -> Vec<Job> {
        let filter = JobFilter { kind: Some(JobKind::Export), ..JobFilter::default() };
        self.hub.catalog().jobs(&filter).unwrap()
    }

    fn wait_for_exports(&self, count: usize) {
        wait_until(|| self.readers.counts().exports == count);
    }

    fn assert_idle(&self) {
        wait_until(|| self.readers.counts() == ReaderCounts::default());
        assert_eq!(self.hub.ports().metrics().in_use, 0);
        assert_eq!(self.hub.exports().count(), 0);
        assert_eq!(self.hub.catalog().leases().unwrap(), []);
        let left = fs::read_dir(self.folder.path().join("hub/reading")).unwrap().count();
        assert_eq!(left, 0);
    }
}

/// A point of two disks.
fn point(repositories: &Repositories, folder: &TempDir) -> PointId {
    let (_, repository) = repositories.named(None).unwrap();
    let disks = ["data", "root"].map(|name| {
        let path = folder.path().join(name);
        fs::write(&path, name.repeat(1 << 18)).unwrap();
        let source = Endpoint::File(path);
        let name = name.parse().unwrap();
        DiskRequest { name, uuid: None, source, changes: Changes::Compared }
    });
    let (vm, mode) = ("db1".parse().unwrap(), BackupMode::Full);
    let request = BackupRequest { vm, disks: disks.into(), mode };
    struct Quiet;
    impl Watch for Quiet {}
    let watch: Arc<dyn Watch> = Arc::new(Quiet);
    let settings = BackupSettings::for_disks(2);
    back_up(repository, &request, &settings, &watch, &Cancellation::default()).unwrap().point.id
}

fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn wait_until(wanted: impl Fn() -> bool) {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
}

fn served(reading: &mut Reading) -> ServedPoint {
    match wait_for(reading.next()).unwrap() {
        ReadEvent::Served(served) => served,
        other => panic!("{other:?}"),
    }
}

/// How it ended, in words.
fn end(reading: &mut Reading) -> (FailureKind, String) {
    loop {
        if let ReadEvent::Failed { failure, reason } = wait_for(reading.next()).unwrap() {
            assert!(wait_for(reading.next()).is_none(), "it is the last one");
            return (failure, reason);
        }
    }
}

#[test]
fn an_export_has_a_job_that_owns_its_port_and_is_over_when_its_caller_leaves() {
    let place = Place::new(1);
    let mut reading = place.export().unwrap();
    let served = served(&mut reading);
    let job = place.jobs().pop().unwrap();
    assert_eq!((job.id, job.state), (served.job, JobState::Copying));
    let port = served.disks[0].lease.port;
    assert_eq!(job.reason, format!("point {} is served on {port}", place.point));
    assert_eq!(place.hub.ports().leases(), [served.disks[0].lease.clone()]);
    assert_eq!(place.hub.exports().list()[0].port, Some(port));
    drop(reading);
    place.assert_idle();
    let job = place.hub.catalog().job(job.id).unwrap();
    assert_eq!((job.state, job.reason.as_str()), (JobState::Cancelled, "its caller has left"));
}

#[test]
fn an_export_that_finds_no_port_leaves_its_reason_and_the_ports_of_others() {
    let place = Place::new(1);
    let other: Holder = "somebody".parse().unwrap();
    let lease =
        place.hub.ports().lease(&other, &"db2".parse().unwrap(), &"root".parse().unwrap()).unwrap();
    let refused = place.export().unwrap_err();
    assert!(matches!(refused, ReaderError::Port(PortError::AllTaken { .. })), "{refused}");
    place.wait_for_exports(0);
    let job = place.jobs().pop().unwrap();
    assert_eq!((job.state, job.reason), (JobState::Failed, refused.to_string()));
    assert_eq!(place.hub.ports().leases(), std::slice::from_ref(&lease));
    place.hub.ports().release(lease.port, &other).unwrap();
    drop(place.export().unwrap());
    place.assert_idle();
}

#[test]
fn no_more_points_are_served_at_once_than_there_may_be() {
    let place = Place::new(PORTS);
    let mut readings: Vec<Reading> = (0..MAX_EXPORTS).map(|_| place.export().unwrap()).collect();
    let refused = place.export().unwrap_err();
    assert!(matches!(refused, ReaderError::TooMany { running: MAX_EXPORTS, .. }), "{refused}");
    assert_eq!(refused.to_string(), "16 exports of points run already, and no more do at once");
    readings.pop();
    place.wait_for_exports(MAX_EXPORTS - 1);
    readings.push(place.export().unwrap());
    drop(readings);
    place.assert_idle();
}

#[test]
fn no_more_verify_at_once_than_there_may_be() {
    let place = Place::new(1);
    let mut readings: Vec<Reading> =
        (0..MAX_VERIFICATIONS).map(|_| place.verify().unwrap()).collect();
    let refused = place.verify().unwrap_err();
    assert!(matches!(refused, ReaderError::TooMany { .. }), "{refused}");
    readings.pop();
    wait_until(|| place.readers.counts().verifications < MAX_VERIFICATIONS);
    readings.push(place.verify().unwrap());
    drop(readings);
    place.assert_idle();
}

#[test]
fn an_export_is_called_off_by_its_job_and_its_caller_hears_of_it() {
    let place = Place::new(2);
    let (mut one, mut other) = (place.export().unwrap(), place.export().unwrap());
    let (first, second) = (served(&mut one).job, served(&mut other).job);
    place.readers.end_export(first).unwrap();
    assert_eq!(end(&mut one), (FailureKind::Other, "the export was called off".to_owned()));
    // Its port is free by then; the other one goes on.
    assert_eq!(place.hub.ports().metrics().in_use, 1);
    place.wait_for_exports(1);
    let refused = place.readers.end_export(first).unwrap_err();
    assert!(matches!(refused, ReaderError::NoSuchExport(job) if job == first), "{refused}");
    assert_eq!(place.hub.ports().leases()[0].job, second);
    drop(other);
    place.assert_idle();
}

#[test]
fn digests_are_lent_of_what_is_served_and_of_nothing_else() {
    let place = Place::new(1);
    let mut reading = place.export().unwrap();
    let job = served(&mut reading).job;
    let lent = place.readers.digests(job, &"root".parse().unwrap()).unwrap();
    assert!(lent.metadata().unwrap().len() > 4096);
    let refused = place.readers.digests(job, &"data".parse().unwrap()).unwrap_err();
    let said = refused.to_string();
    assert_eq!(said, format!("point {} has no disk \"data\"; it has root", place.point));
    drop(reading);
    place.assert_idle();
    let refused = place.readers.digests(job, &"root".parse().unwrap()).unwrap_err();
    assert!(matches!(refused, ReaderError::NoSuchExport(_)), "{refused}");
}

#[test]
fn all_end_when_the_hub_stops_and_no_other_begins() {
    let place = Place::new(1);
    let (mut export, mut verification) = (place.export().unwrap(), place.verify().unwrap());
    place.readers.stop();
    let stopped = (FailureKind::Other, "the hub is being stopped".to_owned());
    assert_eq!(end(&mut export), stopped);
    assert_eq!(end(&mut verification), stopped);
    place.assert_idle();
    for refused in [place.export().unwrap_err(), place.verify().unwrap_err()] {
        let stopping = ReaderError::Repository(SubmitError::Stopping);
        assert_eq!(refused.to_string(), stopping.to_string());
    }
}

#[test]
fn what_a_killed_hub_served_is_undone_and_its_folder_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("hub");
    fs::create_dir_all(state.join("reading/export-x")).unwrap();
    let job = {
        let catalog = SqliteCatalog::open_or_create(&state.join("hub.db")).unwrap();
        let (kind, vm) = (JobKind::Export, "db1".parse().unwrap());
        let new = NewJob { kind, vm, mode: BackupMode::Auto, key: None, asked: None };
        let job = catalog.add_job(new).unwrap().into_job().id;
        for state in [JobState::Planning, JobState::Copying] {
            catalog.advance(job, state, "as it was").unwrap();
        }
        catalog.lease(job, Claim::port(25_000)).unwrap();
        job
    };
    let place = Place::again(folder, 1);
    let why = format!("port 25000 is free again: job {job} of this hub no longer runs");
    assert_eq!(place.recovery.undone, [why]);
    assert_eq!(place.recovery.adopted, [] as [PortLease; 0]);
    let job = place.hub.catalog().job(job).unwrap();
    assert_eq!(
        (job.state, job.reason.as_str()),
        (JobState::Failed, "the hub ended while it was copying")
    );
    place.assert_idle();
}

//! Backups whose disks a node reads, over lines that can be cut, without SSH between.

mod areas;
mod passes;

use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use blockferry_dataplane::{LaneSettings, MoverSettings};
use blockferry_doubles::disk::compare;
use blockferry_doubles::{Nbdkit, PortBlock, Server, TestDisk};

use super::*;
use crate::catalog::FailureKind;
use crate::child::held;
use crate::hub::{NodeCheck, NodeLines, NodeName, Nodes, NodesAtWork, host_key};
use crate::node::{NodeService, NodeSettings};

/// A node may be away for this long.
const AWAY: Duration = Duration::from_secs(20);

/// The line to one node; none while it is cut.
#[derive(Debug, Default)]
struct OneLine(Mutex<Option<Arc<NodeService>>>);

impl NodeLines for OneLine {
    fn dial(&self, _node: &NodeName, _deadline: Duration) -> Result<UnixStream, String> {
        let service = held(&self.0).clone().ok_or("the line is cut")?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        service.accept(theirs);
        Ok(ours)
    }

    fn connections(&self) -> Vec<(String, usize)> {
        Vec::new()
    }
}

struct Place {
    // Before the hub: its threads use it.
    backups: Backups,
    hub: Hub,
    line: Arc<OneLine>,
    folder: TempDir,
    _block: PortBlock,
}

impl Place {
    fn new(deadline: Duration) -> Self {
        let line: Arc<OneLine> = Arc::default();
        Self { line: Arc::clone(&line), ..Self::over(deadline, line) }
    }

    fn over(deadline: Duration, lines: Arc<dyn NodeLines>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let block = PortBlock::take();
        let settings =
            HubSettings { ports: block.first(4), ..HubSettings::on(&folder.path().join("hub")) };
        let (hub, _) = Hub::open(&settings).unwrap();
        enroll(hub.folder());
        let nodes = NodesAtWork {
            check: Arc::new(NodeCheck::of(hub.folder())),
            lines: Some(lines),
            deadline,
            stall: PATIENCE,
        };
        let root = folder.path().join("repository");
        let repositories = Repositories::open([("default".parse().unwrap(), root)]).unwrap();
        let (catalog, ports) = (Arc::clone(hub.catalog()), Arc::clone(hub.ports()));
        let (exports, settings) = (Arc::clone(hub.exports()), BackupSettings::for_disks(4));
        let backups =
            Backups::start(catalog, ports, exports, repositories, settings, Some(nodes)).unwrap();
        Self { backups, hub, line: Arc::default(), folder, _block: block }
    }

    /// A node, slow enough to be met at work where there is a limit.
    fn node(&self, rate_limit: Option<u64>, forget: Duration) -> Arc<NodeService> {
        let settings = NodeSettings {
            lane: LaneSettings { deadline: Duration::from_secs(5), ..LaneSettings::default() },
            mover: MoverSettings { rate_limit, ..MoverSettings::default() },
            local_sources: false,
            vms: None,
            forget,
            token: None,
        };
        let reach = |uri: &blockferry_dataplane::nbd::NbdUri| Ok(Endpoint::nbd(uri.clone()));
        let node = NodeService::start(self.jobs(), settings, reach, |_| {});
        let node = Arc::new(node.unwrap());
        *held(&self.line.0) = Some(Arc::clone(&node));
        node
    }

    fn jobs(&self) -> PathBuf {
        self.folder.path().join("jobs")
    }

    fn jobs_left(&self) -> usize {
        fs::read_dir(self.jobs()).unwrap().count()
    }

    fn submit(&self, source: &str) -> JobId {
        self.submit_with(source, Changes::Compared)
    }

    fn submit_with(&self, source: &str, changes: Changes) -> JobId {
        let disk = DiskRequest {
            name: "root".parse().unwrap(),
            uuid: None,
            source: Endpoint::nbd(source.parse().unwrap()),
            changes,
        };
        let (vm, mode) = ("db1".parse().unwrap(), BackupMode::Auto);
        let request = BackupRequest { vm, disks: vec![disk], mode };
        let node = Some("rack2".parse().unwrap());
        self.backups.submit(request, None, node, None).unwrap().into_job().id
    }

    fn end_of(&self, id: JobId) -> Job {
        let job = wait(|| Some(self.hub.catalog().job(id).unwrap()).filter(is_over));
        wait(|| (self.hub.ports().metrics().in_use == 0).then_some(()));
        assert_eq!(self.hub.exports().count(), 0);
        assert_eq!(self.hub.catalog().leases().unwrap(), []);
        let work = self.folder.path().join("repository/work");
        assert_eq!(fs::read_dir(work).unwrap().count(), 0);
        job
    }

    fn wait_for_bytes(&self, id: JobId) {
        wait(|| {
            let progress = self.backups.feed(id)?.progress();
            progress.first().filter(|disk| disk.counts.acknowledged > 0).map(drop)
        });
    }

    /// Compares the disk in the newest point with the file; what was sent for it.
    fn compare(&self, file: &Path) -> u64 {
        let (_, repository) = self.backups.repositories().named(None).unwrap();
        let point = repository.catalog().points(&PointFilter::default()).unwrap().pop().unwrap();
        let held = repository.hold(point.id).unwrap();
        compare(file, &held.layers[0].image, "qcow2").unwrap();
        held.layers[0].layer().facts.counts.sent
    }

    fn points(&self) -> usize {
        let (_, repository) = self.backups.repositories().named(None).unwrap();
        repository.catalog().points(&PointFilter::default()).unwrap().len()
    }
}

/// What is wanted, once it is there.
fn wait<T>(mut get: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn enroll(folder: &Path) {
    let nodes = Nodes::of(folder);
    let (name, hub) = ("rack2".parse().unwrap(), host_key(folder).unwrap());
    let code = nodes.invite(&name, PATIENCE, &hub.public()).unwrap().to_string();
    let secret = code.split('.').nth(1).unwrap().to_owned();
    let key = crate::tunnel::OwnKey::load_or_make(&folder.join("of-the-node")).unwrap();
    NodeCheck::of(folder).enroll(&name, &secret, &key.public()).unwrap();
}

fn source(folder: &TempDir, size: u64) -> (TestDisk, Server) {
    let disk = TestDisk::random(folder.path(), size, 0.7, 7).unwrap();
    let server = Nbdkit::file(&disk.path).read_only().tcp().start().unwrap();
    (disk, server)
}

#[test]
fn a_full_and_a_delta_that_a_node_reads_equal_its_disk() {
    let place = Place::new(AWAY);
    let _node = place.node(None, PATIENCE);
    let (disk, server) = source(&place.folder, 24 << 20);
    let job = place.end_of(place.submit(&server.uri()));
    assert_eq!(job.state, JobState::Done, "{}", job.reason);
    assert!(place.compare(&disk.path) > 10 << 20);

    disk.overwrite(5 << 20..6 << 20, 9).unwrap();
    let job = place.end_of(place.submit(&server.uri()));
    assert_eq!(job.state, JobState::Done, "{}", job.reason);
    // The digests of the base came to the node: what is as it was is not sent.
    let sent = place.compare(&disk.path);
    assert!((1..=2 << 20).contains(&sent), "{sent}");
    wait(|| (place.jobs_left() == 0).then_some(()));
}

#[test]
fn a_node_that_is_away_for_a_while_goes_on_with_its_job() {
    let place = Place::new(AWAY);
    let node = place.node(Some(8 << 20), PATIENCE);
    let (disk, server) = source(&place.folder, 24 << 20);
    let id = place.submit(&server.uri());
    place.wait_for_bytes(id);
    *held(&place.line.0) = None;
    let feed = place.backups.feed(id).unwrap();
    wait(|| told(&feed).iter().any(|word| word.contains("cannot be reached")).then_some(()));
    *held(&place.line.0) = Some(node);
    wait(|| told(&feed).iter().any(|word| word.contains("is there again")).then_some(()));
    drop(feed);
    let job = place.end_of(id);
    assert_eq!(job.state, JobState::Done, "{}", job.reason);
    place.compare(&disk.path);
}

#[test]
fn a_node_that_stays_away_fails_its_job_which_says_so() {
    let place = Place::new(Duration::from_millis(300));
    let _node = place.node(Some(4 << 20), PATIENCE);
    let (_disk, server) = source(&place.folder, 24 << 20);
    let id = place.submit(&server.uri());
    place.wait_for_bytes(id);
    *held(&place.line.0) = None;
    let job = place.end_of(id);
    assert_eq!((job.state, place.points()), (JobState::Failed, 0));
    assert!(job.reason.contains("node rack2 cannot be reached: the line is cut"), "{}", job.reason);
}

#[test]
fn a_node_that_is_not_there_at_all_fails_its_job() {
    let place = Place::new(Duration::ZERO);
    let job = place.end_of(place.submit("nbd://127.0.0.1:1/x"));
    assert_eq!(job.state, JobState::Failed);
    assert!(job.reason.contains("blockferry node serve"), "{}", job.reason);
}

#[test]
fn a_node_that_is_stopped_and_started_anew_fails_the_jobs_that_it_had() {
    let place = Place::new(AWAY);
    let node = place.node(Some(8 << 20), PATIENCE);
    let (_disk, server) = source(&place.folder, 24 << 20);
    let id = place.submit(&server.uri());
    place.wait_for_bytes(id);
    *held(&place.line.0) = None;
    node.stop();
    drop(node);
    let _anew = place.node(None, PATIENCE);
    let job = place.end_of(id);
    assert_eq!((job.state, place.points()), (JobState::Failed, 0));
    // Whether the hub still heard of the stop depends on when it asked last.
    let told = ["started anew", "called its lanes off"];
    assert!(told.iter().any(|words| job.reason.contains(words)), "{}", job.reason);
    assert_eq!(place.jobs_left(), 0);
}

#[test]
fn a_job_that_is_called_off_ends_at_its_node_too() {
    let place = Place::new(AWAY);
    let _node = place.node(Some(4 << 20), PATIENCE);
    let (_disk, server) = source(&place.folder, 24 << 20);
    let id = place.submit(&server.uri());
    place.wait_for_bytes(id);
    place.backups.cancel(id).unwrap();
    assert_eq!(place.end_of(id).state, JobState::Cancelled);
    wait(|| (place.jobs_left() == 0).then_some(()));
}

#[test]
fn a_node_forgets_what_nobody_asks_about() {
    let place = Place::new(Duration::ZERO);
    let node = place.node(Some(4 << 20), Duration::from_secs(1));
    let (_disk, server) = source(&place.folder, 24 << 20);
    let id = place.submit(&server.uri());
    place.wait_for_bytes(id);
    assert_eq!(place.jobs_left(), 1);
    *held(&place.line.0) = None;
    assert_eq!(place.end_of(id).state, JobState::Failed);
    wait(|| (place.jobs_left() == 0).then_some(()));
    drop(node);
}

#[test]
fn what_a_node_meets_is_the_reason_of_its_job() {
    let place = Place::new(AWAY);
    let _node = place.node(None, PATIENCE);
    let job = place.end_of(place.submit("nbd://127.0.0.1:1/x"));
    assert_eq!((job.state, job.failure), (JobState::Failed, Some(FailureKind::Source)));
    assert!(
        job.reason.starts_with("disk root: at the node: source nbd://127.0.0.1:1/x"),
        "{}",
        job.reason
    );

    let job = place.end_of(place.submit("nbd+unix:///x?socket=/run/other-vm"));
    assert_eq!(job.state, JobState::Failed);
    assert!(job.reason.contains("--local-sources"), "{}", job.reason);

    let folder = place.folder.path();
    let disk = TestDisk::random(folder, 24 << 20, 1.0, 3).unwrap();
    let server = Nbdkit::file(&disk.path)
        .read_only()
        .filter("error", &["error-pread=EIO", "error-pread-rate=30%"])
        .tcp()
        .start()
        .unwrap();
    let job = place.end_of(place.submit(&server.uri()));
    assert_eq!((job.state, job.failure), (JobState::Failed, Some(FailureKind::Source)));
    assert!(job.reason.contains("input/output error"), "{}", job.reason);
    assert_eq!(place.points(), 0);
    wait(|| (place.jobs_left() == 0).then_some(()));
}

#[test]
fn only_nodes_that_are_enrolled_are_asked() {
    let place = Place::new(AWAY);
    let request = || BackupRequest {
        vm: "db1".parse().unwrap(),
        disks: vec![DiskRequest {
            name: "root".parse().unwrap(),
            uuid: None,
            source: Endpoint::nbd("nbd://127.0.0.1:1/x".parse().unwrap()),
            changes: Changes::Compared,
        }],
        mode: BackupMode::Auto,
    };
    let stranger = Some("rack3".parse().unwrap());
    let refused = place.backups.submit(request(), None, stranger, None).unwrap_err();
    assert!(matches!(&refused, SubmitError::UnknownNode(name) if name.as_str() == "rack3"));
    let other = super::Place::new(1);
    let refused = other.backups.submit(request(), None, Some("rack2".parse().unwrap()), None);
    assert!(matches!(refused.unwrap_err(), SubmitError::NoNodes));
}

/// What has been told of a job so far.
fn told(feed: &crate::hub::Feed) -> Vec<String> {
    let mut follower = feed.follow();
    let mut words = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut next = || {
        let next = async { tokio::time::timeout(Duration::from_millis(1), follower.next()).await };
        runtime.block_on(next).ok().flatten()
    };
    while let Some(event) = next() {
        if let JobEvent::Note(text) = event {
            words.push(text);
        }
    }
    words
}

/// A node that lies: it says that a disk has `size` bytes, moves none, and gives these digests.
#[derive(Debug)]
struct Liar {
    size: u64,
    manifest: Vec<u8>,
    manifest_bytes: u64,
    manifest_id: String,
}

impl Liar {
    fn answer(&self, request: &str) -> Vec<u8> {
        let bytes =
            r#"{"planned":0,"read":0,"zero":0,"sent":0,"acknowledged":0,"skipped":0,"redone":0}"#;
        let body = if request.contains("/look ") {
            format!(r#"{{"looked":[{{"size":{},"has_bitmap":false}}]}}"#, self.size).into_bytes()
        } else if request.contains("/manifest ") {
            self.manifest.clone()
        } else if request.contains("?seen=") {
            let (length, id) = (self.manifest_bytes, &self.manifest_id);
            format!(
                r#"{{"words":[],"bytes":[{bytes}],"end":{{"carried":[{{"bytes":{bytes},"elapsed_ms":1,"manifest_bytes":{length},"manifest_id":"{id}"}}]}}}}"#
            )
            .into_bytes()
        } else {
            b"{}".to_vec()
        };
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend(body);
        answer
    }
}

#[derive(Debug)]
struct LiarLine(Arc<Liar>);

impl NodeLines for LiarLine {
    fn dial(&self, _node: &NodeName, _deadline: Duration) -> Result<UnixStream, String> {
        use std::io::{BufRead, BufReader};
        let (ours, mut theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        let liar = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut request = String::new();
            BufReader::new(&theirs).read_line(&mut request).unwrap();
            // The hub may have had enough.
            let _gone = theirs.write_all(&liar.answer(&request));
        });
        Ok(ours)
    }

    fn connections(&self) -> Vec<(String, usize)> {
        Vec::new()
    }
}

#[test]
fn a_node_that_lies_about_a_disk_makes_no_point() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digests");
    let mut writer = blockferry_dataplane::manifest::ManifestWriter::create(
        &path,
        blockferry_dataplane::digest::DigestAlgorithm::Blake3,
        1 << 20,
    )
    .unwrap();
    writer.record_zero(0..16).unwrap();
    writer.finish().unwrap();
    let manifest_id =
        blockferry_dataplane::manifest::Manifest::open(&path).unwrap().content_id().unwrap();
    let manifest = fs::read(&path).unwrap();
    let length = manifest.len() as u64;
    for (size, manifest_bytes, says) in [
        (2 << 20, length, "its digests are of a disk of 1048576 bytes, and it has 2097152"),
        (1 << 51, length, ""),
        (1 << 20, u64::MAX, "bytes of digests for a disk"),
    ] {
        let (manifest, manifest_id) = (manifest.clone(), manifest_id.clone());
        let liar = Liar { size, manifest, manifest_bytes, manifest_id };
        let place = Place::over(AWAY, Arc::new(LiarLine(Arc::new(liar))));
        let job = place.end_of(place.submit("nbd://127.0.0.1:1/x"));
        assert_eq!((job.state, place.points()), (JobState::Failed, 0), "{}", job.reason);
        assert!(job.reason.contains(says), "{}", job.reason);
    }
}

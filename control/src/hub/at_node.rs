//! Disks that a node reads: its sources are looked at there, and its lanes run there.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use blockferry_dataplane::Counts;
use blockferry_dataplane::manifest::Manifest;
use hyper::Method;
use hyper::header::HeaderValue;

use super::backups::SubmitError;
use super::nodes::{NodeCheck, NodeError, NodeFacts, NodeName, NodeWay};
use crate::backup::{
    BackupError, Cancellation, Carried, Carrier, CarryError, Carrying, Load, LoadFault, Looked,
    Sought, Watch,
};
use crate::call::{CallError, Callee, Opens, Refused, Sent, Way};
use crate::catalog::JobId;
use crate::child::{each, held};
use crate::node::wire::{
    CarriedRecord, Done, EndRecord, HealthRecord, JobAsked, JobProgress, LoadRecord, LookAnswer,
    LookAsked, SoughtRecord, WordRecord,
};
use crate::node::{NO_SUCH_JOB, UNFIT};
use crate::tunnel::endpoint::{DialError, Directory};

/// Between two attempts to reach a node.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// For a node to hear that a job is over.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(5);
/// For a node to say that it is there.
const HEALTH_DEADLINE: Duration = Duration::from_secs(2);
/// For a node to say how a job gets on, where the deadline leaves less: it lets a hub wait for half
/// a second.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);
/// The same, where the deadline leaves more. Then it is asked anew, for the connection may be one
/// that its other end has left.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// The lines to the nodes of a hub.
pub trait NodeLines: Send + Sync + fmt::Debug {
    /// A connection to what the node serves, within this time. Blocks.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn dial(&self, node: &NodeName, deadline: Duration) -> Result<UnixStream, String>;

    /// How many connections each node has to the hub; none of those that have none.
    fn connections(&self) -> Vec<(String, usize)>;
}

impl NodeLines for Directory {
    fn dial(&self, node: &NodeName, deadline: Duration) -> Result<UnixStream, String> {
        // Whoever asks says which node it is.
        Self::dial(self, node.as_str(), deadline).map_err(|error| match error {
            DialError::NotConnected(_) => "it is not connected".to_owned(),
            DialError::Refused { why, .. } => format!("it refuses a connection: {why}"),
            DialError::Late { .. } => {
                format!("it did not take a connection within {} s", deadline.as_secs())
            }
            other => other.to_string(),
        })
    }

    fn connections(&self) -> Vec<(String, usize)> {
        self.connected().into_iter().map(|node| (node.node, node.connections)).collect()
    }
}

/// A node, and whether it is there.
#[derive(Debug)]
pub struct NodeStatus {
    /// Which.
    pub facts: NodeFacts,
    /// What it has answered just now, or why it has not.
    pub answer: Result<HealthRecord, String>,
    /// Its SSH connections to the hub; not known of one that comes through an sshd.
    pub connections: Option<usize>,
}

/// How a hub has disks read by its nodes.
#[derive(Clone, Debug)]
pub struct NodesAtWork {
    /// Which nodes there are.
    pub check: Arc<NodeCheck>,
    /// The lines to those that dial the hub; nothing where it takes none.
    pub lines: Option<Arc<dyn NodeLines>>,
    /// How long a node may be away before a job of it fails.
    pub deadline: Duration,
}

impl NodesAtWork {
    /// All nodes, by name, each asked whether it is there.
    ///
    /// # Errors
    /// When it cannot be read which there are.
    pub fn list(&self) -> Result<Vec<NodeStatus>, NodeError> {
        let connections = self.lines.as_ref().map(|lines| lines.connections()).unwrap_or_default();
        let facts = self.check.list()?;
        each(&facts, |facts| {
            let due = Instant::now() + HEALTH_DEADLINE;
            let asked = self.callee(&facts.name).map_err(|error| error.to_string());
            let answer = asked.and_then(|callee| {
                let late = || Instant::now() >= due;
                let answer = callee.ask(&late, Method::GET, "/health", Sent::Nothing);
                answer.map_err(|error: CallError| error.to_string())
            });
            let count = connections.iter().find(|(node, _)| node == facts.name.as_str());
            let connections = match facts.way {
                NodeWay::Key { .. } => Some(count.map_or(0, |(_, count)| *count)),
                NodeWay::Sshd { .. } => None,
            };
            Ok(NodeStatus { facts: facts.clone(), answer, connections })
        })
    }

    /// Whom to call to have this node do something.
    ///
    /// # Errors
    /// [`SubmitError`]: why it cannot be asked.
    pub(super) fn callee(&self, node: &NodeName) -> Result<Callee, SubmitError> {
        if !self.check.is_enrolled(node)? {
            return Err(SubmitError::UnknownNode(node.clone()));
        }
        let (way, authorization) = match (self.check.behind_sshd(node)?, &self.lines) {
            (Some((port, token)), _) => {
                // A token is hexadecimal.
                let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).ok();
                bearer.iter_mut().for_each(|bearer| bearer.set_sensitive(true));
                (Way::Tcp(Ipv4Addr::LOCALHOST.to_string(), port), bearer)
            }
            (None, Some(lines)) => {
                let line = Line { lines: Arc::clone(lines), node: node.clone() };
                (Way::Opened(Arc::new(line)), None)
            }
            (None, None) => return Err(SubmitError::NoNodes),
        };
        Ok(Callee { way, authority: node.to_string(), prefix: String::new(), authorization })
    }
}

/// The line to one node.
#[derive(Debug)]
struct Line {
    lines: Arc<dyn NodeLines>,
    node: NodeName,
}

impl Opens for Line {
    fn open(&self, deadline: Duration) -> Result<UnixStream, String> {
        self.lines.dial(&self.node, deadline)
    }
}

/// A node, as the carrier of one job.
#[derive(Clone, Debug)]
pub(super) struct AtNode {
    node: NodeName,
    callee: Arc<Callee>,
    job: JobId,
    connections: u16,
    /// How long it may be away before the job fails.
    deadline: Duration,
}

impl AtNode {
    /// A node that is known.
    ///
    /// # Errors
    /// [`SubmitError`]: why it cannot be asked for anything.
    pub(super) fn new(
        nodes: &NodesAtWork,
        node: &NodeName,
        job: JobId,
        connections: u16,
    ) -> Result<Self, SubmitError> {
        let deadline = nodes.deadline;
        let callee = Arc::new(nodes.callee(node)?);
        Ok(Self { node: node.clone(), callee, job, connections, deadline })
    }

    /// Calls until there is an answer. A node that is away is waited for.
    fn insist<T>(
        &self,
        given_up: &dyn Fn() -> bool,
        call: impl Fn() -> Result<T, CallError>,
    ) -> Result<T, BackupError> {
        let since = Instant::now();
        loop {
            let error = match call() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if given_up() {
                return Err(BackupError::Cancelled);
            }
            match &error {
                CallError::Unreachable(_) if since.elapsed() < self.deadline => {}
                CallError::Refused(Refused { retry_after: Some(_), .. })
                    if since.elapsed() < self.deadline => {}
                _ => return Err(self.failed(&error)),
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    fn failed(&self, error: &CallError) -> BackupError {
        let node = &self.node;
        BackupError::Node(match error {
            CallError::Unreachable(what) => format!(
                "node {node} cannot be reached: {what} (waited {} s); does `blockferry node serve` \
                 run there?",
                self.deadline.as_secs()
            ),
            CallError::Refused(Refused { code, message, .. }) if code == UNFIT => {
                format!("node {node}: {message}")
            }
            CallError::Refused(Refused { code, .. }) if code == NO_SUCH_JOB => {
                format!("node {node} does not know the job any more: it was started anew meanwhile")
            }
            CallError::Refused(Refused { message, hint, .. }) => {
                format!("node {node} refused: {message} ({hint})")
            }
            CallError::Strange(what) => {
                format!("node {node} is of another version: it answers in other words: {what}")
            }
        })
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        given_up: &dyn Fn() -> bool,
        method: &Method,
        call: &str,
        body: Option<&[u8]>,
    ) -> Result<T, CallError> {
        let sent = body.map_or(Sent::Nothing, |body| Sent::Json(body.to_vec()));
        self.callee.ask(given_up, method.clone(), call, sent)
    }

    fn path(&self) -> String {
        format!("/jobs/{}", self.job)
    }

    /// Tells the node that nothing of the job is wanted any more: it calls off what is at work, and
    /// forgets what is over. Whether it could be told; one that is `away` is tried but once.
    fn dismiss(&self, away: bool) -> bool {
        let due = Instant::now() + GOODBYE_DEADLINE;
        let late = || Instant::now() >= due;
        loop {
            match self.ask::<Done>(&late, &Method::DELETE, &self.path(), None) {
                Err(CallError::Unreachable(_)) if away || late() => return false,
                Err(CallError::Unreachable(_)) => thread::sleep(RETRY_PAUSE),
                // What it does not know is not there.
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// Has the node start the lanes of a job.
    fn begin(&self, loads: &[Load], given_up: &dyn Fn() -> bool) -> Result<(), BackupError> {
        let mut disks = Vec::with_capacity(loads.len());
        for (place, load) in loads.iter().enumerate() {
            if let Some(base) = &load.base {
                self.send_base(place, base, &load.manifest, given_up)?;
            }
            disks.push(LoadRecord {
                disk: load.disk.to_string(),
                source: load.source.to_string(),
                target: load.target.to_string(),
                extent: (&load.extent).into(),
                base: load.base.is_some(),
            });
        }
        let body = json(&JobAsked { connections: self.connections, disks })?;
        self.insist(given_up, || {
            self.ask::<Done>(given_up, &Method::POST, &self.path(), Some(&body))
        })?;
        Ok(())
    }

    /// Sends the digests of what the chain of a disk holds.
    fn send_base(
        &self,
        place: usize,
        base: &Manifest,
        manifest: &Path,
        given_up: &dyn Fn() -> bool,
    ) -> Result<(), BackupError> {
        let copy = manifest.with_extension("sent");
        Manifest::overlay(slice::from_ref(base), &copy)?;
        let call = format!("{}/disks/{place}/base", self.path());
        let sent = self.insist(given_up, || {
            self.callee.ask::<Done>(given_up, Method::PUT, &call, Sent::File(&copy))
        });
        let gone = fs::remove_file(&copy);
        sent?;
        gone.map_err(|error| BackupError::Node(format!("{}: {error}", copy.display())))
    }

    /// Has the digests of a disk that was carried, as they are on the node.
    fn fetch_manifest(
        &self,
        place: usize,
        carried: &CarriedRecord,
        to: &Path,
        given_up: &dyn Fn() -> bool,
    ) -> Result<(), BackupError> {
        let failed =
            |error: &dyn fmt::Display| BackupError::Node(format!("{}: {error}", to.display()));
        let call = format!("{}/disks/{place}/manifest", self.path());
        let written = self.insist(given_up, || {
            let mut written = File::create(to).map_err(|error| failed(&error));
            self.callee.fetch(&call, carried.manifest_bytes, &mut |bytes| {
                let Ok(file) = &mut written else { return false };
                let wrote = file.write_all(bytes).map_err(|error| failed(&error));
                if let Err(error) = wrote {
                    written = Err(error);
                }
                written.is_ok()
            })?;
            Ok(written)
        })?;
        written?.sync_all().map_err(|error| failed(&error))?;
        let has = Manifest::open(to)?.content_id()?;
        if has == carried.manifest_id {
            return Ok(());
        }
        Err(failed(&format!("the digests of node {} did not come as they are there", self.node)))
    }

    /// What is wrong with one of the disks, or with all.
    fn fault(&self, disk: Option<usize>, fault: LoadFault) -> CarryError {
        match (disk, fault) {
            (Some(disk), fault) => CarryError::Load(disk, fault),
            (None, LoadFault::AtNode { said, .. }) => {
                CarryError::All(BackupError::Node(format!("node {}: {said}", self.node)))
            }
            (None, LoadFault::Here(fault)) => CarryError::All(BackupError::Mover(fault)),
        }
    }
}

impl Carrier for AtNode {
    fn look(
        &self,
        sought: &[Sought],
        cancellation: &Cancellation,
    ) -> Result<Vec<Looked>, BackupError> {
        let disks = sought.iter().map(|sought| SoughtRecord {
            disk: sought.disk.to_string(),
            source: sought.source.to_string(),
            bitmap: sought.bitmap.clone(),
        });
        let body = json(&LookAsked { disks: disks.collect() })?;
        let given_up = || cancellation.is_cancelled();
        let answer = self.insist(&given_up, || {
            self.ask::<LookAnswer>(&given_up, &Method::POST, "/look", Some(&body))
        })?;
        match answer {
            LookAnswer::Looked(looked) if looked.len() == sought.len() => {
                let looked = looked.into_iter();
                Ok(looked
                    .map(|disk| Looked { size: disk.size, has_bitmap: disk.has_bitmap })
                    .collect())
            }
            LookAnswer::Looked(_) => {
                Err(self.failed(&CallError::Strange("it tells of other disks".into())))
            }
            LookAnswer::Fault(fault) => {
                let place = fault.disk.filter(|place| *place < sought.len());
                let error = self.fault(place, fault.fault());
                Err(error.of_disks(|place| sought[place].disk.clone(), |_| String::new()))
            }
        }
    }

    fn start(
        &self,
        loads: Vec<Load>,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<Box<dyn Carrying>, BackupError> {
        let given_up = || cancellation.is_cancelled();
        self.begin(&loads, &given_up).inspect_err(|_| {
            // It may have digests of it, or even have begun.
            self.dismiss(true);
        })?;
        let shared = Arc::new(Shared {
            counts: Mutex::new(vec![Counts::default(); loads.len()]),
            cancelled: AtomicBool::new(false),
            away: AtomicBool::new(false),
            outcome: Mutex::default(),
            over: Condvar::new(),
        });
        let (ours, told, node) = (Arc::clone(&shared), Arc::clone(watch), self.clone());
        let thread = thread::Builder::new().name(format!("node-{}", self.node));
        let thread = thread.spawn(move || {
            let outcome = node.follow(&loads, &*told, &ours);
            // Whatever became of it. A node that is away forgets it by itself.
            if !ours.away.load(Ordering::Relaxed) {
                node.dismiss(false);
            }
            *held(&ours.outcome) = Some(outcome);
            ours.over.notify_all();
        });
        let thread = thread.map_err(|error| BackupError::Node(format!("no thread: {error}")))?;
        Ok(Box::new(CarryingAtNode { shared, thread: Some(thread) }))
    }
}

impl AtNode {
    /// Asks how the job gets on until it is over, and has its digests then.
    fn follow(
        &self,
        loads: &[Load],
        watch: &dyn Watch,
        shared: &Shared,
    ) -> Result<Vec<Carried>, CarryError> {
        let mut seen = 0;
        let mut heard = Instant::now();
        let mut told_of_cancel = false;
        let end = loop {
            if shared.is_cancelled() && !told_of_cancel {
                told_of_cancel = true;
                // Its lanes end by themselves once their exports are gone.
                if !self.dismiss(shared.away.load(Ordering::Relaxed)) {
                    shared.away.store(true, Ordering::Relaxed);
                    return Err(CarryError::All(BackupError::Cancelled));
                }
            }
            let left = self.deadline.saturating_sub(heard.elapsed());
            let due = Instant::now() + left.clamp(LEAST_PATIENCE, MOST_PATIENCE);
            let given_up = || Instant::now() >= due || (shared.is_cancelled() && !told_of_cancel);
            let call = format!("{}?seen={seen}", self.path());
            let progress = match self.ask::<JobProgress>(&given_up, &Method::GET, &call, None) {
                Ok(progress) => progress,
                Err(_) if shared.is_cancelled() && !told_of_cancel => continue,
                Err(error) => {
                    let unreachable = matches!(error, CallError::Unreachable(_));
                    let was_away = shared.away.swap(unreachable, Ordering::Relaxed);
                    if told_of_cancel {
                        return Err(CarryError::All(BackupError::Cancelled));
                    }
                    if !unreachable || heard.elapsed() >= self.deadline {
                        return Err(CarryError::All(self.failed(&error)));
                    }
                    if !was_away {
                        watch.note(&format!("node {} cannot be reached: {error}", self.node));
                    }
                    thread::sleep(RETRY_PAUSE);
                    continue;
                }
            };
            heard = Instant::now();
            if shared.away.swap(false, Ordering::Relaxed) {
                watch.note(&format!("node {} is there again", self.node));
            }
            seen += progress.words.len();
            for word in progress.words {
                match word {
                    WordRecord::Note(text) => watch.note(&text),
                    WordRecord::Detail(text) => watch.detail(&text),
                }
            }
            let counts = progress.bytes.into_iter().map(Counts::from);
            *held(&shared.counts) = counts.take(loads.len()).collect();
            if let Some(end) = progress.end {
                break end;
            }
        };
        match end {
            EndRecord::Carried(disks) if disks.len() == loads.len() => {
                self.fetch_all(loads, &disks, &|| shared.is_cancelled()).map_err(CarryError::All)
            }
            EndRecord::Carried(_) => {
                let strange = CallError::Strange("it tells of other disks".into());
                Err(CarryError::All(self.failed(&strange)))
            }
            EndRecord::Cancelled if shared.is_cancelled() => {
                Err(CarryError::All(BackupError::Cancelled))
            }
            EndRecord::Cancelled => Err(CarryError::All(BackupError::Node(format!(
                "node {} has called its lanes off: it was stopped, or had not heard of this hub \
                 for too long",
                self.node
            )))),
            EndRecord::Fault(fault) => {
                let place = fault.disk.filter(|place| *place < loads.len());
                Err(self.fault(place, fault.fault()))
            }
        }
    }

    fn fetch_all(
        &self,
        loads: &[Load],
        disks: &[CarriedRecord],
        given_up: &dyn Fn() -> bool,
    ) -> Result<Vec<Carried>, BackupError> {
        let mut carried = Vec::with_capacity(disks.len());
        for (place, (load, disk)) in loads.iter().zip(disks).enumerate() {
            self.fetch_manifest(place, disk, &load.manifest, given_up)?;
            carried.push(Carried {
                counts: disk.bytes.into(),
                elapsed: Duration::from_millis(disk.elapsed_ms),
            });
        }
        Ok(carried)
    }
}

/// What the thread that asks and the job share.
#[derive(Debug)]
struct Shared {
    counts: Mutex<Vec<Counts>>,
    cancelled: AtomicBool,
    /// Whether the node could not be reached when it was asked last.
    away: AtomicBool,
    outcome: Mutex<Option<Result<Vec<Carried>, CarryError>>>,
    over: Condvar,
}

impl Shared {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

struct CarryingAtNode {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Carrying for CarryingAtNode {
    fn wait_for(&mut self, time: Duration) -> bool {
        let outcome = held(&self.shared.outcome);
        let waited =
            self.shared.over.wait_timeout_while(outcome, time, |outcome| outcome.is_none());
        let over = waited.unwrap_or_else(PoisonError::into_inner).0.is_some();
        // One that panicked has no outcome.
        over || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn progress(&self) -> Vec<Counts> {
        held(&self.shared.counts).clone()
    }

    fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
    }

    fn end(mut self: Box<Self>) -> Result<Vec<Carried>, CarryError> {
        while !self.wait_for(RETRY_PAUSE) {}
        let outcome = held(&self.shared.outcome).take();
        outcome.unwrap_or_else(|| {
            Err(CarryError::All(BackupError::Node("its thread was lost".to_owned())))
        })
    }
}

impl Drop for CarryingAtNode {
    fn drop(&mut self) {
        self.cancel();
        if let Some(thread) = self.thread.take() {
            // One that panicked has told so itself.
            let _ = thread.join();
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec(value).map_err(|error| BackupError::Node(error.to_string()))
}

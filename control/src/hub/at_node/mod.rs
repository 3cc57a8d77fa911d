//! Disks that a node reads: its sources are looked at there, and its lanes run there.
//!
//! ```text
//!  lines      which nodes there are, and how each is reached
//!  AtNode     a carrier: has the node look at sources, and start lanes
//!  vm         a VM of its hypervisor, found, held still and let go
//!  following  a thread that asks how they get on, and has their digests at the end
//! ```

mod following;
mod lines;
mod strays;
mod vm;

use std::fmt;
use std::fs;
use std::path::Path;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::manifest::Manifest;
use hyper::Method;

use super::backups::SubmitError;
use super::nodes::NodeName;
use crate::backup::{
    BackupError, Cancellation, Carrier, CarryError, Carrying, Load, LoadFault, Looked, Sought,
    Watch,
};
use crate::call::{CallError, Callee, Motion, Refused, Sent};
use crate::catalog::{FailureKind, JobId};
use crate::node::wire::{
    Done, ExtentRecord, JobAsked, LoadRecord, LookAnswer, LookAsked, SoughtRecord,
};
use crate::node::{NO_SUCH_JOB, PassId, UNFIT};
use following::CarryingAtNode;
pub use lines::{NodeLines, NodeStatus, NodesAtWork};
pub(super) use vm::FoundVm;

/// Between two attempts to reach a node.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// A node that is away for longer is told of.
const NOTABLE: Duration = Duration::from_secs(2);
/// For a node to hear that a job is over.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(5);

/// A node, as the carrier of one job.
#[derive(Clone)]
pub(super) struct AtNode {
    node: NodeName,
    callee: Arc<Callee>,
    job: JobId,
    /// The lanes that this is about, from 1 on.
    pass: u32,
    /// Those that were begun.
    passes: Arc<AtomicU32>,
    connections: u16,
    /// Whether the disks are those of a snapshot that the node holds for the job.
    of_snapshot: bool,
    /// How long it may be away before the job fails.
    deadline: Duration,
    /// How long its lanes may move nothing before the job fails.
    stall: Duration,
    /// Hears of a node that is away.
    watch: Arc<dyn Watch>,
}

impl fmt::Debug for AtNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, job, pass, .. } = self;
        f.debug_struct("AtNode")
            .field("node", node)
            .field("job", job)
            .field("pass", pass)
            .finish_non_exhaustive()
    }
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
        of_snapshot: bool,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, SubmitError> {
        Ok(Self {
            node: node.clone(),
            callee: Arc::new(nodes.callee(node)?),
            job,
            pass: 1,
            passes: Arc::default(),
            connections,
            of_snapshot,
            deadline: nodes.deadline,
            stall: nodes.stall,
            watch,
        })
    }

    /// Calls until there is an answer. A node that is away is waited for, from when bytes of the
    /// call came farther last: one that takes long is not late because of that.
    fn insist<T>(
        &self,
        given_up: &dyn Fn() -> bool,
        call: impl Fn(&Motion) -> Result<T, CallError>,
    ) -> Result<T, BackupError> {
        let motion = Motion::new();
        let mut is_told = false;
        loop {
            let error = match call(&motion) {
                Ok(answer) => {
                    if is_told {
                        self.watch.note(&format!("node {} is there again", self.node));
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if given_up() {
                return Err(BackupError::Cancelled);
            }
            let away = motion.gains_nothing_for();
            match &error {
                CallError::Unreachable(_) if away < self.deadline => {}
                CallError::Refused(Refused { retry_after: Some(_), .. })
                    if away < self.deadline => {}
                _ => return Err(self.failed(&error, away)),
            }
            if !is_told && away >= NOTABLE && matches!(error, CallError::Unreachable(_)) {
                is_told = true;
                self.watch.note(&format!(
                    "node {} cannot be reached: {error}; it is waited for, for {} s at most",
                    self.node,
                    self.deadline.as_secs()
                ));
            }
            thread::sleep(RETRY_PAUSE);
        }
    }

    fn failed(&self, error: &CallError, waited: Duration) -> BackupError {
        let node = &self.node;
        if let CallError::Refused(Refused { code, message, .. }) = error
            && code == UNFIT
        {
            let said = format!("node {node}: {message}");
            return BackupError::VmAtNode { failure: FailureKind::Request, said };
        }
        BackupError::Node(match error {
            CallError::Unreachable(what) => format!(
                "node {node} cannot be reached: {what} (waited {} s); does `blockferry node serve` \
                 run there?",
                waited.as_secs()
            ),
            CallError::Refused(Refused { code, .. }) if code == NO_SUCH_JOB => {
                format!(
                    "node {node} does not know the job any more: it was started anew meanwhile, or another \
                 machine was enrolled under its name"
                )
            }
            CallError::Refused(Refused { message, hint, .. }) => {
                format!("node {node} refused: {message} ({hint})")
            }
            CallError::Strange(what) => {
                format!("node {node} answers as no node of this version does: {what}; is it one?")
            }
        })
    }

    /// What a node of this version does not say.
    fn strange(&self, what: impl Into<String>) -> BackupError {
        self.failed(&CallError::Strange(what.into()), Duration::ZERO)
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        given_up: &dyn Fn() -> bool,
        method: &Method,
        call: &str,
        body: Option<&[u8]>,
    ) -> Result<T, CallError> {
        self.attempt(given_up, &Motion::new(), method, call, body)
    }

    /// The same, as one attempt of several.
    fn attempt<T: serde::de::DeserializeOwned>(
        &self,
        given_up: &dyn Fn() -> bool,
        motion: &Motion,
        method: &Method,
        call: &str,
        body: Option<&[u8]>,
    ) -> Result<T, CallError> {
        let sent = body.map_or(Sent::Nothing, |body| Sent::Json(body.to_vec()));
        self.callee.attempt(given_up, motion, method.clone(), call, sent)
    }

    /// A source as the node is told of it; nothing of one that it has itself.
    fn told(&self, source: &Endpoint) -> String {
        if self.of_snapshot { String::new() } else { source.to_string() }
    }

    fn path(&self) -> String {
        format!("/jobs/{}", PassId { job: self.job, pass: self.pass })
    }

    /// Tells the node that nothing of these lanes is wanted any more: it calls off what is at work, and
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
        let extents = ExtentRecord::of_all(loads.iter().map(|load| &load.extent));
        let mut disks = Vec::with_capacity(loads.len());
        for ((place, load), extent) in loads.iter().enumerate().zip(extents) {
            if let Some(base) = &load.base {
                self.send_base(place, base, &load.manifest, given_up)?;
            }
            disks.push(LoadRecord {
                disk: load.disk.to_string(),
                source: self.told(&load.source),
                target: load.target.to_string(),
                size: load.size,
                extent,
                base: load.base.is_some(),
            });
        }
        let body = json(&JobAsked { connections: self.connections, disks })?;
        self.insist(given_up, |motion| {
            self.attempt::<Done>(given_up, motion, &Method::POST, &self.path(), Some(&body))
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
        let sent = self.insist(given_up, |motion| {
            let sent = Sent::File(&copy);
            self.callee.attempt::<Done>(given_up, motion, Method::PUT, &call, sent)
        });
        let gone = fs::remove_file(&copy);
        sent?;
        gone.map_err(|error| BackupError::Node(format!("{}: {error}", copy.display())))
    }

    /// What is wrong with one of the disks, or with all.
    fn fault(&self, disk: Option<usize>, fault: LoadFault) -> CarryError {
        match (disk, fault) {
            (Some(disk), fault) => CarryError::Load(disk, fault),
            (None, LoadFault::AtNode { failure, said, .. }) => {
                let said = format!("node {}: {said}", self.node);
                CarryError::All(BackupError::VmAtNode { failure, said })
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
            source: self.told(&sought.source),
            bitmap: sought.bitmap.clone(),
        });
        let snapshot_of = self.of_snapshot.then(|| self.job.to_string());
        let body = json(&LookAsked { snapshot_of, disks: disks.collect() })?;
        let given_up = || cancellation.is_cancelled();
        let answer = self.insist(&given_up, |motion| {
            self.attempt::<LookAnswer>(&given_up, motion, &Method::POST, "/look", Some(&body))
        })?;
        match answer {
            LookAnswer::Looked(looked) if looked.len() == sought.len() => {
                let looked = looked.into_iter();
                Ok(looked
                    .map(|disk| Looked { size: disk.size, has_bitmap: disk.has_bitmap })
                    .collect())
            }
            LookAnswer::Looked(_) => Err(self.strange("it tells of other disks")),
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
        let pass = self.passes.fetch_add(1, Ordering::Relaxed) + 1;
        let at = Self { pass, ..self.clone() };
        at.begin(&loads, &given_up).inspect_err(|_| {
            // It may have digests of it, or even have begun.
            at.dismiss(true);
        })?;
        Ok(Box::new(CarryingAtNode::of(at, loads, Arc::clone(watch))?))
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec(value).map_err(|error| BackupError::Node(error.to_string()))
}

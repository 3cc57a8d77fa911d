//! A VM of a node's hypervisor: found, held still and let go by the node, as the hub asks.

use std::cell::Cell;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::Endpoint;
use blockferry_dataplane::plan::{Area, AreaSet};
use hyper::Method;

use super::{AtNode, RETRY_PAUSE, json};
use crate::backup::{
    BackupError, BackupRequest, Cancellation, ChangeTracker, Changes, DiskRequest, Frozen, Origin,
    SnapshotChoice, VmRequest, Watch,
};
use crate::call::CallError;
use crate::catalog::{
    ChangeId, FailureKind, JobId, NoteWeight, PointNote, UnixMillis, ValueError, VmName, VmUuid,
};
use crate::node::wire::{
    BaseRecord, ChangedAnswer, FaultRecord, FindAnswer, FindAsked, FoundDiskRecord, FoundVmRecord,
    HeldRecord, SnapshotAnswer, SnapshotAsked,
};
use crate::snapshots::Base;

/// Between two questions about something that takes the node its time.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// For a snapshot to be removed before its job is over without it.
const RELEASE_DEADLINE: Duration = Duration::from_secs(4 * 3600);
/// The same of a job that was called off, for somebody waits; the node goes on by itself.
const HURRIED: Duration = Duration::from_secs(10);
/// For one that is not there, from attempt to attempt, to say that it has let a snapshot go.
const AWAY: Duration = Duration::from_secs(8);
/// For a node that is not there to be there: it may have been started a moment ago.
const COMING: Duration = Duration::from_secs(30);
/// For a node to find a VM.
const FIND_DEADLINE: Duration = Duration::from_secs(60);

/// A VM that a node has found.
#[derive(Clone, Debug)]
pub(in super::super) struct FoundVm {
    /// What its hypervisor knows it by.
    id: String,
    /// The backup that is asked for, with the disks that it has now.
    pub(in super::super) request: BackupRequest,
    choice: SnapshotChoice,
}

impl AtNode {
    /// Which VM is meant.
    pub(in super::super) fn find(
        &self,
        asked: &VmRequest,
        called_off: &Cancellation,
    ) -> Result<FoundVm, BackupError> {
        let body = json(&FindAsked { vm: asked.vm.clone() })?;
        let since = Instant::now();
        let late = || called_off.is_cancelled() || since.elapsed() >= FIND_DEADLINE;
        let ask = || self.ask::<FindAnswer>(&late, &Method::POST, "/vms/find", Some(&body));
        // Whoever asks waits for the answer; a node that is about to come is worth a moment.
        let mut answer = ask();
        while let Err(CallError::Unreachable(_)) = answer
            && since.elapsed() < COMING
            && !called_off.is_cancelled()
        {
            thread::sleep(RETRY_PAUSE);
            answer = ask();
        }
        match answer.map_err(|error| self.failed(&error, since.elapsed()))? {
            FindAnswer::Fault(fault) => Err(self.of_vm(&fault)),
            FindAnswer::Found(found) => {
                let name = match &asked.name {
                    Some(name) => name.clone(),
                    None => found.name.parse().map_err(|error| self.unnamed(&error))?,
                };
                found_vm(found, name, asked).map_err(|error| self.strange(error.to_string()))
            }
        }
    }

    /// The same VM, to be held still for the job.
    pub(in super::super) fn origin(&self, vm: &FoundVm) -> VmAtNode {
        VmAtNode { at: self.clone(), id: vm.id.clone(), choice: vm.choice }
    }

    fn of_vm(&self, fault: &FaultRecord) -> BackupError {
        let said = format!("node {}: {}", self.node, fault.said);
        // One of a later version is somebody's fault nevertheless.
        let failure = fault.failure.parse().unwrap_or(FailureKind::Other);
        BackupError::VmAtNode { failure, said }
    }

    /// It is called as nothing can be in a repository.
    fn unnamed(&self, error: &ValueError) -> BackupError {
        let node = &self.node;
        let said = format!("node {node}: {error}; say by `as` what it is called in the repository");
        BackupError::VmAtNode { failure: FailureKind::Request, said }
    }

    /// It knows of no settings of one backup.
    fn unheeding(&self) -> BackupError {
        let node = &self.node;
        BackupError::Node(format!(
            "node {node} makes all snapshots as its options say, for it is of an earlier version; \
             update it, or ask without settings of the snapshot"
        ))
    }

    /// Makes a call again and again until what it asks for is done.
    fn until_done<A: serde::de::DeserializeOwned, T>(
        &self,
        given_up: &dyn Fn() -> bool,
        method: &Method,
        call: &str,
        body: Option<&[u8]>,
        mut done: impl FnMut(A) -> Option<T>,
    ) -> Result<T, BackupError> {
        let mut pause = PAUSE;
        loop {
            let answer = self.insist(given_up, |motion| {
                self.attempt::<A>(given_up, motion, method, call, body)
            })?;
            if let Some(done) = done(answer) {
                return Ok(done);
            }
            if given_up() {
                return Err(BackupError::Cancelled);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The backup of a VM as it was found.
fn found_vm(found: FoundVmRecord, vm: VmName, asked: &VmRequest) -> Result<FoundVm, ValueError> {
    let disk = |disk: FoundDiskRecord| -> Result<DiskRequest, ValueError> {
        Ok(DiskRequest {
            name: disk.name.parse()?,
            uuid: None,
            source: Endpoint::Null,
            changes: Changes::Compared,
        })
    };
    let disks = found.disks.into_iter().map(disk).collect::<Result<_, _>>()?;
    let request = BackupRequest { vm, disks, mode: asked.mode };
    Ok(FoundVm { id: found.vm, request, choice: asked.choice })
}

/// A VM that a node holds still for the hub.
#[derive(Clone, Debug)]
pub(in super::super) struct VmAtNode {
    at: AtNode,
    id: String,
    choice: SnapshotChoice,
}

impl Origin for VmAtNode {
    fn vm_uuid(&self) -> Option<VmUuid> {
        None
    }

    fn freeze(
        &self,
        job: JobId,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<Frozen, BackupError> {
        let mut held = HeldAtNode {
            at: self.at.clone(),
            job,
            watch: Arc::clone(watch),
            cancellation: cancellation.clone(),
            said: 0,
            vm_uuid: None,
            instant: UnixMillis::now(),
            disks: Vec::new(),
            notes: Vec::new(),
        };
        let choice = Some(&self.choice).filter(|choice| !choice.is_none()).map(Into::into);
        let is_chosen = choice.is_some();
        let body = json(&SnapshotAsked { vm: self.id.clone(), choice })?;
        let given_up = || cancellation.is_cancelled();
        // From here on the node may hold it, and lets it go when this is dropped.
        let call = held.call();
        let answer = self.at.until_done(
            &given_up,
            &Method::POST,
            &call,
            Some(&body),
            |answer| match answer {
                SnapshotAnswer::Working { words } => {
                    held.pass_on(words);
                    None
                }
                answer => Some(answer),
            },
        )?;
        match answer {
            SnapshotAnswer::Held(record) if is_chosen && !record.has_choice => {
                return Err(self.at.unheeding());
            }
            SnapshotAnswer::Held(record) => held.take(record)?,
            SnapshotAnswer::Fault(fault) => return Err(self.at.of_vm(&fault)),
            SnapshotAnswer::Working { .. } | SnapshotAnswer::Gone { .. } => {
                return Err(self.at.strange("it let the snapshot go that it was to make"));
            }
        }
        Ok(held.frozen())
    }
}

struct HeldAtNode {
    at: AtNode,
    job: JobId,
    watch: Arc<dyn Watch>,
    /// Of the job.
    cancellation: Cancellation,
    /// Words that were passed on.
    said: usize,
    vm_uuid: Option<VmUuid>,
    instant: UnixMillis,
    disks: Vec<DiskRequest>,
    notes: Vec<PointNote>,
}

impl HeldAtNode {
    fn call(&self) -> String {
        format!("/jobs/{}/snapshot", self.job)
    }

    fn take(&mut self, record: HeldRecord) -> Result<(), BackupError> {
        self.pass_on(record.words);
        let strange = |error: ValueError| self.at.strange(error.to_string());
        self.vm_uuid = record.vm_uuid.as_deref().map(str::parse).transpose().map_err(strange)?;
        self.instant = UnixMillis::new(record.instant_ms).unwrap_or(self.instant);
        for note in record.notes {
            let weight: NoteWeight = note.weight.parse().map_err(strange)?;
            self.notes.push(PointNote { weight, says: note.says });
        }
        for disk in record.disks {
            let change = disk.change.as_deref().map(str::parse).transpose().map_err(strange)?;
            let tracker = TrackerAtNode {
                at: self.at.clone(),
                job: self.job,
                disk: disk.name.clone(),
                change,
            };
            let audit_percent = disk.audit_percent.min(100);
            self.disks.push(DiskRequest {
                name: disk.name.parse().map_err(strange)?,
                uuid: disk.uuid.as_deref().map(str::parse).transpose().map_err(strange)?,
                source: Endpoint::Null,
                changes: Changes::Tracked { tracker: Arc::new(tracker), audit_percent },
            });
        }
        Ok(())
    }

    /// With what holds it.
    fn frozen(mut self) -> Frozen {
        Frozen {
            vm_uuid: self.vm_uuid.take(),
            instant: self.instant,
            disks: std::mem::take(&mut self.disks),
            notes: std::mem::take(&mut self.notes),
            // The node asks at the end of its lanes.
            witness: None,
            _held: Box::new(self),
        }
    }

    fn pass_on(&mut self, words: Vec<String>) {
        for word in words.iter().skip(self.said) {
            self.watch.note(word);
        }
        self.said = self.said.max(words.len());
    }
}

impl Drop for HeldAtNode {
    fn drop(&mut self) {
        let since = Instant::now();
        // One that is away has let it go, or does when it hears of the end of the job.
        self.at.deadline = self.at.deadline.min(AWAY);
        let cancellation = self.cancellation.clone();
        let is_hurried = || cancellation.is_cancelled() && since.elapsed() >= HURRIED;
        let late = || is_hurried() || since.elapsed() >= RELEASE_DEADLINE;
        let (at, call) = (self.at.clone(), self.call());
        let is_at_it = Cell::new(false);
        let gone = |answer| match answer {
            SnapshotAnswer::Working { words } => {
                is_at_it.set(true);
                self.pass_on(words);
                None
            }
            SnapshotAnswer::Gone { words } => {
                self.pass_on(words);
                Some(())
            }
            SnapshotAnswer::Held(_) | SnapshotAnswer::Fault(_) => Some(()),
        };
        match at.until_done(&late, &Method::DELETE, &call, None, gone) {
            Ok(()) => {}
            Err(BackupError::Cancelled) if is_at_it.get() => self.watch.note(&format!(
                "its snapshot is not removed yet: node {} goes on with that, and its log says how it ends",
                at.node
            )),
            Err(error) => self.watch.note(&format!(
                "whether the snapshot is removed is not known: {error}; the node removes it when the hub \
                 reaches it again, when it has not heard of the job for a while, or when it is started \
                 again"
            )),
        }
    }
}

/// What a node's hypervisor knows of a disk's changes.
#[derive(Debug)]
struct TrackerAtNode {
    at: AtNode,
    job: JobId,
    disk: String,
    change: Option<ChangeId>,
}

impl ChangeTracker for TrackerAtNode {
    fn now(&self) -> Option<&ChangeId> {
        self.change.as_ref()
    }

    fn changed_since(
        &self,
        base: &Base,
        _watch: &dyn Watch,
        cancellation: &Cancellation,
    ) -> Result<Result<AreaSet, String>, BackupError> {
        let body = json(&BaseRecord::from(base))?;
        let given_up = || cancellation.is_cancelled();
        let call = format!("/jobs/{}/snapshot/disks/{}/changed", self.job, self.disk);
        let answer =
            self.at.until_done(&given_up, &Method::POST, &call, Some(&body), |answer| {
                Some(answer).filter(|answer| !matches!(answer, ChangedAnswer::Working))
            })?;
        match answer {
            ChangedAnswer::Areas(areas) => {
                let areas = areas.into_iter().map(|(start, length)| Area::new(start, length));
                let areas = AreaSet::from_unsorted(areas, base.size_bytes);
                areas.map(Ok).map_err(|error| self.at.strange(error.to_string()))
            }
            ChangedAnswer::Unknown(why) => Ok(Err(why)),
            ChangedAnswer::Fault(fault) => Err(self.at.of_vm(&fault)),
            ChangedAnswer::Working => Err(self.at.strange("it never ends")),
        }
    }
}

//! The VMs that a node's hypervisor runs: found, held still for a job of the hub, and let go.
//!
//! ```text
//!  POST   /vms/find                                 which VM is meant, and what disks it has
//!  POST   /jobs/{job}/snapshot                      begins to hold it still, and says how far that is
//!  POST   /jobs/{job}/snapshot/disks/{disk}/changed begins to ask what changed, and says what did
//!  DELETE /jobs/{job}/snapshot                      begins to let it go, and says whether that is done
//! ```
//!
//! A call that begins something is made again until it is done, for it takes minutes at times.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use blockferry_dataplane::Endpoint;

use super::jobs::JobRefusal;
use super::wire::{
    BaseRecord, ChangedAnswer, FaultRecord, FindAnswer, FoundDiskRecord, FoundVmRecord,
    HeldDiskRecord, HeldRecord, SnapshotAnswer, SnapshotAsked,
};
use crate::backup::{
    BackupError, Cancellation, ChangeTracker, Changes, Frozen, Origin, SnapshotChoice, VmSettings,
    VmSource, Watch,
};
use crate::catalog::JobId;
use crate::child::held;
use crate::record::{ChoiceRecord, NoteRecord};
use crate::snapshots::{Hypervisor, sweep};

/// Words of one job that are kept.
const MAX_WORDS: usize = 1024;

/// The VMs of a node. Nobody is asked before there is something to ask.
pub struct NodeVms {
    /// Logs in, unless that is called off.
    pub connect: Box<dyn Fn(&Cancellation) -> Connected + Send + Sync>,
    /// How each VM is backed up: as this one, but for the hypervisor and the VM.
    pub settings: VmSettings,
}

/// A session, or why there is none.
type Connected = Result<Arc<dyn Hypervisor>, String>;

impl fmt::Debug for NodeVms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeVms").finish_non_exhaustive()
    }
}

/// Those that are held still.
pub(super) struct HeldVms {
    vms: Option<NodeVms>,
    held: Mutex<BTreeMap<JobId, Arc<HeldVm>>>,
    /// Nothing is held any more; set and looked at while `held` is locked.
    stopping: AtomicBool,
    log: Box<dyn Fn(&str) + Send + Sync>,
}

/// One of them, of one job.
struct HeldVm {
    /// Of making it, and of waiting where it is let go.
    cancellation: Cancellation,
    /// Of questions about it.
    questions: Cancellation,
    state: Mutex<State>,
    /// What was asked about the changes of its disks.
    changed: Mutex<BTreeMap<String, ChangedAnswer>>,
    words: Mutex<Vec<String>>,
    heard: Mutex<Instant>,
    /// What is done for it.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for HeldVms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldVms").field("vms", &self.vms).finish_non_exhaustive()
    }
}

enum State {
    Working,
    Held(Frozen),
    Failed(FaultRecord),
    LettingGo,
    Gone,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Working => "Working",
            Self::Held(_) => "Held",
            Self::Failed(_) => "Failed",
            Self::LettingGo => "LettingGo",
            Self::Gone => "Gone",
        })
    }
}

impl fmt::Debug for HeldVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldVm").finish_non_exhaustive()
    }
}

impl Watch for HeldVm {
    fn note(&self, text: &str) {
        let mut words = held(&self.words);
        if words.len() < MAX_WORDS {
            words.push(text.to_owned());
        }
    }
}

impl HeldVms {
    /// The VMs of a node; `log` hears what concerns whoever runs it.
    pub(super) fn new(vms: Option<NodeVms>, log: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        Self { vms, held: Mutex::default(), stopping: AtomicBool::new(false), log }
    }

    fn connected(
        &self,
        called_off: &Cancellation,
    ) -> Result<(&NodeVms, Arc<dyn Hypervisor>), FaultRecord> {
        let vms = self.vms.as_ref().ok_or_else(|| {
            FaultRecord::of_source(
                "the node has no vCenter to ask; start it with --vcenter, or name the disks",
            )
        })?;
        let hypervisor =
            (vms.connect)(called_off).map_err(|error| FaultRecord::of_source(&error))?;
        Ok((vms, hypervisor))
    }

    fn source(
        &self,
        sought: &str,
        choice: SnapshotChoice,
        called_off: &Cancellation,
    ) -> Result<VmSource, FaultRecord> {
        let (vms, hypervisor) = self.connected(called_off)?;
        let settings = choice.over(vms.settings.clone());
        let found = VmSource::find(hypervisor, sought, settings, called_off);
        found.map_err(|error| FaultRecord::of_all(&error))
    }

    /// Removes what dead jobs have left; nothing where there is no vCenter. Blocks.
    pub(super) fn sweep(&self) {
        let Some(vms) = &self.vms else { return };
        match (vms.connect)(&Cancellation::default()) {
            Ok(hypervisor) => self.sweep_by(&vms.settings, &*hypervisor),
            Err(error) => (self.log)(&format!(
                "snapshots of dead jobs are looked for when their VMs are backed up: {error}"
            )),
        }
    }

    fn sweep_by(&self, settings: &VmSettings, hypervisor: &dyn Hypervisor) {
        let VmSettings { ledger, server, .. } = settings;
        match sweep(ledger, server, hypervisor, None) {
            Ok(swept) => swept.lines().iter().for_each(|told| (self.log)(told)),
            Err(error) => (self.log)(&error.to_string()),
        }
    }

    /// Which VM is meant. Blocks.
    pub(super) fn find(&self, sought: &str) -> FindAnswer {
        let choice = SnapshotChoice::default();
        let source = match self.source(sought, choice, &Cancellation::default()) {
            Ok(source) => source,
            Err(fault) => return FindAnswer::Fault(fault),
        };
        let vm = &source.vm;
        let disks = vm.disks.iter().filter(|disk| disk.left_out().is_none());
        FindAnswer::Found(FoundVmRecord {
            vm: vm.id.to_string(),
            name: vm.name.clone(),
            disks: disks
                .map(|disk| FoundDiskRecord { name: format!("disk-{}", disk.key) })
                .collect(),
        })
    }

    /// Begins to hold a VM still for a job, where that was not begun before.
    pub(super) fn hold(
        self: &Arc<Self>,
        job: JobId,
        asked: &SnapshotAsked,
    ) -> Result<SnapshotAnswer, JobRefusal> {
        let choice = asked.choice.as_ref().map(ChoiceRecord::choice).transpose();
        let choice = choice.map_err(JobRefusal::Unfit)?.unwrap_or_default();
        let mut all = held(&self.held);
        if let Some(known) = all.get(&job) {
            return Ok(known.answer());
        }
        if self.stopping.load(Ordering::Relaxed) {
            return Err(JobRefusal::Conflict("the node is being stopped".into()));
        }
        let made = Arc::new(HeldVm {
            cancellation: Cancellation::default(),
            questions: Cancellation::default(),
            state: Mutex::new(State::Working),
            changed: Mutex::default(),
            words: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            threads: Mutex::default(),
        });
        all.insert(job, Arc::clone(&made));
        drop(all);
        let (all, ours, vm) = (Arc::clone(self), Arc::clone(&made), format!("moref={}", asked.vm));
        let thread = thread::Builder::new().name(format!("snapshot-{job}")).spawn(move || {
            let watch: Arc<dyn Watch> = Arc::clone(&ours) as _;
            let freeze = || {
                let source = all.source(&vm, choice, &ours.cancellation)?;
                let frozen = source.freeze(job, &watch, &ours.cancellation);
                frozen.map_err(|error| FaultRecord::of_all(&error))
            };
            let frozen = unwound(freeze).unwrap_or_else(Err);
            let mut wanted = true;
            let late = {
                let mut state = held(&ours.state);
                match (frozen, &*state) {
                    (Ok(frozen), State::Working) => {
                        *state = State::Held(frozen);
                        None
                    }
                    (Err(fault), State::Working) => {
                        *state = State::Failed(fault);
                        None
                    }
                    (frozen, _) => {
                        wanted = false;
                        frozen.ok()
                    }
                }
            };
            if !wanted {
                drop(late);
                // The hub may have left, and what became of the snapshot was said while it was made.
                held(&ours.words).iter().for_each(|word| (all.log)(word));
                *held(&ours.state) = State::Gone;
            }
        });
        match thread {
            Ok(thread) => held(&made.threads).push(thread),
            Err(error) => {
                held(&self.held).remove(&job);
                return Err(JobRefusal::System(error.to_string()));
            }
        }
        Ok(made.answer())
    }

    /// The jobs that VMs are held for.
    pub(super) fn jobs(&self) -> Vec<JobId> {
        held(&self.held).keys().copied().collect()
    }

    /// Begins to ask what changed of a disk, where that was not begun before.
    pub(super) fn changed(
        &self,
        job: JobId,
        disk: &str,
        base: BaseRecord,
    ) -> Result<ChangedAnswer, JobRefusal> {
        let vm = self.known(job)?;
        if let Some(known) = held(&vm.changed).get(disk) {
            return Ok(known.clone());
        }
        let tracker = vm.tracker(disk).ok_or_else(|| {
            JobRefusal::Conflict(format!("the snapshot of job {job} has no disk {disk:?}"))
        })?;
        let base = base.base().map_err(JobRefusal::Unfit)?;
        held(&vm.changed).insert(disk.to_owned(), ChangedAnswer::Working);
        let (ours, of) = (Arc::clone(&vm), disk.to_owned());
        let thread = thread::Builder::new().name(format!("changed-{job}")).spawn(move || {
            let ask = || tracker.changed_since(&base, &*ours, &ours.questions);
            let asked =
                unwound(ask).and_then(|asked| asked.map_err(|error| FaultRecord::of_all(&error)));
            let answer = match asked {
                Ok(Ok(areas)) => ChangedAnswer::Areas(
                    areas.iter().map(|area| (area.start, area.length)).collect(),
                ),
                Ok(Err(why)) => ChangedAnswer::Unknown(why),
                Err(fault) => ChangedAnswer::Fault(fault),
            };
            held(&ours.changed).insert(of, answer);
        });
        let thread = thread.map_err(|error| JobRefusal::System(error.to_string()))?;
        held(&vm.threads).push(thread);
        Ok(ChangedAnswer::Working)
    }

    /// Where a disk that is held still is read.
    pub(super) fn endpoint(&self, job: JobId, disk: &str) -> Result<Endpoint, String> {
        let vm = self.known(job).map_err(|_| "its snapshot is not held any more".to_owned())?;
        let state = held(&vm.state);
        let State::Held(frozen) = &*state else {
            return Err("its snapshot is not held".into());
        };
        let found = frozen.disks.iter().find(|held| held.name.as_str() == disk);
        found.map(|disk| disk.source.clone()).ok_or_else(|| "it is not in the snapshot".into())
    }

    /// Sees whether what lanes of a job have read was held still to the end; of a job without a
    /// snapshot there is nothing to see. What is waited for is told to `watch`. Blocks.
    pub(super) fn confirm(
        &self,
        job: JobId,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<(), BackupError> {
        let Some(vm) = held(&self.held).get(&job).cloned() else { return Ok(()) };
        let witness = match &*held(&vm.state) {
            State::Held(frozen) => frozen.witness.clone(),
            // It is being let go: nobody wants what was read.
            _ => return Err(BackupError::Cancelled),
        };
        witness.map_or(Ok(()), |witness| witness.confirm(watch, cancellation))
    }

    /// Begins to let a VM go, where that was not begun before.
    pub(super) fn release(self: &Arc<Self>, job: JobId) -> Result<SnapshotAnswer, JobRefusal> {
        // One that is let go already, whose answer was lost, or that never was.
        let Ok(vm) = self.known(job) else {
            return Ok(SnapshotAnswer::Gone { words: Vec::new() });
        };
        vm.questions.cancel();
        let taken = {
            let mut state = held(&vm.state);
            if matches!(*state, State::Working) {
                vm.cancellation.cancel();
            }
            match &*state {
                State::LettingGo => None,
                // Whoever makes it lets it go.
                State::Working => {
                    *state = State::LettingGo;
                    None
                }
                State::Held(_) => match std::mem::replace(&mut *state, State::LettingGo) {
                    State::Held(frozen) => Some(frozen),
                    _ => None,
                },
                State::Failed(_) | State::Gone => {
                    *state = State::Gone;
                    None
                }
            }
        };
        if let Some(frozen) = taken {
            let (all, ours) = (Arc::clone(self), Arc::clone(&vm));
            let thread = thread::Builder::new().name(format!("release-{job}")).spawn(move || {
                let said = held(&ours.words).len();
                drop(frozen);
                // The hub may be gone, and then nobody else hears what is left.
                held(&ours.words).iter().skip(said).for_each(|word| (all.log)(word));
                *held(&ours.state) = State::Gone;
            });
            match thread {
                Ok(thread) => held(&vm.threads).push(thread),
                // Then it was dropped here, which took its time.
                Err(_) => *held(&vm.state) = State::Gone,
            }
        }
        let answer = vm.answer();
        if matches!(answer, SnapshotAnswer::Gone { .. }) {
            held(&self.held).remove(&job);
        }
        Ok(answer)
    }

    /// Lets those go whose hub has not asked for so long.
    pub(super) fn tidy(self: &Arc<Self>, is_silent: impl Fn(Instant) -> bool) {
        let all: Vec<_> = held(&self.held).iter().map(|(job, vm)| (*job, Arc::clone(vm))).collect();
        for (job, vm) in all {
            let heard = *held(&vm.heard);
            if is_silent(heard) {
                // It is no error that it is gone meanwhile. Asking is no word of the hub.
                let _gone = self.release(job);
                *held(&vm.heard) = heard;
            }
        }
    }

    /// Lets all go, and waits for that.
    pub(super) fn stop(&self) {
        let all: Vec<_> = {
            let all = held(&self.held);
            self.stopping.store(true, Ordering::Relaxed);
            all.values().cloned().collect()
        };
        for vm in &all {
            vm.questions.cancel();
            vm.cancellation.cancel();
        }
        thread::scope(|scope| {
            for vm in &all {
                scope.spawn(|| {
                    let state = std::mem::replace(&mut *held(&vm.state), State::LettingGo);
                    drop(state);
                    // One that is being made lets itself go.
                    for thread in std::mem::take(&mut *held(&vm.threads)) {
                        // One that panicked has told so itself.
                        let _ = thread.join();
                    }
                });
            }
        });
        held(&self.held).clear();
    }

    fn known(&self, job: JobId) -> Result<Arc<HeldVm>, JobRefusal> {
        let vm = held(&self.held).get(&job).cloned().ok_or(JobRefusal::Unknown(job))?;
        *held(&vm.heard) = Instant::now();
        Ok(vm)
    }

    /// A word of the hub about a job.
    pub(super) fn heard(&self, job: JobId) {
        // Most jobs hold no VM.
        let _none = self.known(job);
    }
}

/// What it gives; a panic is a fault that is told like others, for somebody waits for an answer.
fn unwound<T>(work: impl FnOnce() -> T) -> Result<T, FaultRecord> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_told| FaultRecord::of_source("it broke off; the node's log has the reason"))
}

impl HeldVm {
    fn tracker(&self, disk: &str) -> Option<Arc<dyn ChangeTracker>> {
        let state = held(&self.state);
        let State::Held(frozen) = &*state else { return None };
        let disk = frozen.disks.iter().find(|held| held.name.as_str() == disk)?;
        match &disk.changes {
            Changes::Tracked { tracker, .. } => Some(Arc::clone(tracker)),
            _ => None,
        }
    }

    fn answer(&self) -> SnapshotAnswer {
        *held(&self.heard) = Instant::now();
        let words = || held(&self.words).clone();
        match &*held(&self.state) {
            State::Working | State::LettingGo => SnapshotAnswer::Working { words: words() },
            State::Failed(fault) => SnapshotAnswer::Fault(fault.clone()),
            State::Gone => SnapshotAnswer::Gone { words: words() },
            State::Held(frozen) => SnapshotAnswer::Held(HeldRecord {
                has_choice: true,
                vm_uuid: frozen.vm_uuid.as_ref().map(ToString::to_string),
                instant_ms: frozen.instant.get(),
                words: words(),
                notes: frozen.notes.iter().map(NoteRecord::from).collect(),
                disks: frozen
                    .disks
                    .iter()
                    .map(|disk| HeldDiskRecord {
                        name: disk.name.to_string(),
                        uuid: disk.uuid.as_ref().map(ToString::to_string),
                        change: match &disk.changes {
                            Changes::Tracked { tracker, .. } => {
                                tracker.now().map(ToString::to_string)
                            }
                            _ => None,
                        },
                        audit_percent: match &disk.changes {
                            Changes::Tracked { audit_percent, .. } => *audit_percent,
                            _ => 0,
                        },
                    })
                    .collect(),
            }),
        }
    }
}

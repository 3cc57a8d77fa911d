//! Who is next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::asked::Asked;
use super::error::SubmitError;
use super::feed::Feed;
use super::recover;
use super::repositories::{Repositories, RepositoryName};
use super::run::run;
use super::tally::{JobCounts, Tally};
use super::ticket::{QueuePlace, Ticket};
use crate::backup::{
    BackupRequest, BackupSettings, Cancellation, SnapshotChoice, Unheard, VmRequest, Watch,
};
use crate::catalog::{
    Admission, BackupMode, CatalogError, FailureKind, IdempotencyKey, Job, JobId, JobKind,
    JobState, Jobs, NewJob, RequestHash, SqliteCatalog,
};
use crate::hub::at_node::{AtNode, FoundVm};
use crate::hub::{Exports, Holder, NodeName, NodesAtWork, PortError, PortLease, Ports};

/// How often the first of the queue asks again for ports that somebody outside of the hub had.
/// Ports that the hub takes back wake it at once.
const OUTSIDE_PAUSE: Duration = Duration::from_secs(5);
/// Jobs that wait at most: what each was asked for is in memory, up to some hundred KiB of changed
/// areas.
const MAX_WAITING: usize = 1000;

/// The backups of a hub.
#[derive(Debug)]
pub struct Backups {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads of a hub's backups share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) catalog: Arc<SqliteCatalog>,
    pub(super) ports: Arc<Ports>,
    pub(super) exports: Arc<Exports>,
    pub(super) repositories: Repositories,
    pub(super) settings: BackupSettings,
    /// Nothing where the hub has no nodes.
    pub(super) nodes: Option<NodesAtWork>,
    pub(super) tally: Tally,
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    waiting: VecDeque<Arc<Ticket>>,
    /// A thread is taken out by who waits for its end; the job stays until then.
    pub(super) running: BTreeMap<JobId, (Arc<Ticket>, Option<JoinHandle<()>>)>,
    /// Nodes that may have something left of jobs that are over.
    pub(super) strays_at: BTreeSet<NodeName>,
    pub(super) stopping: bool,
}

impl Backups {
    /// Settles what an earlier run of the hub has left, and starts to take in jobs.
    ///
    /// # Errors
    /// [`CatalogError`] of the hub or of a repository.
    pub fn start(
        catalog: Arc<SqliteCatalog>,
        ports: Arc<Ports>,
        exports: Arc<Exports>,
        repositories: Repositories,
        settings: BackupSettings,
        nodes: Option<NodesAtWork>,
    ) -> Result<Self, CatalogError> {
        recover::settle(&catalog, &repositories)?;
        let known = nodes.as_ref().map(|nodes| nodes.check.list()).transpose();
        // One of which it cannot be read lets go by itself.
        let known = known.ok().flatten().unwrap_or_default();
        let strays_at = known.into_iter().map(|facts| facts.name).collect();
        let shared = Arc::new(Shared {
            catalog,
            ports,
            exports,
            repositories,
            settings,
            nodes,
            tally: Tally::default(),
            state: Mutex::new(State { strays_at, ..State::default() }),
            changed: Condvar::new(),
        });
        let woken = Arc::downgrade(&shared);
        shared.ports.on_release(move || {
            if let Some(shared) = woken.upgrade() {
                shared.wake();
            }
        });
        let start = |name: &str, work: fn(Arc<Shared>)| {
            let ours = Arc::clone(&shared);
            let thread = thread::Builder::new().name(name.into()).spawn(move || work(ours));
            thread.expect("a hub that cannot have two threads cannot work at all")
        };
        let threads =
            vec![start("queue", Shared::schedule), start("strays", |ours| ours.dismiss_strays())];
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// The repositories that points go to.
    #[must_use]
    pub fn repositories(&self) -> &Repositories {
        &self.shared.repositories
    }

    /// Takes a backup in, or gives back the job that the same key gave before. A `node` reads its
    /// disks, and else the hub itself.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit(
        &self,
        request: BackupRequest,
        repository: Option<&RepositoryName>,
        node: Option<NodeName>,
        key: Option<IdempotencyKey>,
    ) -> Result<Admission, SubmitError> {
        let (vm, mode, disks) = (request.vm.as_str(), request.mode, &request.disks);
        let choice = SnapshotChoice::default();
        let asked =
            Asked { vm, sought: None, mode, repository, node: node.as_ref(), disks, choice }.hash();
        self.take_in(request, None, repository, node, key, asked)
    }

    /// The same of a VM that the hypervisor of a node runs. Its disks are what a snapshot holds of
    /// them. Where it is called off before there is a job there will be none.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit_vm(
        &self,
        asked: &VmRequest,
        repository: Option<&RepositoryName>,
        node: NodeName,
        key: Option<IdempotencyKey>,
        called_off: &Cancellation,
    ) -> Result<Admission, SubmitError> {
        // Whoever asks again is answered while the node is away too, which may be why it is asked again.
        let VmRequest { vm: word, name, mode, choice } = asked;
        let hash = |vm: &str, sought| {
            let (mode, choice, node) = (*mode, *choice, Some(&node));
            Asked { vm, sought, mode, repository, node, disks: &[], choice }.hash()
        };
        let (name, sought) = match name {
            Some(name) => (name.as_str(), Some(word.as_str())),
            None => (asked.name_in_word(), None),
        };
        if let Some(known) = self.known(name, *mode, key.as_ref(), &hash(name, sought))? {
            return Ok(Admission::Known(known));
        }
        self.check_node(Some(&node))?;
        let nodes = self.shared.nodes.as_ref().ok_or(SubmitError::NoNodes)?;
        // It has no job yet that it could be asked about.
        let found = AtNode::new(nodes, &node, JobId::new(), 1, true, Arc::new(Unheard))?
            .find(asked, called_off);
        let found = found.map_err(|error| match error.failure() {
            FailureKind::Request => SubmitError::NoVm(error),
            _ => SubmitError::VmsAway(error),
        })?;
        // By its name, whatever it was found by, unless it has another one here.
        let hash = hash(found.request.vm.as_str(), sought);
        let request = found.request.clone();
        self.take_in(request, Some((found, called_off)), repository, Some(node), key, hash)
    }

    fn take_in(
        &self,
        request: BackupRequest,
        vm: Option<(FoundVm, &Cancellation)>,
        repository: Option<&RepositoryName>,
        node: Option<NodeName>,
        key: Option<IdempotencyKey>,
        asked: RequestHash,
    ) -> Result<Admission, SubmitError> {
        request.check()?;
        self.check_node(node.as_ref())?;
        let (name, repository) = self.shared.repositories.named(repository)?;
        let (disks, ports) = (request.disks.len(), self.shared.ports.metrics().total);
        if disks > ports {
            return Err(SubmitError::TooManyDisks { disks, ports });
        }
        // Held over the catalog's call, so that the queue has the order of the catalog.
        let mut state = self.shared.state();
        if state.stopping {
            return Err(SubmitError::Stopping);
        }
        if let (true, Some(known)) = (
            state.waiting.len() >= MAX_WAITING,
            self.known(request.vm.as_str(), request.mode, key.as_ref(), &asked)?,
        ) {
            return Ok(Admission::Known(known));
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(SubmitError::QueueFull { waiting: state.waiting.len() });
        }
        // It took its time to be found.
        if vm.as_ref().is_some_and(|(_, called_off)| called_off.is_cancelled()) {
            return Err(SubmitError::HungUp);
        }
        let new = NewJob {
            kind: JobKind::Backup,
            vm: request.vm.clone(),
            mode: request.mode,
            asked: key.is_some().then_some(asked),
            key,
        };
        let admission = self.shared.catalog.add_job(new)?;
        if let Admission::New(job) = &admission {
            let names = request.disks.iter().map(|disk| disk.name.clone()).collect();
            let feed = Feed::of(names);
            feed.job(job);
            state.waiting.push_back(Arc::new(Ticket {
                job: job.clone(),
                request,
                repository: repository.clone(),
                repository_name: name.clone(),
                node,
                vm: vm.map(|(found, _)| found),
                cancellation: Cancellation::default(),
                feed,
            }));
            drop(state);
            self.shared.wake();
        }
        Ok(admission)
    }

    /// Calls a job off, whatever its state. One that runs ends a moment later.
    ///
    /// # Errors
    /// [`SubmitError::Over`] when it has ended, and [`CatalogError::NoSuchJob`].
    pub fn cancel(&self, id: JobId) -> Result<Job, SubmitError> {
        let mut state = self.shared.state();
        if let Some(at) = state.waiting.iter().position(|ticket| ticket.job.id == id) {
            let job = self.shared.catalog.advance(id, JobState::Cancelled, CALLED_OFF)?;
            self.shared.tally.cancelled();
            if let Some(ticket) = state.waiting.remove(at) {
                ticket.feed.job(&job);
            }
            drop(state);
            self.shared.wake();
            return Ok(job);
        }
        if let Some((ticket, _)) = state.running.get(&id) {
            ticket.cancellation.cancel();
        }
        drop(state);
        let job = self.shared.catalog.job(id)?;
        if job.state.is_over() && job.state != JobState::Cancelled {
            return Err(SubmitError::Over { job: id, state: job.state });
        }
        Ok(job)
    }

    /// What happens to a job from now on; `None` when it is over.
    #[must_use]
    pub fn feed(&self, job: JobId) -> Option<Feed> {
        self.of_active(job, |ticket| ticket.feed.clone())
    }

    /// Where the point of a job goes; `None` when it is over.
    #[must_use]
    pub fn repository_of(&self, job: JobId) -> Option<RepositoryName> {
        self.of_active(job, |ticket| ticket.repository_name.clone())
    }

    fn of_active<T>(&self, job: JobId, get: impl FnOnce(&Ticket) -> T) -> Option<T> {
        let state = self.shared.state();
        let waiting = state.waiting.iter().find(|ticket| ticket.job.id == job);
        let running = || state.running.get(&job).map(|(ticket, _)| ticket);
        waiting.or_else(running).map(|ticket| get(ticket))
    }

    /// Where a job stands in the queue; `None` when it does not wait.
    #[must_use]
    pub fn place(&self, job: JobId) -> Option<QueuePlace> {
        let (at, ports_needed) = {
            let state = self.shared.state();
            let at = state.waiting.iter().position(|ticket| ticket.job.id == job)?;
            (at, state.waiting[at].request.disks.len())
        };
        Some(QueuePlace {
            position: at + 1,
            ports_needed,
            ports_free: self.shared.ports.metrics().free,
        })
    }

    /// Jobs that wait and run, and what became of the others since the start of the hub.
    #[must_use]
    pub fn counts(&self) -> JobCounts {
        let (waiting, running) = {
            let state = self.shared.state();
            (state.waiting.len(), state.running.len())
        };
        JobCounts { waiting, running, ..self.shared.tally.counts() }
    }

    /// Whether this node can be asked to read.
    fn check_node(&self, node: Option<&NodeName>) -> Result<(), SubmitError> {
        let Some(node) = node else { return Ok(()) };
        self.shared.nodes.as_ref().ok_or(SubmitError::NoNodes)?.callee(node).map(drop)
    }

    /// The job that a key gave before, for the same request.
    fn known(
        &self,
        vm: &str,
        mode: BackupMode,
        key: Option<&IdempotencyKey>,
        asked: &RequestHash,
    ) -> Result<Option<Job>, CatalogError> {
        let Some(key) = key else { return Ok(None) };
        let known = self.shared.catalog.job_of_key(key)?;
        // Jobs of earlier versions have no hash.
        Ok(known.filter(|job| match &job.asked {
            Some(was) => job.kind == JobKind::Backup && was == asked,
            None => (job.kind, job.vm.as_str(), job.mode) == (JobKind::Backup, vm, mode),
        }))
    }

    /// Calls off all that waits and runs, and waits for the end of it. No job is taken in from
    /// then on.
    pub fn stop(&self) {
        let mut state = self.shared.state();
        state.stopping = true;
        for (ticket, _) in state.running.values() {
            ticket.cancellation.cancel();
        }
        for ticket in std::mem::take(&mut state.waiting) {
            self.shared.tally.cancelled();
            let ended = self.shared.catalog.advance(ticket.job.id, JobState::Cancelled, STOPPED);
            // What cannot be noted now is found at the next start.
            if let Ok(job) = ended {
                ticket.feed.job(&job);
            }
        }
        let running = state.running.values_mut();
        let running: Vec<_> = running.filter_map(|(_, thread)| thread.take()).collect();
        drop(state);
        self.shared.wake();
        let own = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let threads = running.into_iter().chain(own);
        for thread in threads {
            // One that panicked has left its job for the next start to settle.
            let _ = thread.join();
        }
    }
}

const CALLED_OFF: &str = "called off before it started";
const STOPPED: &str = "the hub was stopped before it started";

impl Drop for Backups {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Under the lock, or whoever has looked and does not wait yet would miss it.
        let _state = self.state();
        self.changed.notify_all();
    }

    /// Starts the first of the queue whenever that is possible, until the hub stops.
    fn schedule(self: Arc<Self>) {
        let mut state = self.state();
        while !state.stopping {
            let Some(first) = state.waiting.front().cloned() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let leased = self.lease_all(&first);
            state = self.state();
            let is_first = state.waiting.front().is_some_and(|head| Arc::ptr_eq(head, &first));
            match leased {
                Ok(Some(ports)) if is_first && !state.stopping => {
                    state.waiting.pop_front();
                    let begun = self.begin(&mut state, &first, ports);
                    if let Err(error) = begun {
                        drop(state);
                        self.fail(&first, &format!("it could not be started: {error}"));
                        // Telling the queue of free ports takes its lock.
                        self.release(&first);
                        state = self.state();
                    }
                }
                // It was called off meanwhile.
                Ok(Some(_)) => {
                    drop(state);
                    self.release(&first);
                    state = self.state();
                }
                Ok(None) => {
                    let waited = self.changed.wait_timeout(state, OUTSIDE_PAUSE);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(error) if is_first => {
                    state.waiting.pop_front();
                    self.fail(&first, &error.to_string());
                }
                Err(_) => {}
            }
        }
    }

    fn fail(&self, ticket: &Ticket, reason: &str) {
        self.tally.failed();
        // What cannot be noted now is found at the next start.
        if let Ok(job) = self.catalog.fail(ticket.job.id, FailureKind::Other, reason) {
            ticket.feed.job(&job);
        }
    }

    /// A port for each disk, or for none of them.
    fn lease_all(&self, ticket: &Ticket) -> Result<Option<Vec<PortLease>>, PortError> {
        if self.ports.metrics().free < ticket.request.disks.len() {
            return Ok(None);
        }
        let holder = Holder::from(ticket.job.id);
        let mut leases = Vec::with_capacity(ticket.request.disks.len());
        for disk in &ticket.request.disks {
            match self.ports.lease_for(
                &holder,
                &ticket.request.vm,
                &disk.name,
                ticket.node.as_ref(),
            ) {
                Ok(lease) => leases.push(lease),
                Err(error) => {
                    self.release(ticket);
                    return match error {
                        // Somebody was faster.
                        PortError::AllTaken { .. } => Ok(None),
                        other => Err(other),
                    };
                }
            }
        }
        Ok(Some(leases))
    }

    pub(super) fn release(&self, ticket: &Ticket) {
        // They are not in use any more. What the catalog cannot note now is undone at the next start.
        if let Err(error) = self.ports.release_all(&Holder::from(ticket.job.id)) {
            ticket.feed.note(&format!("its ports are not free yet: {error}"));
        }
    }

    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        ticket: &Arc<Ticket>,
        ports: Vec<PortLease>,
    ) -> io::Result<()> {
        // Noted here and not by its thread, so that jobs begin in the order of the queue.
        let reason = match &ticket.node {
            Some(node) => format!("node {node} looks at its disks"),
            None => "looking at its disks".to_owned(),
        };
        let job = self.catalog.advance(ticket.job.id, JobState::Planning, &reason);
        ticket.feed.job(&job.map_err(io::Error::other)?);
        let (shared, ours) = (Arc::clone(self), Arc::clone(ticket));
        let thread = thread::Builder::new().name(format!("backup-{}", ticket.job.id));
        let thread = thread.spawn(move || {
            run(&shared, &ours, ports);
            shared.release(&ours);
            let mut state = shared.state();
            state.running.remove(&ours.job.id);
            state.strays_at.extend(ours.node.clone());
            shared.changed.notify_all();
        })?;
        // Its thread waits for the lock that is held here before it takes itself out.
        state.running.insert(ticket.job.id, (Arc::clone(ticket), Some(thread)));
        Ok(())
    }
}

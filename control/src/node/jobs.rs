//! The jobs of a node: lanes that a hub has asked for, each job on a thread of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::nbd::NbdUri;
use blockferry_dataplane::{Counts, Endpoint, MoverSettings};

use super::job::Job;
use super::pass::PassId;
use super::vms::{HeldVms, NodeVms};
use super::wire::{
    self, EndRecord, FaultRecord, JobAsked, LoadRecord, LookAnswer, LookAsked, LookedRecord,
};
use crate::backup::{Cancellation, Carrier, CarryError, Here, Load, Sought, Watch, names_files};
use crate::catalog::{DiskName, JobId};
use crate::child::held;

/// For sources to show what they are; less than a hub waits for an answer, so that it hears which
/// one does not.
const LOOK_DEADLINE: Duration = Duration::from_secs(60);
/// Memory that a lane can make use of, for each of its connections: 16 requests, each in a buffer of
/// 512 KiB.
const STRAND_POOL_BYTES: usize = 8 << 20;
/// Jobs at once.
const MAX_JOBS: usize = 128;
/// Others have nothing to look for in it.
pub(super) const FOLDER_MODE: u32 = 0o700;

/// How exports of the hub are reached.
pub(super) type Reach = Box<dyn Fn(&NbdUri) -> Result<Endpoint, String> + Send + Sync>;

/// How a node runs jobs.
pub(super) struct JobSettings {
    /// How lanes are run.
    pub(super) lanes: Here,
    /// Whether sources may name files of this machine: Unix sockets, certificates.
    pub(super) local_sources: bool,
    /// A job that nobody has asked about for this long is called off, and forgotten.
    pub(super) forget: Duration,
    /// How exports of the hub are reached.
    pub(super) reach: Reach,
    /// Where words go that concern whoever runs the node.
    pub(super) log: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Why a job is not taken, or not found.
#[derive(Debug)]
pub(super) enum JobRefusal {
    /// Nobody has asked for it, or it was forgotten.
    Unknown(JobId),
    /// What was asked for cannot be done.
    Unfit(String),
    /// Others have to end first.
    TooMany,
    /// It does not go on yet, or not any more.
    Conflict(String),
    /// This machine.
    System(String),
}

/// All jobs. The folder is theirs alone.
pub(super) struct Jobs {
    folder: PathBuf,
    settings: JobSettings,
    jobs: Mutex<BTreeMap<PassId, Arc<Job>>>,
    pub(super) vms: Arc<HeldVms>,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Jobs {
    /// Takes the folder, and removes what an earlier run has left in it: its lanes ended with it.
    ///
    /// # Errors
    /// What the system says of the folder.
    pub(super) fn take(
        folder: PathBuf,
        settings: JobSettings,
        vms: Option<NodeVms>,
    ) -> io::Result<Arc<Self>> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(FOLDER_MODE).create(&folder)?;
        let log = Arc::clone(&settings.log);
        let vms = Arc::new(HeldVms::new(vms, Box::new(move |text| log(text))));
        Ok(Arc::new(Self { folder, settings, jobs: Mutex::default(), vms }))
    }

    /// What these sources are. Blocks.
    pub(super) fn look(&self, asked: LookAsked) -> Result<LookAnswer, JobRefusal> {
        let mut sought = Vec::with_capacity(asked.disks.len());
        let snapshot_of = asked.snapshot_of.as_deref().map(id).transpose()?;
        for disk in asked.disks {
            sought.push(Sought {
                source: match snapshot_of {
                    Some(job) => self.in_snapshot(job, &disk.disk)?,
                    None => self.source(&disk.disk, &disk.source)?,
                },
                disk: name(&disk.disk)?,
                bitmap: disk.bitmap,
            });
        }
        let mut lanes = self.settings.lanes.clone();
        lanes.lane.deadline = lanes.lane.deadline.min(LOOK_DEADLINE);
        // Whoever asked and went is answered nevertheless: it takes no longer than a deadline.
        let looked = lanes.look(&sought, &Cancellation::default());
        Ok(match looked {
            Ok(looked) => LookAnswer::Looked(
                looked
                    .into_iter()
                    .map(|disk| LookedRecord { size: disk.size, has_bitmap: disk.has_bitmap })
                    .collect(),
            ),
            Err(error) => {
                let names: Vec<DiskName> = sought.into_iter().map(|sought| sought.disk).collect();
                LookAnswer::Fault(FaultRecord::of_look(&error, &names))
            }
        })
    }

    /// Where the digests go of what an export holds already. It makes the job.
    pub(super) fn base(&self, id: PassId, place: usize) -> Result<PathBuf, JobRefusal> {
        let job = self.get_or_make(id)?;
        match held(&job.state).started {
            false => Ok(job.base(place)),
            true => Err(JobRefusal::Conflict(format!("job {id} has been started before"))),
        }
    }

    /// Starts the lanes of a job; nothing is done where that was done before.
    pub(super) fn start(self: &Arc<Self>, id: PassId, asked: JobAsked) -> Result<(), JobRefusal> {
        let job = self.get_or_make(id)?;
        if held(&job.state).started {
            return Ok(());
        }
        let loads = asked.disks.into_iter().enumerate();
        let loads = loads.map(|(place, disk)| self.load(&job, place, disk));
        let loads = loads.collect::<Result<Vec<_>, _>>().inspect_err(|_| self.forget(id))?;
        let mut lanes = self.settings.lanes.clone();
        lanes.lane.connections = asked.connections;
        lanes.mover.pool_bytes = self.pool_bytes(loads.len() * usize::from(asked.connections));
        {
            let mut state = held(&job.state);
            // Who asked at the same moment was faster.
            if std::mem::replace(&mut state.started, true) {
                return Ok(());
            }
            state.pool_bytes = lanes.mover.pool_bytes;
            state.counts = vec![Counts::default(); loads.len()];
        }
        let (jobs, ours) = (Arc::clone(self), Arc::clone(&job));
        let thread = thread::Builder::new().name(format!("job-{id}"));
        let thread = thread.spawn(move || jobs.run(&ours, &lanes, loads));
        match thread {
            Ok(thread) => {
                *held(&job.thread) = Some(thread);
                Ok(())
            }
            Err(error) => {
                self.forget(id);
                Err(JobRefusal::System(error.to_string()))
            }
        }
    }

    /// A job, which its hub has asked about now.
    pub(super) fn job(&self, id: PassId) -> Result<Arc<Job>, JobRefusal> {
        let job = held(&self.jobs).get(&id).cloned().ok_or(JobRefusal::Unknown(id.job))?;
        held(&job.state).heard = Instant::now();
        self.vms.heard(id.job);
        Ok(job)
    }

    /// Removes the snapshots of jobs that are dead. Blocks.
    pub(super) fn sweep(&self) {
        self.vms.sweep();
    }

    /// The jobs that there are.
    pub(super) fn ids(&self) -> Vec<PassId> {
        held(&self.jobs).keys().copied().collect()
    }

    /// Calls a job off; one that has ended, or never began, is forgotten with its files.
    pub(super) fn end(&self, id: PassId) -> Result<(), JobRefusal> {
        let job = self.job(id)?;
        // Before it is looked: whoever ends the job looks at this afterwards.
        job.dismissed.store(true, Ordering::SeqCst);
        let at_work = {
            let state = held(&job.state);
            state.started && state.end.is_none()
        };
        job.cancellation.cancel();
        if !at_work {
            self.forget(id);
        }
        Ok(())
    }

    /// Calls off and forgets those that nobody asks about any more.
    pub(super) fn tidy(&self) {
        self.vms.tidy(|heard| heard.elapsed() >= self.settings.forget);
        let jobs: Vec<_> = held(&self.jobs).values().cloned().collect();
        for job in jobs {
            let silent = held(&job.state).heard.elapsed();
            if silent < self.settings.forget {
                continue;
            }
            if !job.cancellation.is_cancelled() {
                (self.settings.log)(&format!(
                    "job {} is called off: the hub has not asked about it for {} s",
                    job.id,
                    silent.as_secs()
                ));
            }
            // It is no error that it is gone meanwhile. Asking is no word of the hub.
            let _gone = self.end(job.id);
            held(&job.state).heard = Instant::now() - silent;
        }
    }

    /// Calls off all, and waits for their ends.
    pub(super) fn stop(&self) {
        let jobs: Vec<_> = held(&self.jobs).values().cloned().collect();
        for job in &jobs {
            job.cancellation.cancel();
        }
        for job in jobs {
            let thread = held(&job.thread).take();
            if let Some(thread) = thread {
                // One that panicked has told so itself.
                let _ = thread.join();
            }
        }
        // Their folders go with them.
        held(&self.jobs).clear();
        // Not before: nothing reads them any more.
        self.vms.stop();
    }

    fn get_or_make(&self, id: PassId) -> Result<Arc<Job>, JobRefusal> {
        self.vms.heard(id.job);
        let mut jobs = held(&self.jobs);
        if let Some(job) = jobs.get(&id) {
            held(&job.state).heard = Instant::now();
            return Ok(Arc::clone(job));
        }
        if jobs.len() >= MAX_JOBS {
            return Err(JobRefusal::TooMany);
        }
        let job = Arc::new(Job::make(id, &self.folder).map_err(|error| {
            JobRefusal::System(format!("the folder of job {id} cannot be made: {error}"))
        })?);
        jobs.insert(id, Arc::clone(&job));
        Ok(job)
    }

    /// Memory for a job of so many strands: what they can make use of, but no more than half of what
    /// other jobs have left of the node's, and no less than one thread needs.
    fn pool_bytes(&self, strands: usize) -> usize {
        let taken = |job: &Arc<Job>| {
            let state = held(&job.state);
            if state.end.is_none() { state.pool_bytes } else { 0 }
        };
        let taken: usize = held(&self.jobs).values().map(taken).sum();
        let left = self.settings.lanes.mover.pool_bytes.saturating_sub(taken);
        let least = MoverSettings::least_pool_bytes(None);
        strands.saturating_mul(STRAND_POOL_BYTES).min(left / 2).max(least)
    }

    fn forget(&self, id: PassId) {
        held(&self.jobs).remove(&id);
    }

    fn source(&self, disk: &str, uri: &str) -> Result<Endpoint, JobRefusal> {
        let unfit =
            |what: String| JobRefusal::Unfit(format!("the source of disk {disk:?}: {what}"));
        let source = wire::source(uri).map_err(unfit)?;
        match &source {
            Endpoint::Nbd(nbd) if names_files(&nbd.uri) && !self.settings.local_sources => {
                Err(unfit(
                    "it names files of the node's machine (a Unix socket, or certificates), which \
                     the node does not allow; start it with --local-sources"
                        .into(),
                ))
            }
            _ => Ok(source),
        }
    }

    fn in_snapshot(&self, job: JobId, disk: &str) -> Result<Endpoint, JobRefusal> {
        let found = self.vms.endpoint(job, disk);
        found.map_err(|why| JobRefusal::Unfit(format!("disk {disk:?}: {why}")))
    }

    fn load(&self, job: &Job, place: usize, disk: LoadRecord) -> Result<Load, JobRefusal> {
        let of_disk = |what: String| JobRefusal::Unfit(format!("disk {:?}: {what}", disk.disk));
        let target: NbdUri =
            disk.target.parse().map_err(|error| of_disk(format!("its target: {error}")))?;
        let base = disk.base.then(|| Manifest::open(&job.base(place))).transpose();
        Ok(Load {
            disk: name(&disk.disk)?,
            source: match disk.source.as_str() {
                "" => self.in_snapshot(job.id.job, &disk.disk)?,
                uri => self.source(&disk.disk, uri)?,
            },
            target: (self.settings.reach)(&target).map_err(of_disk)?,
            size: disk.size,
            base: base.map_err(|error| of_disk(error.to_string()))?.map(Arc::new),
            extent: disk.extent.extent().map_err(of_disk)?,
            manifest: job.manifest(place),
        })
    }

    /// Runs the lanes of a job to their end.
    fn run(&self, job: &Arc<Job>, lanes: &Here, loads: Vec<Load>) {
        let watch: Arc<dyn Watch> = Arc::clone(job) as _;
        let end = match lanes.start(loads, &watch, &Cancellation::default()) {
            Ok(carrying) => match job.follow(carrying) {
                EndRecord::Carried(disks) => {
                    match self.vms.confirm(job.id.job, &watch, &job.cancellation) {
                        Ok(()) => EndRecord::Carried(disks),
                        Err(error) => CarryError::All(error).into(),
                    }
                }
                end => end,
            },
            Err(error) => CarryError::All(error).into(),
        };
        if let EndRecord::Fault(fault) = &end {
            (self.settings.log)(&format!("job {}: {}", job.id, fault.said));
        }
        job.tell(|state| state.end = Some(end));
        if job.dismissed.load(Ordering::SeqCst) {
            self.forget(job.id);
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.stop();
    }
}

fn id(text: &str) -> Result<JobId, JobRefusal> {
    text.parse().map_err(|error| JobRefusal::Unfit(format!("{error}")))
}

fn name(text: &str) -> Result<DiskName, JobRefusal> {
    text.parse().map_err(|error| JobRefusal::Unfit(format!("{error}")))
}

//! A job of a node, asked about until it is over.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use blockferry_dataplane::Counts;
use blockferry_dataplane::manifest::Manifest;
use hyper::Method;

use super::{AtNode, RETRY_PAUSE};
use crate::backup::{BackupError, Carried, CarryError, Carrying, Load, Watch};
use crate::call::CallError;
use crate::child::held;
use crate::node::wire::{CarriedRecord, EndRecord, JobProgress, WordRecord};

/// For a node to say how a job gets on, where the deadline leaves less: it lets a hub wait for half
/// a second.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);
/// The same, where the deadline leaves more. Then it is asked anew, for the connection may be one
/// that its other end has left.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

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
        let mut advance = Advance::from(loads.len());
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
                        return Err(CarryError::All(self.failed(&error, heard.elapsed())));
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
            let counts: Vec<Counts> = counts.take(loads.len()).collect();
            let stands_for = advance.look(&counts);
            *held(&shared.counts) = counts;
            if let Some(end) = progress.end {
                break end;
            }
            if stands_for >= self.stall {
                return Err(CarryError::All(BackupError::Node(format!(
                    "node {} answers, but has moved no byte of any disk for {} s; look at its log, \
                     its sources and its line (--node-stall of the hub is how long that may be)",
                    self.node,
                    stands_for.as_secs()
                ))));
            }
        };
        self.outcome(end, loads, shared)
    }

    /// What the end of the lanes means for the job.
    fn outcome(
        &self,
        end: EndRecord,
        loads: &[Load],
        shared: &Shared,
    ) -> Result<Vec<Carried>, CarryError> {
        match end {
            EndRecord::Carried(disks) if disks.len() == loads.len() => {
                self.fetch_all(loads, &disks, &|| shared.is_cancelled()).map_err(CarryError::All)
            }
            EndRecord::Carried(_) => Err(CarryError::All(self.strange("it tells of other disks"))),
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
        let written = self.insist(given_up, |motion| {
            let mut written = File::create(to).map_err(|error| failed(&error));
            motion.begin();
            self.callee.fetch(&call, carried.manifest_bytes, &mut |bytes| {
                motion.pass(bytes.len());
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

    fn fetch_all(
        &self,
        loads: &[Load],
        disks: &[CarriedRecord],
        given_up: &dyn Fn() -> bool,
    ) -> Result<Vec<Carried>, BackupError> {
        let mut carried = Vec::with_capacity(disks.len());
        for (place, (load, disk)) in loads.iter().zip(disks).enumerate() {
            // Whatever the node says: no more than the digests of this disk can have.
            let most = Manifest::most_bytes(load.size);
            if disk.manifest_bytes > most {
                let bytes = disk.manifest_bytes;
                let what = format!("{bytes} bytes of digests for a disk that has {most} at most");
                return Err(self.strange(what));
            }
            self.fetch_manifest(place, disk, &load.manifest, given_up)?;
            carried.push(Carried {
                counts: disk.bytes.into(),
                elapsed: Duration::from_millis(disk.elapsed_ms),
            });
        }
        Ok(carried)
    }
}

/// How far the lanes of a node are, and since when.
struct Advance {
    counts: Vec<Counts>,
    since: Instant,
}

impl Advance {
    fn from(disks: usize) -> Self {
        Self { counts: vec![Counts::default(); disks], since: Instant::now() }
    }

    /// Takes note of how far they are now. Returns for how long they have been no farther.
    fn look(&mut self, counts: &[Counts]) -> Duration {
        if self.counts != counts {
            self.counts = counts.to_vec();
            self.since = Instant::now();
        }
        self.since.elapsed()
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

/// The lanes of a node, as the job has them.
pub(super) struct CarryingAtNode {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CarryingAtNode {
    /// Follows lanes that were started.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn of(
        node: AtNode,
        loads: Vec<Load>,
        watch: Arc<dyn Watch>,
    ) -> Result<Self, BackupError> {
        let shared = Arc::new(Shared {
            counts: Mutex::new(vec![Counts::default(); loads.len()]),
            cancelled: AtomicBool::new(false),
            away: AtomicBool::new(false),
            outcome: Mutex::default(),
            over: Condvar::new(),
        });
        let ours = Arc::clone(&shared);
        let thread = thread::Builder::new().name(format!("node-{}", node.node));
        let thread = thread.spawn(move || {
            let outcome = node.follow(&loads, &*watch, &ours);
            // Whatever became of it. A node that is away forgets it by itself.
            if !ours.away.load(Ordering::Relaxed) {
                node.dismiss(false);
            }
            *held(&ours.outcome) = Some(outcome);
            ours.over.notify_all();
        });
        let thread = thread.map_err(|error| BackupError::Node(format!("no thread: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }
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

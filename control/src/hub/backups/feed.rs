//! What happens to a job, for all who follow it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blockferry_dataplane::{Counts, Event};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::backup::{DiskPlan, Watch, lane_words};
use crate::catalog::{BackupMode, DiskName, Job, JobState, UnixMillis};

/// Events that a follower may be behind: at ten a second of progress, and a few of each disk, so
/// much that only who has stopped reading loses some, and of those only progress is lost for good.
const BEHIND: usize = 256;
/// Events of a job that are kept for who comes later: its states, its plans, and what else was
/// said first. 101 disks of which each was connected again a few times fit.
const MAX_KEPT: usize = 1024;

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobEvent {
    /// It took a state.
    State {
        /// Which.
        state: JobState,
        /// When.
        at: UnixMillis,
        /// Why.
        reason: String,
    },
    /// It was decided what becomes of a disk.
    Planned {
        /// The disk.
        disk: DiskName,
        /// Full or incremental.
        mode: BackupMode,
        /// Why.
        reason: String,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// Something that a person should know.
    Note(String),
    /// Something for who wants to know all.
    Detail(String),
    /// How far it is.
    Progress(Vec<DiskProgress>),
    /// Its point is published: what was moved for each disk, in which time.
    Moved {
        /// Since it began to run.
        elapsed: Duration,
        /// Its disks.
        disks: Vec<(DiskName, Counts, Duration)>,
    },
}

/// How far a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskProgress {
    /// The disk.
    pub disk: DiskName,
    /// Its bytes, apart.
    pub counts: Counts,
}

/// The feed of one job. Clones are the same.
#[derive(Clone, Debug)]
pub struct Feed {
    disks: Vec<DiskName>,
    past: Arc<Mutex<Past>>,
    sender: broadcast::Sender<Told>,
}

/// What was told, for who comes later.
#[derive(Debug, Default)]
struct Past {
    kept: Vec<JobEvent>,
    /// The last note since it took its state.
    note: Option<(UnixMillis, String)>,
    progress: Vec<DiskProgress>,
}

/// An event, with its place among those that are kept, if it is.
#[derive(Clone, Debug)]
struct Told {
    event: JobEvent,
    place: Option<usize>,
}

impl Feed {
    pub(super) fn of(disks: Vec<DiskName>) -> Self {
        Self { disks, past: Arc::default(), sender: broadcast::Sender::new(BEHIND) }
    }

    /// All that has happened, and then what happens. It ends when the job is over and all who tell
    /// of it are gone, so whoever follows must not keep the feed.
    #[must_use]
    pub fn follow(&self) -> Follower {
        // Nothing is told meanwhile.
        let _past = self.past();
        let (past, receiver) = (Arc::clone(&self.past), self.sender.subscribe());
        Follower { past, receiver, given: 0, next: VecDeque::new() }.caught_up(&_past.kept)
    }

    /// How far the disks are; nothing before the copy has begun.
    #[must_use]
    pub fn progress(&self) -> Vec<DiskProgress> {
        self.past().progress.clone()
    }

    /// What was said last, since the job took its state, that a person should know: what it waits
    /// for, for one.
    #[must_use]
    pub fn last_note(&self) -> Option<(UnixMillis, String)> {
        self.past().note.clone()
    }

    pub(super) fn tell(&self, event: JobEvent) {
        let mut past = self.past();
        match &event {
            JobEvent::State { .. } => past.note = None,
            JobEvent::Note(text) => past.note = Some((UnixMillis::now(), text.clone())),
            _ => {}
        }
        let place = match &event {
            JobEvent::Progress(disks) => {
                past.progress.clone_from(disks);
                None
            }
            // The end is kept whatever was said before.
            JobEvent::Note(_) | JobEvent::Detail(_) if past.kept.len() >= MAX_KEPT => None,
            _ => {
                past.kept.push(event.clone());
                Some(past.kept.len() - 1)
            }
        };
        // Nobody may be listening.
        let _ = self.sender.send(Told { event, place });
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who follows a job.
#[derive(Debug)]
pub struct Follower {
    past: Arc<Mutex<Past>>,
    receiver: broadcast::Receiver<Told>,
    /// Kept events that were given, or are about to be.
    given: usize,
    next: VecDeque<JobEvent>,
}

impl Follower {
    fn caught_up(mut self, kept: &[JobEvent]) -> Self {
        self.catch_up(kept);
        self
    }

    fn catch_up(&mut self, kept: &[JobEvent]) {
        self.next.extend(kept[self.given..].iter().cloned());
        self.given = kept.len();
    }

    /// The next event; `None` when there will be no other.
    pub async fn next(&mut self) -> Option<JobEvent> {
        loop {
            if let Some(event) = self.next.pop_front() {
                return Some(event);
            }
            match self.receiver.recv().await {
                Ok(Told { place: Some(place), .. }) if place < self.given => {}
                Ok(Told { event, place }) => {
                    self.given = place.map_or(self.given, |place| place + 1);
                    return Some(event);
                }
                Err(RecvError::Lagged(_)) => {
                    let past = Arc::clone(&self.past);
                    self.catch_up(&past.lock().unwrap_or_else(PoisonError::into_inner).kept);
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Watch for Feed {
    fn job(&self, job: &Job) {
        let (state, at, reason) = (job.state, job.changed, job.reason.clone());
        self.tell(JobEvent::State { state, at, reason });
    }

    fn planned(&self, plan: &DiskPlan) {
        self.tell(JobEvent::Planned {
            disk: plan.name.clone(),
            mode: plan.kind.mode(),
            reason: plan.reason.clone(),
            size_bytes: plan.size_bytes,
        });
    }

    fn note(&self, text: &str) {
        self.tell(JobEvent::Note(text.to_owned()));
    }

    fn detail(&self, text: &str) {
        self.tell(JobEvent::Detail(text.to_owned()));
    }

    fn lane(&self, disk: &DiskName, event: &Event<'_>) {
        if let Some(words) = lane_words(disk, event) {
            self.tell(JobEvent::Detail(words));
        }
    }

    fn progress(&self, disks: &[Counts]) {
        let disks = self.disks.iter().zip(disks);
        let progress =
            disks.map(|(disk, counts)| DiskProgress { disk: disk.clone(), counts: *counts });
        self.tell(JobEvent::Progress(progress.collect()));
    }
}

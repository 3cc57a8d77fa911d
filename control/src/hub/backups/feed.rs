//! What happens to a job, for all who follow it.

use blockferry_dataplane::{Counts, Event};
use tokio::sync::broadcast;

use crate::backup::{DiskPlan, Watch};
use crate::catalog::{BackupMode, DiskName, Job, JobState, UnixMillis};

/// Events that a follower may be behind: at ten a second of progress, and a few of each disk, so
/// much that only who has stopped reading loses some.
const BEHIND: usize = 1024;

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
    /// How far it is.
    Progress(Vec<DiskProgress>),
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
    sender: broadcast::Sender<JobEvent>,
}

impl Feed {
    pub(super) fn of(disks: Vec<DiskName>) -> Self {
        Self { disks, sender: broadcast::Sender::new(BEHIND) }
    }

    /// All that happens from now on. It ends when the job is over.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<JobEvent> {
        self.sender.subscribe()
    }

    pub(super) fn tell(&self, event: JobEvent) {
        // Nobody may be listening.
        let _ = self.sender.send(event);
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

    fn lane(&self, disk: &DiskName, event: &Event<'_>) {
        if let Event::Reconnecting { side, attempt, reason, .. } = event {
            self.note(&format!(
                "disk {disk}: connecting again to the {side}, attempt {attempt}: {reason}"
            ));
        }
    }

    fn progress(&self, disks: &[Counts]) {
        let disks = self.disks.iter().zip(disks);
        let progress =
            disks.map(|(disk, counts)| DiskProgress { disk: disk.clone(), counts: *counts });
        self.tell(JobEvent::Progress(progress.collect()));
    }
}

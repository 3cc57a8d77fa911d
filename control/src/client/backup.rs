//! A backup that a hub makes: asked for, followed, and told of as one that is made here.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::Counts;
use blockferry_dataplane::plan::AreaSet;
use hyper::Method;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use serde_json::Value;

use super::error::{ClientError, maybe_asked};
use super::events::Heard;
use super::http::HubClient;
use super::patience::{AWAY, Patience};
use super::points::call;
use super::report::report;
use crate::backup::{BackupReport, Cancellation, SnapshotChoice, Watch, plan_words};
use crate::catalog::{
    BackupMode, DiskName, FailureKind, Job, JobState, PointId, UnixMillis, ValueError, VmName,
};
use crate::hub::{NodeName, RepositoryName};
use crate::record::{ChoiceRecord, EventRecord, JobRecord, MovedRecord, PointRecord, QueueRecord};

/// How often it is looked whether the job is to be called off.
const TICK: Duration = Duration::from_millis(100);
/// Pause before the first attempt to reach it again; it doubles, up to the second one.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A backup to ask a hub for.
#[derive(Clone, Debug, Serialize)]
pub struct Submission {
    /// The VM: its name, or without disks another word that it is found by.
    pub vm: String,
    /// What a VM of the node's hypervisor is called in the repository, if not as it is there.
    #[serde(
        rename = "as",
        serialize_with = "as_text_or_nothing",
        skip_serializing_if = "Option::is_none"
    )]
    pub name: Option<VmName>,
    /// Its disks; none for a VM of the node's hypervisor, which knows them.
    pub disks: Vec<DiskSubmission>,
    /// Fulls, deltas, or what fits.
    #[serde(serialize_with = "as_text")]
    pub mode: BackupMode,
    /// The repository of the hub; the only one where none is named.
    #[serde(serialize_with = "as_text_or_nothing")]
    pub repository: Option<RepositoryName>,
    /// The node that reads its disks; the hub itself where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// How the snapshot of a VM of the node's hypervisor is made, if not as the node does it.
    #[serde(serialize_with = "as_choice", skip_serializing_if = "SnapshotChoice::is_none")]
    pub snapshot: SnapshotChoice,
}

/// A disk of it.
#[derive(Clone, Debug, Serialize)]
pub struct DiskSubmission {
    /// What it is called.
    #[serde(serialize_with = "as_text")]
    pub name: DiskName,
    /// Where the hub reads it: an NBD URI.
    pub source: String,
    /// What has changed, if that is known.
    #[serde(serialize_with = "as_areas")]
    pub changed: Option<AreaSet>,
    /// The dirty bitmap that tells what has changed.
    pub bitmap: Option<String>,
}

fn as_text<S: serde::Serializer>(value: &impl std::fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_text_or_nothing<S: serde::Serializer>(
    value: &Option<impl std::fmt::Display>,
    to: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(to)
}

fn as_choice<S: serde::Serializer>(choice: &SnapshotChoice, to: S) -> Result<S::Ok, S::Error> {
    ChoiceRecord::from(choice).serialize(to)
}

fn as_areas<S: serde::Serializer>(areas: &Option<AreaSet>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Range {
        start: u64,
        length: u64,
    }
    match areas {
        None => to.serialize_none(),
        Some(areas) => to
            .collect_seq(areas.iter().map(|area| Range { start: area.start, length: area.length })),
    }
}

impl HubClient {
    /// Has the hub make a backup, follows it, and gives back what became of it. A hub that goes
    /// away meanwhile is waited for.
    ///
    /// # Errors
    /// [`ClientError`]: there is no new point, or nothing is known of it.
    pub fn back_up(
        &self,
        submission: &Submission,
        watch: &Arc<dyn Watch>,
        cancellation: &Cancellation,
    ) -> Result<BackupReport, ClientError> {
        let patience = Patience::new(cancellation);
        watch.last_words(Some(&format!(
            "the hub at {} was asked for the backup: {}",
            self.address(),
            maybe_asked()
        )));
        let asked = self.submit(submission, &patience);
        watch.last_words(None);
        let asked = asked?;
        let known = |error: ValueError| self.no_hub(error.to_string());
        let job = asked.job().map_err(known)?;
        if let Some(queue) = &asked.queue
            && (queue.position > 1 || queue.ports_free < queue.ports_needed)
        {
            let QueueRecord { position, ports_needed, ports_free } = queue;
            // Nobody is overtaken, so one that is not the first may have its ports free.
            watch.note(&match position {
                1 => format!(
                    "job {} waits for ports: it needs {ports_needed}, and {ports_free} are free",
                    job.id
                ),
                _ => format!(
                    "job {} waits: it is number {position} of the queue, and needs {ports_needed} of \
                     the hub's ports",
                    job.id
                ),
            });
        }
        let mut following = Following {
            client: self,
            job,
            watch,
            patience,
            told_to_cancel: false,
            states: HashSet::new(),
            plans: HashSet::new(),
            words: 0,
            moved: None,
        };
        following.patience.heard();
        following.tell_state(&asked.state, asked.changed_ms, &asked.reason);
        watch.last_words(Some(&format!(
            "job {} of the hub at {} goes on, unless that has heard that it is called off: GET \
             /api/v1/backups/{} tells",
            following.job.id,
            self.address(),
            following.job.id
        )));
        let ended = following.until_over();
        watch.last_words(None);
        let ended = ended?;
        let job = ended.job().map_err(known)?;
        match job.state {
            JobState::Done => {
                let point = ended.point.as_deref().ok_or(ClientError::NoPoint { job: job.id })?;
                let point: PointId = point.parse().map_err(known)?;
                let name = ended.repository.as_deref().map(str::parse).transpose();
                let name: Option<RepositoryName> = name.map_err(|error| self.no_hub(error))?;
                let record: PointRecord =
                    self.ask(Method::GET, &call(point, name.as_ref()), None)?;
                let moved = following.moved.take();
                report(submission, &record, &ended, moved)
                    .map_err(|error| ClientError::PointUnknown { point, what: error.to_string() })
            }
            JobState::Cancelled => Err(ClientError::Cancelled { job: job.id, reason: job.reason }),
            _ => Err(ClientError::JobFailed {
                job: job.id,
                failure: job.failure.unwrap_or(FailureKind::Other),
                reason: job.reason,
            }),
        }
    }

    /// Asks until there is an answer. The first attempt has to reach the hub; from then on one
    /// that is lost is made again under the same key, which gives the same job.
    fn submit(
        &self,
        submission: &Submission,
        patience: &Patience,
    ) -> Result<JobRecord, ClientError> {
        let failed = |error: serde_json::Error| self.no_hub(error.to_string());
        let mut body = serde_json::to_value(submission).map_err(failed)?;
        body["idempotency_key"] = Value::String(key());
        let body = serde_json::to_vec(&body).map_err(failed)?;
        // Nothing is sent to who does not answer at all: the address may be wrong.
        let called_off = || patience.is_called_off();
        let reached = self.ask_unless::<Value>(&called_off, Method::GET, "/health", None);
        if patience.is_called_off() {
            return Err(ClientError::NotAsked);
        }
        reached?;
        patience.heard();
        let mut pause = PAUSE;
        // What happened to an attempt that may have made a job.
        let mut lost = None;
        loop {
            let given_up = || patience.is_over();
            let asked = self.ask_unless(&given_up, Method::POST, "/backups", Some(body.clone()));
            let error = match asked {
                Err(error) if error.is_passing() && !patience.is_exhausted() => error,
                other => return other,
            };
            wait(pause_of(&error, pause), patience);
            pause = (pause * 2).min(LONGEST_PAUSE);
            if let ClientError::Unreachable { what, .. } = error {
                lost = Some(what);
            }
            if patience.is_called_off() {
                let address = self.address().clone();
                return Err(match lost {
                    Some(what) => ClientError::Left { address, job: None, what },
                    None => ClientError::NotAsked,
                });
            }
        }
    }
}

/// Waits, unless it is called off meanwhile.
fn wait(pause: Duration, patience: &Patience) {
    let end = Instant::now() + pause;
    while !patience.is_called_off() && Instant::now() < end {
        thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
    }
}

fn pause_of(error: &ClientError, otherwise: Duration) -> Duration {
    match error {
        ClientError::Refused { retry_after: Some(after), .. } => *after,
        _ => otherwise,
    }
}

/// A key that no other backup has.
fn key() -> String {
    let mut random = [0_u8; 16];
    // Without random bytes the time and the process tell them apart.
    let _ = getrandom(&mut random, GetRandomFlags::empty());
    let random = u128::from_le_bytes(random);
    format!("cli-{}-{}-{random:032x}", UnixMillis::now(), std::process::id())
}

/// A job that is followed.
struct Following<'a> {
    client: &'a HubClient,
    job: Job,
    watch: &'a Arc<dyn Watch>,
    patience: Patience,
    told_to_cancel: bool,
    /// What was told before: a stream that is opened anew begins with it again.
    states: HashSet<String>,
    plans: HashSet<String>,
    words: usize,
    /// What was moved, as the hub told when the point was published.
    moved: Option<(f64, Vec<MovedRecord>)>,
}

impl Following<'_> {
    /// The job, once it is over.
    fn until_over(&mut self) -> Result<JobRecord, ClientError> {
        let mut pause = PAUSE;
        loop {
            let followed = self.follow().and_then(|()| {
                let call = format!("/backups/{}", self.job.id);
                let given_up = || self.patience.is_over();
                self.client.ask_unless::<JobRecord>(&given_up, Method::GET, &call, None)
            });
            match followed {
                Ok(job) if is_over(&job) => {
                    self.tell_state(&job.state, job.changed_ms, &job.reason);
                    return Ok(job);
                }
                // Its stream was cut, as that of a hub that is being stopped.
                Ok(_) => {}
                Err(error) if !error.is_passing() => return Err(error),
                Err(error) if self.patience.is_over() => {
                    return Err(ClientError::Left {
                        address: self.client.address().clone(),
                        job: Some(self.job.id),
                        what: said(error),
                    });
                }
                Err(error) if self.patience.is_exhausted() => {
                    return Err(ClientError::Lost {
                        address: self.client.address().clone(),
                        job: self.job.id,
                        waited: AWAY,
                        what: error.to_string(),
                    });
                }
                Err(error) => {
                    self.watch.detail(&format!("{error}; asking again"));
                    if let ClientError::Refused { .. } = error {
                        self.patience.heard();
                    }
                    pause = (pause_of(&error, pause) * 2).min(LONGEST_PAUSE);
                }
            }
            wait(pause, &self.patience);
            if self.patience.is_called_off() {
                // What becomes of the job is told by the hub alone, if it can be had at once.
                thread::sleep(TICK);
            }
        }
    }

    /// Tells what happens, to the end of the stream.
    fn follow(&mut self) -> Result<(), ClientError> {
        self.call_off()?;
        let given_up = || self.patience.is_over();
        let call = format!("/backups/{}/events", self.job.id);
        let mut events = self.client.events(&given_up, &call)?;
        self.patience.heard();
        let mut words = 0;
        loop {
            self.call_off()?;
            match events.next(TICK, self.client)? {
                Heard::Event(event) => self.tell(event, &mut words),
                Heard::Nothing => {}
                Heard::End => return Ok(()),
            }
            self.patience.heard();
        }
    }

    fn call_off(&mut self) -> Result<(), ClientError> {
        if self.patience.is_called_off() && !self.told_to_cancel {
            let call = format!("/backups/{}/cancel", self.job.id);
            let given_up = || self.patience.is_over();
            match self.client.ask_unless::<JobRecord>(&given_up, Method::POST, &call, None) {
                // It has ended before, in one way or the other.
                Ok(_) | Err(ClientError::Refused { status: 409, .. }) => {}
                Err(error) => return Err(error),
            }
            self.told_to_cancel = true;
            self.patience.heard();
        }
        Ok(())
    }

    fn tell(&mut self, event: EventRecord, words: &mut usize) {
        match event {
            EventRecord::State { state, at_ms, reason } => self.tell_state(&state, at_ms, &reason),
            EventRecord::Plan { disk, mode, reason, .. } => {
                if self.plans.insert(disk.clone()) {
                    self.watch.detail(&plan_words(&disk, &mode, &reason));
                }
            }
            EventRecord::Note { text } => {
                if self.is_news(words) {
                    self.watch.note(&text);
                }
            }
            EventRecord::Detail { text } => {
                if self.is_news(words) {
                    self.watch.detail(&text);
                }
            }
            EventRecord::Progress { disks } => {
                let counts: Vec<Counts> = disks.iter().map(|disk| disk.bytes.into()).collect();
                self.watch.progress(&counts);
            }
            EventRecord::Moved { seconds, disks } => self.moved = Some((seconds, disks)),
            EventRecord::Unknown => {}
        }
    }

    /// Whether the next words of this stream were not in the one before.
    fn is_news(&mut self, words: &mut usize) -> bool {
        *words += 1;
        let is_news = *words > self.words;
        self.words = self.words.max(*words);
        is_news
    }

    fn tell_state(&mut self, state: &str, at_ms: u64, reason: &str) {
        let Ok(known) = state.parse() else { return };
        if self.states.insert(state.to_owned()) {
            self.job.state = known;
            self.job.changed = UnixMillis::new(at_ms).unwrap_or(UnixMillis::MAX);
            reason.clone_into(&mut self.job.reason);
            self.watch.job(&self.job);
        }
    }
}

/// What happened, without the address, which is told anyway.
fn said(error: ClientError) -> String {
    match error {
        ClientError::Unreachable { what, .. } => what,
        other => other.to_string(),
    }
}

fn is_over(job: &JobRecord) -> bool {
    job.state.parse().is_ok_and(JobState::is_over)
}

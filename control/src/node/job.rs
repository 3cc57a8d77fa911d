//! A job of a node: what its lanes have come to, for the hub that asks.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{Counts, Event};
use tokio::sync::watch;

use super::jobs::{FOLDER_MODE, JobRefusal};
use super::pass::PassId;
use super::wire::{CarriedRecord, EndRecord, JobProgress, WordRecord};
use crate::backup::{BackupError, Cancellation, Carried, CarryError, Carrying, Watch, lane_words};
use crate::catalog::DiskName;
use crate::child::held;

/// How often it is looked whether a job goes on, and how far it is.
const TICK: Duration = Duration::from_millis(100);
/// Words of a job that are kept.
const MAX_WORDS: usize = 1024;

/// A job, and what it has come to. Its folder goes with it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: PassId,
    pub(super) folder: PathBuf,
    pub(super) cancellation: Cancellation,
    /// The hub wants nothing of it any more: it is forgotten once it is over.
    pub(super) dismissed: AtomicBool,
    pub(super) state: Mutex<State>,
    /// Counts what has happened, for who waits.
    happened: watch::Sender<u64>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) started: bool,
    /// Memory of its lanes, in bytes.
    pub(super) pool_bytes: usize,
    words: Vec<WordRecord>,
    pub(super) counts: Vec<Counts>,
    pub(super) end: Option<EndRecord>,
    /// When the hub was heard of last.
    pub(super) heard: Instant,
}

impl Job {
    pub(super) fn make(id: PassId, jobs: &Path) -> io::Result<Self> {
        let folder = jobs.join(id.to_string());
        DirBuilder::new().mode(FOLDER_MODE).create(&folder)?;
        let state = State {
            started: false,
            pool_bytes: 0,
            words: Vec::new(),
            counts: Vec::new(),
            end: None,
            heard: Instant::now(),
        };
        Ok(Self {
            id,
            folder,
            cancellation: Cancellation::default(),
            dismissed: AtomicBool::new(false),
            state: Mutex::new(state),
            happened: watch::Sender::new(0),
            thread: Mutex::default(),
        })
    }

    /// The digests of a disk's base. Disks are numbered, for a name is data.
    pub(super) fn base(&self, place: usize) -> PathBuf {
        self.folder.join(format!("{place}.base"))
    }

    pub(super) fn manifest(&self, place: usize) -> PathBuf {
        self.folder.join(format!("{place}.manifest"))
    }

    /// The digests of a disk that was carried.
    pub(super) fn finished_manifest(&self, place: usize) -> Result<File, JobRefusal> {
        match &held(&self.state).end {
            Some(EndRecord::Carried(disks)) if place < disks.len() => {}
            _ => return Err(JobRefusal::Conflict(format!("job {} has no such digests", self.id))),
        }
        File::open(self.manifest(place)).map_err(|error| JobRefusal::System(error.to_string()))
    }

    /// What has happened, from the word `seen` on.
    pub(super) fn progress(&self, seen: usize) -> JobProgress {
        let state = held(&self.state);
        JobProgress {
            words: state.words.get(seen..).unwrap_or_default().to_vec(),
            bytes: state.counts.iter().map(|counts| (*counts).into()).collect(),
            end: state.end.clone(),
        }
    }

    /// Changes with each word, and at the end.
    pub(super) fn happened(&self) -> watch::Receiver<u64> {
        self.happened.subscribe()
    }

    pub(super) fn follow(&self, mut carrying: Box<dyn Carrying>) -> EndRecord {
        let mut called_off = false;
        while !carrying.wait_for(TICK) {
            held(&self.state).counts = carrying.progress();
            if !called_off && self.cancellation.is_cancelled() {
                called_off = true;
                carrying.cancel();
            }
        }
        held(&self.state).counts = carrying.progress();
        let carried = match carrying.end() {
            Ok(carried) => carried,
            Err(error) => return error.into(),
        };
        let records =
            carried.into_iter().enumerate().map(|(place, disk)| self.carried(place, disk));
        match records.collect() {
            Ok(records) => EndRecord::Carried(records),
            Err(error) => CarryError::All(error).into(),
        }
    }

    fn carried(&self, place: usize, disk: Carried) -> Result<CarriedRecord, BackupError> {
        let path = self.manifest(place);
        let manifest_bytes = fs::metadata(&path)
            .map_err(|error| BackupError::Node(format!("{}: {error}", path.display())))?
            .len();
        Ok(CarriedRecord {
            bytes: disk.counts.into(),
            elapsed_ms: u64::try_from(disk.elapsed.as_millis()).unwrap_or(u64::MAX),
            manifest_bytes,
            manifest_id: Manifest::open(&path)?.content_id()?,
        })
    }

    fn say(&self, word: WordRecord) {
        self.tell(|state| {
            if state.words.len() < MAX_WORDS {
                state.words.push(word);
            }
        });
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut held(&self.state));
        self.happened.send_modify(|count| *count += 1);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // What cannot be removed now goes when the node is started next.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Watch for Job {
    fn note(&self, text: &str) {
        self.say(WordRecord::Note(text.to_owned()));
    }

    fn detail(&self, text: &str) {
        self.say(WordRecord::Detail(text.to_owned()));
    }

    fn lane(&self, disk: &DiskName, event: &Event<'_>) {
        if let Some(words) = lane_words(disk, event) {
            self.detail(&words);
        }
    }
}

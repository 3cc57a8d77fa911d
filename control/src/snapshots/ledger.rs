//! Which snapshots are ours: written down before one is made, and struck out once it is gone.
//!
//! ```text
//!  FOLDER/<job>.json    one snapshot; its owner has the file locked with flock(2): its job for itself
//!                       alone, and a sweep that looks after a dead one's with a shared lock
//!         <job>.part    the same while it is written, by whoever has the folder locked
//! ```
//!
//! A record says so while its snapshot is asked for and nobody has answered: who was killed then, or
//! lost the answer, leaves a snapshot that may come when it has been looked for already.
//!
//! The lock ends with its process, however that ends: a file that nobody has locked is that of a
//! dead job, and its snapshot may be removed. Nobody else's ever is, for nobody else's is written
//! here. A record says in which file it was written, for a copy of the folder has copies of the
//! records and none of the locks: what is not where it was made is told, and nothing follows of it.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::name::SnapshotName;
use super::record::{Place, SnapshotRecord, WorkKind};
use crate::catalog::UnixMillis;

/// Bytes of a file of it: many times what there is to say.
const MAX_BYTES: u64 = 64 << 10;
const ENDING: &str = "json";
/// Of one that is not written in full.
const PART: &str = "part";

/// Why it cannot be written down, or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The operating system refused.
    #[error("{}, where snapshots are written down, cannot be had: {error}", path.display())]
    System {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A job is at work with this VM.
    #[error("{}; wait for its end, or call it off", taken(*kind, job))]
    Taken {
        /// That job.
        job: String,
        /// What it does.
        kind: WorkKind,
    },
    /// A sweep is at work with what a dead job has left of this VM.
    #[error("{}; wait for its end", swept(*kind, job))]
    Swept {
        /// The dead job.
        job: String,
        /// What it did.
        kind: WorkKind,
    },
    /// A file that is not as it was written.
    #[error("{0} is no record of a snapshot; look at what wrote it, and remove it")]
    Strange(String),
}

/// The folder of these files. Clones are the same.
#[derive(Clone, Debug)]
pub struct Ledger {
    folder: Arc<Path>,
}

/// A snapshot that this process has written down, or found to be a dead job's. Without
/// [`strike`](Self::strike) it stays there.
#[derive(Debug)]
pub struct LedgerEntry {
    ledger: Ledger,
    path: PathBuf,
    record: SnapshotRecord,
    /// Held as long as this is.
    _lock: File,
}

/// What is there at one time.
#[derive(Debug, Default)]
pub struct LedgerPage {
    /// Snapshots of dead jobs, which are this process's now.
    pub dead: Vec<LedgerEntry>,
    /// Those that a copy of the folder has brought: whether their jobs are alive is seen where they
    /// were made, and nowhere else.
    pub copied: Vec<LedgerEntry>,
    /// Those of jobs that are at work.
    pub alive: Vec<SnapshotRecord>,
    /// Those of dead jobs that somebody else looks after now: a sweep, for hours at times.
    pub swept: Vec<SnapshotRecord>,
    /// What cannot be read.
    pub strange: Vec<LedgerError>,
}

impl Ledger {
    /// The ledger in a folder, which is made if it is not there; its parent has to be.
    ///
    /// # Errors
    /// [`LedgerError::System`].
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(system(folder, error))
            }
            _ => Ok(Self { folder: folder.into() }),
        }
    }

    /// Writes down a snapshot that is about to be made. It is on the disk when this returns.
    ///
    /// # Errors
    /// [`LedgerError::Taken`] while another job has one of this VM, [`LedgerError::Swept`] while a sweep
    /// looks after that of a dead job; [`LedgerError::System`].
    pub fn note(&self, record: SnapshotRecord) -> Result<LedgerEntry, LedgerError> {
        let _turn = self.turn()?;
        let page = self.read()?;
        let same = |other: &&SnapshotRecord| {
            other.is_of_server(&record.server, record.server_uuid.as_deref())
                && other.is_about(&record.vm, record.vm_uuid.as_deref())
        };
        if let Some(other) = page.alive.iter().find(same) {
            return Err(LedgerError::Taken { job: other.job.clone(), kind: other.kind });
        }
        if let Some(dead) = page.swept.iter().find(same) {
            return Err(LedgerError::Swept { job: dead.job.clone(), kind: dead.kind });
        }
        let path = self.folder.join(&record.job).with_extension(ENDING);
        let (lock, record) = self.write(&path, &record)?;
        Ok(LedgerEntry { ledger: self.clone(), path, record, _lock: lock })
    }

    /// Has records that were made elsewhere taken for made here. Only for who knows that the folder that
    /// they were copied from is not used any more. Returns how many there were.
    ///
    /// # Errors
    /// [`LedgerError::System`].
    pub fn adopt(&self) -> Result<usize, LedgerError> {
        let _turn = self.turn()?;
        let copied = self.read()?.copied;
        for entry in &copied {
            self.write(&entry.path, &entry.record)?;
        }
        Ok(copied.len())
    }

    /// Writes a record in full, in one's turn. Returns the lock on it, and the record with its place.
    fn write(
        &self,
        path: &Path,
        record: &SnapshotRecord,
    ) -> Result<(File, SnapshotRecord), LedgerError> {
        let part = path.with_extension(PART);
        let failed = |error| system(path, error);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)
            .map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into()))?;
        let made_at = Some(Place::of(&file.metadata().map_err(failed)?));
        let record = SnapshotRecord { made_at, ..record.clone() };
        let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|json| {
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&part, path)?;
            self.sync()
        });
        written.map_err(failed)?;
        Ok((file, record))
    }

    /// All that is written down.
    ///
    /// # Errors
    /// [`LedgerError::System`].
    pub fn page(&self) -> Result<LedgerPage, LedgerError> {
        self.page_of(|_| true)
    }

    /// The same, where of dead jobs only some are meant. The others' are let go in the same turn: who
    /// works with those VMs would wait for them.
    ///
    /// # Errors
    /// [`LedgerError::System`].
    pub fn page_of(
        &self,
        is_meant: impl Fn(&SnapshotRecord) -> bool,
    ) -> Result<LedgerPage, LedgerError> {
        let _turn = self.turn()?;
        let mut page = self.read()?;
        page.dead.retain(|entry| is_meant(&entry.record));
        page.copied.retain(|entry| is_meant(&entry.record));
        Ok(page)
    }

    /// The names of all snapshots that are written down, whosever they are.
    ///
    /// # Errors
    /// [`LedgerError::System`].
    pub(crate) fn names(&self) -> Result<HashSet<SnapshotName>, LedgerError> {
        let _turn = self.turn()?;
        let page = self.read()?;
        let dead = page.dead.iter().map(LedgerEntry::record);
        Ok(page
            .alive
            .iter()
            .chain(&page.swept)
            .chain(dead)
            .filter_map(|record| record.name().ok())
            .collect())
    }

    fn read(&self) -> Result<LedgerPage, LedgerError> {
        let mut page = LedgerPage::default();
        for found in fs::read_dir(&self.folder).map_err(|error| system(&self.folder, error))? {
            let path = found.map_err(|error| system(&self.folder, error))?.path();
            if path.extension().is_some_and(|ending| ending == PART) {
                // Who wrote it was killed: all that is written is written in one's turn. No snapshot
                // was made yet.
                fs::remove_file(&path).map_err(|error| system(&path, error))?;
                continue;
            }
            if path.extension().is_none_or(|ending| ending != ENDING) {
                continue;
            }
            match open(&path) {
                Ok(Some((file, record))) => {
                    match hold(&file) {
                        // Its owner has struck it out between.
                        Ok(_) if !path.exists() => {}
                        Ok(Hold::Ours) => {
                            let of = match record.is_made_here(&file) {
                                true => &mut page.dead,
                                false => &mut page.copied,
                            };
                            let ledger = self.clone();
                            of.push(LedgerEntry { ledger, path, record, _lock: file });
                        }
                        Ok(Hold::Jobs) => page.alive.push(record),
                        Ok(Hold::Sweeps) => page.swept.push(record),
                        Err(error) => page.strange.push(system(&path, error.into())),
                    }
                }
                // Its owner has struck it out meanwhile.
                Ok(None) => {}
                Err(error) => page.strange.push(error),
            }
        }
        page.dead.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(page)
    }

    /// What is done in one step is done under a lock on the folder, held for a moment.
    fn turn(&self) -> Result<File, LedgerError> {
        let folder = File::open(&self.folder).map_err(|error| system(&self.folder, error))?;
        flock(&folder, FlockOperation::LockExclusive)
            .map_err(|error| system(&self.folder, error.into()))?;
        Ok(folder)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

impl LedgerEntry {
    /// What is written.
    #[must_use]
    pub fn record(&self) -> &SnapshotRecord {
        &self.record
    }

    /// Writes down that the snapshot is asked for now. It is on the disk when this returns.
    ///
    /// # Errors
    /// [`LedgerError::System`]; what was written before stands.
    pub fn asks(&mut self) -> Result<(), LedgerError> {
        self.rewrite(Some(UnixMillis::now().get()))
    }

    /// Writes down that it was answered.
    ///
    /// # Errors
    /// [`LedgerError::System`]; what was written before stands.
    pub fn is_answered(&mut self) -> Result<(), LedgerError> {
        self.rewrite(None)
    }

    fn rewrite(&mut self, asked_ms: Option<u64>) -> Result<(), LedgerError> {
        let record = SnapshotRecord { asked_ms, ..self.record.clone() };
        let _turn = self.ledger.turn()?;
        (self._lock, self.record) = self.ledger.write(&self.path, &record)?;
        Ok(())
    }

    /// Strikes it out: its snapshot is gone.
    ///
    /// # Errors
    /// [`LedgerError::System`]; it stays there then, and the next sweep finds its snapshot gone.
    pub fn strike(self) -> Result<(), LedgerError> {
        fs::remove_file(&self.path).map_err(|error| system(&self.path, error))
    }
}

/// Who has a record.
enum Hold {
    /// Its job is dead, and this process has it from now on as sweeps have it.
    Ours,
    /// Its job, which is at work.
    Jobs,
    /// Whoever looks after it, for its job is dead.
    Sweeps,
}

/// Tries for a record, in one's turn: to make another lock of one is to let it go for a moment.
fn hold(file: &File) -> rustix::io::Result<Hold> {
    use rustix::io::Errno;
    let is_alone = match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => true,
        Err(Errno::WOULDBLOCK) => false,
        Err(error) => return Err(error),
    };
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) if is_alone => Ok(Hold::Ours),
        // This one ends with the file, which is closed in this turn.
        Ok(()) => Ok(Hold::Sweeps),
        Err(Errno::WOULDBLOCK) => Ok(Hold::Jobs),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> Result<Option<(File, SnapshotRecord)>, LedgerError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system(path, error)),
    };
    let mut json = Vec::new();
    (&file).take(MAX_BYTES).read_to_end(&mut json).map_err(|error| system(path, error))?;
    match serde_json::from_slice(&json) {
        Ok(record) => Ok(Some((file, record))),
        Err(_) => Err(LedgerError::Strange(path.display().to_string())),
    }
}

fn taken(kind: WorkKind, job: &str) -> String {
    match kind {
        WorkKind::Backup => format!("the VM is being backed up: job {job} has a snapshot of it"),
        WorkKind::Restore => format!("the VM is being restored into, by job {job}"),
    }
}

fn swept(kind: WorkKind, job: &str) -> String {
    match kind {
        WorkKind::Backup => {
            format!("a sweep is removing the snapshot of the VM that job {job} left, which is dead")
        }
        WorkKind::Restore => {
            format!("a sweep is looking at what job {job} left in the VM, a restore that is dead")
        }
    }
}

fn system(path: &Path, error: io::Error) -> LedgerError {
    LedgerError::System { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests;

//! Which snapshots are ours: written down before one is made, and struck out once it is gone.
//!
//! ```text
//!  FOLDER/<job>.json    one snapshot; its owner has the file locked with flock(2)
//!         <job>.part    the same while it is written, by whoever has the folder locked
//! ```
//!
//! The lock ends with its process, however that ends: a file that nobody has locked is that of a
//! dead job, and its snapshot may be removed. Nobody else's ever is, for nobody else's is written
//! here.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::name::SnapshotName;
use super::vm::VmId;
use crate::catalog::{JobId, UnixMillis};

/// Bytes of a file of it: many times what there is to say.
const MAX_BYTES: u64 = 64 << 10;
const ENDING: &str = "json";
/// Of one that is not written in full.
const PART: &str = "part";

/// What is written of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    /// The server, as its settings name it.
    pub server: String,
    /// What that knows the VM by.
    pub vm: String,
    /// Where the VM stood, for people.
    pub vm_path: String,
    /// The job, after which the snapshot is named.
    pub job: String,
    /// When it was written: milliseconds since 1970.
    pub since_ms: u64,
}

impl SnapshotRecord {
    /// For a snapshot that is about to be made.
    #[must_use]
    pub fn new(server: &str, vm: &VmId, vm_path: &str, job: JobId) -> Self {
        Self {
            server: server.to_owned(),
            vm: vm.to_string(),
            vm_path: vm_path.to_owned(),
            job: job.to_string(),
            since_ms: UnixMillis::now().get(),
        }
    }

    /// What the snapshot is called.
    ///
    /// # Errors
    /// A record that was not written here.
    pub fn name(&self) -> Result<SnapshotName, LedgerError> {
        self.job.parse().map(SnapshotName::of).map_err(|_| LedgerError::Strange(self.job.clone()))
    }
}

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
    /// A job that is at work has a snapshot of this VM.
    #[error(
        "the VM is being backed up: job {job} has a snapshot of it; wait for its end, or call it off"
    )]
    Taken {
        /// That job.
        job: String,
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
    path: PathBuf,
    record: SnapshotRecord,
    _lock: File,
}

/// What is there at one time.
#[derive(Debug, Default)]
pub struct LedgerPage {
    /// Snapshots of dead jobs, which are this process's now.
    pub dead: Vec<LedgerEntry>,
    /// Those of jobs that are at work.
    pub alive: Vec<SnapshotRecord>,
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
    /// [`LedgerError::Taken`] while another job has one of this VM; [`LedgerError::System`].
    pub fn note(&self, record: SnapshotRecord) -> Result<LedgerEntry, LedgerError> {
        let _turn = self.turn()?;
        let page = self.read()?;
        let same =
            |other: &&SnapshotRecord| (&other.server, &other.vm) == (&record.server, &record.vm);
        if let Some(other) = page.alive.iter().find(same) {
            return Err(LedgerError::Taken { job: other.job.clone() });
        }
        let path = self.folder.join(&record.job).with_extension(ENDING);
        let part = path.with_extension(PART);
        let failed = |error| system(&path, error);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)
            .map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into()))?;
        let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|json| {
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            self.sync()
        });
        written.map_err(failed)?;
        Ok(LedgerEntry { path, record, _lock: file })
    }

    /// All that is written down.
    ///
    /// # Errors
    /// [`LedgerError::System`].
    pub fn page(&self) -> Result<LedgerPage, LedgerError> {
        self.page_of(|_| true)
    }

    /// The same, with those dead ones alone that are meant. The others are nobody's still: their own
    /// jobs would take them for alive while they are held, which they are for no moment.
    ///
    /// # Errors
    /// [`LedgerError::System`].
    pub(super) fn page_of(
        &self,
        is_meant: impl Fn(&SnapshotRecord) -> bool,
    ) -> Result<LedgerPage, LedgerError> {
        let _turn = self.turn()?;
        let mut page = self.read()?;
        page.dead.retain(|entry| is_meant(entry.record()));
        Ok(page)
    }

    /// The names of all snapshots that are written down, whosever they are.
    ///
    /// # Errors
    /// [`LedgerError::System`].
    pub(crate) fn names(&self) -> Result<HashSet<SnapshotName>, LedgerError> {
        // The dead ones are let go before the turn is.
        let _turn = self.turn()?;
        let page = self.read()?;
        let dead = page.dead.iter().map(LedgerEntry::record);
        Ok(page.alive.iter().chain(dead).filter_map(|record| record.name().ok()).collect())
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
                    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                        // Its owner has struck it out between.
                        Ok(()) if !path.exists() => {}
                        Ok(()) => page.dead.push(LedgerEntry { path, record, _lock: file }),
                        Err(rustix::io::Errno::WOULDBLOCK) => page.alive.push(record),
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

    /// Strikes it out: its snapshot is gone.
    ///
    /// # Errors
    /// [`LedgerError::System`]; it stays there then, and the next sweep finds its snapshot gone.
    pub fn strike(self) -> Result<(), LedgerError> {
        fs::remove_file(&self.path).map_err(|error| system(&self.path, error))
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

fn system(path: &Path, error: io::Error) -> LedgerError {
    LedgerError::System { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn record(vm: &str) -> SnapshotRecord {
        SnapshotRecord::new("vc.example", &VmId::new(vm), "DC/vm/db1", JobId::new())
    }

    #[test]
    fn what_is_noted_is_alive_until_its_owner_is_gone_and_dead_until_it_is_struck_out() {
        let folder = TempDir::new().unwrap();
        let ledger = Ledger::open(&folder.path().join("snapshots")).unwrap();
        let noted = record("vm-1");
        let entry = ledger.note(noted.clone()).unwrap();
        let page = ledger.page().unwrap();
        assert_eq!((page.alive, page.dead.len()), (vec![noted.clone()], 0));
        drop(entry);
        let mut page = ledger.page().unwrap();
        assert_eq!((page.alive.len(), page.dead.len()), (0, 1));
        let dead = page.dead.remove(0);
        assert_eq!(dead.record(), &noted);
        // It is this one's now.
        assert_eq!(ledger.page().unwrap().alive, vec![noted]);
        dead.strike().unwrap();
        let page = ledger.page().unwrap();
        assert_eq!((page.alive.len(), page.dead.len()), (0, 0));
    }

    #[test]
    fn a_vm_has_one_snapshot_of_ours_at_a_time() {
        let folder = TempDir::new().unwrap();
        let ledger = Ledger::open(&folder.path().join("snapshots")).unwrap();
        let first = ledger.note(record("vm-1")).unwrap();
        let other = ledger.note(record("vm-2")).unwrap();
        let refused = ledger.note(record("vm-1")).unwrap_err();
        assert!(matches!(&refused, LedgerError::Taken { job } if *job == first.record().job));
        first.strike().unwrap();
        ledger.note(record("vm-1")).unwrap();
        drop(other);
        // A dead one is no reason to refuse: a sweep removes it.
        ledger.note(record("vm-2")).unwrap();
    }

    #[test]
    fn who_looks_at_one_vm_keeps_no_dead_entry_of_another() {
        let folder = TempDir::new().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        for vm in ["vm-1", "vm-2"] {
            drop(ledger.note(record(vm)).unwrap());
        }
        let page = ledger.page_of(|record| record.vm == "vm-1").unwrap();
        assert_eq!(page.dead.len(), 1);
        // To the job of the other one this one would be alive.
        let other = ledger.note(record("vm-2")).unwrap();
        let refused = ledger.note(record("vm-1")).unwrap_err();
        assert!(matches!(refused, LedgerError::Taken { .. }));
        drop((page, other));
    }

    #[test]
    fn what_a_kill_left_half_written_goes_with_the_next_look() {
        let folder = TempDir::new().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let part = folder.path().join(JobId::new().to_string()).with_extension("part");
        fs::write(&part, "{").unwrap();
        let page = ledger.page().unwrap();
        assert_eq!((page.alive.len(), page.dead.len(), page.strange.len()), (0, 0, 0));
        assert!(!part.exists());
    }

    #[test]
    fn what_is_no_record_is_told_and_touched_by_nobody() {
        let folder = TempDir::new().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        fs::write(folder.path().join("x.json"), "{").unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let page = ledger.page().unwrap();
        assert_eq!((page.alive.len(), page.dead.len(), page.strange.len()), (0, 0, 1));
        assert!(folder.path().join("x.json").exists());
        ledger.note(record("vm-1")).unwrap();
    }
}

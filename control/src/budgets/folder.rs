//! Claims of all jobs of a machine, as files that their jobs have locked.
//!
//! ```text
//!  FOLDER/<job>.json    one claim, waiting or granted; its owner has the file locked with flock(2)
//! ```
//!
//! The lock ends with its process, however that ends: a file that nobody has locked is that of a
//! dead job, counts for nothing, and goes when the next one looks. What is done in one step is done
//! under a lock on the folder, held for a moment. A claim is written aside (`<job>.part`), locked, and
//! put in the place of the one before, which stays where there is no room for another.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::claim::{Claim, Limits, Obstacle, Pool, Standing, obstacles};
use crate::backup::Cancellation;

/// Bytes of a file of it: many times what there is to say.
const MAX_BYTES: u64 = 256 << 10;
const ENDING: &str = "json";
/// Of one that is being written.
const ASIDE: &str = "part";
/// How often one that waits looks whether it fits: the death of a process, which frees its share,
/// is told by nothing that could be waited for. A look takes about 20 us for each file.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How soon one that waits ends when it is called off.
const TICK: Duration = Duration::from_millis(50);
/// For a lock that others hold for milliseconds.
const TURN_DEADLINE: Duration = Duration::from_secs(10);
/// How often that is tried.
const TURN_TICK: Duration = Duration::from_millis(2);

/// Why there is no share.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// The operating system refused.
    #[error("{}, where jobs say what they take of hosts, cannot be had: {error}", path.display())]
    System {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No room for what a job says.
    #[error(
        "{}, where jobs say what they take of hosts, cannot be written, for its file system is \
         full; make room there, or name another runtime folder", path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Somebody keeps the folder to himself.
    #[error(
        "{}, where jobs say what they take of hosts, has been locked for {} s by another; \
         is one of them stopped?",
        path.display(), TURN_DEADLINE.as_secs()
    )]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file that is not as it was written, of a process that is alive.
    #[error("{} is no claim of a job; look at who has it open, and remove it", .0.display())]
    Strange(PathBuf),
    /// The wait was called off.
    #[error("it was called off while it waited for its turn")]
    CalledOff,
}

/// The folder of claims, and what its owner holds itself to. Clones are the same.
#[derive(Clone, Debug)]
pub struct Budgets {
    folder: Arc<Path>,
    limits: Limits,
}

impl Budgets {
    /// Those in a folder, which is made when it is first wanted.
    #[must_use]
    pub fn new(folder: &Path, limits: Limits) -> Self {
        Self { folder: folder.into(), limits }
    }

    /// Takes all that is claimed at once, and waits for it, however long that is: until it is called
    /// off. What it waits for is told, and told again when that is something else.
    ///
    /// # Errors
    /// [`BudgetError`]; nothing is taken then.
    pub fn take(
        &self,
        claim: Claim,
        tell: &dyn Fn(&str),
        called_off: &Cancellation,
    ) -> Result<Granted, BudgetError> {
        let mut granted = self.queue(claim)?;
        let mut told = String::new();
        loop {
            let in_the_way = granted.look()?;
            if in_the_way.is_empty() {
                return Ok(granted);
            }
            granted.waited = true;
            let words: Vec<String> = in_the_way.iter().map(Obstacle::to_string).collect();
            let words =
                format!("VM {} waits for {}", granted.standing.claim.vm, words.join("; and for "));
            if words != told {
                tell(&words);
                told = words;
            }
            let looked = Instant::now();
            while looked.elapsed() < LOOK_EVERY {
                if called_off.is_cancelled() {
                    return Err(BudgetError::CalledOff);
                }
                thread::sleep(TICK);
            }
        }
    }

    /// Puts a claim at the end of the queue.
    fn queue(&self, claim: Claim) -> Result<Granted, BudgetError> {
        self.make().map_err(|error| system(&self.folder, error))?;
        let _turn = self.turn()?;
        let last = self.read(None)?.iter().map(|other| other.ticket).max();
        let path = self.folder.join(&claim.job).with_extension(ENDING);
        let ticket = last.map_or(0, |last| last.saturating_add(1));
        let standing = Standing { claim, ticket, granted: false };
        // Nothing is given back where this fails, for that would wait for the turn that is held here.
        let locked = put(&path, &standing)?;
        Ok(Granted { budgets: self.clone(), path, _locked: locked, standing, waited: false })
    }

    /// Files are removed in it, so it has to be one of our own: its parent may be `/tmp`.
    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let made = fs::symlink_metadata(&self.folder)?;
        if made.is_dir() && made.uid() == geteuid().as_raw() {
            return Ok(());
        }
        Err(io::Error::other("it is no folder of this user; name another place for it"))
    }

    /// The claims of those that are alive, in the order of their turns, without the one in this file.
    /// Under [`turn`](Self::turn).
    fn read(&self, without: Option<&Path>) -> Result<Vec<Standing>, BudgetError> {
        let mut all: Vec<Standing> = Vec::new();
        for found in fs::read_dir(&self.folder).map_err(|error| system(&self.folder, error))? {
            let path = found.map_err(|error| system(&self.folder, error))?.path();
            let ends_in = |ending: &str| path.extension().is_some_and(|has| has == ending);
            if ends_in(ASIDE) {
                // Nobody writes meanwhile, so who wrote it is dead.
                fs::remove_file(&path).map_err(|error| system(&path, error))?;
            }
            if !ends_in(ENDING) || without == Some(&*path) {
                continue;
            }
            let file = File::open(&path).map_err(|error| system(&path, error))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => fs::remove_file(&path).map_err(|error| system(&path, error))?,
                Err(Errno::WOULDBLOCK) => {
                    let mut json = Vec::new();
                    let read = file.take(MAX_BYTES).read_to_end(&mut json);
                    read.map_err(|error| system(&path, error))?;
                    let parsed = serde_json::from_slice(&json);
                    all.push(parsed.map_err(|_| BudgetError::Strange(path))?);
                }
                Err(error) => return Err(system(&path, error.into())),
            }
        }
        all.sort_by_key(|standing| standing.ticket);
        Ok(all)
    }

    fn turn(&self) -> Result<File, BudgetError> {
        let folder = File::open(&self.folder).map_err(|error| system(&self.folder, error))?;
        let asked = Instant::now();
        loop {
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(folder),
                Err(Errno::WOULDBLOCK) if asked.elapsed() < TURN_DEADLINE => {
                    thread::sleep(TURN_TICK);
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(BudgetError::Busy { path: self.folder.to_path_buf() });
                }
                Err(error) => return Err(system(&self.folder, error.into())),
            }
        }
    }
}

/// What a job has taken; all of it is given back with this value.
#[derive(Debug)]
pub struct Granted {
    budgets: Budgets,
    path: PathBuf,
    /// The file, which is ours as long as this is open.
    _locked: File,
    standing: Standing,
    waited: bool,
}

impl Granted {
    /// Whether it took its time, in which things may have changed.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.waited
    }

    /// Gives back what was taken of these pools.
    ///
    /// # Errors
    /// [`BudgetError`]; it is given back with the rest then.
    pub fn give_back(&mut self, pools: &[Pool]) -> Result<(), BudgetError> {
        let _turn = self.budgets.turn()?;
        let mut left = self.standing.clone();
        left.claim.shares.retain(|share| !pools.contains(&share.pool));
        self.put(left)
    }

    /// Looks whether it may have its shares, and has them then.
    fn look(&mut self) -> Result<Vec<Obstacle>, BudgetError> {
        let _turn = self.budgets.turn()?;
        let others = self.budgets.read(Some(&self.path))?;
        let in_the_way = obstacles(&self.standing, &others, &self.budgets.limits);
        if in_the_way.is_empty() {
            self.put(Standing { granted: true, ..self.standing.clone() })?;
        }
        Ok(in_the_way)
    }

    /// Writes it down. Under [`turn`](Budgets::turn).
    fn put(&mut self, standing: Standing) -> Result<(), BudgetError> {
        self._locked = put(&self.path, &standing)?;
        self.standing = standing;
        Ok(())
    }
}

/// Puts a claim in the place of the one before, whole or not at all. Returns its file, locked.
fn put(path: &Path, standing: &Standing) -> Result<File, BudgetError> {
    let aside = path.with_extension(ASIDE);
    let written = || {
        let json = serde_json::to_vec(standing)?;
        let mut opened = OpenOptions::new();
        let mut file = opened.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        // It counts for nothing where it is not locked.
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all(&json)?;
        fs::rename(&aside, path)?;
        Ok(file)
    };
    written().map_err(|error: io::Error| {
        // The next one removes it if not we.
        let _left = fs::remove_file(&aside);
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                BudgetError::Full { path: path.to_owned() }
            }
            _ => system(path, error),
        }
    })
}

impl Drop for Granted {
    fn drop(&mut self) {
        // Unlocked, it counts for nothing, whether it is there or not.
        if let Ok(_turn) = self.budgets.turn() {
            let _removed_by_the_next_if_not_now = fs::remove_file(&self.path);
        }
    }
}

fn system(path: &Path, error: io::Error) -> BudgetError {
    BudgetError::System { path: path.to_owned(), error }
}

//! A small JSON file of a hub's state, that commands change while the hub runs.
//!
//! ```text
//!  a command ─ StateFile::change ─ writes the file anew, as a whole ─▶ NAME.json (mode 0600)
//!  the hub   ─ Watched::get ────── reads it when it has changed ◀────────┘
//! ```

use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state;

/// Why such a file could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateFileError {
    /// The file, or its folder.
    #[error("{} cannot be used: {error}; look at the folder and its permissions", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not what this program wrote.
    #[error("{} is damaged: {detail}; move it away, and make anew what was in it", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Somebody else changes it.
    #[error("another process changes {} at this moment; try again", path.display())]
    Busy {
        /// Which.
        path: PathBuf,
    },
}

/// The file, for whoever changes it.
#[derive(Clone, Debug)]
pub(super) struct StateFile<T> {
    folder: PathBuf,
    /// Without `.json`.
    name: &'static str,
    content: PhantomData<fn() -> T>,
}

impl<T: Default + Serialize + DeserializeOwned> StateFile<T> {
    /// `NAME.json` in this folder, which is made when the file is.
    pub(super) fn new(folder: &Path, name: &'static str) -> Self {
        Self { folder: folder.to_owned(), name, content: PhantomData }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }

    /// What is in it; nothing where it is missing.
    pub(super) fn read(&self) -> Result<T, StateFileError> {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
            Err(error) => return Err(StateFileError::File { path, error }),
        };
        serde_json::from_slice(&text)
            .map_err(|error| StateFileError::Damaged { path, detail: error.to_string() })
    }

    /// Changes what is in it, while nobody else does. Nothing is written where `change` fails.
    pub(super) fn change<R, E: From<StateFileError>>(
        &self,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E> {
        let failed = |error| StateFileError::File { path: self.path(), error };
        state::make(&self.folder).map_err(failed)?;
        let lock = self.folder.join(format!("{}.lock", self.name));
        let lock = state::lock_file(&lock).map_err(failed)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            return Err(match io::Error::from(error) {
                error if error.kind() == io::ErrorKind::WouldBlock => {
                    StateFileError::Busy { path: self.path() }
                }
                error => failed(error),
            }
            .into());
        }
        let mut content = self.read()?;
        let result = change(&mut content)?;
        self.write(&content).map_err(failed)?;
        Ok(result)
    }

    /// Replaces the file as a whole, durably. A temporary file has mode 0600 from the start.
    fn write(&self, content: &T) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer(&mut file, content)?;
        file.as_file().sync_all()?;
        file.persist(self.path()).map_err(|error| error.error)?;
        File::open(&self.folder)?.sync_all()
    }
}

/// The same for whoever only reads, and often.
#[derive(Debug)]
pub(super) struct Watched<T> {
    file: StateFile<T>,
    known: Mutex<Known<T>>,
}

#[derive(Debug)]
struct Known<T> {
    state: Option<FileState>,
    content: Arc<T>,
}

/// A file that was replaced has another number; its time and size are for one written by hand.
#[derive(Debug, PartialEq, Eq)]
struct FileState {
    number: u64,
    modified: Option<SystemTime>,
    size: u64,
}

impl<T: Default + Serialize + DeserializeOwned> Watched<T> {
    pub(super) fn new(file: StateFile<T>) -> Self {
        Self { file, known: Mutex::new(Known { state: None, content: Arc::default() }) }
    }

    /// What is in the file now.
    pub(super) fn get(&self) -> Result<Arc<T>, StateFileError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.file.path();
        let state = match fs::metadata(&path) {
            Ok(facts) => Some(FileState {
                number: facts.ino(),
                modified: facts.modified().ok(),
                size: facts.len(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StateFileError::File { path, error }),
        };
        if state != known.state {
            // Before the new content is known, there is none.
            *known = Known { state: None, content: Arc::default() };
            let content = Arc::new(self.file.read()?);
            *known = Known { state, content };
        }
        Ok(Arc::clone(&known.content))
    }
}

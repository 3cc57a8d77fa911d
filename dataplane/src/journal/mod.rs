//! The resume journal: which ranges of a target hold the source's bytes for good.
//!
//! A file of JSON lines. The first one says what is copied to where; each further one adds
//! ranges that are safe. A line is appended with one write and synced before the call returns:
//!
//! ```text
//! {"blockferry_journal":3,"source":{"name":..,"size":..},"target":{..},"plan":..,"base":..,"source_file":{"inode":..,"written_ns":..},"started":..}
//! {"safe":[],"seal":{"offset":..,"length":4096,"digest":".."}}
//! {"safe":[],"witness":{"offset":0,"length":4096,"digest":".."}}
//! {"safe":[[0,1048576]],"manifest":{"partial":{"id":"..","checkpoint":1}}}
//! {"safe":[],"unsealed":true}
//! ```
//!
//! **A range is safe only when the target acknowledged a FLUSH after it acknowledged the writes
//! of that range.** The caller vouches for that; qemu-nbd loses every acknowledged write that no
//! FLUSH followed when it is killed.
//!
//! Where digests are made of what is moved, a line also names the manifest that holds those of its
//! ranges; without it they would have to be made again.
//!
//! A process that is killed, or a power cut, tears the last line at most: such a line is cut off
//! when the journal is resumed. Anything else that is not as it was written is an error, as is a
//! journal of another copy.
//!
//! The journal owns an exclusive lock on its file until it is dropped, so that two runs cannot
//! use one. Memory while it is read: one line, twice [`MAX_SAFE_AREAS`] areas (all that are safe, and
//! those with digests), and [`MAX_WITNESSES`] witnesses.

#![forbid(unsafe_code)]

mod held;
mod lines;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::manifest::ManifestMark;
use crate::plan::{Area, AreaSet};

pub use lines::{Entry, FileState, Identity, Side, Witness};

/// Areas that a resumed journal gives at most: 16 bytes * 1,048,576 = 16 MiB. Of more than these
/// the shortest are left out, and copied again.
pub const MAX_SAFE_AREAS: usize = 1 << 20;

/// Witnesses that a resumed journal gives: the last ones.
pub const MAX_WITNESSES: usize = 32;

/// Bytes that a witness covers at most.
pub const MAX_WITNESS_BYTES: usize = 4096;

/// Areas in one line: 4,096 * 2 numbers of at most 20 digits, a line of 180 KiB. More are
/// appended as several lines.
const AREAS_PER_LINE: usize = 4096;

/// Tries to lock a file that is still there when the lock is held.
const OPEN_ATTEMPTS: usize = 8;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The operating system refused.
    #[error("cannot {action} the journal {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process holds the journal.
    #[error("the journal {} is used by another run; wait for its end, or name another journal", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// There is no journal to resume.
    #[error("there is no journal {}; start the copy without resuming", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not a journal and is left alone; name another file", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The journal was written by another version.
    #[error(
        "the journal {} has version {version}, and this program knows version {supported}; \
         finish that copy with the program that began it, or remove the file to start over",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
        /// The version that is known here.
        supported: u64,
    },
    /// The journal belongs to another copy.
    #[error(
        "the journal {} is of another copy: {differences}; name that copy's own source and \
         target, or another journal, or remove the file to start over",
        path.display()
    )]
    OtherCopy {
        /// The file.
        path: PathBuf,
        /// Each field that differs, with both values.
        differences: String,
    },
    /// A line in the middle is not as it was written.
    #[error(
        "line {line} of the journal {} is damaged: {problem}; remove the file to start over",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// An earlier append failed, and what is in the file is not known.
    #[error("the journal {} failed before and takes nothing more; run again to resume from what is in it", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
    },
}

impl JournalError {
    /// Whether another path or another copy would have to be asked for; all else is a failure of
    /// this machine, as that of a file system that is full.
    #[must_use]
    pub fn is_wrong_request(&self) -> bool {
        match self {
            Self::Io { source, .. } => crate::fault::is_about_the_path(source),
            Self::Failed { .. } => false,
            Self::InUse { .. }
            | Self::Missing { .. }
            | Self::NotAJournal { .. }
            | Self::Version { .. }
            | Self::OtherCopy { .. }
            | Self::Damaged { .. } => true,
        }
    }
}

/// A journal that was there, and what it holds.
#[derive(Debug)]
pub struct Resumed {
    /// The journal, to go on with.
    pub journal: Journal,
    /// What is safe on the target.
    pub safe: AreaSet,
    /// The part of it that [`manifest`](Self::manifest) has the digests of.
    pub digested: AreaSet,
    /// The manifest that was written last beside the copy.
    pub manifest: Option<ManifestMark>,
    /// The last witnesses, the oldest first. Source and target must still hold all of them, or
    /// one of them is another image at the same address.
    pub witnesses: Vec<Witness>,
    /// Bytes that only the image of this copy holds, until the seal is taken off.
    pub seal: Option<Witness>,
}

/// An open journal, locked against other runs.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    length: u64,
    failed: bool,
}

impl Journal {
    /// Begins a journal. A journal of the same copy that is there is begun anew.
    ///
    /// # Errors
    /// A file that is something else or a journal of another copy is left alone; a journal that
    /// another run holds; failures of the file system.
    pub fn create(path: &Path, identity: &Identity) -> Result<Self, JournalError> {
        let mut journal = Self::lock(path, true)?;
        if !journal.is_unbegun()? {
            lines::Reader::new(&journal.file, path).header(identity)?;
            journal.cut_to(0)?;
        }
        journal.begin(identity)?;
        Ok(journal)
    }

    /// Goes on with a journal.
    ///
    /// # Errors
    /// [`JournalError::Missing`] where there is none, also where the run that made the file died
    /// before it wrote the first line; a file that is something else, a journal of another copy
    /// (the error names each field that differs), a damaged line that is not the last one, a
    /// journal that another run holds; failures of the file system.
    pub fn resume(path: &Path, identity: &Identity) -> Result<Resumed, JournalError> {
        let mut journal = Self::lock(path, false)?;
        if journal.is_unbegun()? {
            return Err(JournalError::Missing { path: path.to_owned() });
        }
        let mut reader = lines::Reader::new(&journal.file, path);
        reader.header(identity)?;
        let held = reader.entries(identity)?;
        let good = reader.good_bytes();
        journal.cut_to(good)?;
        Ok(Resumed {
            journal,
            safe: held.safe,
            digested: held.digested,
            manifest: held.manifest,
            witnesses: held.witnesses.into(),
            seal: held.seal,
        })
    }

    /// Goes on with the journal if it is there, and begins it otherwise.
    ///
    /// # Errors
    /// As [`resume`](Self::resume) and [`create`](Self::create), without
    /// [`JournalError::Missing`].
    pub fn resume_or_create(path: &Path, identity: &Identity) -> Result<Resumed, JournalError> {
        match Self::resume(path, identity) {
            Err(JournalError::Missing { .. }) => {
                let journal = Self::create(path, identity)?;
                Ok(Resumed {
                    journal,
                    safe: AreaSet::new(),
                    digested: AreaSet::new(),
                    manifest: None,
                    witnesses: Vec::new(),
                    seal: None,
                })
            }
            other => other,
        }
    }

    /// Adds areas that are safe; on disk when this returns. `manifest` has the digests of all of
    /// them, and is durable as far as the mark says.
    ///
    /// Call this only after the target acknowledged a FLUSH that was sent after all writes of
    /// these areas were acknowledged.
    ///
    /// # Errors
    /// A failed write is undone, and may be tried again; after a failed sync the journal takes
    /// nothing more ([`JournalError::Failed`]), because the kernel reports such a failure once
    /// and drops the data.
    pub fn append(
        &mut self,
        areas: impl IntoIterator<Item = Area>,
        manifest: Option<&ManifestMark>,
    ) -> Result<(), JournalError> {
        let mut areas = areas.into_iter().filter(|area| area.length > 0).peekable();
        while areas.peek().is_some() {
            let safe = areas.by_ref().take(AREAS_PER_LINE).collect();
            self.note(&Entry { safe, manifest: manifest.cloned(), ..Entry::default() })?;
        }
        Ok(())
    }

    /// Adds anything else that is to be known when the copy is resumed; on disk when this returns.
    /// A witness must have been read back from the target after a FLUSH, and a seal must be on it
    /// for good.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn note(&mut self, entry: &Entry) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Failed { path: self.path.clone() });
        }
        self.append_line(&lines::entry_line(entry))
    }

    /// Removes the journal: everything is copied, and flushed.
    ///
    /// # Errors
    /// Failures of the file system.
    pub fn finish(self) -> Result<(), JournalError> {
        std::fs::remove_file(&self.path).map_err(|source| self.io("remove", source))?;
        sync_folder_of(&self.path).map_err(|source| self.io("sync the folder of", source))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(path: &Path, create: bool) -> Result<Self, JournalError> {
        let failed = |action, source| JournalError::Io { action, path: path.to_owned(), source };
        for _ in 0..OPEN_ATTEMPTS {
            let opened =
                OpenOptions::new().read(true).append(true).create(create).mode(0o600).open(path);
            let file = opened.map_err(|source| match source.kind() {
                io::ErrorKind::NotFound if !create => {
                    JournalError::Missing { path: path.to_owned() }
                }
                _ => failed("open", source),
            })?;
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => JournalError::InUse { path: path.to_owned() },
                TryLockError::Error(source) => failed("lock", source),
            })?;
            let held = file.metadata().map_err(|source| failed("read", source))?;
            if !held.is_file() {
                return Err(JournalError::NotAJournal { path: path.to_owned() });
            }
            // A run that finished between our open and our lock has removed the file that we
            // hold; what we would write to it would be lost.
            let named = std::fs::metadata(path).ok();
            if named.is_some_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())) {
                return Ok(Self { file, path: path.to_owned(), length: held.len(), failed: false });
            }
        }
        Err(JournalError::InUse { path: path.to_owned() })
    }

    /// Whether the file is empty, or holds a first line that was never completed. Empties it in
    /// the second case.
    fn is_unbegun(&mut self) -> Result<bool, JournalError> {
        if self.length == 0 {
            return Ok(true);
        }
        if lines::Reader::new(&self.file, &self.path).has_torn_header()? {
            self.cut_to(0)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn begin(&mut self, identity: &Identity) -> Result<(), JournalError> {
        self.append_line(&lines::header_line(identity))?;
        sync_folder_of(&self.path).map_err(|source| self.io("sync the folder of", source))
    }

    fn append_line(&mut self, line: &[u8]) -> Result<(), JournalError> {
        // One write, so that no other line can be torn by it; a short one is as good as none.
        let written = match self.file.write(line) {
            Ok(count) if count == line.len() => Ok(()),
            Ok(_) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Err(source) => Err(source),
        };
        if let Err(source) = written {
            // Where that fails too, the journal takes nothing more; the cause is the first error.
            let _ = self.cut_to(self.length);
            return Err(self.io("append to", source));
        }
        if let Err(source) = self.file.sync_data() {
            self.failed = true;
            return Err(self.io("sync", source));
        }
        self.length += u64::try_from(line.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Leaves the first `length` bytes only.
    fn cut_to(&mut self, length: u64) -> Result<(), JournalError> {
        if let Err(source) = self.file.set_len(length).and_then(|()| self.file.sync_data()) {
            self.failed = true;
            return Err(self.io("cut", source));
        }
        self.length = length;
        Ok(())
    }

    fn io(&self, action: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { action, path: self.path.clone(), source }
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

//! What a node keeps on its disk.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::runtime;

use crate::hub::lock_file;
use crate::tunnel::{
    EnrollError, EnrollmentCode, OwnKey, OwnKeyError, TunnelAddress, TunnelSettings, enroll,
};

const KEY_FILE: &str = "node_key";
/// A key that no hub has taken yet.
const NEW_KEY_FILE: &str = "node_key.new";
const HUB_KEYS_FILE: &str = "hub_keys";
const RECORD_FILE: &str = "node.json";
const LOCK_FILE: &str = "node.lock";
const ENROLL_LOCK_FILE: &str = "enroll.lock";
const JOBS_FOLDER: &str = "jobs";
/// Others have nothing to look for in it.
const FOLDER_MODE: u32 = 0o700;

/// Why a machine is no node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Nobody has enrolled it.
    #[error(
        "there is no {}, so this machine is not a node yet: `blockferry hub enroll` on the hub \
         prints a code for `blockferry node enroll` here",
        path.display()
    )]
    NotEnrolled {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A file, or the folder.
    #[error("{} cannot be used: {error}; look at the folder and its permissions", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not what this program wrote.
    #[error("{} is damaged: {detail}; enroll the node anew", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another process has the folder.
    #[error(
        "another node works in {}; end it, or name another folder by --state",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Another process makes a key there.
    #[error("another process enrolls the node of {} at this moment; try again", path.display())]
    Enrolling {
        /// The folder.
        path: PathBuf,
    },
    /// Its key.
    #[error(transparent)]
    Key(#[from] OwnKeyError),
    /// The hub.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What its hub calls it.
    pub name: String,
    /// Where the hub is, as `ssh://HOST:PORT`.
    pub hub: String,
}

/// The folder of a node.
#[derive(Clone, Debug)]
pub struct NodeFolder {
    path: PathBuf,
}

impl NodeFolder {
    /// A folder that is there, or will be made.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Makes this machine a node of a hub, with a new key: the key and the hub that it had before
    /// are forgotten once the hub has taken the new one.
    ///
    /// # Errors
    /// [`NodeError`]; what was there before stays then, unless a file could not be written after
    /// the hub had taken the key.
    pub fn enroll(
        &self,
        hub: &TunnelAddress,
        code: &EnrollmentCode,
        deadline: Duration,
    ) -> Result<NodeRecord, NodeError> {
        self.make()?;
        let busy = NodeError::Enrolling { path: self.path.clone() };
        let _alone = self.lock(ENROLL_LOCK_FILE, busy)?;
        let key = OwnKey::make_anew(&self.path.join(NEW_KEY_FILE))?;
        let result = self.enroll_with(&key, hub, code, deadline);
        if result.is_err() {
            // It opens nothing here; and what cannot be removed is replaced by the next one.
            let _left = fs::remove_file(self.path.join(NEW_KEY_FILE));
        }
        result
    }

    /// Shows a key to a hub, and keeps it, and who the hub is, once the hub has taken it.
    fn enroll_with(
        &self,
        key: &OwnKey,
        hub: &TunnelAddress,
        code: &EnrollmentCode,
        deadline: Duration,
    ) -> Result<NodeRecord, NodeError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.failed("", error))?;
        let hub_key = runtime.block_on(enroll(hub, code, key, deadline))?;
        // The first: the hub knows no other key of this node now.
        self.keep_new_key()?;
        let hub = TunnelAddress { user: None, ..hub.clone() };
        let known = format!("{} {}\n", hub.known_hosts_name(), hub_key.openssh());
        self.write(HUB_KEYS_FILE, known.as_bytes())?;
        let record = NodeRecord { name: code.node().to_owned(), hub: hub.to_string() };
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|error| self.failed(RECORD_FILE, error.into()))?;
        self.write(RECORD_FILE, &text)?;
        Ok(record)
    }

    fn keep_new_key(&self) -> Result<(), NodeError> {
        fs::rename(self.path.join(NEW_KEY_FILE), self.path.join(KEY_FILE))
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(|error| self.failed(KEY_FILE, error))
    }

    fn make(&self) -> Result<(), NodeError> {
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.path);
        made.map_err(|error| self.failed("", error))
    }

    /// Takes the folder, for one process at a time, until the file is dropped.
    ///
    /// # Errors
    /// [`NodeError::InUse`], or what kept it from being made or locked.
    pub(super) fn take(&self) -> Result<File, NodeError> {
        self.make()?;
        self.lock(LOCK_FILE, NodeError::InUse { path: self.path.clone() })
    }

    /// A lock until the file is dropped; `busy` where another process has it.
    fn lock(&self, name: &str, busy: NodeError) -> Result<File, NodeError> {
        let lock = lock_file(&self.path.join(name)).map_err(|error| self.failed(name, error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(lock),
            Err(Errno::WOULDBLOCK) => Err(busy),
            Err(error) => Err(self.failed(name, error.into())),
        }
    }

    /// Where the files of jobs are while they run.
    pub(super) fn jobs(&self) -> PathBuf {
        self.path.join(JOBS_FOLDER)
    }

    /// Who this node is.
    ///
    /// # Errors
    /// [`NodeError::NotEnrolled`], or what kept it from being read.
    pub fn record(&self) -> Result<NodeRecord, NodeError> {
        let path = self.path.join(RECORD_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NodeError::NotEnrolled { path });
            }
            Err(error) => return Err(NodeError::File { path, error }),
        };
        serde_json::from_slice(&text)
            .map_err(|error| NodeError::Damaged { path, detail: error.to_string() })
    }

    /// How the node reaches its hub.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn tunnel(&self) -> Result<TunnelSettings, NodeError> {
        let record = self.record()?;
        let address = record.hub.parse().map_err(|detail| {
            let path = self.path.join(RECORD_FILE);
            NodeError::Damaged { path, detail }
        })?;
        let (key, known) = (self.path.join(KEY_FILE), self.path.join(HUB_KEYS_FILE));
        Ok(TunnelSettings::new(address, record.name, key, known))
    }

    /// Whole or not at all.
    fn write(&self, name: &'static str, text: &[u8]) -> Result<(), NodeError> {
        let write = || {
            let mut file = NamedTempFile::new_in(&self.path)?;
            file.write_all(text)?;
            file.as_file().sync_all()?;
            file.persist(self.path.join(name)).map_err(|error| error.error)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| self.failed(name, error))
    }

    fn failed(&self, name: &str, error: io::Error) -> NodeError {
        NodeError::File { path: self.path.join(name), error }
    }
}

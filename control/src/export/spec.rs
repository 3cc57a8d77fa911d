//! What is to be exported, and how.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::cache::CacheChoice;
use super::heap;
use super::listener::Listener;

/// Time from the start of the process to the end of the first handshake. It opens the image and
/// the files below it, a read each: milliseconds, unless the storage is asleep.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Time from SIGTERM to SIGKILL: enough to write out what a slow disk has in its cache.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// What may be done to an image through its export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportAccess {
    /// It is read. Several exports may do so at once.
    ReadOnly,
    /// It is written.
    Writable,
    /// It can be written for as long as the export lives; the image stays as it is. The writes go
    /// to a file without a name in `folder`, which is gone with the process whatever its end.
    ThrowAway {
        /// A folder with room for the writes, on a real disk rather than in memory.
        folder: PathBuf,
    },
}

/// One export.
#[derive(Debug)]
pub struct ExportSpec {
    /// A qcow2 file.
    pub image: PathBuf,
    /// Name of the export, at most 4096 bytes.
    pub name: String,
    /// Where it listens.
    pub listener: Listener,
    /// What may be done to it.
    pub access: ExportAccess,
    /// Connections that it is made for. Two more are let in: for a probe, and for one that takes
    /// the place of another that the server has not yet noticed to be gone.
    pub connections: u16,
}

/// How exports are run; the same for all of a process.
#[derive(Clone, Debug)]
pub struct ExportSettings {
    /// qemu-nbd, by name or path.
    pub program: OsString,
    /// Deadline for being ready.
    pub start_deadline: Duration,
    /// Deadline for ending in order.
    pub end_deadline: Duration,
    /// Exports that may run at once, which share `heap_bytes`.
    pub exports_at_once: u16,
    /// Memory that the exports together may hold for requests, in bytes.
    pub heap_bytes: u64,
    /// Whether the cache of the file system is used. Clones share what was found by trying.
    pub cache: CacheChoice,
}

impl ExportSettings {
    /// The settings for this many exports at once, which may hold half of the machine's memory.
    #[must_use]
    pub fn for_exports(exports_at_once: u16) -> Self {
        Self {
            program: "qemu-nbd".into(),
            start_deadline: START_DEADLINE,
            end_deadline: END_DEADLINE,
            exports_at_once,
            heap_bytes: heap::default_bytes(),
            cache: CacheChoice::default(),
        }
    }
}

//! Why the catalog did not do what it was asked for, and what to do then.

use std::path::PathBuf;

use super::id::{DiskId, JobId, LayerId, LeaseId, PointId};
use super::job::JobState;
use super::lease::Claim;
use super::name::{DiskName, IdempotencyKey, ValueError, VmName};

/// A request that the catalog refused, or could not carry out. Either way nothing of it was done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The file, or what it is on.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A value that the catalog does not take.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// No job of that id here.
    #[error("there is no job {0} in this catalog; list the jobs to see which there are")]
    NoSuchJob(JobId),
    /// No point of that id here.
    #[error(
        "there is no restore point {0} in this repository; list the points to see which there are"
    )]
    NoSuchPoint(PointId),
    /// No layer of that id here.
    #[error("there is no layer {0} in this repository; was its point deleted?")]
    NoSuchLayer(LayerId),
    /// No disk of that id here.
    #[error("there is no disk {0} in this repository; ask for the disk by its VM and name first")]
    NoSuchDisk(DiskId),
    /// A state that does not follow on the one before.
    #[error("job {job} is {from} and cannot become {to}{}", if from.is_over() { "; start a new one" } else { "" })]
    IllegalStep {
        /// The job.
        job: JobId,
        /// Its state, which it keeps.
        from: JobState,
        /// What was asked for.
        to: JobState,
    },
    /// An idempotency key that stands for something else.
    #[error(
        "idempotency key \"{key}\" stands for job {job} of VM \"{vm}\", asked for in another way; use a new key for a new job"
    )]
    KeyReused {
        /// The key.
        key: IdempotencyKey,
        /// The job that it gave.
        job: JobId,
        /// That job's VM.
        vm: VmName,
    },
    /// A job that is over takes no lease.
    #[error("job {job} is {state} and can lease nothing; start a new one")]
    JobOver {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
    /// Somebody has it.
    #[error("{claim} is leased to job {owner}; wait for that job, or cancel it")]
    Taken {
        /// What was asked for.
        claim: Claim,
        /// Who has it.
        owner: JobId,
    },
    /// Every port of the range is leased.
    #[error("all ports from {first} to {last} are leased; wait for a job to end")]
    NoFreePort {
        /// The lowest one.
        first: u16,
        /// The highest one.
        last: u16,
    },
    /// A lease that is not, or no more.
    #[error("there is no lease {0}; it was released before, and a second time frees nothing")]
    NoSuchLease(LeaseId),
    /// A lease of another job.
    #[error(
        "lease {lease} is that of job {owner}, not of job {asked}; only its owner can release it"
    )]
    NotOwner {
        /// The lease, which stays.
        lease: LeaseId,
        /// Who has it.
        owner: JobId,
        /// Who asked.
        asked: JobId,
    },
    /// A point that breaks a rule.
    #[error("cannot publish point {point}: {rule}")]
    Unpublishable {
        /// The point.
        point: PointId,
        /// The rule.
        rule: PublishRule,
    },
    /// A job publishes one point.
    #[error("job {job} has published point {point} before; that one stands")]
    Published {
        /// The job.
        job: JobId,
        /// What it published.
        point: PointId,
    },
    /// A point that others need.
    #[error("cannot delete point {point}: layers of {} stand on it; delete {} first, the newest first", list(by), if by.len() == 1 { "that" } else { "those" })]
    StoodOn {
        /// The point.
        point: PointId,
        /// The points that stand on it directly, in the order in which they were published.
        by: Vec<PointId>,
    },
}

fn list(points: &[PointId]) -> String {
    let words: Vec<&str> = points.iter().map(PointId::as_str).collect();
    words.join(", ")
}

/// What a point must be to be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishRule {
    /// Nothing in it.
    #[error("it has no layer; a point has one for each disk")]
    Empty,
    /// A disk is in it twice.
    #[error("it has two layers of disk {0}; a point has one for each disk")]
    DiskTwice(DiskId),
    /// Two disks of one name.
    #[error("two of its disks are called \"{0}\"; give each a name of its own")]
    NameTwice(DiskName),
    /// Not this VM's.
    #[error("disk {disk} is that of VM \"{vm}\"; a point has the disks of one VM")]
    OtherVm {
        /// The disk.
        disk: DiskId,
        /// Whose it is.
        vm: VmName,
    },
    /// A full stands on nothing.
    #[error("layer {layer} is a full and has layer {parent} as its parent; plan it anew")]
    FullWithParent {
        /// The layer.
        layer: LayerId,
        /// Its parent.
        parent: LayerId,
    },
    /// A delta stands on something.
    #[error("layer {0} is a delta without a parent; make a full")]
    DeltaWithoutParent(LayerId),
    /// The disk has moved on, or back.
    #[error(
        "layer {layer} stands on {parent}, and the newest published layer of disk {disk} is {}; plan it anew",
        newest.map_or_else(|| "none".to_owned(), |newest| newest.to_string())
    )]
    NotOnNewest {
        /// The layer.
        layer: LayerId,
        /// Its disk.
        disk: DiskId,
        /// Its parent.
        parent: LayerId,
        /// What its parent would have to be.
        newest: Option<LayerId>,
    },
    /// More bytes than a disk has.
    #[error("layer {0} counts more than 2^63 bytes; no disk has so many")]
    TooLarge(LayerId),
    /// An id or a path that is not new.
    #[error(
        "layer {0}, or a file of it, is in the repository already; each layer has an id and files of its own"
    )]
    LayerTwice(LayerId),
    /// The point's own id.
    #[error("a point of this id is published already; take a new one")]
    PointTwice,
    /// The job is not there yet, or not any more.
    #[error("its job {job} is {state}; it has to be publishing")]
    JobElsewhere {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
}

/// What is wrong with the file of a catalog, or with the disk below.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Nothing there.
    #[error(
        "there is no catalog at {path}; is this the folder of a repository? The first backup makes one"
    )]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// Something there that a copy would have replaced.
    #[error("{path} exists and is left alone; remove it, or choose another place for the copy")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Another program's file.
    #[error(
        "{path} is no catalog of blockferry: {what}; it is left alone: move it away, or choose another folder"
    )]
    NotACatalog {
        /// Which.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Of a later program.
    #[error(
        "the catalog {path} has version {found}, and this program knows versions up to {known}; use the newer blockferry that wrote it"
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The last one that is known here.
        known: u32,
    },
    /// Another process holds it.
    #[error(
        "the catalog {path} was held by another process for {waited_s} s; see which with `fuser -v {path}`, and try again when it goes on or has ended"
    )]
    Busy {
        /// Which.
        path: PathBuf,
        /// For how long it was waited.
        waited_s: u64,
    },
    /// No room.
    #[error(
        "no room is left for the catalog {path}; free some on its file system (and look at its quota), then try again: what is published is whole"
    )]
    Full {
        /// Which.
        path: PathBuf,
    },
    /// Not writable.
    #[error(
        "the catalog {path} cannot be written: {detail}; make its folder, its file and their file system writable for this user"
    )]
    ReadOnly {
        /// Which.
        path: PathBuf,
        /// What was said.
        detail: String,
    },
    /// Not readable, or not to be made.
    #[error(
        "the catalog {path} cannot be opened: {detail}; look at the folder, the permissions and the number of open files"
    )]
    Denied {
        /// Which.
        path: PathBuf,
        /// What was said.
        detail: String,
    },
    /// Damaged.
    #[error(
        "the catalog {path} is damaged: {detail}; stop what uses it, and put a copy of it in its place"
    )]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The disk below.
    #[error("the disk of the catalog {path} failed: {detail}; look at the kernel's log")]
    Disk {
        /// Which.
        path: PathBuf,
        /// What was said.
        detail: String,
    },
    /// No write-ahead log, which needs memory shared by all who have the file open.
    #[error(
        "the file system of {path} cannot keep a write-ahead log; put the repository on a local one"
    )]
    NoLog {
        /// Which.
        path: PathBuf,
    },
    /// Anything else that SQLite says.
    #[error(
        "the catalog {path} failed: {detail}; this is a defect of blockferry, please report it"
    )]
    Other {
        /// Which.
        path: PathBuf,
        /// What was said.
        detail: String,
    },
}

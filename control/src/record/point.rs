//! Points, as they are told.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::catalog::{LayerKind, PointNote, UnixMillis};
use crate::reading::{DamagedFile, ListedDisk, ListedPoint};

/// A restore point.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct PointRecord {
    /// Its id.
    #[schema(example = "01kat0h4m2f6q8r0s2")]
    pub id: String,
    /// The VM.
    pub vm: String,
    /// The instant that it shows: milliseconds since 1970.
    pub created_ms: u64,
    /// When it was published.
    pub published_ms: u64,
    /// full, incremental, or mixed.
    pub mode: String,
    /// What was asked for: auto, full or incremental.
    pub asked: String,
    /// The job that made it.
    pub job: String,
    /// The repository of a hub that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Bytes of its disks.
    pub size: u64,
    /// What its own layers take on disk.
    pub stored: u64,
    /// Layers of the longest chain.
    pub chain: usize,
    /// `whole`, or `damaged`: files are missing, were found damaged, or they have
    /// another length than they had. What is in them is not looked at for this.
    pub state: String,
    /// What the VM is known by, whatever it is called, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_uuid: Option<String>,
    /// What whoever restores it should know.
    #[serde(default)]
    pub notes: Vec<NoteRecord>,
    /// Its disks, by their names.
    pub disks: Vec<DiskRecord>,
}

/// Something that is noted of a point.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct NoteRecord {
    /// note (how it was made), warning (what it lacks), or alarm (what was found wrong).
    pub weight: String,
    /// What, in one line.
    pub says: String,
}

/// A disk of a point.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct DiskRecord {
    /// Its name.
    pub name: String,
    /// Its layer.
    pub layer: String,
    /// full or incremental.
    pub mode: String,
    /// Why that.
    pub reason: String,
    /// The point that an incremental one stands on.
    pub parent: Option<String>,
    /// Exact size in bytes.
    pub size: u64,
    /// What its layer takes on disk.
    pub stored: u64,
    /// Its image, in the repository.
    pub file: String,
    /// What its copy moved.
    pub bytes: KeptBytesRecord,
    /// The layers of its chain, itself first.
    pub chain: Vec<LayerRecord>,
    /// Files of the chain that are not there.
    pub missing: Vec<String>,
    /// Files of the chain that were found damaged, or that have another length than they
    /// were published with.
    #[serde(default)]
    pub damaged: Vec<DamagedFileRecord>,
}

/// A damaged file of a chain.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct DamagedFileRecord {
    /// The image, in the repository.
    pub file: String,
    /// What is wrong with it.
    pub says: String,
    /// When that was found: milliseconds since 1970. Nothing where it is seen now.
    pub found_ms: Option<u64>,
}

/// Bytes of the copy that made a layer, apart.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct KeptBytesRecord {
    /// Read from the source.
    pub read: u64,
    /// Found to be zero.
    pub zero: u64,
    /// Sent as data.
    pub sent: u64,
    /// Left alone, for they are in the layer below.
    pub skipped: u64,
}

/// A layer of a chain.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct LayerRecord {
    /// Its id.
    pub layer: String,
    /// The point that it belongs to.
    pub point: String,
    /// What it takes on disk.
    pub stored: u64,
}

impl From<&ListedPoint> for PointRecord {
    fn from(listed: &ListedPoint) -> Self {
        let sum = |bytes: fn(&ListedDisk) -> u64| listed.disks.iter().map(bytes).sum();
        Self {
            id: listed.point.id.to_string(),
            vm: listed.point.vm.to_string(),
            created_ms: listed.point.created.get(),
            published_ms: listed.point.published.get(),
            mode: mode(listed).into(),
            asked: listed.point.mode.to_string(),
            job: listed.point.job.to_string(),
            repository: None,
            size: sum(|disk| disk.layer().facts.size_bytes),
            stored: sum(|disk| disk.layer().facts.stored_bytes),
            chain: listed.disks.iter().map(|disk| disk.chain.len()).max().unwrap_or(0),
            state: if listed.is_whole() { "whole" } else { "damaged" }.into(),
            vm_uuid: listed.point.vm_uuid.as_ref().map(ToString::to_string),
            notes: listed.notes.iter().map(NoteRecord::from).collect(),
            disks: listed.disks.iter().map(DiskRecord::from).collect(),
        }
    }
}

impl From<&PointNote> for NoteRecord {
    fn from(note: &PointNote) -> Self {
        Self { weight: note.weight.to_string(), says: note.says.clone() }
    }
}

/// What its layers are together.
fn mode(listed: &ListedPoint) -> &'static str {
    let deltas =
        listed.disks.iter().filter(|disk| disk.layer().facts.kind == LayerKind::Delta).count();
    match deltas {
        0 => "full",
        all if all == listed.disks.len() => "incremental",
        _ => "mixed",
    }
}

impl From<&ListedDisk> for DiskRecord {
    fn from(disk: &ListedDisk) -> Self {
        let facts = &disk.layer().facts;
        let chain = disk.chain.iter().map(|layer| LayerRecord {
            layer: layer.facts.id.to_string(),
            point: layer.point.to_string(),
            stored: layer.facts.stored_bytes,
        });
        Self {
            name: disk.layer().disk_name.to_string(),
            layer: facts.id.to_string(),
            mode: facts.kind.mode().to_string(),
            reason: facts.reason.clone(),
            parent: disk.parent().map(|point| point.to_string()),
            size: facts.size_bytes,
            stored: facts.stored_bytes,
            file: facts.path.to_string(),
            bytes: KeptBytesRecord {
                read: facts.counts.read,
                zero: facts.counts.zero,
                sent: facts.counts.sent,
                skipped: facts.counts.skipped,
            },
            chain: chain.collect(),
            missing: disk.missing.iter().map(ToString::to_string).collect(),
            damaged: disk.damaged.iter().map(DamagedFileRecord::from).collect(),
        }
    }
}

impl From<&DamagedFile> for DamagedFileRecord {
    fn from(damaged: &DamagedFile) -> Self {
        Self {
            file: damaged.file.to_string(),
            says: damaged.says.clone(),
            found_ms: damaged.found.map(UnixMillis::get),
        }
    }
}

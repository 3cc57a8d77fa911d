//! A VM as a test and its guest hold it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::content::{Content, DiskContent, Tracking};
use super::fault::Fault;
use super::machine::NewDisk;
use super::reconfigure;
use super::shared::{Shared, lock};
use super::snapshots::stun;
use super::world::Machine;

/// A VM; it may be gone from the server, and then everything fails.
#[derive(Clone, Debug)]
pub struct VirtualMachine {
    pub(super) shared: Arc<Shared>,
    pub(super) id: String,
}

/// A snapshot as it is in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSeen {
    /// `snapshot-64`.
    pub id: String,
    /// The name.
    pub name: String,
    /// The description.
    pub description: String,
    /// Whether the guest was quiesced.
    pub quiesced: bool,
    /// The copies of the disks, by device key.
    pub copies: BTreeMap<i32, PathBuf>,
}

impl VirtualMachine {
    pub(crate) fn new(shared: &Arc<Shared>, id: String) -> Self {
        Self { shared: Arc::clone(shared), id }
    }

    /// Its moref: `vm-57`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its disks by device key, with their sizes in bytes.
    pub fn disks(&self) -> io::Result<BTreeMap<i32, u64>> {
        self.look(|machine| machine.disks.values().map(|disk| (disk.key, disk.capacity)).collect())
    }

    /// The name of the file that a disk is written to now: `[datastore1] web/web.vmdk`.
    pub fn file(&self, key: i32) -> io::Result<String> {
        self.look(|machine| machine.disks.get(&key).map(|disk| disk.file().to_owned()))?
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The raw file of a disk.
    pub fn path(&self, key: i32) -> io::Result<PathBuf> {
        self.look(|machine| machine.disks.get(&key).map(|disk| disk.path.clone()))?
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The guest writes to one disk.
    pub fn write(&self, key: i32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all(&[(key, offset, bytes)])
    }

    /// The guest writes in several places, and no snapshot comes between.
    pub fn write_all(&self, writes: &[(i32, u64, &[u8])]) -> io::Result<()> {
        let content = self.content()?;
        let mut content = lock(&content);
        for (key, offset, bytes) in writes {
            let disk = content.disks.get_mut(key);
            disk.ok_or(io::ErrorKind::NotFound)?.write(*offset, bytes)?;
        }
        Ok(())
    }

    /// The guest writes, and changed block tracking misses it, as it has done in the past: what
    /// an audit is there to find.
    pub fn write_unseen(&self, key: i32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with_disk(key, |disk| disk.write_unseen(offset, bytes))
    }

    /// An area counts as changed though it is as before: the guest wrote what was there.
    pub fn touch(&self, key: i32, offset: u64, length: u64) -> io::Result<()> {
        self.with_disk(key, |disk| disk.touch(offset, length))
    }

    /// The guest reads.
    pub fn read(&self, key: i32, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let content = self.content()?;
        let content = lock(&content);
        let disk = content.disks.get(&key).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; length];
        File::open(&disk.path)?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Its snapshots, the oldest first.
    pub fn snapshots(&self) -> io::Result<Vec<SnapshotSeen>> {
        self.look(|machine| {
            let seen = machine.snapshots.iter().map(|snapshot| SnapshotSeen {
                id: snapshot.id.clone(),
                name: snapshot.name.clone(),
                description: snapshot.description.clone(),
                quiesced: snapshot.quiesced,
                copies: snapshot
                    .copies
                    .iter()
                    .map(|(key, copy)| (*key, copy.path.clone()))
                    .collect(),
            });
            seen.collect()
        })
    }

    /// What people read about it.
    pub fn annotation(&self) -> io::Result<String> {
        self.look(|machine| machine.annotation.clone())
    }

    /// Whether tracking is enabled.
    pub fn is_tracked(&self) -> io::Result<bool> {
        self.look(|machine| machine.tracking_asked)
    }

    /// Whether its disks need consolidation.
    pub fn needs_consolidation(&self) -> io::Result<bool> {
        self.look(|machine| machine.consolidation_needed)
    }

    /// Says that its disks need consolidation, or that they do not.
    pub fn set_consolidation_needed(&self, needed: bool) -> io::Result<()> {
        self.change(|machine| machine.consolidation_needed = needed)
    }

    /// Whether it runs.
    pub fn is_on(&self) -> io::Result<bool> {
        self.look(|machine| machine.powered_on)
    }

    /// Switches it on or off, as its user does. Tracking that was asked for begins when it starts.
    pub fn power(&self, on: bool) -> io::Result<()> {
        self.change(|machine| machine.powered_on = on)?;
        if on { stun(&self.shared, &self.id).map_err(failed) } else { Ok(()) }
    }

    /// VMware Tools run in it, or do not.
    pub fn set_tools(&self, running: bool) -> io::Result<()> {
        self.change(|machine| machine.tools_running = running)
    }

    /// All that was tracked is lost, as after a host fails: change ids are of a new line.
    pub fn reset_tracking(&self) -> io::Result<()> {
        let content = self.content()?;
        let keys = self.disks()?.into_keys();
        let uuids: Vec<(i32, String)> = {
            let mut world = self.shared.world();
            keys.map(|key| (key, world.draw.change_uuid())).collect()
        };
        let mut ids = BTreeMap::new();
        for (key, uuid) in uuids {
            let mut content = lock(&content);
            let Some(disk) = content.disks.get_mut(&key) else { continue };
            if disk.tracking.is_some() {
                let tracking = disk.tracking.insert(Tracking::new(uuid));
                ids.insert(key, tracking.next_change_id());
            }
        }
        self.change(|machine| {
            for (key, id) in ids {
                if let Some(disk) = machine.disks.get_mut(&key) {
                    disk.change_id = Some(id);
                }
            }
        })
    }

    /// Makes a disk larger; as with the real ones, not while there is a snapshot.
    pub fn grow(&self, key: i32, capacity: u64) -> io::Result<()> {
        reconfigure::grow(&self.shared, &self.id, key, capacity).map_err(failed)
    }

    /// Adds a disk; returns its key.
    pub fn add_disk(&self, disk: &NewDisk) -> io::Result<i32> {
        let before = self.disks()?;
        reconfigure::add(&self.shared, &self.id, disk, None).map_err(failed)?;
        let mut after = self.disks()?.into_keys();
        Ok(after.find(|key| !before.contains_key(key)).expect("it was added"))
    }

    /// Removes a disk and its file.
    pub fn remove_disk(&self, key: i32) -> io::Result<()> {
        reconfigure::remove(&self.shared, &self.id, key, true).map_err(failed)
    }

    fn with_disk<T>(
        &self,
        key: i32,
        work: impl FnOnce(&mut DiskContent) -> io::Result<T>,
    ) -> io::Result<T> {
        let content = self.content()?;
        let mut content = lock(&content);
        work(content.disks.get_mut(&key).ok_or(io::ErrorKind::NotFound)?)
    }

    pub(super) fn content(&self) -> io::Result<Arc<Mutex<Content>>> {
        self.look(|machine| Arc::clone(&machine.content))
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> io::Result<T> {
        self.shared.world().machine(&self.id).map(look).map_err(failed)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Machine)) -> io::Result<()> {
        let changed = self.shared.change(|world| {
            change(world.machine_mut(&self.id)?);
            Ok(())
        });
        changed.map_err(failed)
    }
}

pub(super) fn failed(fault: Fault) -> io::Error {
    io::Error::other(format!("{}: {}", fault.kind, fault.message))
}

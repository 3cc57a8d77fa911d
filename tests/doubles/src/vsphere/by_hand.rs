//! What people do to a VM, by the client that they have for it, and what befalls its disks.

use std::io;

use super::content::DiskContent;
use super::places::{FIRST_DISK_KEY, UNITS};
use super::reconfigure::track;
use super::revert::go_back;
use super::shared::lock;
use super::snapshots::{Order, drop_snapshots, make};
use super::value::Value;
use super::virtual_machine::{VirtualMachine, failed};
use super::world::Disk;

impl VirtualMachine {
    /// Somebody makes a snapshot; returns its id.
    pub fn take_snapshot(&self, name: &str) -> io::Result<String> {
        let order = Order { name: name.to_owned(), description: String::new(), quiesce: false };
        match make(&self.shared, &self.id, order).map_err(failed)? {
            Value::Reference(snapshot) => Ok(snapshot.id),
            _ => unreachable!("a snapshot that is made is referred to"),
        }
    }

    /// Somebody removes a snapshot.
    pub fn remove_snapshot(&self, id: &str) -> io::Result<()> {
        drop_snapshots(&self.shared, &self.id, &[id.to_owned()], true).map_err(failed).map(drop)
    }

    /// Somebody goes back to a snapshot; the VM is off afterwards.
    pub fn revert_to(&self, id: &str) -> io::Result<()> {
        go_back(&self.shared, &self.id, id).map_err(failed).map(drop)
    }

    /// Somebody turns tracking on, which counts from the next stun on, or off.
    pub fn set_tracking(&self, on: bool) -> io::Result<()> {
        track(&self.shared, &self.id, on).map_err(failed)
    }

    /// What a disk is the same disk by.
    pub fn disk_uuid(&self, key: i32) -> io::Result<String> {
        self.look(|machine| machine.disks.get(&key).map(|disk| disk.uuid.clone()))?
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A disk comes to another unit of its controller, which makes it another device with another
    /// label. Its tracking goes on. Returns its new key.
    pub fn move_to_unit(&self, key: i32, unit: i32) -> io::Result<i32> {
        let (disk, content) = self.take_out(key)?;
        self.put_in(Disk { unit, key: FIRST_DISK_KEY + unit, ..disk }, content)
    }

    /// A disk comes into another VM, with its file and its tracking. Returns its key there.
    pub fn give_disk(&self, key: i32, to: &Self) -> io::Result<i32> {
        let there = to.disks()?;
        let free = |unit: &i32| !there.contains_key(&(FIRST_DISK_KEY + unit));
        let unit = (0..UNITS).find(free).ok_or(io::ErrorKind::StorageFull)?;
        let (disk, content) = self.take_out(key)?;
        to.put_in(Disk { unit, key: FIRST_DISK_KEY + unit, ..disk }, content)
    }

    fn take_out(&self, key: i32) -> io::Result<(Disk, DiskContent)> {
        let content = self.content()?;
        let bytes = lock(&content).disks.remove(&key).ok_or(io::ErrorKind::NotFound)?;
        let mut taken = None;
        self.change(|machine| taken = machine.disks.remove(&key))?;
        Ok((taken.ok_or(io::ErrorKind::NotFound)?, bytes))
    }

    fn put_in(&self, disk: Disk, bytes: DiskContent) -> io::Result<i32> {
        let key = disk.key;
        let content = self.content()?;
        lock(&content).disks.insert(key, bytes);
        self.change(|machine| {
            machine.disks.insert(key, disk);
        })?;
        Ok(key)
    }
}

//! What people do to a VM, by the client that they have for it, and what befalls its disks.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::content::DiskContent;
use super::fault::Fault;
use super::places::{FIRST_DISK_KEY, UNITS};
use super::reconfigure::track;
use super::revert::go_back;
use super::shared::{Shared, lock};
use super::snapshots::{Order, drop_snapshots, make, snapshot_name};
use super::value::{Kind, Reference, Value};
use super::virtual_machine::{VirtualMachine, failed};
use super::world::{Disk, Machine};

/// A VM that is in no inventory; its files are where they were.
#[derive(Debug)]
pub struct Unregistered {
    shared: Arc<Shared>,
    machine: Machine,
}

impl Unregistered {
    /// Somebody registers it again: it has another id, and so have its snapshots.
    pub fn register(self) -> io::Result<VirtualMachine> {
        let Self { shared, mut machine } = self;
        let made = shared.change(|world| {
            let id = world.name("vm");
            let mut anew = BTreeMap::new();
            for snapshot in &mut machine.snapshots {
                let name = snapshot_name(world, &id);
                anew.insert(std::mem::replace(&mut snapshot.id, name.clone()), name.clone());
                world.snapshots.insert(name, id.clone());
            }
            let parents = machine.snapshots.iter_mut().map(|snapshot| &mut snapshot.parent);
            for known in parents.chain([&mut machine.current]) {
                *known = known.as_ref().and_then(|old| anew.get(old).cloned());
            }
            if let Some(folder) = world.folders.get_mut(&machine.folder) {
                folder.children.push(Reference::new(Kind::VirtualMachine, &id));
            }
            world.machines.insert(id.clone(), machine);
            Ok(id)
        });
        Ok(VirtualMachine::new(&shared, made.map_err(failed)?))
    }
}

impl VirtualMachine {
    /// Somebody takes it out of the inventory.
    pub fn unregister(&self) -> io::Result<Unregistered> {
        let machine = self.shared.change(|world| {
            let missing = || Fault::not_found(&Reference::new(Kind::VirtualMachine, &self.id));
            let machine = world.machines.remove(&self.id).ok_or_else(missing)?;
            world.snapshots.retain(|_, owner| *owner != self.id);
            if let Some(folder) = world.folders.get_mut(&machine.folder) {
                folder.children.retain(|child| child.id != self.id);
            }
            Ok(machine)
        });
        Ok(Unregistered { shared: Arc::clone(&self.shared), machine: machine.map_err(failed)? })
    }

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

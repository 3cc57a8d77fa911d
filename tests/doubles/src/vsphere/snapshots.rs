//! Snapshots: made and removed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::call::Call;
use super::content::{Content, Tracking};
use super::fault::Fault;
use super::shared::{Shared, lock};
use super::task;
use super::trouble::Trouble;
use super::value::{Kind, Reference, Value};
use super::world::{Copy, Machine, Snapshot, World};

/// What a snapshot is to be.
pub(crate) struct Order {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) quiesce: bool,
}

pub(crate) fn create(call: &Call<'_>) -> Result<Value, Fault> {
    let quiesce = call.boolean("quiesce");
    begin(call, "CreateSnapshot_Task", quiesce)
}

pub(crate) fn create_ex(call: &Call<'_>) -> Result<Value, Fault> {
    let spec = call.arguments.child("quiesceSpec");
    let timeout = spec.and_then(|spec| spec.text_of("timeout")?.trim().parse::<i32>().ok());
    if timeout.is_some_and(|minutes| !(5..=240).contains(&minutes)) {
        return Err(Fault::invalid_argument("quiesceSpec.timeout"));
    }
    begin(call, "CreateSnapshotEx_Task", spec.is_some())
}

fn begin(call: &Call<'_>, method: &'static str, quiesce: bool) -> Result<Value, Fault> {
    let order = Order {
        name: call.text("name").to_owned(),
        description: call.text("description").to_owned(),
        quiesce,
    };
    if call.boolean("memory") {
        // Nothing here has a memory.
        return Err(Fault::new("NotSupported", "The operation is not supported on the object."));
    }
    let id = call.this.id.clone();
    task::start(call.shared, method, &call.this.id, move |shared| make(shared, &id, order))
}

pub(crate) fn make(shared: &Arc<Shared>, machine: &str, order: Order) -> Result<Value, Fault> {
    let quiesced = can_start(shared, machine, order.quiesce)?;
    let (id, content, keys) = shared.change(|world| {
        let id = snapshot_name(world, machine);
        let machine = world.machine(machine)?;
        let reached = machine.disks.values().filter(|disk| disk.is_in_snapshots());
        let keys: Vec<i32> = reached.map(|disk| disk.key).collect();
        Ok((id, Arc::clone(&machine.content), keys))
    })?;
    let copies = copy_all(&mut lock(&content), &keys, |key| {
        shared.folder.join(format!("{machine}-{id}-{key}.raw"))
    });
    let copies = copies.map_err(|error| Fault::new("SystemError", error.to_string()))?;
    shared.change(|world| {
        let at = world.machine_mut(machine)?;
        enter(at, &id, order, quiesced, copies);
        world.snapshots.insert(id.clone(), machine.to_owned());
        Ok(())
    })?;
    stun(shared, machine)?;
    if shared.trouble(|trouble| matches!(trouble, Trouble::SnapshotHalfway)).is_some() {
        let message = "An error occurred while taking a snapshot: the host did not answer in time.";
        return Err(Fault::new("Timedout", message));
    }
    Ok(Value::Reference(Reference::new(Kind::VirtualMachineSnapshot, id)))
}

pub(crate) fn snapshot_name(world: &mut World, machine: &str) -> String {
    match world.flavour {
        super::Flavour::Vcenter => world.name("snapshot"),
        super::Flavour::Esxi => format!("{machine}-snapshot-{}", world.name("")),
    }
}

/// Whether a snapshot may be made now, and whether it will be quiesced.
fn can_start(shared: &Shared, machine: &str, quiesce: bool) -> Result<bool, Fault> {
    let (maintenance, powered_on, tools) = {
        let world = shared.world();
        let machine = world.machine(machine)?;
        let host = world.hosts.get(&machine.host);
        let maintenance = host.is_some_and(|host| host.maintenance);
        (maintenance, machine.powered_on, machine.tools_running)
    };
    if maintenance {
        let message = "The operation is not allowed in the current state of the host.";
        return Err(Fault::new("InvalidState", message));
    }
    let quiesced = quiesce && powered_on;
    let fails = || shared.trouble(|trouble| matches!(trouble, Trouble::QuiesceFails)).is_some();
    if quiesced && (!tools || fails()) {
        let message = "An error occurred while quiescing the virtual machine. See the virtual \
                       machine's event log for details.";
        return Err(Fault::new("ApplicationQuiesceFault", message));
    }
    Ok(quiesced)
}

/// Copies the disks, all in one instant of the guest; what is there of it after an error goes.
fn copy_all(
    content: &mut Content,
    keys: &[i32],
    path: impl Fn(i32) -> PathBuf,
) -> io::Result<BTreeMap<i32, Copy>> {
    let mut copies = BTreeMap::new();
    for key in keys {
        let disk = content.disks.get_mut(key).expect("a disk of the VM has content");
        let path = path(*key);
        if let Err(error) = disk.copy_to(&path) {
            for copy in copies.values().map(|copy: &Copy| &copy.path).chain([&path]) {
                // One that was not made cannot be removed.
                let _ = fs::remove_file(copy);
            }
            return Err(error);
        }
        copies.insert(*key, Copy { path, tracking: None });
    }
    for (key, copy) in &mut copies {
        let disk = content.disks.get_mut(key).expect("it was copied");
        if let Some(tracking) = &mut disk.tracking {
            tracking.number += 1;
            copy.tracking = Some(Arc::new(tracking.clone()));
        }
    }
    Ok(copies)
}

fn enter(
    machine: &mut Machine,
    id: &str,
    order: Order,
    quiesced: bool,
    copies: BTreeMap<i32, Copy>,
) {
    let mut disks = machine.disks.clone();
    for (key, disk) in &mut disks {
        let tracking = copies.get(key).and_then(|copy| copy.tracking.as_ref());
        disk.change_id = tracking.map(|tracking| tracking.change_id());
    }
    machine.deltas += 1;
    for (key, copy) in &copies {
        let disk = machine.disks.get_mut(key).expect("it was copied");
        disk.chain.push(delta_name(&disk.chain[0], machine.deltas));
        disk.change_id = copy.tracking.as_ref().map(|tracking| tracking.next_change_id());
    }
    let last = machine.snapshots.iter().map(|other| other.number).max().unwrap_or(0);
    machine.snapshots.push(Snapshot {
        id: id.to_owned(),
        number: last + 1,
        parent: machine.current.replace(id.to_owned()),
        name: order.name,
        description: order.description,
        made: SystemTime::now(),
        quiesced,
        powered_on: machine.powered_on,
        disks,
        copies,
    });
    machine.version += 1;
}

/// `[ds] web/web.vmdk` with a number: `[ds] web/web-000001.vmdk`.
pub(crate) fn delta_name(base: &str, number: u32) -> String {
    format!("{}-{number:06}.vmdk", base.trim_end_matches(".vmdk"))
}

/// What a moment in which the VM stands still brings: tracking that was asked for begins.
pub(crate) fn stun(shared: &Shared, machine: &str) -> Result<(), Fault> {
    let (content, fresh) = {
        let mut world = shared.world();
        let it = world.machine(machine)?;
        if !it.tracking_asked {
            return Ok(());
        }
        let reached = it.disks.values().filter(|disk| disk.is_in_snapshots());
        let keys: Vec<i32> = reached.map(|disk| disk.key).collect();
        let content = Arc::clone(&it.content);
        let fresh: Vec<_> = keys.into_iter().map(|key| (key, world.draw.change_uuid())).collect();
        (content, fresh)
    };
    let mut begun = Vec::new();
    for (key, uuid) in fresh {
        let mut content = lock(&content);
        let Some(disk) = content.disks.get_mut(&key) else { continue };
        if disk.tracking.is_none() {
            let tracking = disk.tracking.insert(Tracking::new(uuid));
            begun.push((key, tracking.next_change_id()));
        }
    }
    shared.change(|world| {
        let machine = world.machine_mut(machine)?;
        for (key, change_id) in begun {
            if let Some(disk) = machine.disks.get_mut(&key) {
                disk.change_id = Some(change_id);
            }
        }
        Ok(())
    })
}

pub(crate) fn remove(call: &Call<'_>) -> Result<Value, Fault> {
    let id = call.this.id.clone();
    let (with_children, consolidate) = (call.boolean("removeChildren"), consolidates(call));
    let machine = call.shared.world().snapshot(&id)?.0.to_owned();
    let of = machine.clone();
    task::start(call.shared, "RemoveSnapshot_Task", &machine, move |shared| {
        let mut gone = vec![id];
        let mut at = 0;
        while with_children && at < gone.len() {
            let world = shared.world();
            let below = world.machine(&of)?.snapshots.iter();
            let below = below.filter(|it| it.parent.as_deref() == Some(&gone[at]));
            let below: Vec<String> = below.map(|it| it.id.clone()).collect();
            gone.extend(below);
            at += 1;
        }
        // Leaves first.
        gone.reverse();
        drop_snapshots(shared, &of, &gone, consolidate)
    })
}

pub(crate) fn remove_all(call: &Call<'_>) -> Result<Value, Fault> {
    let machine = call.this.id.clone();
    let consolidate = consolidates(call);
    task::start(call.shared, "RemoveAllSnapshots_Task", &call.this.id, move |shared| {
        let snapshots = shared.world().machine(&machine)?.snapshots.clone();
        let gone: Vec<String> = snapshots.into_iter().rev().map(|it| it.id).collect();
        drop_snapshots(shared, &machine, &gone, consolidate)
    })
}

fn consolidates(call: &Call<'_>) -> bool {
    super::call::boolean(call.arguments, "consolidate").unwrap_or(true)
}

pub(crate) fn drop_snapshots(
    shared: &Arc<Shared>,
    machine: &str,
    gone: &[String],
    consolidate: bool,
) -> Result<Value, Fault> {
    let fails = || shared.trouble(|trouble| matches!(trouble, Trouble::NotConsolidated)).is_some();
    let consolidate = consolidate && !fails();
    let files = shared.change(|world| {
        let mut files = Vec::new();
        for id in gone {
            let machine = world.machine_mut(machine)?;
            let missing = || Fault::not_found(&Reference::new(Kind::VirtualMachineSnapshot, id));
            let at = machine.snapshots.iter().position(|it| it.id == *id).ok_or_else(missing)?;
            let snapshot = machine.snapshots.remove(at);
            leave(machine, &snapshot, consolidate);
            files.extend(snapshot.copies.into_values().map(|copy| copy.path));
            world.snapshots.remove(id);
        }
        Ok(files)
    })?;
    for file in files {
        let done = match (&shared.options.kept, file.file_name()) {
            (Some(kept), Some(name)) => fs::rename(&file, kept.join(name)),
            _ => fs::remove_file(&file),
        };
        done.map_err(|error| Fault::new("SystemError", error.to_string()))?;
    }
    stun(shared, machine)?;
    Ok(Value::Unset)
}

/// Takes a snapshot out of the tree and, where that is to be, its file out of the chains.
fn leave(machine: &mut Machine, gone: &Snapshot, consolidate: bool) {
    for other in &mut machine.snapshots {
        if other.parent.as_ref() == Some(&gone.id) {
            other.parent.clone_from(&gone.parent);
        }
    }
    if machine.current.as_ref() == Some(&gone.id) {
        machine.current.clone_from(&gone.parent);
    }
    machine.version += 1;
    for (key, disk) in &gone.disks {
        if !gone.copies.contains_key(key) {
            continue;
        }
        let current = machine.disks.get_mut(key).map(|disk| &mut disk.chain);
        let kept = machine.snapshots.iter_mut();
        let kept = kept.filter_map(|other| Some(&mut other.disks.get_mut(key)?.chain));
        let onto: Vec<&mut Vec<String>> = kept
            .chain(current)
            .filter(|chain| chain.len() > disk.chain.len() && chain.starts_with(&disk.chain))
            .collect();
        let next: Vec<String> = onto.iter().map(|chain| chain[disk.chain.len()].clone()).collect();
        if next.windows(2).any(|pair| pair[0] != pair[1]) {
            // Several build on it: it stays, as a file that is nobody's.
            continue;
        }
        if consolidate {
            for chain in onto {
                chain.remove(disk.chain.len());
            }
        } else {
            machine.consolidation_needed |= !onto.is_empty();
        }
    }
}

pub(crate) fn consolidate(call: &Call<'_>) -> Result<Value, Fault> {
    let machine = call.this.id.clone();
    task::start(call.shared, "ConsolidateVMDisks_Task", &call.this.id, move |shared| {
        shared.change(|world| {
            let machine = world.machine_mut(&machine)?;
            if machine.snapshots.is_empty() {
                for disk in machine.disks.values_mut() {
                    disk.chain.truncate(1);
                }
            }
            machine.consolidation_needed = false;
            Ok(Value::Unset)
        })
    })
}

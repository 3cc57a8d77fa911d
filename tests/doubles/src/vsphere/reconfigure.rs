//! VMs are made and changed: tracking, and disks that are added, grow and go.

use std::fs;
use std::sync::Arc;

use super::call::{Call, boolean};
use super::content::DiskContent;
use super::fault::Fault;
use super::machine::{Backing, DiskMode, NewDisk, NewMachine};
use super::places::Place;
use super::shared::{Shared, lock};
use super::task;
use super::value::{Kind, Reference, Value};
use super::world::World;
use super::xml::Element;

/// The hardware version from which on changes can be tracked.
const TRACKED_HARDWARE: u32 = 7;

/// One change of a disk.
enum DiskChange {
    Add { disk: NewDisk, unit: Option<i32> },
    Grow { key: i32, capacity: u64 },
    Remove { key: i32, destroy: bool },
}

pub(crate) fn reconfigure(call: &Call<'_>) -> Result<Value, Fault> {
    let spec = call.arguments.child("spec").expect("the schema was checked");
    let changes = disk_changes(spec)?;
    let tracking = boolean(spec, "changeTrackingEnabled");
    let name = spec.text_of("name").map(str::to_owned);
    let annotation = spec.text_of("annotation").map(str::to_owned);
    let id = call.this.id.clone();
    task::start(call.shared, "ReconfigVM_Task", &call.this.id, move |shared| {
        if let Some(on) = tracking {
            track(shared, &id, on)?;
        }
        for change in changes {
            match change {
                DiskChange::Add { disk, unit } => add(shared, &id, &disk, unit)?,
                DiskChange::Grow { key, capacity } => grow(shared, &id, key, capacity)?,
                DiskChange::Remove { key, destroy } => remove(shared, &id, key, destroy)?,
            }
        }
        shared.change(|world| {
            let machine = world.machine_mut(&id)?;
            if let Some(name) = name {
                machine.name = name;
            }
            if let Some(annotation) = annotation {
                machine.annotation = annotation;
            }
            machine.version += 1;
            Ok(Value::Unset)
        })
    })
}

pub(crate) fn create(call: &Call<'_>) -> Result<Value, Fault> {
    let spec = call.arguments.child("config").expect("the schema was checked");
    let name = spec.text_of("name").ok_or_else(|| Fault::invalid_argument("configSpec.name"))?;
    let mut order = NewMachine::new(name).powered_off();
    if boolean(spec, "changeTrackingEnabled") == Some(true) {
        order = order.tracked();
    }
    if let Some(version) = spec.text_of("version") {
        let number = version.trim().strip_prefix("vmx-").and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| Fault::invalid_argument("configSpec.version"))?;
        order = order.hardware(number);
    }
    for change in disk_changes(spec)? {
        let DiskChange::Add { disk, unit } = change else {
            return Err(Fault::invalid_argument("configSpec.deviceChange.operation"));
        };
        order = order.with_disk(disk);
        // A new VM takes its disks in order.
        let expected = i32::try_from(order.disks.len()).expect("few disks") - 1;
        let expected = if expected < 7 { expected } else { expected + 1 };
        if unit.is_some_and(|unit| unit != expected) {
            return Err(invalid_device("Units of a new VM are taken in order."));
        }
    }
    let annotation = spec.text_of("annotation").unwrap_or_default().to_owned();
    let place = new_place(call, spec, name)?;
    let entity = call.this.clone();
    task::start_beside(call.shared, "CreateVM_Task", entity, move |shared| {
        shared.change(|world| {
            let made = world.add_machine(&shared.folder, &order, place);
            let id = made.map_err(|error| Fault::new("GenericVmConfigFault", error.to_string()))?;
            world.machine_mut(&id)?.annotation = annotation;
            Ok(Value::Reference(Reference::new(Kind::VirtualMachine, id)))
        })
    })
}

/// Where a new VM comes to lie, by the folder of the call and the names in it.
fn new_place(call: &Call<'_>, spec: &Element, name: &str) -> Result<Place, Fault> {
    let pool = call.reference("pool")?.ok_or_else(|| Fault::invalid_argument("pool"))?;
    let host = call.reference("host")?;
    let file = spec.child("files").and_then(|files| files.text_of("vmPathName"));
    let store = file.and_then(datastore_name);
    let store = store.ok_or_else(|| Fault::invalid_argument("configSpec.files.vmPathName"))?;
    let world = call.shared.world();
    let folder = call.this.id.clone();
    let center = world.datacenter_of(&folder).ok_or_else(|| Fault::invalid_argument("_this"))?;
    let stores = &world.datacenters[center].datastores;
    let datastore =
        world.datastores.iter().find(|(_, it)| it.name == store && it.folder == *stores);
    let datastore =
        datastore.ok_or_else(|| Fault::invalid_argument("configSpec.files.vmPathName"))?;
    let owner = world.pools.get(&pool.id).ok_or_else(|| Fault::not_found(&pool))?.owner.clone();
    let in_pool =
        |host: &&String| world.hosts[*host].compute == owner && !world.hosts[*host].maintenance;
    let host = match host {
        Some(host) => world.hosts.get_key_value(&host.id).map(|(id, _)| id).filter(in_pool),
        None => world.hosts.keys().find(in_pool),
    };
    let host = host.ok_or_else(|| Fault::invalid_argument("host"))?;
    let same = |it: &Reference| world.machines.get(&it.id).is_some_and(|it| it.name == name);
    if let Some(other) = world.folders[&folder].children.iter().find(|it| same(it)) {
        let message = format!("The name '{name}' already exists.");
        return Err(Fault::new("DuplicateName", message)
            .with("name", Value::text(name))
            .with("object", Value::Reference(other.clone())));
    }
    Ok(Place { folder: folder.clone(), host: host.clone(), datastore: datastore.0.clone() })
}

/// `[datastore1] web/web.vmx` and `[datastore1]` name one.
fn datastore_name(path: &str) -> Option<&str> {
    path.trim().strip_prefix('[')?.split_once(']').map(|(name, _)| name)
}

/// The changes of disks; those of controllers change nothing here, since there is one for all.
fn disk_changes(spec: &Element) -> Result<Vec<DiskChange>, Fault> {
    let mut changes = Vec::new();
    for change in spec.all("deviceChange") {
        let device = change.child("device").expect("the schema was checked");
        if device.xsi_type.as_deref() != Some("VirtualDisk") {
            continue;
        }
        let operation = change.text_of("operation").unwrap_or("edit").trim();
        let file = change.text_of("fileOperation").map(str::trim);
        changes.push(disk_change(device, operation, file)?);
    }
    Ok(changes)
}

fn disk_change(device: &Element, operation: &str, file: Option<&str>) -> Result<DiskChange, Fault> {
    let number = |name: &str| device.text_of(name).and_then(|it| it.trim().parse::<i64>().ok());
    let kilobytes = number("capacityInKB").and_then(|it| u64::try_from(it).ok());
    let bytes = number("capacityInBytes").and_then(|it| u64::try_from(it).ok());
    let capacity = bytes.or(kilobytes.map(|kilobytes| kilobytes * 1024)).unwrap_or(0);
    let integer = |name: &str| number(name).and_then(|it| i32::try_from(it).ok());
    let key = integer("key").ok_or_else(|| Fault::invalid_argument("deviceChange.device.key"))?;
    match (operation, file) {
        ("add", Some("create")) if capacity > 0 => {
            let disk = new_disk(device, capacity)?;
            Ok(DiskChange::Add { disk, unit: integer("unitNumber").filter(|unit| *unit >= 0) })
        }
        ("edit", None) => Ok(DiskChange::Grow { key, capacity }),
        ("remove", None) => Ok(DiskChange::Remove { key, destroy: false }),
        ("remove", Some("destroy")) => Ok(DiskChange::Remove { key, destroy: true }),
        _ => Err(invalid_device("Invalid operation for device.")),
    }
}

fn new_disk(device: &Element, capacity: u64) -> Result<NewDisk, Fault> {
    let backing = device.child("backing").ok_or_else(|| invalid_device("A disk has a backing."))?;
    let mut disk = NewDisk::new(capacity);
    disk.backing = match backing.xsi_type.as_deref() {
        Some("VirtualDiskFlatVer2BackingInfo") => Backing::Flat,
        Some("VirtualDiskSparseVer2BackingInfo") => Backing::Sparse,
        _ => return Err(invalid_device("Incompatible device backing specified for device.")),
    };
    disk.mode = match backing.text_of("diskMode").map(str::trim) {
        Some("persistent") => DiskMode::Persistent,
        Some("independent_persistent") => DiskMode::IndependentPersistent,
        _ => return Err(Fault::invalid_argument("deviceChange.device.backing.diskMode")),
    };
    disk.multi_writer = backing.text_of("sharing").map(str::trim) == Some("sharingMultiWriter");
    Ok(disk)
}

fn invalid_device(message: &str) -> Fault {
    Fault::new("InvalidDeviceSpec", message).with("deviceIndex", Value::int(0))
}

/// Tracking is asked for, or ended; it begins when the VM next stands still.
pub(crate) fn track(shared: &Arc<Shared>, id: &str, on: bool) -> Result<(), Fault> {
    let content = shared.change(|world| {
        let machine = world.machine_mut(id)?;
        if machine.hardware < TRACKED_HARDWARE {
            let message = "The operation is not supported on the object.";
            return Err(Fault::new("NotSupported", message));
        }
        machine.tracking_asked = on;
        if !on {
            machine.disks.values_mut().for_each(|disk| disk.change_id = None);
        }
        Ok(Arc::clone(&machine.content))
    })?;
    if !on {
        lock(&content).disks.values_mut().for_each(|disk| disk.tracking = None);
    }
    Ok(())
}

fn without_snapshots(world: &World, id: &str) -> Result<(), Fault> {
    if world.machine(id)?.snapshots.is_empty() {
        return Ok(());
    }
    let message = "The operation is not allowed in the current state: the VM has snapshots.";
    Err(Fault::new("InvalidState", message))
}

pub(crate) fn add(
    shared: &Arc<Shared>,
    id: &str,
    order: &NewDisk,
    unit: Option<i32>,
) -> Result<(), Fault> {
    let failed = |error: std::io::Error| invalid_device(&error.to_string());
    let (disk, content) = {
        let mut world = shared.world();
        let mut draw = world.draw.clone();
        let machine = world.machine(id)?;
        let disk = machine.new_disk(&mut draw, &shared.folder, id, order, unit).map_err(failed)?;
        let content = Arc::clone(&machine.content);
        world.draw = draw;
        (disk, content)
    };
    let bytes = DiskContent::create(disk.path.clone(), disk.capacity).map_err(failed)?;
    lock(&content).disks.insert(disk.key, bytes);
    shared.change(|world| {
        world.machine_mut(id)?.disks.insert(disk.key, disk);
        Ok(())
    })
}

pub(crate) fn grow(shared: &Arc<Shared>, id: &str, key: i32, capacity: u64) -> Result<(), Fault> {
    let (content, was, uuid) = {
        let mut world = shared.world();
        let uuid = world.draw.change_uuid();
        let machine = world.machine(id)?;
        let disk = machine.disks.get(&key);
        let disk = disk.ok_or_else(|| invalid_device("The device does not exist."))?;
        (Arc::clone(&machine.content), disk.capacity, uuid)
    };
    if capacity == was {
        return Ok(());
    }
    without_snapshots(&shared.world(), id)?;
    if capacity < was {
        return Err(invalid_device("A disk cannot be made smaller."));
    }
    let change_id = {
        let mut content = lock(&content);
        let disk = content.disks.get_mut(&key).expect("a disk of the VM has content");
        disk.resize(capacity).map_err(|error| Fault::new("SystemError", error.to_string()))?;
        // Its map was one of the old size.
        disk.tracking = disk.tracking.take().map(|_| super::content::Tracking::new(uuid));
        disk.tracking.as_ref().map(super::content::Tracking::next_change_id)
    };
    shared.change(|world| {
        if let Some(disk) = world.machine_mut(id)?.disks.get_mut(&key) {
            disk.capacity = capacity;
            disk.change_id = change_id;
        }
        Ok(())
    })
}

pub(crate) fn remove(shared: &Arc<Shared>, id: &str, key: i32, destroy: bool) -> Result<(), Fault> {
    if destroy {
        without_snapshots(&shared.world(), id)?;
    }
    let content = shared.change(|world| {
        let machine = world.machine_mut(id)?;
        let gone = machine.disks.remove(&key);
        gone.ok_or_else(|| invalid_device("The device does not exist."))?;
        Ok(Arc::clone(&machine.content))
    })?;
    let gone = lock(&content).disks.remove(&key);
    if let Some(gone) = gone.filter(|_| destroy) {
        let removed = fs::remove_file(gone.path);
        removed.map_err(|error| Fault::new("SystemError", error.to_string()))?;
    }
    Ok(())
}

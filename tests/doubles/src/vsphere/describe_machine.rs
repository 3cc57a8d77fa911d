//! The properties of VMs and their snapshots.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::describe::{entity, green};
use super::machine::{Backing, DiskMode};
use super::value::{Kind, Reference, Value};
use super::world::{Disk, Machine, Snapshot, World};

/// The one SCSI controller.
pub(crate) const CONTROLLER_KEY: i32 = 1000;

type Fields = Vec<(&'static str, Value)>;

pub(crate) fn machine(world: &World, id: &str) -> Option<Fields> {
    let machine = world.machines.get(id)?;
    let datastore = Reference::new(Kind::Datastore, &machine.datastore);
    let pool = Reference::new(Kind::ResourcePool, &machine.pool);
    let mine = world.tasks.iter().filter(|(_, task)| task.entity.id == id);
    let recent = mine.map(|(id, _)| Reference::new(Kind::Task, id));
    let mut fields = entity(&machine.name, Some(Reference::new(Kind::Folder, &machine.folder)));
    fields.extend([
        ("capability", capability(machine)),
        ("config", config(machine, &machine.disks)),
        ("datastore", Value::references([datastore])),
        ("guest", guest(machine)),
        ("parentVApp", Value::Unset),
        ("recentTask", Value::references(recent)),
        ("resourcePool", Value::Reference(pool)),
        ("runtime", runtime(machine)),
        ("snapshot", snapshot_info(id, machine)),
        ("rootSnapshot", roots(machine)),
        ("summary", summary(id, machine)),
    ]);
    Some(fields)
}

pub(crate) fn snapshot(world: &World, id: &str) -> Option<Fields> {
    let (owner, machine, snapshot) = world.snapshot(id).ok()?;
    let children = machine.snapshots.iter().filter(|other| other.parent.as_deref() == Some(id));
    let children = children.map(|child| Reference::new(Kind::VirtualMachineSnapshot, &child.id));
    Some(vec![
        ("config", config(machine, &snapshot.disks)),
        ("childSnapshot", Value::references(children)),
        ("vm", Value::Reference(Reference::new(Kind::VirtualMachine, owner))),
    ])
}

fn config(machine: &Machine, disks: &BTreeMap<i32, Disk>) -> Value {
    let files = Value::Object(
        "VirtualMachineFileInfo",
        vec![
            ("vmPathName", Value::text(machine.path_name())),
            ("snapshotDirectory", Value::text(&*machine.directory)),
            ("logDirectory", Value::text(&*machine.directory)),
        ],
    );
    Value::Object(
        "VirtualMachineConfigInfo",
        vec![
            ("changeVersion", Value::text(machine.version.to_string())),
            ("modified", Value::time(SystemTime::UNIX_EPOCH)),
            ("name", Value::text(&*machine.name)),
            ("guestFullName", Value::text("Debian GNU/Linux 12 (64-bit)")),
            ("version", Value::text(format!("vmx-{:02}", machine.hardware))),
            ("uuid", Value::text(&*machine.uuid)),
            ("instanceUuid", Value::text(&*machine.instance_uuid)),
            ("template", Value::boolean(false)),
            ("guestId", Value::text("debian12_64Guest")),
            ("alternateGuestName", Value::text("")),
            ("annotation", Value::text(&*machine.annotation)),
            ("files", files),
            ("hardware", hardware(machine, disks)),
            ("changeTrackingEnabled", Value::boolean(machine.tracking_asked)),
            ("firmware", Value::text("efi")),
        ],
    )
}

fn hardware(machine: &Machine, disks: &BTreeMap<i32, Disk>) -> Value {
    let keys = disks.keys().map(|key| Value::int(*key)).collect();
    let controller = Value::Object(
        "ParaVirtualSCSIController",
        vec![
            ("key", Value::int(CONTROLLER_KEY)),
            ("deviceInfo", description("SCSI controller 0", "VMware paravirtual SCSI")),
            ("controllerKey", Value::int(100)),
            ("unitNumber", Value::int(3)),
            ("busNumber", Value::int(0)),
            ("device", Value::Array("int", keys)),
            ("hotAddRemove", Value::boolean(true)),
            ("sharedBus", Value::Plain("VirtualSCSISharing", "noSharing".to_owned())),
            ("scsiCtlrUnitNumber", Value::int(7)),
        ],
    );
    let devices = [controller].into_iter().chain(disks.values().map(|disk| device(machine, disk)));
    Value::Object(
        "VirtualHardware",
        vec![
            ("numCPU", Value::int(2)),
            ("numCoresPerSocket", Value::int(1)),
            ("memoryMB", Value::int(4096)),
            ("device", Value::Array("VirtualDevice", devices.collect())),
        ],
    )
}

fn device(machine: &Machine, disk: &Disk) -> Value {
    let label = format!("Hard disk {}", disk.key - 1999);
    let kilobytes = disk.capacity / 1024;
    let summary = format!("{kilobytes} KB");
    Value::Object(
        "VirtualDisk",
        vec![
            ("key", Value::int(disk.key)),
            ("deviceInfo", description(&label, &summary)),
            ("backing", backing(machine, disk, disk.chain.len())),
            ("controllerKey", Value::int(CONTROLLER_KEY)),
            ("unitNumber", Value::int(disk.unit)),
            ("capacityInKB", Value::long(kilobytes)),
            ("capacityInBytes", Value::long(disk.capacity)),
        ],
    )
}

/// The first `length` files of a disk: the last of them, with those that it builds on as parents.
fn backing(machine: &Machine, disk: &Disk, length: usize) -> Value {
    let newest = length == disk.chain.len();
    let change_id = disk.change_id.as_deref().filter(|_| newest).map(Value::text);
    let change_id = ("changeId", Value::or_unset(change_id));
    let parent = (length > 1).then(|| backing(machine, disk, length - 1));
    let parent = ("parent", Value::or_unset(parent));
    let datastore = Reference::new(Kind::Datastore, &machine.datastore);
    let file = [
        ("fileName", Value::text(&*disk.chain[length - 1])),
        ("datastore", Value::Reference(datastore)),
        ("backingObjectId", Value::text("")),
    ];
    let mode = match disk.mode {
        DiskMode::Persistent => "persistent",
        DiskMode::IndependentPersistent => "independent_persistent",
    };
    let mode = ("diskMode", Value::text(mode));
    let uuid = ("uuid", Value::text(&*disk.uuid));
    let sharing = if disk.multi_writer { "sharingMultiWriter" } else { "sharingNone" };
    let sharing = ("sharing", Value::text(sharing));
    let device = ("deviceName", Value::text("vml.02000000006006016055711d00"));
    let mut fields = file.to_vec();
    let kind = match disk.backing {
        Backing::Flat => {
            fields.extend([mode, ("split", Value::boolean(false))]);
            fields.push(("writeThrough", Value::boolean(false)));
            fields.push(("thinProvisioned", Value::boolean(true)));
            fields.extend([uuid, ("contentId", Value::text("fffffffe")), change_id, parent]);
            fields.push(("digestEnabled", Value::boolean(false)));
            fields.push(sharing);
            "VirtualDiskFlatVer2BackingInfo"
        }
        Backing::Sparse => {
            fields.extend([mode, uuid, change_id, parent]);
            "VirtualDiskSparseVer2BackingInfo"
        }
        Backing::VirtualRdm | Backing::PhysicalRdm => {
            let physical = disk.backing == Backing::PhysicalRdm;
            let compatibility = if physical { "physicalMode" } else { "virtualMode" };
            fields.extend([device, ("compatibilityMode", Value::text(compatibility))]);
            fields.extend([mode, uuid, change_id, parent, sharing]);
            "VirtualDiskRawDiskMappingVer1BackingInfo"
        }
        Backing::RawDevice => {
            let descriptor = ("descriptorFileName", Value::text(&*disk.chain[0]));
            fields = vec![device, descriptor, uuid, change_id, sharing];
            "VirtualDiskRawDiskVer2BackingInfo"
        }
    };
    Value::Object(kind, fields)
}

fn description(label: &str, summary: &str) -> Value {
    Value::Object(
        "Description",
        vec![("label", Value::text(label)), ("summary", Value::text(summary))],
    )
}

fn capability(machine: &Machine) -> Value {
    let yes = || Value::boolean(true);
    Value::Object(
        "VirtualMachineCapability",
        vec![
            ("snapshotOperationsSupported", yes()),
            ("multipleSnapshotsSupported", yes()),
            ("snapshotConfigSupported", yes()),
            ("poweredOffSnapshotsSupported", yes()),
            ("memorySnapshotsSupported", yes()),
            ("revertToSnapshotSupported", yes()),
            ("quiescedSnapshotsSupported", Value::boolean(machine.tools_running)),
            ("changeTrackingSupported", Value::boolean(machine.hardware >= 7)),
        ],
    )
}

fn guest(machine: &Machine) -> Value {
    let running = machine.tools_running && machine.powered_on;
    let status = if running { "toolsOk" } else { "toolsNotRunning" };
    let running = if running { "guestToolsRunning" } else { "guestToolsNotRunning" };
    Value::Object(
        "GuestInfo",
        vec![
            ("toolsStatus", Value::Plain("VirtualMachineToolsStatus", status.to_owned())),
            ("toolsRunningStatus", Value::text(running)),
            ("guestState", Value::text(if machine.powered_on { "running" } else { "notRunning" })),
        ],
    )
}

fn runtime(machine: &Machine) -> Value {
    Value::Object(
        "VirtualMachineRuntimeInfo",
        vec![
            ("host", Value::Reference(Reference::new(Kind::HostSystem, &machine.host))),
            (
                "connectionState",
                Value::Plain("VirtualMachineConnectionState", "connected".to_owned()),
            ),
            ("powerState", power_state(machine.powered_on)),
            ("toolsInstallerMounted", Value::boolean(false)),
            ("question", Value::Unset),
            ("numMksConnections", Value::int(0)),
            (
                "recordReplayState",
                Value::Plain("VirtualMachineRecordReplayState", "inactive".to_owned()),
            ),
            ("onlineStandby", Value::boolean(false)),
            ("consolidationNeeded", Value::boolean(machine.consolidation_needed)),
        ],
    )
}

fn power_state(on: bool) -> Value {
    let state = if on { "poweredOn" } else { "poweredOff" };
    Value::Plain("VirtualMachinePowerState", state.to_owned())
}

fn summary(id: &str, machine: &Machine) -> Value {
    let disks = i64::try_from(machine.disks.len()).expect("few disks");
    let config = Value::Object(
        "VirtualMachineConfigSummary",
        vec![
            ("name", Value::text(&*machine.name)),
            ("template", Value::boolean(false)),
            ("memorySizeMB", Value::int(4096)),
            ("numCpu", Value::int(2)),
            ("numVirtualDisks", Value::int(disks)),
            ("uuid", Value::text(&*machine.uuid)),
            ("instanceUuid", Value::text(&*machine.instance_uuid)),
        ],
    );
    Value::Object(
        "VirtualMachineSummary",
        vec![
            ("vm", Value::Reference(Reference::new(Kind::VirtualMachine, id))),
            ("runtime", runtime(machine)),
            ("config", config),
            ("overallStatus", green()),
        ],
    )
}

fn snapshot_info(id: &str, machine: &Machine) -> Value {
    let Some(current) = &machine.current else { return Value::Unset };
    let current = Reference::new(Kind::VirtualMachineSnapshot, current);
    Value::Object(
        "VirtualMachineSnapshotInfo",
        vec![
            ("currentSnapshot", Value::Reference(current)),
            ("rootSnapshotList", trees(id, machine, None)),
        ],
    )
}

fn trees(id: &str, machine: &Machine, parent: Option<&str>) -> Value {
    let below = machine.snapshots.iter().filter(|it| it.parent.as_deref() == parent);
    let trees = below.map(|snapshot| tree(id, machine, snapshot)).collect();
    Value::Array("VirtualMachineSnapshotTree", trees)
}

fn tree(id: &str, machine: &Machine, snapshot: &Snapshot) -> Value {
    let itself = Reference::new(Kind::VirtualMachineSnapshot, &snapshot.id);
    Value::Object(
        "VirtualMachineSnapshotTree",
        vec![
            ("snapshot", Value::Reference(itself)),
            ("vm", Value::Reference(Reference::new(Kind::VirtualMachine, id))),
            ("name", Value::text(&*snapshot.name)),
            ("description", Value::text(&*snapshot.description)),
            ("id", Value::int(snapshot.number)),
            ("createTime", Value::time(snapshot.made)),
            ("state", power_state(snapshot.powered_on)),
            ("quiesced", Value::boolean(snapshot.quiesced)),
            ("childSnapshotList", trees(id, machine, Some(&snapshot.id))),
            ("replaySupported", Value::boolean(false)),
        ],
    )
}

fn roots(machine: &Machine) -> Value {
    let roots = machine.snapshots.iter().filter(|it| it.parent.is_none());
    Value::references(roots.map(|it| Reference::new(Kind::VirtualMachineSnapshot, &it.id)))
}

//! VMs and disks, out of what a server says of them.

use std::collections::HashMap;

use super::property::Object;
use super::xml::{Element, Moref, XmlError};
use crate::snapshots::{
    Backing, Connection, DeviceKey, HostFacts, PowerState, SnapshotFacts, SnapshotId, Vm, VmDisk,
    VmId,
};

/// What is asked of a VM to find it.
pub(super) const NAME_PATHS: &[&str] =
    &["name", "parent", "parentVApp", "config.uuid", "config.instanceUuid"];

/// What is asked of a VM to know it.
pub(super) const VM_PATHS: &[&str] = &[
    "name",
    "parent",
    "parentVApp",
    "config.uuid",
    "config.instanceUuid",
    "config.template",
    "config.version",
    "config.guestId",
    "config.annotation",
    "config.changeTrackingEnabled",
    "config.hardware.device",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "runtime.host",
    "snapshot",
    "datastore",
];

/// What is asked of a host.
pub(super) const HOST_PATHS: &[&str] =
    &["name", "runtime.connectionState", "runtime.inMaintenanceMode"];

/// Where the devices of a VM, and of a snapshot, are.
pub(super) const DEVICES: &str = "config.hardware.device";

/// A VM without its path and its host.
pub(super) fn vm(object: &Object) -> Result<Vm, XmlError> {
    let truth = |path| object.get(path).map_or(Ok(false), Element::truth);
    let text = |path| object.text(path).map(str::to_owned);
    let datastores = object.get("datastore").map(references).transpose()?.unwrap_or_default();
    Ok(Vm {
        id: VmId::new(&object.moref.id),
        name: object.text("name").unwrap_or(&object.moref.id).to_owned(),
        path: String::new(),
        uuid: text("config.uuid"),
        instance_uuid: text("config.instanceUuid"),
        host: None,
        datastores: datastores.into_iter().map(|store| store.id).collect(),
        power: match power(object) {
            Err(_) if object.denied().is_some() => PowerState::Off,
            power => power?,
        },
        denied: object.denied().map(str::to_owned),
        connection: connection(object),
        is_template: truth("config.template")?,
        hardware_version: object.text("config.version").and_then(hardware_version),
        guest: text("config.guestId"),
        tracks_changes: truth("config.changeTrackingEnabled")?,
        needs_consolidation: truth("runtime.consolidationNeeded")?,
        notes: object.get("config.annotation").map_or("", Element::exact_text).to_owned(),
        disks: object.get(DEVICES).map(disks).transpose()?.unwrap_or_default(),
        snapshots: object.get("snapshot").map(snapshots).transpose()?.unwrap_or_default(),
    })
}

/// Whether a VM runs.
pub(super) fn power(object: &Object) -> Result<PowerState, XmlError> {
    match object.text("runtime.powerState") {
        Some("poweredOn") => Ok(PowerState::On),
        Some("poweredOff") => Ok(PowerState::Off),
        Some("suspended") => Ok(PowerState::Suspended),
        other => {
            let (id, state) = (&object.moref.id, other.unwrap_or("not said"));
            Err(XmlError::Unexpected(format!("the power state of {id} is {state:.40}")))
        }
    }
}

fn connection(object: &Object) -> Connection {
    match object.text("runtime.connectionState") {
        Some("connected") => Connection::Connected,
        Some(state) => Connection::Lost(state.to_owned()),
        None => Connection::Lost("in a state that is not said".to_owned()),
    }
}

/// A host.
pub(super) fn host(object: &Object) -> Result<HostFacts, XmlError> {
    Ok(HostFacts {
        id: object.moref.id.clone(),
        name: object.text("name").unwrap_or(&object.moref.id).to_owned(),
        connection: connection(object),
        in_maintenance: object
            .get("runtime.inMaintenanceMode")
            .map_or(Ok(false), Element::truth)?,
    })
}

/// 19 of `vmx-19`.
fn hardware_version(version: &str) -> Option<u32> {
    version.strip_prefix("vmx-")?.parse().ok()
}

/// Managed objects of an array.
pub(super) fn references(array: &Element) -> Result<Vec<Moref>, XmlError> {
    array.inside().iter().map(Moref::of).collect()
}

/// The disks among devices.
pub(super) fn disks(devices: &Element) -> Result<Vec<VmDisk>, XmlError> {
    let disks = devices.inside().iter().filter(|device| device.kind() == Some("VirtualDisk"));
    let disks: Vec<VmDisk> = disks.map(disk).collect::<Result<_, _>>()?;
    let mut keys: Vec<DeviceKey> = disks.iter().map(|disk| disk.key).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(XmlError::Unexpected("two disks have the same key".into()));
    }
    Ok(disks)
}

fn disk(device: &Element) -> Result<VmDisk, XmlError> {
    /// vSphere counts in both.
    const KIB: u64 = 1024;
    let key = DeviceKey(device.need("key")?.number()?);
    let capacity_bytes = match device.child("capacityInBytes") {
        Some(bytes) => bytes.number()?,
        None => {
            let in_kib: u64 = device.need("capacityInKB")?.number()?;
            let too_much = || XmlError::Unexpected("a disk has more bytes than there are".into());
            in_kib.checked_mul(KIB).ok_or_else(too_much)?
        }
    };
    let label = device.child("deviceInfo").and_then(|info| info.value("label"));
    let backing = device.need("backing")?;
    let text = |name| backing.value(name).filter(|text| !text.is_empty());
    let file = text("fileName").or_else(|| text("descriptorFileName"));
    Ok(VmDisk {
        key,
        label: label.map_or_else(|| format!("disk {key}"), str::to_owned),
        file: file.unwrap_or_default().to_owned(),
        // One that is not understood is none: then the disk is read in full.
        uuid: text("uuid").and_then(|uuid| uuid.parse().ok()),
        mode: text("diskMode").unwrap_or("persistent").to_owned(),
        is_shared: text("sharing") == Some("sharingMultiWriter"),
        backing: kept_in(backing),
        capacity_bytes,
        change: text("changeId").and_then(|change| change.parse().ok()),
    })
}

fn kept_in(backing: &Element) -> Backing {
    let kind = backing.kind().unwrap_or("a backing without a name");
    match kind {
        "VirtualDiskFlatVer2BackingInfo" => Backing::FlatVer2,
        "VirtualDiskSparseVer2BackingInfo" => Backing::SparseVer2,
        "VirtualDiskRawDiskMappingVer1BackingInfo" => Backing::RawDiskMappingVer1 {
            // Another word than the one that allows snapshots is one that does not.
            physical: backing.value("compatibilityMode") != Some("virtualMode"),
        },
        "VirtualDiskRawDiskVer2BackingInfo" => Backing::RawDiskVer2,
        other => Backing::Other(other.to_owned()),
    }
}

/// The tree of a VM's snapshots, those below before those above.
pub(super) fn snapshots(info: &Element) -> Result<Vec<SnapshotFacts>, XmlError> {
    let mut found = Vec::new();
    let mut waiting: Vec<(usize, &Element)> =
        info.all("rootSnapshotList").map(|root| (0, root)).collect();
    waiting.reverse();
    while let Some((depth, tree)) = waiting.pop() {
        found.push(SnapshotFacts {
            id: SnapshotId::new(&Moref::of(tree.need("snapshot")?)?.id),
            name: tree.child("name").map_or("", Element::exact_text).to_owned(),
            depth,
        });
        let above: Vec<_> = tree.all("childSnapshotList").map(|tree| (depth + 1, tree)).collect();
        waiting.extend(above.into_iter().rev());
    }
    Ok(found)
}

/// What stands above VMs: folders, datacenters, vApps.
#[derive(Debug)]
pub(super) struct Tree {
    /// What has no name of its own.
    root: String,
    nodes: HashMap<String, Node>,
}

#[derive(Debug)]
struct Node {
    name: String,
    is_datacenter: bool,
    above: Option<String>,
}

impl Tree {
    /// Levels above a VM.
    const MAX_DEPTH: usize = 64;

    /// One that stands on this root.
    pub(super) fn on(root: &Moref) -> Self {
        Self { root: root.id.clone(), nodes: HashMap::new() }
    }

    /// Adds one.
    pub(super) fn add(&mut self, object: &Object) {
        let above = above(object);
        let name = object.text("name").unwrap_or(&object.moref.id).to_owned();
        let is_datacenter = object.moref.kind == "Datacenter";
        self.nodes.insert(object.moref.id.clone(), Node { name, is_datacenter, above });
    }

    /// Where a VM stands that has this name, and this above it. The root is left out, and so is the
    /// folder that each datacenter has for all of its VMs.
    pub(super) fn path(&self, name: &str, above: Option<&str>) -> String {
        let mut names = vec![name];
        let mut next = above;
        // A circle cannot be; a server that says so gets an end.
        for _ in 0..Self::MAX_DEPTH {
            let Some(id) = next.filter(|id| *id != self.root) else { break };
            let Some(node) = self.nodes.get(id) else { break };
            next = node.above.as_deref();
            let over = next.and_then(|id| self.nodes.get(id));
            let holds_all = over.is_some_and(|over| over.is_datacenter);
            if !holds_all {
                names.push(&node.name);
            }
        }
        names.reverse();
        names.join("/")
    }
}

/// What stands above an object.
pub(super) fn above(object: &Object) -> Option<String> {
    let paths = ["parent", "parentVApp", "parentFolder"];
    let found = paths.iter().find_map(|path| object.text(path));
    found.map(str::to_owned)
}

#[cfg(test)]
mod tests;

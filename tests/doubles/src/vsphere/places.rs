//! An inventory is set up: datacenters, folders, hosts, datastores, VMs.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::content::{Content, DiskContent, Tracking};
use super::draw::Draw;
use super::machine::{NewDisk, NewMachine};
use super::value::{Kind, Reference};
use super::world::{
    Compute, Datacenter, Datastore, Disk, Flavour, Folder, Host, Machine, Pool, World,
};

/// The key of the disk at unit 0.
pub(crate) const FIRST_DISK_KEY: i32 = 2000;
/// The unit that the controller itself has.
const CONTROLLER_UNIT: i32 = 7;
/// Units of a paravirtual controller.
pub(crate) const UNITS: i32 = 64;
/// What a datastore holds.
const DATASTORE_BYTES: u64 = 4 << 40;

/// Where a VM is put.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) folder: String,
    pub(crate) host: String,
    pub(crate) datastore: String,
}

impl World {
    /// One datacenter with hosts and a datastore; on a host alone, that host.
    pub(crate) fn new(flavour: Flavour, seed: u64) -> Self {
        let mut world = Self {
            flavour,
            instance_uuid: None,
            draw: Draw::new(seed),
            next: 20,
            revision: 0,
            datacenters: BTreeMap::new(),
            folders: BTreeMap::new(),
            computes: BTreeMap::new(),
            pools: BTreeMap::new(),
            hosts: BTreeMap::new(),
            datastores: BTreeMap::new(),
            machines: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            tasks: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        let root = world.well_known(Kind::Folder).id;
        let name = if flavour == Flavour::Esxi { "ha-folder-root" } else { "Datacenters" };
        let folder = Folder {
            name: name.to_owned(),
            parent: None,
            children: Vec::new(),
            child_types: &["Folder", "Datacenter"],
        };
        world.folders.insert(root, folder);
        world
    }

    /// Adds a datacenter with these hosts in one cluster, and these datastores.
    pub(crate) fn add_datacenter(&mut self, name: &str, hosts: &[&str], datastores: &[&str]) {
        let root = self.well_known(Kind::Folder).id;
        let id = self.name("datacenter");
        let parent = Reference::new(Kind::Datacenter, &id);
        let machines = self.add_folder("vm", &parent, &["Folder", "VirtualMachine"]);
        let host_folder = self.add_folder("host", &parent, &["Folder", "ComputeResource"]);
        let store_folder = self.add_folder("datastore", &parent, &["Folder", "Datastore"]);
        let datacenter = Datacenter {
            name: name.to_owned(),
            parent: root.clone(),
            machines,
            hosts: host_folder.clone(),
            datastores: store_folder.clone(),
        };
        self.datacenters.insert(id, datacenter);
        self.hang(&root, parent);
        self.add_cluster(&host_folder, hosts);
        for name in datastores {
            let id = self.name("datastore");
            let datastore = Datastore {
                name: (*name).to_owned(),
                folder: store_folder.clone(),
                capacity: DATASTORE_BYTES,
                free: DATASTORE_BYTES / 2,
            };
            self.datastores.insert(id.clone(), datastore);
            self.hang(&store_folder, Reference::new(Kind::Datastore, id));
        }
    }

    fn add_cluster(&mut self, folder: &str, hosts: &[&str]) {
        let cluster = self.name("domain-c");
        let pool = self.name("resgroup");
        let mut ids = Vec::new();
        for name in hosts {
            let id = self.name("host");
            let host =
                Host { name: (*name).to_owned(), compute: cluster.clone(), maintenance: false };
            self.hosts.insert(id.clone(), host);
            ids.push(id);
        }
        let name = match self.flavour {
            Flavour::Vcenter => "cluster",
            Flavour::Esxi => hosts.first().copied().unwrap_or_default(),
        };
        let folder_id = folder.to_owned();
        let compute =
            Compute { name: name.to_owned(), folder: folder_id, pool: pool.clone(), hosts: ids };
        self.computes.insert(cluster.clone(), compute);
        self.pools.insert(pool, Pool { owner: cluster.clone() });
        let reference = self.compute_reference(&cluster);
        self.hang(folder, reference);
    }

    fn add_folder(
        &mut self,
        name: &str,
        parent: &Reference,
        child_types: &'static [&'static str],
    ) -> String {
        let id = self.name("group");
        let folder = Folder {
            name: name.to_owned(),
            parent: Some(parent.clone()),
            children: Vec::new(),
            child_types,
        };
        self.folders.insert(id.clone(), folder);
        id
    }

    fn hang(&mut self, folder: &str, child: Reference) {
        self.folders.get_mut(folder).expect("it was made").children.push(child);
    }

    /// The place that a VM was ordered for; its folders are made where they are missing.
    pub(crate) fn place(&mut self, order: &NewMachine) -> io::Result<Place> {
        let missing = |what: &str| io::Error::new(io::ErrorKind::NotFound, what.to_owned());
        let wanted = order.datacenter.as_deref();
        let mut centers = self.datacenters.values();
        let center = centers.find(|center| wanted.is_none_or(|name| center.name == name));
        let center = center.ok_or_else(|| missing("no such datacenter"))?;
        let (mut folder, host_folder) = (center.machines.clone(), center.hosts.clone());
        let datastore = self.datastores.iter().find(|(_, it)| it.folder == center.datastores);
        let datastore = datastore.ok_or_else(|| missing("no datastore"))?.0.clone();
        let inside = |host: &Host| {
            self.computes.get(&host.compute).is_some_and(|it| it.folder == host_folder)
        };
        let wanted = order.host.as_deref();
        let mut hosts = self.hosts.iter();
        let host = hosts.find(|(_, it)| inside(it) && wanted.is_none_or(|name| it.name == name));
        let host = host.ok_or_else(|| missing("no such host"))?.0.clone();
        for name in &order.folder {
            folder = self.folder_below(&folder, name);
        }
        Ok(Place { folder, host, datastore })
    }

    fn folder_below(&mut self, parent: &str, name: &str) -> String {
        let children = &self.folders[parent].children;
        let mut folders = children.iter().filter(|child| child.kind == Kind::Folder);
        if let Some(found) = folders.find(|child| self.folders[&child.id].name == name) {
            return found.id.clone();
        }
        let above = Reference::new(Kind::Folder, parent);
        let id = self.add_folder(name, &above, &["Folder", "VirtualMachine"]);
        self.hang(parent, Reference::new(Kind::Folder, &id));
        id
    }

    /// Makes a VM with its disks in files of `folder`; returns its id.
    pub(crate) fn add_machine(
        &mut self,
        files: &Path,
        order: &NewMachine,
        place: Place,
    ) -> io::Result<String> {
        let id = self.name("vm");
        let compute = &self.computes[&self.hosts[&place.host].compute];
        let mut machine = Machine {
            name: order.name.clone(),
            folder: place.folder.clone(),
            pool: compute.pool.clone(),
            host: place.host,
            directory: self.free_directory(&place.datastore, &order.name),
            datastore: place.datastore,
            version: 1,
            uuid: order.uuid.clone().unwrap_or_else(|| self.draw.uuid()),
            instance_uuid: self.draw.uuid(),
            annotation: String::new(),
            hardware: order.hardware,
            powered_on: order.powered_on,
            tools_running: order.tools_running,
            consolidation_needed: false,
            tracking_asked: order.tracking,
            disks: BTreeMap::new(),
            snapshots: Vec::new(),
            current: None,
            busy: None,
            deltas: 0,
            content: Arc::new(Mutex::new(Content::default())),
        };
        let mut content = Content::default();
        for order in &order.disks {
            let mut disk = machine.new_disk(&mut self.draw, files, &id, order, None)?;
            let mut bytes = DiskContent::create(disk.path.clone(), disk.capacity)?;
            if machine.tracking_asked && disk.is_in_snapshots() {
                let tracking = bytes.tracking.insert(Tracking::new(self.draw.change_uuid()));
                disk.change_id = Some(tracking.next_change_id());
            }
            content.disks.insert(disk.key, bytes);
            machine.disks.insert(disk.key, disk);
        }
        machine.content = Arc::new(Mutex::new(content));
        self.hang(&place.folder, Reference::new(Kind::VirtualMachine, &id));
        self.machines.insert(id.clone(), machine);
        Ok(id)
    }

    /// Where the files of a VM lie; VMs of one name in several folders lie apart.
    fn free_directory(&self, datastore: &str, name: &str) -> String {
        let store = &self.datastores[datastore].name;
        let taken = |directory: &str| self.machines.values().any(|it| it.directory == directory);
        let first = format!("[{store}] {name}/");
        let others = (1..).map(|number| format!("[{store}] {name}_{number}/"));
        let mut all = [first].into_iter().chain(others);
        all.find(|directory| !taken(directory)).expect("numbers do not end")
    }
}

impl Machine {
    /// The configuration of a new disk at the first free unit, or at the one that was asked for;
    /// its file is not made yet.
    pub(crate) fn new_disk(
        &self,
        draw: &mut Draw,
        files: &Path,
        id: &str,
        order: &NewDisk,
        unit: Option<i32>,
    ) -> io::Result<Disk> {
        let free = |unit: &i32| {
            *unit != CONTROLLER_UNIT && self.disks.values().all(|disk| disk.unit != *unit)
        };
        let unit = match unit {
            Some(unit) => Some(unit).filter(free),
            None => (0..UNITS).find(free),
        };
        let unit = unit.ok_or_else(|| io::Error::other("there is no such free unit"))?;
        let key = FIRST_DISK_KEY + unit;
        let suffix = if unit == 0 { String::new() } else { format!("_{unit}") };
        let stem = self.path_name().trim_end_matches(".vmx").to_owned();
        let hex = draw.hex();
        let drawn = format!("6000C29{}", &draw.uuid()[7..]);
        // Another disk than one of the same key that was there before.
        let path = files.join(format!("{id}-{key}-{}.raw", &hex[..8]));
        Ok(Disk {
            key,
            unit,
            capacity: order.capacity,
            uuid: order.uuid.clone().unwrap_or(drawn),
            mode: order.mode,
            backing: order.backing,
            multi_writer: order.multi_writer,
            chain: vec![format!("{stem}{suffix}.vmdk")],
            change_id: None,
            path,
        })
    }
}

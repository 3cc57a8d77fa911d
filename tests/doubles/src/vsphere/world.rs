//! The inventory: what exists, and how it is connected.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::content::{Content, Tracking};
use super::draw::Draw;
use super::fault::Fault;
use super::machine::{Backing, DiskMode};
use super::task::Task;
use super::value::{Kind, Reference};

/// What answers: a vCenter, or one ESXi host by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// `VirtualCenter`.
    #[default]
    Vcenter,
    /// `HostAgent`: other names of the same objects, and one host.
    Esxi,
}

/// Everything that the server knows.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) flavour: Flavour,
    /// What the server is the same server by; a host alone has none.
    pub(crate) instance_uuid: Option<String>,
    pub(crate) draw: Draw,
    pub(crate) next: u64,
    /// Rises with each change.
    pub(crate) revision: u64,
    pub(crate) datacenters: BTreeMap<String, Datacenter>,
    pub(crate) folders: BTreeMap<String, Folder>,
    pub(crate) computes: BTreeMap<String, Compute>,
    pub(crate) pools: BTreeMap<String, Pool>,
    pub(crate) hosts: BTreeMap<String, Host>,
    pub(crate) datastores: BTreeMap<String, Datastore>,
    pub(crate) machines: BTreeMap<String, Machine>,
    /// Snapshot to the VM that it belongs to.
    pub(crate) snapshots: BTreeMap<String, String>,
    pub(crate) tasks: BTreeMap<String, Task>,
    /// Calls that wait for the test, by their methods.
    pub(crate) held: BTreeMap<&'static str, usize>,
}

#[derive(Debug)]
pub(crate) struct Datacenter {
    pub(crate) name: String,
    pub(crate) parent: String,
    pub(crate) machines: String,
    pub(crate) hosts: String,
    pub(crate) datastores: String,
}

#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) name: String,
    pub(crate) parent: Option<Reference>,
    pub(crate) children: Vec<Reference>,
    /// What may lie in it.
    pub(crate) child_types: &'static [&'static str],
}

#[derive(Debug)]
pub(crate) struct Compute {
    pub(crate) name: String,
    pub(crate) folder: String,
    pub(crate) pool: String,
    pub(crate) hosts: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) owner: String,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) compute: String,
    pub(crate) maintenance: bool,
}

#[derive(Debug)]
pub(crate) struct Datastore {
    pub(crate) name: String,
    pub(crate) folder: String,
    pub(crate) capacity: u64,
    pub(crate) free: u64,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) folder: String,
    pub(crate) host: String,
    pub(crate) pool: String,
    pub(crate) datastore: String,
    /// Where its files lie: `[datastore1] web/`.
    pub(crate) directory: String,
    /// Rises with its configuration.
    pub(crate) version: u64,
    pub(crate) uuid: String,
    pub(crate) instance_uuid: String,
    pub(crate) annotation: String,
    pub(crate) hardware: u32,
    pub(crate) powered_on: bool,
    pub(crate) tools_running: bool,
    pub(crate) consolidation_needed: bool,
    /// Asked for; effective once the VM was stunned.
    pub(crate) tracking_asked: bool,
    pub(crate) disks: BTreeMap<i32, Disk>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) current: Option<String>,
    /// The task that works on it.
    pub(crate) busy: Option<String>,
    pub(crate) deltas: u32,
    pub(crate) content: Arc<Mutex<Content>>,
}

impl Machine {
    /// Of the file that holds its configuration.
    pub(crate) fn path_name(&self) -> String {
        let stem = self.directory.split(['/', ' ']).nth(1).unwrap_or_default();
        format!("{}{stem}.vmx", self.directory)
    }
}

/// A disk as the configuration tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) key: i32,
    pub(crate) unit: i32,
    pub(crate) capacity: u64,
    pub(crate) uuid: String,
    pub(crate) mode: DiskMode,
    pub(crate) backing: Backing,
    pub(crate) multi_writer: bool,
    /// The names of its files, from the first to the one that is written.
    pub(crate) chain: Vec<String>,
    pub(crate) change_id: Option<String>,
    pub(crate) path: PathBuf,
}

impl Disk {
    /// The file that is written.
    pub(crate) fn file(&self) -> &str {
        self.chain.last().expect("a disk has a file")
    }

    /// Whether snapshots are made of it.
    pub(crate) fn is_in_snapshots(&self) -> bool {
        self.mode == DiskMode::Persistent
            && !self.multi_writer
            && !matches!(self.backing, Backing::PhysicalRdm | Backing::RawDevice)
    }
}

/// A snapshot, with the configuration of its moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) number: i32,
    pub(crate) parent: Option<String>,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) made: SystemTime,
    pub(crate) quiesced: bool,
    pub(crate) powered_on: bool,
    pub(crate) disks: BTreeMap<i32, Disk>,
    /// Of the disks that it holds: where the copy is, and what had changed by then.
    pub(crate) copies: BTreeMap<i32, Copy>,
}

/// One disk at the instant of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) path: PathBuf,
    pub(crate) tracking: Option<Arc<Tracking>>,
}

impl World {
    /// The name of a new object: `vm-57`.
    pub(crate) fn name(&mut self, prefix: &str) -> String {
        self.next += 1;
        match self.flavour {
            Flavour::Vcenter => format!("{prefix}-{}", self.next),
            Flavour::Esxi if prefix == "task" => format!("haTask-ha-host-{}", self.next),
            Flavour::Esxi => self.next.to_string(),
        }
    }

    pub(crate) fn machine(&self, id: &str) -> Result<&Machine, Fault> {
        let missing = || Fault::not_found(&Reference::new(Kind::VirtualMachine, id));
        self.machines.get(id).ok_or_else(missing)
    }

    pub(crate) fn machine_mut(&mut self, id: &str) -> Result<&mut Machine, Fault> {
        let missing = || Fault::not_found(&Reference::new(Kind::VirtualMachine, id));
        self.machines.get_mut(id).ok_or_else(missing)
    }

    /// The VM of a snapshot, and the snapshot.
    pub(crate) fn snapshot(&self, id: &str) -> Result<(&str, &Machine, &Snapshot), Fault> {
        let missing = || Fault::not_found(&Reference::new(Kind::VirtualMachineSnapshot, id));
        let owner = self.snapshots.get(id).ok_or_else(missing)?;
        let machine = self.machine(owner)?;
        let snapshot = machine.snapshots.iter().find(|snapshot| snapshot.id == id);
        Ok((owner, machine, snapshot.ok_or_else(missing)?))
    }

    /// The datacenter that something lies in.
    pub(crate) fn datacenter_of(&self, folder: &str) -> Option<&str> {
        let mut folder = self.folders.get(folder)?;
        loop {
            let parent = folder.parent.as_ref()?;
            match parent.kind {
                Kind::Datacenter => return Some(&parent.id),
                _ => folder = self.folders.get(&parent.id)?,
            }
        }
    }

    pub(crate) fn exists(&self, reference: &Reference) -> bool {
        let id = &reference.id;
        match reference.kind {
            Kind::Datacenter => self.datacenters.contains_key(id),
            Kind::Folder => self.folders.contains_key(id),
            Kind::ComputeResource | Kind::ClusterComputeResource => self.computes.contains_key(id),
            Kind::ResourcePool => self.pools.contains_key(id),
            Kind::HostSystem => self.hosts.contains_key(id),
            Kind::Datastore => self.datastores.contains_key(id),
            Kind::VirtualMachine => self.machines.contains_key(id),
            Kind::VirtualMachineSnapshot => self.snapshots.contains_key(id),
            Kind::Task => self.tasks.contains_key(id),
            // There are none, and clients may ask for them nevertheless.
            Kind::VirtualApp => false,
            _ => true,
        }
    }

    /// What of the tree lies right below something.
    pub(crate) fn children(&self, reference: &Reference) -> Vec<Reference> {
        let id = &reference.id;
        match reference.kind {
            Kind::Folder => {
                self.folders.get(id).map(|folder| folder.children.clone()).unwrap_or_default()
            }
            Kind::Datacenter => self.datacenters.get(id).map_or_else(Vec::new, |datacenter| {
                let folders = [&datacenter.machines, &datacenter.hosts, &datacenter.datastores];
                folders.map(|id| Reference::new(Kind::Folder, id)).to_vec()
            }),
            Kind::ComputeResource | Kind::ClusterComputeResource => {
                self.computes.get(id).map_or_else(Vec::new, |compute| {
                    let hosts = compute.hosts.iter();
                    hosts
                        .map(|host| Reference::new(Kind::HostSystem, host))
                        .chain([Reference::new(Kind::ResourcePool, &compute.pool)])
                        .collect()
                })
            }
            _ => Vec::new(),
        }
    }

    /// The well-known objects go by other names on a host alone.
    pub(crate) fn well_known(&self, kind: Kind) -> Reference {
        let id = match (self.flavour, kind) {
            (_, Kind::ServiceInstance) => "ServiceInstance",
            (Flavour::Vcenter, Kind::Folder) => "group-d1",
            (Flavour::Vcenter, Kind::PropertyCollector) => "propertyCollector",
            (Flavour::Esxi, Kind::Folder) => "ha-folder-root",
            (Flavour::Esxi, Kind::PropertyCollector) => "ha-property-collector",
            (Flavour::Esxi, Kind::SessionManager) => "ha-sessionmgr",
            (Flavour::Esxi, Kind::SearchIndex) => "ha-searchindex",
            (Flavour::Esxi, Kind::TaskManager) => "ha-taskmgr",
            (_, other) => other.name(),
        };
        Reference::new(kind, id)
    }
}

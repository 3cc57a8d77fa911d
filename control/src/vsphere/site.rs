//! Where a new VM comes to be: a folder, a host, its pool, a datastore.
//!
//! What is not named is as with the VM that the new one is like, or as there is only one of it.

use std::collections::HashMap;

use super::config::{Tree, above, host, references};
use super::error::VsphereError;
use super::property::{Object, Wanted};
use super::session::Session;
use super::snapshot::vm_moref;
use super::xml::{Element, Moref, XmlError};
use crate::snapshots::{Connection, HypervisorError, NewVm, VmId};

const LISTING: &str = "RetrievePropertiesEx";
/// Levels of folders.
const MAX_LEVELS: usize = 64;

/// What is asked of a host: what it is known by, and what it reaches.
const HOST_AND_STORES: &[&str] =
    &["name", "parent", "runtime.connectionState", "runtime.inMaintenanceMode", "datastore"];

const KINDS: [Wanted; 5] = [
    Wanted { kind: "Folder", paths: &["name", "parent"] },
    Wanted { kind: "Datacenter", paths: &["name", "parent", "vmFolder"] },
    Wanted { kind: "HostSystem", paths: HOST_AND_STORES },
    Wanted { kind: "ResourcePool", paths: &["name", "parent", "owner"] },
    Wanted { kind: "Datastore", paths: &["name", "parent", "summary.accessible"] },
];

/// The place of a new VM.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) folder: Moref,
    /// Its path.
    pub(super) folder_path: String,
    pub(super) host: Moref,
    pub(super) pool: Moref,
    pub(super) datastore: Moref,
    pub(super) datastore_name: String,
}

/// Something that can be chosen.
#[derive(Clone, Debug)]
struct Spot {
    moref: Moref,
    /// Its name, or the path of a folder.
    name: String,
}

impl Spot {
    fn is_called(&self, named: &str) -> bool {
        self.moref.id == named
            || self.name == named.trim_matches('/')
            || self.name.rsplit('/').next() == Some(named)
    }
}

/// A host that can take a VM.
#[derive(Debug)]
struct HostSpot {
    spot: Spot,
    /// What it is part of: its cluster, or itself.
    compute: Moref,
    datastores: Vec<Moref>,
}

/// What there is.
#[derive(Debug)]
struct There {
    tree: Tree,
    parents: HashMap<String, String>,
    /// Datacenters with their folders of VMs.
    centers: Vec<(Moref, Moref)>,
    folders: Vec<Moref>,
    hosts: Vec<HostSpot>,
    /// With what they belong to.
    pools: Vec<(Spot, Moref)>,
    datastores: Vec<Spot>,
}

/// Where the other VM is.
#[derive(Debug, Default)]
struct Old {
    folder: Option<String>,
    host: Option<String>,
    pool: Option<String>,
    datastores: Vec<String>,
}

/// Finds the place.
pub(super) fn find(session: &Session, wanted: &NewVm) -> Result<Site, HypervisorError> {
    let there = session.looked(|| There::read(session))?;
    let old = match &wanted.like {
        Some(vm) => session.looked(|| Old::read(session, vm))?,
        None => Old::default(),
    };
    let site = &wanted.site;
    let hosts: Vec<Spot> = there.hosts.iter().map(|host| host.spot.clone()).collect();
    let chosen = choose("host", site.host.as_deref(), old.host.as_slice(), &hosts)?;
    let is_chosen = |host: &&HostSpot| host.spot.moref == chosen.moref;
    let host = there.hosts.iter().find(is_chosen).expect("it was chosen among them");

    let reached = |store: &&Spot| host.datastores.contains(&store.moref);
    let stores: Vec<Spot> = there.datastores.iter().filter(reached).cloned().collect();
    let datastore = choose("datastore", site.datastore.as_deref(), &old.datastores, &stores)?;

    let compute =
        session.looked(|| session.properties(&host.compute, &["parent", "resourcePool"]))?;
    let moref = |path: &str| -> Result<Option<Moref>, VsphereError> {
        let found = compute.get(path).map(Moref::of).transpose();
        found.map_err(|error| session.strange(LISTING, &error))
    };
    let mine = there.pools.iter().filter(|(_, owner)| *owner == host.compute);
    let pools: Vec<Spot> = mine.map(|(pool, _)| pool.clone()).collect();
    let whole = moref("resourcePool")?.map(|pool| pool.id);
    let usual: Vec<String> = old.pool.into_iter().chain(whole).collect();
    let pool = choose_first("resource pool", site.pool.as_deref(), &usual, &pools)?;

    let center = moref("parent")?.and_then(|folder| there.center_of(&folder.id));
    let folders = there.folders_of(center);
    let uppermost = center.map(|(_, folder)| folder.id.clone());
    let usual: Vec<String> = old.folder.into_iter().chain(uppermost).collect();
    let folder = choose_first("folder", site.folder.as_deref(), &usual, &folders)?;
    Ok(Site {
        folder: folder.moref.clone(),
        folder_path: folder.name.clone(),
        host: chosen.moref.clone(),
        pool: pool.moref.clone(),
        datastore: datastore.moref.clone(),
        datastore_name: datastore.name.clone(),
    })
}

/// The one that is named, or the one of the old place, or the only one.
fn choose<'a>(
    what: &'static str,
    named: Option<&str>,
    old: impl AsRef<[String]>,
    among: &'a [Spot],
) -> Result<&'a Spot, HypervisorError> {
    let old = old.as_ref();
    let fits = |spot: &&Spot| match named {
        Some(named) => spot.is_called(named),
        None => old.contains(&spot.moref.id),
    };
    let found: Vec<&Spot> = among.iter().filter(fits).collect();
    match (found.as_slice(), named, among) {
        ([one], _, _) => Ok(one),
        ([], None, [one]) => Ok(one),
        _ => Err(HypervisorError::NoPlace {
            what,
            named: named.map(str::to_owned),
            has: among.iter().map(|spot| spot.name.clone()).collect(),
        }),
    }
}

/// The one that is named, or the first of the usual ones that is among them.
fn choose_first<'a>(
    what: &'static str,
    named: Option<&str>,
    usual: &[String],
    among: &'a [Spot],
) -> Result<&'a Spot, HypervisorError> {
    let first = usual.iter().find_map(|id| among.iter().find(|spot| spot.moref.id == *id));
    match (named, first) {
        (None, Some(spot)) => Ok(spot),
        _ => choose(what, named, [], among),
    }
}

impl There {
    fn read(session: &Session) -> Result<Self, VsphereError> {
        let mut there = Self {
            tree: Tree::on(&session.content().root),
            parents: HashMap::new(),
            centers: Vec::new(),
            folders: Vec::new(),
            hosts: Vec::new(),
            pools: Vec::new(),
            datastores: Vec::new(),
        };
        let mut wrong = None;
        session.inventory(&KINDS, &mut |object| {
            if let Err(error) = there.add(&object) {
                wrong = Some(error);
            }
        })?;
        match wrong {
            Some(error) => Err(session.strange(LISTING, &error)),
            None => Ok(there),
        }
    }

    fn add(&mut self, object: &Object) -> Result<(), XmlError> {
        let moref = object.moref.clone();
        if let Some(parent) = above(object) {
            self.parents.insert(moref.id.clone(), parent);
        }
        let spot = || Spot {
            moref: moref.clone(),
            name: object.text("name").unwrap_or(&moref.id).to_owned(),
        };
        let referred = |path: &str| object.get(path).map(Moref::of).transpose();
        match moref.kind.as_str() {
            "Folder" => {
                self.tree.add(object);
                self.folders.push(moref);
            }
            "Datacenter" => {
                self.tree.add(object);
                self.centers.extend(referred("vmFolder")?.map(|folder| (moref, folder)));
            }
            "HostSystem" => {
                let facts = host(object)?;
                let usable = facts.connection == Connection::Connected && !facts.in_maintenance;
                if let (true, Some(compute)) = (usable, referred("parent")?) {
                    let stores = object.get("datastore").map(references).transpose()?;
                    let datastores = stores.unwrap_or_default();
                    self.hosts.push(HostSpot { spot: spot(), compute, datastores });
                }
            }
            "ResourcePool" => {
                self.pools.extend(referred("owner")?.map(|owner| (spot(), owner)));
            }
            "Datastore" => {
                let said = object.get("summary.accessible").map_or(Ok(true), Element::truth)?;
                self.datastores.extend(said.then(spot));
            }
            _ => {}
        }
        Ok(())
    }

    /// The datacenter that something is in.
    fn center_of(&self, id: &str) -> Option<&(Moref, Moref)> {
        let mut next = Some(id);
        for _ in 0..MAX_LEVELS {
            let id = next?;
            if let Some(center) = self.centers.iter().find(|(center, _)| center.id == id) {
                return Some(center);
            }
            next = self.parents.get(id).map(String::as_str);
        }
        None
    }

    /// The folders of a datacenter that VMs can be in, by their paths.
    fn folders_of(&self, center: Option<&(Moref, Moref)>) -> Vec<Spot> {
        let Some((_, uppermost)) = center else { return Vec::new() };
        let inside = self.folders.iter().filter(|folder| self.is_in(&folder.id, &uppermost.id));
        let spots = inside.map(|folder| {
            let path = self.tree.path("", Some(&folder.id));
            Spot { moref: folder.clone(), name: path.trim_end_matches('/').to_owned() }
        });
        spots.collect()
    }

    fn is_in(&self, id: &str, above: &str) -> bool {
        let mut next = Some(id);
        for _ in 0..MAX_LEVELS {
            match next {
                Some(id) if id == above => return true,
                Some(id) => next = self.parents.get(id).map(String::as_str),
                None => return false,
            }
        }
        false
    }
}

impl Old {
    fn read(session: &Session, vm: &VmId) -> Result<Self, VsphereError> {
        let paths = ["parent", "runtime.host", "resourcePool", "datastore"];
        let object = session.properties(&vm_moref(vm), &paths)?;
        let text = |path| object.text(path).map(str::to_owned);
        let stores = object.get("datastore").map(references).transpose();
        let stores = stores.map_err(|error| session.strange(LISTING, &error))?;
        Ok(Self {
            folder: text("parent"),
            host: text("runtime.host"),
            pool: text("resourcePool"),
            datastores: stores.unwrap_or_default().into_iter().map(|store| store.id).collect(),
        })
    }
}

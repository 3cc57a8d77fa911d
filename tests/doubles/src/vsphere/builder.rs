//! A server is ordered.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::certificate::Certificate;
use super::double::Vsphere;
use super::draw::Draw;
use super::machine::NewMachine;
use super::published::Published;
use super::revert::Revert;
use super::session::Sessions;
use super::shared::{Options, Shared};
use super::world::{Flavour, World};
use crate::vddk::put_library;

/// Changed areas in one answer of the real ones, about.
const PAGE_AREAS: usize = 2000;

/// What a server is to be; see [`Vsphere::builder`].
#[derive(Clone, Debug)]
pub struct VsphereBuilder {
    flavour: Flavour,
    users: BTreeMap<String, String>,
    seed: u64,
    drawn_spelling: bool,
    page_areas: usize,
    page_objects: usize,
    revert: Revert,
    datacenters: Vec<(String, Vec<String>, Vec<String>)>,
    machines: Vec<NewMachine>,
    kept: Option<PathBuf>,
    port: u16,
}

impl Default for VsphereBuilder {
    fn default() -> Self {
        Self {
            flavour: Flavour::Vcenter,
            users: BTreeMap::new(),
            seed: 0,
            drawn_spelling: false,
            page_areas: PAGE_AREAS,
            page_objects: usize::MAX,
            revert: Revert::default(),
            datacenters: Vec::new(),
            machines: Vec::new(),
            kept: None,
            port: 0,
        }
    }
}

impl VsphereBuilder {
    /// One ESXi host rather than a vCenter.
    #[must_use]
    pub fn esxi(self) -> Self {
        Self { flavour: Flavour::Esxi, ..self }
    }

    /// Adds a user.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.insert(name.to_owned(), password.to_owned());
        self
    }

    /// Of all that is drawn: UUIDs, cookies, spelling.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Draws the prefixes of namespaces, the order of attributes, and whether an answer comes in
    /// chunks, for each answer anew.
    #[must_use]
    pub fn drawn_spelling(self) -> Self {
        Self { drawn_spelling: true, ..self }
    }

    /// At most so many changed areas in an answer.
    #[must_use]
    pub fn page_areas(self, count: usize) -> Self {
        Self { page_areas: count, ..self }
    }

    /// At most so many objects in an answer, however many the client would take.
    #[must_use]
    pub fn page_objects(self, count: usize) -> Self {
        Self { page_objects: count, ..self }
    }

    /// What a snapshot that is reverted to does to change ids.
    #[must_use]
    pub fn revert(self, revert: Revert) -> Self {
        Self { revert, ..self }
    }

    /// Adds a datacenter with hosts and datastores; without one there is `dc` with `esx1`, `esx2`
    /// and `datastore1`, and with [`Self::esxi`] `ha-datacenter` with one host.
    #[must_use]
    pub fn datacenter(mut self, name: &str, hosts: &[&str], datastores: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.datacenters.push((name.to_owned(), owned(hosts), owned(datastores)));
        self
    }

    /// Adds a VM; a thousand at once are cheaper than one by one later.
    #[must_use]
    pub fn machine(mut self, machine: NewMachine) -> Self {
        self.machines.push(machine);
        self
    }

    /// Moves the copies of removed snapshots into this folder instead of removing them:
    /// `VM-SNAPSHOT-KEY.raw`.
    #[must_use]
    pub fn keep_copies(self, folder: &Path) -> Self {
        Self { kept: Some(folder.to_owned()), ..self }
    }

    /// On this port of 127.0.0.1 rather than any.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Starts it; its disks and `vddk.json` lie in `state`, which is made where it is missing.
    pub fn start(self, state: &Path) -> io::Result<Vsphere> {
        let state = std::path::absolute(state)?;
        let folder = state.join("disks");
        fs::create_dir_all(&folder)?;
        put_library(&state)?;
        let mut world = World::new(self.flavour, self.seed);
        for (name, hosts, datastores) in self.places() {
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let datastores: Vec<&str> = datastores.iter().map(String::as_str).collect();
            world.add_datacenter(&name, &hosts, &datastores);
        }
        for machine in &self.machines {
            let place = world.place(machine)?;
            world.add_machine(&folder, machine, place)?;
        }
        let certificate = Certificate::make()?;
        // As unique as its certificate.
        world.instance_uuid =
            (self.flavour == Flavour::Vcenter).then(|| uuid_of(&certificate.sha256()));
        let published = Published {
            path: state.join("vddk.json"),
            thumbprint: certificate.sha1(),
            users: self.users.clone(),
            faults: [("refuse_open".to_owned(), serde_json::Value::Null)].into_iter().collect(),
        };
        published.write(&world);
        let options = Options {
            page_areas: self.page_areas,
            page_objects: self.page_objects,
            revert: self.revert,
            kept: self.kept,
        };
        let spelling = self.drawn_spelling.then(|| Draw::new(self.seed ^ 0x5e11));
        let sessions = Sessions::new(self.users, self.seed ^ 0x5e55);
        let shared = Shared::new(folder, options, sessions, spelling, world, published);
        Vsphere::start(shared, certificate, state, self.port)
    }

    fn places(&self) -> Vec<(String, Vec<String>, Vec<String>)> {
        let usual = |name: &str, hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            vec![(name.to_owned(), hosts, vec!["datastore1".to_owned()])]
        };
        match (self.flavour, self.datacenters.is_empty()) {
            (_, false) => self.datacenters.clone(),
            (Flavour::Vcenter, true) => usual("dc", &["esx1", "esx2"]),
            (Flavour::Esxi, true) => usual("ha-datacenter", &["esx1"]),
        }
    }
}

/// A UUID of what is drawn already, as hexadecimal digits with colons.
fn uuid_of(thumbprint: &str) -> String {
    let digits = thumbprint.replace(':', "").to_ascii_lowercase();
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    parts.map(|(from, to)| &digits[from..to]).join("-")
}

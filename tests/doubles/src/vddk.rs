//! The double of nbdkit's vddk plugin, and the pretended vCenter whose disks it serves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// What cargo calls the plugin.
const FILE: &str = "libblockferry_doubles_vddk.so";
const STATE_FILE: &str = "vddk.json";

/// The plugin. Cargo builds it before whatever depends on this crate, next to the tests.
pub fn plugin() -> PathBuf {
    let program = env::current_exe().unwrap();
    let folder = program.parent().unwrap();
    let places =
        [folder.join(FILE), folder.join("deps").join(FILE), folder.join("../deps").join(FILE)];
    let found = places.iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {FILE} near {}", folder.display())).clone()
}

/// A pretended vCenter: the folder that the plugin takes as `libdir`. What is changed here is there
/// for the next connection.
#[derive(Debug)]
pub struct Vddk {
    folder: PathBuf,
    thumbprint: String,
    users: BTreeMap<String, String>,
    vms: BTreeMap<String, Vm>,
    faults: BTreeMap<String, Value>,
}

#[derive(Debug, Default)]
struct Vm {
    powered_on: bool,
    disks: BTreeMap<String, Value>,
    snapshots: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Vddk {
    /// One without VMs, in a folder that is there.
    pub fn new(folder: &Path, thumbprint: &str, user: &str, password: &str) -> Self {
        put_library(folder).unwrap();
        let users = BTreeMap::from([(user.to_owned(), password.to_owned())]);
        Self {
            folder: folder.to_owned(),
            thumbprint: thumbprint.to_owned(),
            users,
            vms: BTreeMap::new(),
            faults: BTreeMap::new(),
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a disk of a VM's snapshot: the bytes of a raw file.
    pub fn snapshot_disk(&mut self, vm: &str, snapshot: &str, file: &str, raw: &Path) -> &mut Self {
        let disk = backing(raw);
        let vm = self.vms.entry(vm.to_owned()).or_default();
        vm.snapshots.entry(snapshot.to_owned()).or_default().insert(file.to_owned(), disk);
        self
    }

    /// Adds a disk as the VM itself has it.
    pub fn current_disk(&mut self, vm: &str, file: &str, raw: &Path) -> &mut Self {
        let disk = backing(raw);
        self.vms.entry(vm.to_owned()).or_default().disks.insert(file.to_owned(), disk);
        self
    }

    /// Switches a VM on or off.
    pub fn power(&mut self, vm: &str, on: bool) -> &mut Self {
        self.vms.entry(vm.to_owned()).or_default().powered_on = on;
        self
    }

    /// Orders a fault; see the plugin.
    pub fn fault(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.faults.insert(name.to_owned(), value.into());
        self
    }

    /// Writes it, whole or not at all.
    pub fn write(&self) -> io::Result<()> {
        let vms = self.vms.iter().map(|(id, vm)| {
            let vm = json!({
                "powered_on": vm.powered_on, "disks": vm.disks, "snapshots": vm.snapshots,
            });
            (id.clone(), vm)
        });
        let state = json!({
            "server_thumbprint": self.thumbprint,
            "users": self.users,
            "vms": vms.collect::<BTreeMap<_, _>>(),
            "faults": self.faults,
        });
        let file = NamedTempFile::new_in(&self.folder)?;
        fs::write(file.path(), serde_json::to_vec_pretty(&state)?)?;
        file.persist(self.folder.join(STATE_FILE)).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Puts what stands for VMware's library into a folder, so that it is taken for that of VDDK.
pub(crate) fn put_library(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join("lib64"))?;
    fs::write(folder.join("lib64/libvixDiskLib.so.8"), "")
}

fn backing(raw: &Path) -> Value {
    json!({"path": raw, "capacity": fs::metadata(raw).unwrap().len()})
}

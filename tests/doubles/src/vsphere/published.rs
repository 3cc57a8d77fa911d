//! `vddk.json`: what the double of VDDK's plugin reads of this server.
//!
//! ```text
//! {"server_thumbprint": "AA:BB:..", "users": {"user": "password"},
//!  "vms": {"vm-57": {"snapshots": {"snapshot-64": {"[ds] vm/vm.vmdk": {"path": "/raw", "capacity": 1048576}}},
//!                    "disks": {"[ds] vm/vm.vmdk": {"path": "/raw", "capacity": 1048576}},
//!                    "powered_on": true, "host": "host-21"}},
//!  "hosts_in_maintenance": ["host-24"], "faults": {"refuse_open": null}}
//! ```
//!
//! It is replaced as a whole, so that a reader sees one state. `disks` are what the guest writes;
//! the plugin writes to them only while the VM is off and has no snapshot. It marks nothing in the
//! change map: a file that is found changed by somebody else counts as changed as a whole.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::world::{Machine, Snapshot, World};

/// The file, and what does not come from the inventory.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) path: PathBuf,
    pub(crate) thumbprint: String,
    pub(crate) users: BTreeMap<String, String>,
    /// What goes wrong in the plugin; its own documentation says what there is.
    pub(crate) faults: Map<String, Value>,
}

impl Published {
    /// Writes the state of this moment. A double that cannot is of no use, so that ends the test.
    pub(crate) fn write(&self, world: &World) {
        let machines: Map<String, Value> =
            world.machines.iter().map(|(id, it)| (id.clone(), machine(it))).collect();
        let closed = world.hosts.iter().filter(|(_, host)| host.maintenance);
        let closed: Vec<&String> = closed.map(|(id, _)| id).collect();
        let text = json!({
            "server_thumbprint": self.thumbprint,
            "users": self.users,
            "vms": machines,
            "hosts_in_maintenance": closed,
            "faults": self.faults,
        })
        .to_string();
        let fresh = self.path.with_extension("json.fresh");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&fresh).unwrap();
        // It has passwords.
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        fs::rename(&fresh, &self.path).unwrap();
    }
}

fn machine(machine: &Machine) -> Value {
    let disks = machine.disks.values();
    let disks: Map<String, Value> = disks
        .map(|disk| (disk.file().to_owned(), json!({"path": disk.path, "capacity": disk.capacity})))
        .collect();
    let snapshots: Map<String, Value> =
        machine.snapshots.iter().map(|it| (it.id.clone(), snapshot(it))).collect();
    json!({
        "snapshots": snapshots,
        "disks": disks,
        "powered_on": machine.powered_on,
        "host": machine.host,
    })
}

fn snapshot(snapshot: &Snapshot) -> Value {
    let disks: Map<String, Value> = snapshot
        .copies
        .iter()
        .map(|(key, copy)| {
            let disk = &snapshot.disks[key];
            (disk.file().to_owned(), json!({"path": copy.path, "capacity": disk.capacity}))
        })
        .collect();
    Value::Object(disks)
}

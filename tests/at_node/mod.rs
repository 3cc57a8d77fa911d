//! A hub with a node that asks a vCenter, and VMs there.

mod beside;
mod keys;
mod losses;
mod named;
mod points;
mod secrets;

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::vsphere::{NewMachine, Vsphere};
use serde_json::{Value, json};

use crate::blockferry::{Backed, Node, NodePlace, Secret, VmPlace, by, wait_until, write_secret};

pub(crate) const MIB: u64 = 1 << 20;
/// Slow enough that a backup is at work when it is disturbed.
pub(crate) const SLOW: &str = "--rate-limit 4M";

/// What VMware's library says of a read, as its double has it.
pub(crate) const READ: &str = "VixDiskLib_Read: ";

/// Of the user `vault`.
pub(crate) const PASSWORD: Secret = Secret("c0rrect-h0rse&<y");

/// A hub, and a vCenter that a node of it can ask.
pub(crate) struct Place {
    pub(crate) hubs: NodePlace,
    pub(crate) vms: VmPlace,
}

impl Place {
    pub(crate) fn new(machine: NewMachine) -> Self {
        Self::with(machine, "")
    }

    pub(crate) fn with(machine: NewMachine, hub: &str) -> Self {
        Self { hubs: NodePlace::new(hub), vms: VmPlace::new(machine) }
    }

    /// With a user `vault` at the vCenter, and the file of their password. Returns the options of a
    /// node, too.
    pub(crate) fn with_vault() -> (Self, String) {
        let builder = Vsphere::builder().machine(two_disks()).user("vault", PASSWORD.0);
        let hubs = NodePlace::new("--node-deadline 4s");
        let place = Self { hubs, vms: VmPlace::with(builder) };
        write_secret(&place.vms.kept.path("vault.password"), PASSWORD.0);
        let options = place.options(SLOW).replace("--vcenter-user backup", "--vcenter-user vault");
        (place, options.replace("vc.password", "vault.password"))
    }

    /// The password is in no file of hub or node, and in no process of this machine.
    pub(crate) fn assert_secret(&self) {
        assert_eq!(PASSWORD.processes(), Vec::<u32>::new());
        assert_eq!(PASSWORD.files(self.hubs.kept.folder()), Vec::<String>::new());
        // Of the vCenter, which is the password's own place, and of nbdkit and budgets.
        let own = ["vault.password", "vddk.json"];
        assert_eq!(PASSWORD.files(self.vms.kept.folder()), own);
    }

    /// What a node has to be told of the vCenter, as seen from another folder.
    pub(crate) fn options(&self, more: &str) -> String {
        let at = |name: &str| self.vms.kept.path(name).display().to_string();
        let server = self.vms.server().replace("vc.password", &at("vc.password"));
        let vddk = self.vms.vddk().replace("libdir vsphere", &format!("libdir {}", at("vsphere")));
        format!("{server} {vddk} --quiesce none {more}")
    }

    pub(crate) fn node(&self, more: &str) -> Node {
        self.hubs.node("n1", &self.options(more))
    }

    pub(crate) fn start_again(&self, more: &str) -> Node {
        let mut node = self.hubs.start_node("n1", &self.options(more));
        node.wait_until_served();
        node
    }

    /// Backs a VM up by the node. Returns the exit code, and the report.
    pub(crate) fn try_back_up(&self, vm: &str) -> (i32, Value) {
        self.try_back_up_with(vm, "")
    }

    /// The same, with more words.
    pub(crate) fn try_back_up_with(&self, vm: &str, more: &str) -> (i32, Value) {
        let hub = by(&self.hubs.hub);
        self.hubs.kept.json(&format!("backup --json --vm {vm} {hub} --node n1 {more}"))
    }

    /// The same, which has to succeed, with the copies of its snapshot.
    pub(crate) fn back_up(&self, vm: &str) -> Backed {
        self.back_up_with(vm, "")
    }

    pub(crate) fn back_up_with(&self, vm: &str, more: &str) -> Backed {
        let machine = self.vms.machine(vm);
        let before = self.vms.copies_of(&machine);
        let (code, report) = self.try_back_up_with(vm, more);
        assert_eq!(code, 0, "{report}");
        let mut copies = self.vms.copies_of(&machine).into_iter();
        let copies = copies.rfind(|(number, _)| !before.contains_key(number)).unwrap().1;
        Backed { report, copies }
    }

    /// The point equals its snapshot, every byte.
    pub(crate) fn assert_equal(&self, backed: &Backed) {
        let out = format!("restored-{}", backed.id());
        self.hubs.hubs(&format!("restore {} --to {out}", backed.id()));
        for (name, copy) in &backed.copies {
            compare_raw(copy, &self.hubs.kept.path(&out).join(format!("{name}.raw"))).unwrap();
        }
    }

    pub(crate) fn submit(&self, vm: &str) -> String {
        self.hubs.submit_body(&json!({ "vm": vm, "node": "n1" }))
    }

    /// A backup of a VM that has something to copy, once it is at work with its snapshot.
    pub(crate) fn at_work(&self, vm: &str) -> String {
        self.vms.machine(vm).write(2000, 0, &vec![7; 20 << 20]).unwrap();
        let job = self.submit(vm);
        self.hubs.wait_at_work(&job);
        assert_eq!(self.snapshots(), 1);
        job
    }

    /// The names of the snapshots of a VM.
    pub(crate) fn snapshots_of(&self, vm: &str) -> Vec<String> {
        let snapshots = self.vms.machine(vm).snapshots().unwrap().into_iter();
        snapshots.map(|snapshot| snapshot.name).collect()
    }

    pub(crate) fn snapshots(&self) -> usize {
        self.vms.vsphere.machines().iter().map(|vm| vm.snapshots().unwrap().len()).sum()
    }

    /// Waits until nothing is left at the vCenter, at the node and at the hub.
    pub(crate) fn assert_nothing_left(&self) {
        wait_until("a snapshot is left", || self.snapshots() == 0);
        // The node itself names the vCenter's folder.
        let is_left = |word: &String| !word.contains(" node serve ");
        wait_until("something is left at the node", || !self.vms.left().iter().any(is_left));
        wait_until("a snapshot is written down", || {
            self.hubs.kept.names("n1/snapshots").is_empty()
        });
        self.hubs.assert_forgotten("n1");
    }
}

pub(crate) fn two_disks() -> NewMachine {
    NewMachine::new("web").disk(24 * MIB).disk(8 * MIB + 512).tracked()
}

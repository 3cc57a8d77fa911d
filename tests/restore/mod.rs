//! A VM with two points of it, and what it is restored from and into.

mod breaks;
mod existing;
mod marks;
mod new_vm;
mod refusals;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::vsphere::{NewMachine, VirtualMachine, Vsphere};
use serde_json::Value;

use crate::blockferry::{Backed, VmPlace, wait_until};

pub(crate) const MIB: u64 = 1 << 20;
/// Not a multiple of what anything is counted in but sectors.
pub(crate) const ODD: u64 = 8 * MIB + 512;
pub(crate) const ROOT: i32 = 2000;

pub(crate) const DATA: i32 = 2001;

pub(crate) fn web() -> NewMachine {
    NewMachine::new("web").folder("prod/linux").disk(16 * MIB).disk(ODD).tracked()
}

/// A VM with content, and two points of it. It is off then, and has other content than either.
pub(crate) fn backed_up_twice() -> (VmPlace, Backed, Backed) {
    let place = VmPlace::new(web());
    let machine = place.machine("web");
    scribble(&machine, 1);
    let first = place.back_up("web", "");
    scribble(&machine, 2);
    let second = place.back_up("web", "");
    assert_eq!(second.mode("disk-2000"), "incremental", "{}", second.report);
    scribble(&machine, 3);
    machine.power(false).unwrap();
    (place, first, second)
}

/// Writes here and there on both disks, to their last bytes.
pub(crate) fn scribble(machine: &VirtualMachine, round: u8) {
    for (key, size) in machine.disks().unwrap() {
        let block = vec![round * 16 + u8::try_from(key - ROOT).unwrap(); 200_000];
        machine.write(key, u64::from(round) * MIB + 700, &block).unwrap();
        // Zeros in the midst of other data: they have to be written too.
        machine.write(key, 5 * MIB, &vec![round; 3 * 65_536]).unwrap();
        machine.write(key, 5 * MIB + 65_536, &vec![0; usize::from(round % 2) * 65_536]).unwrap();
        machine.write(key, size - 512, &[round; 512]).unwrap();
    }
}

/// The line that restores a point into a VM.
pub(crate) fn line(place: &VmPlace, backed: &Backed, extra: &str) -> String {
    format!(
        "restore {} --repository repository --to vsphere --json {} {} {extra}",
        backed.id(),
        place.server(),
        place.vddk()
    )
}

pub(crate) fn restore(place: &VmPlace, backed: &Backed, extra: &str) -> (i32, Value) {
    place.kept.json(&line(place, backed, extra))
}

/// The files of a VM's disks by the names that a point has for them.
pub(crate) fn files(machine: &VirtualMachine) -> BTreeMap<String, PathBuf> {
    let keys = machine.disks().unwrap().into_keys();
    keys.map(|key| (format!("disk-{key}"), machine.path(key).unwrap())).collect()
}

/// What is on its disks now.
pub(crate) fn contents(machine: &VirtualMachine) -> Vec<Vec<u8>> {
    files(machine).values().map(|path| fs::read(path).unwrap()).collect()
}

#[track_caller]
pub(crate) fn assert_holds(machine: &VirtualMachine, backed: &Backed) {
    let files = files(machine);
    assert_eq!(files.len(), backed.copies.len());
    for (name, copy) in &backed.copies {
        compare_raw(copy, &files[name]).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// It is as a restore leaves it: off, without snapshots, and nothing of the program is left.
#[track_caller]
pub(crate) fn assert_at_rest(place: &VmPlace, machine: &VirtualMachine) {
    assert!(!machine.is_on().unwrap());
    assert_eq!(machine.snapshots().unwrap(), []);
    assert_eq!(place.vsphere.sessions(), 0);
    place.assert_nothing_left();
}

pub(crate) const MAKE: &str = "CreateVM_Task";

/// A restore at work, slowly.
pub(crate) struct Slow {
    child: Child,
}

impl Slow {
    /// Waits until the VM of this name says that it is restored into.
    pub(crate) fn start(place: &VmPlace, backed: &Backed, extra: &str, vm: &str) -> Self {
        let mut command = place.kept.command(&line(place, backed, extra));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let is_marked = |vsphere: &Vsphere| {
            let machine = vsphere.machine_named(vm);
            machine.is_some_and(|vm| vm.annotation().unwrap().contains(MARK))
        };
        assert!(place.vsphere.wait_until(PATIENCE, is_marked), "the VM is not marked");
        Self { child }
    }

    /// Waits until it has written into a file.
    pub(crate) fn writes(&self, path: &Path, before: &[u8]) {
        wait_until("nothing is written", || fs::read(path).unwrap() != before);
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) const MARK: &str = "[blockferry restore ";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

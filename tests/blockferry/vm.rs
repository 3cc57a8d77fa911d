//! VMs of a vSphere double that the program backs up, and what each backup has to be equal to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::vddk::plugin;
use blockferry_doubles::vsphere::{NewMachine, VirtualMachine, Vsphere, VsphereBuilder};
use serde_json::Value;

use super::{Kept, code, stderr};

/// How the names of the program's snapshots begin.
const PREFIX: &str = "blockferry-";

/// A server with VMs, and a folder with a repository `repository` beside it.
pub(crate) struct VmPlace {
    // It writes to the folder until it is gone, so it goes first.
    pub(crate) vsphere: Vsphere,
    pub(crate) kept: Kept,
}

/// A backup that was made, and what its snapshot held.
#[derive(Clone, Debug)]
pub(crate) struct Backed {
    /// What the program printed.
    pub(crate) report: Value,
    /// Copies of the disks at the snapshot's instant, by the names that the point has for them.
    pub(crate) copies: BTreeMap<String, PathBuf>,
}

impl VmPlace {
    /// A vCenter with this VM.
    pub(crate) fn new(machine: NewMachine) -> Self {
        Self::with(Vsphere::builder().machine(machine))
    }

    /// A server as ordered, whose user `backup` has the password `secret`.
    pub(crate) fn with(builder: VsphereBuilder) -> Self {
        let kept = Kept::new();
        fs::create_dir(kept.path("copies")).unwrap();
        write_secret(&kept.path("vc.password"), "secret");
        let builder = builder.user("backup", "secret").keep_copies(&kept.path("copies"));
        let vsphere = builder.start(&kept.path("vsphere")).unwrap();
        Self { kept, vsphere }
    }

    /// The first VM of this name.
    pub(crate) fn machine(&self, name: &str) -> VirtualMachine {
        self.vsphere.machine_named(name).unwrap()
    }

    /// The options that name the server.
    pub(crate) fn server(&self) -> String {
        format!(
            "--vcenter {} --vcenter-user backup --vcenter-password-file vc.password \
             --vcenter-thumbprint {}",
            self.vsphere.address(),
            self.vsphere.thumbprint()
        )
    }

    /// The options that say how disks are served.
    pub(crate) fn vddk(&self) -> String {
        format!(
            "--vddk-plugin {} --vddk-libdir vsphere --vddk-runtime {}",
            plugin().display(),
            self.kept.path("run").display()
        )
    }

    /// The line that backs a VM up. Without a word on quiescing in `extra`, it is not asked for.
    pub(crate) fn backup(&self, vm: &str, extra: &str) -> String {
        let quiesce = if extra.contains("--quiesce") { "" } else { "--quiesce none" };
        format!(
            "backup --vm {vm} --repository repository --json {} {} {quiesce} {extra}",
            self.server(),
            self.vddk()
        )
    }

    /// The same, to be started and looked at while it runs.
    pub(crate) fn backup_command(&self, vm: &str, extra: &str) -> Command {
        self.kept.command(&self.backup(vm, extra))
    }

    /// Backs a VM up, by any of its names. Returns the exit code, and the report.
    pub(crate) fn try_back_up(&self, vm: &str, extra: &str) -> (i32, Value) {
        self.kept.json(&self.backup(vm, extra))
    }

    /// Backs up the VM of this name.
    pub(crate) fn back_up(&self, vm: &str, extra: &str) -> Backed {
        self.back_up_machine(&self.machine(vm), vm, extra)
    }

    /// Backs up this VM, which is called so on the command line.
    pub(crate) fn back_up_machine(
        &self,
        machine: &VirtualMachine,
        vm: &str,
        extra: &str,
    ) -> Backed {
        let before = self.copies_of(machine);
        let (code, report) = self.try_back_up(vm, extra);
        assert_eq!(code, 0, "{report}");
        // Where tracking is turned on there is a snapshot before; numbers rise.
        let new =
            self.copies_of(machine).into_iter().rfind(|(number, _)| !before.contains_key(number));
        let copies = new.expect("a snapshot was made and removed").1;
        Backed { report, copies }
    }

    /// Copies of a VM's removed snapshots by their number; of each the files by the names that a
    /// point has for its disks.
    pub(crate) fn copies_of(
        &self,
        machine: &VirtualMachine,
    ) -> BTreeMap<u64, BTreeMap<String, PathBuf>> {
        let mut copies: BTreeMap<u64, BTreeMap<String, PathBuf>> = BTreeMap::new();
        for name in self.kept.names("copies") {
            // `vm-57-snapshot-64-2000.raw`, and on an ESXi host `57-snapshot-64-2000.raw`.
            let of_it = name.strip_prefix(&format!("{}-", machine.id()));
            let Some(words) = of_it.and_then(|rest| rest.strip_suffix(".raw")) else { continue };
            let mut words = words.rsplit('-');
            let (key, number) = (words.next().unwrap(), words.next().unwrap());
            let of_snapshot = copies.entry(number.parse().unwrap()).or_default();
            of_snapshot.insert(format!("disk-{key}"), self.kept.path("copies").join(&name));
        }
        copies
    }

    /// What the program says with these words, which ask the server.
    pub(crate) fn ask(&self, line: &str) -> Output {
        self.kept.run(&format!("{line} {}", self.server()))
    }

    /// The same, of what it prints as JSON. Returns its exit code too.
    pub(crate) fn ask_json(&self, line: &str) -> (i32, Value) {
        let output = self.ask(&format!("{line} --json"));
        let told = serde_json::from_slice(&output.stdout);
        (code(&output), told.unwrap_or_else(|error| panic!("{line}: {error}: {}", stderr(&output))))
    }

    /// All points, the oldest first.
    pub(crate) fn points(&self) -> Vec<Value> {
        let (code, listed) = self.kept.json("points --repository repository --json");
        assert_eq!(code, 0, "{listed}");
        listed["points"].as_array().unwrap().clone()
    }

    /// The point that a backup made, as it is listed.
    pub(crate) fn point(&self, backed: &Backed) -> Value {
        let id = &backed.report["point"];
        self.points().into_iter().find(|point| point["id"] == *id).expect("the point is listed")
    }

    /// Weight and words of what is noted of the point of a backup.
    pub(crate) fn notes(&self, backed: &Backed) -> Vec<(String, String)> {
        let point = self.point(backed);
        let text = |of: &Value| of.as_str().unwrap().to_owned();
        let notes = point["notes"].as_array().unwrap().iter();
        notes.map(|note| (text(&note["weight"]), text(&note["says"]))).collect()
    }

    /// Restores the point of a backup. Returns the files by the names of their disks.
    pub(crate) fn restore(&self, backed: &Backed) -> BTreeMap<String, PathBuf> {
        let id = backed.id();
        let folder = format!("restored-{id}");
        let line = format!("restore {id} --repository repository --to {folder} --json");
        let (code, report) = self.kept.json(&line);
        assert_eq!(code, 0, "{report}");
        let names = self.kept.names(&folder).into_iter();
        let path = |name: &str| self.kept.path(&folder).join(name);
        names.map(|name| (name.strip_suffix(".raw").unwrap().to_owned(), path(&name))).collect()
    }

    /// The point has all disks of its snapshot, and equals them, every byte. Returns the restored
    /// files.
    pub(crate) fn assert_equal(&self, backed: &Backed) -> BTreeMap<String, PathBuf> {
        let restored = self.restore(backed);
        let names = |of: &BTreeMap<String, PathBuf>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&restored), names(&backed.copies), "{}", backed.report);
        for (name, copy) in &backed.copies {
            compare_raw(copy, &restored[name])
                .unwrap_or_else(|error| panic!("{name}: {error}: {}", backed.report));
        }
        restored
    }

    /// What the program has left behind, in words: snapshots, processes, files.
    pub(crate) fn left(&self) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        for machine in self.vsphere.machines() {
            let own = machine.snapshots().unwrap().into_iter();
            let own = own.filter(|snapshot| snapshot.name.starts_with(PREFIX));
            left.extend(
                own.map(|snapshot| format!("snapshot {} of {}", snapshot.name, machine.id())),
            );
        }
        let folder = self.kept.folder().to_str().unwrap();
        left.extend(processes_of(folder).into_iter().map(|line| format!("process {line}")));
        for folder in ["run", "run/budgets", "repository/work", "temporary"] {
            // The folder of budgets stays, empty.
            let names = self.kept.names(folder).into_iter().filter(|name| name != "budgets");
            left.extend(names.map(|name| format!("{folder}/{name}")));
        }
        let ledger = self.kept.names("repository/snapshots").into_iter();
        left.extend(ledger.map(|name| format!("snapshots/{name}")));
        left
    }

    /// Nothing is left of what a backup needed.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.left(), BTreeSet::new());
    }
}

impl Backed {
    /// Its point.
    pub(crate) fn id(&self) -> &str {
        self.report["point"].as_str().unwrap()
    }

    /// What became of a disk: mode, reason, bytes.
    pub(crate) fn disk(&self, name: &str) -> &Value {
        let disks = self.report["disks"].as_array().unwrap();
        disks.iter().find(|disk| disk["name"] == name).unwrap_or_else(|| panic!("{}", self.report))
    }

    /// Full or incremental.
    pub(crate) fn mode(&self, name: &str) -> &str {
        self.disk(name)["mode"].as_str().unwrap()
    }

    /// Why.
    pub(crate) fn reason(&self, name: &str) -> &str {
        self.disk(name)["reason"].as_str().unwrap()
    }

    /// Bytes of a disk that were `read`, `zero`, `sent` or `skipped`.
    pub(crate) fn bytes(&self, name: &str, what: &str) -> u64 {
        self.disk(name)["bytes"][what].as_u64().unwrap()
    }
}

/// A file that only its owner may read.
pub(crate) fn write_secret(path: &Path, secret: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    writeln!(file, "{secret}").unwrap();
}

/// The command lines of processes that name something in this folder, tests themselves left out.
pub(crate) fn processes_of(folder: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let entry = entry.unwrap();
        let is_process = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        if !is_process {
            continue;
        }
        // One that has ended meanwhile has no command line.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(folder) {
            lines.push(line);
        }
    }
    lines
}

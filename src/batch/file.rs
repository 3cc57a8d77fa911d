//! The file that says what is to be backed up. All that can be wrong in it is told with its line
//! and column before anything is begun.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use blockferry_control::backup::SnapshotChoice;
use blockferry_control::catalog::{BackupMode, DiskName, VmName};
use blockferry_control::snapshots::QuiescePolicy;
use blockferry_dataplane::{Endpoint, LaneSettings, MoverSettings};
use toml::Spanned;

use super::job::Job;
use super::turns::MAX_DISKS;
use super::values::{Connections, Percent, Size, Source, Text, Time};
use super::vcenter::{Table, Vcenter};
use crate::backup::{Asked, AskedChanges, AskedDisk, AskedVm};
use crate::exit::Refusal;

/// What it asks for.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) concurrency: Option<NonZeroUsize>,
    /// One VM at least, each of another name in its repository.
    pub(super) vms: Vec<Job>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    concurrency: Option<NonZeroUsize>,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    vcenter: Vec<Spanned<Table>>,
    #[serde(default)]
    vm: Vec<Spanned<Vm>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Defaults {
    repository: Option<PathBuf>,
    mode: Option<Text<BackupMode>>,
    retries: Option<u32>,
    deadline: Option<Text<Time>>,
    connections: Option<Connections>,
    rate_limit: Option<Text<Size>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Vm {
    /// With disks, what it is called; else a word that its vCenter finds it by.
    name: Spanned<String>,
    disks: Option<BTreeMap<Text<DiskName>, Spanned<Disk>>>,
    vcenter: Option<Spanned<String>>,
    #[serde(rename = "as")]
    called: Option<Text<VmName>>,
    quiesce: Option<Text<QuiescePolicy>>,
    cbt_audit: Option<Percent>,
    enable_cbt: Option<bool>,
    repository: Option<PathBuf>,
    mode: Option<Text<BackupMode>>,
    retries: Option<u32>,
    deadline: Option<Text<Time>>,
    connections: Option<Connections>,
    rate_limit: Option<Text<Size>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    source: Text<Source>,
    changed: Option<PathBuf>,
    bitmap: Option<String>,
}

/// A part of the file, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: Option<Range<usize>>,
    pub(super) what: String,
}

impl Jobs {
    /// Reads the file.
    ///
    /// # Errors
    /// Wrong usage, in one line with the place of the first fault.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| Refusal::usage(format!("cannot read {shown}: {error}")))?;
        // Paths in it mean the same wherever it is used from, and cron uses it from anywhere.
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|Wrong { at, what }| {
            let place = at.map_or_else(String::new, |at| {
                let (line, column) = place(&text, at.start);
                format!("line {line}, column {column}: ")
            });
            Refusal::usage(format!("{shown}: {place}{what}"))
        })
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, Wrong> {
        let file: File = toml::from_str(text).map_err(|error| Wrong {
            at: error.span(),
            // It may have several lines.
            what: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
        })?;
        if file.vm.is_empty() {
            return Err(Wrong { at: None, what: "no VM in it; each has a table [[vm]]".into() });
        }
        let vcenters = vcenters(file.vcenter, text, folder)?;
        let mut vms: Vec<Job> = Vec::with_capacity(file.vm.len());
        let mut lines: HashMap<(PathBuf, String), usize> = HashMap::new();
        for vm in file.vm {
            let at = vm.span();
            let job = job(vm.into_inner(), &file.defaults, &vcenters, folder)
                .map_err(|(inner, what)| Wrong { at: Some(inner.unwrap_or(at.clone())), what })?;
            let line = place(text, at.start).0;
            let key = (same_everywhere(job.repository()), job.known_as());
            if let Some(first) = lines.insert(key, line) {
                let what = format!("VM {} is in it twice, first in line {first}", job.name());
                return Err(Wrong { at: Some(at), what });
            }
            vms.push(job);
        }
        Ok(Self { concurrency: file.concurrency, vms })
    }
}

fn vcenters(tables: Vec<Spanned<Table>>, text: &str, folder: &Path) -> Result<Vec<Vcenter>, Wrong> {
    let mut vcenters: Vec<Vcenter> = Vec::with_capacity(tables.len());
    let mut lines: HashMap<String, usize> = HashMap::new();
    for table in tables {
        let at = table.span();
        let vcenter = Vcenter::of(table, folder)?;
        if let Some(first) = lines.insert(vcenter.name.clone(), place(text, at.start).0) {
            let name = &vcenter.name;
            let what = format!("vCenter {name} is in it twice, first in line {first}");
            return Err(Wrong { at: Some(at), what });
        }
        vcenters.push(vcenter);
    }
    Ok(vcenters)
}

/// What is wrong with a VM, and where, if not all over.
type WrongVm = (Option<Range<usize>>, String);

fn job(vm: Vm, defaults: &Defaults, vcenters: &[Vcenter], folder: &Path) -> Result<Job, WrongVm> {
    let has_words_of_vcenter = vm.vcenter.is_some()
        || vm.called.is_some()
        || vm.quiesce.is_some()
        || vm.cbt_audit.is_some()
        || vm.enable_cbt.is_some();
    if vm.disks.is_none() {
        return of_vcenter(&vm, defaults, vcenters, folder);
    }
    if has_words_of_vcenter {
        let name = vm.name.get_ref();
        let what = "vcenter, as, quiesce, cbt-audit and enable-cbt are about a VM of a vCenter";
        return Err((None, format!("VM {name} has disks of its own; {what}")));
    }
    asked(vm, defaults, folder).map(Job::Disks)
}

fn of_vcenter(
    vm: &Vm,
    defaults: &Defaults,
    vcenters: &[Vcenter],
    folder: &Path,
) -> Result<Job, WrongVm> {
    let name = vm.name.get_ref();
    if name.trim().is_empty() {
        return Err((Some(vm.name.span()), "which VM? give its name".into()));
    }
    let wrong = |what: String| (None, format!("VM {name} {what}"));
    let names: Vec<&str> = vcenters.iter().map(|vcenter| &*vcenter.name).collect();
    let vcenter = match (&vm.vcenter, vcenters) {
        (None, [only]) => only,
        (None, []) => {
            return Err(wrong("has no disks, and there is no [[vcenter]] that knows them".into()));
        }
        (None, _) => {
            return Err(wrong(format!("has no vcenter; name one of {}", names.join(", "))));
        }
        (Some(named), all) => {
            let found = all.iter().find(|vcenter| vcenter.name == *named.get_ref());
            found.ok_or_else(|| {
                let what = format!("there is no vCenter {}", named.get_ref());
                let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                (Some(named.span()), format!("{what}; the file has {has}"))
            })?
        }
    };
    let (lane, mover) = settings(vm, defaults);
    let asked = AskedVm {
        vm: name.clone(),
        name: vm.called.as_ref().map(|called| called.0.clone()),
        mode: mode(vm, defaults),
        repository: repository(vm, defaults, folder).map_err(wrong)?,
        lane,
        mover,
        choice: SnapshotChoice {
            quiesce: vm.quiesce.map(|quiesce| quiesce.0),
            audit_percent: vm.cbt_audit.map(|percent| percent.0),
            enable_tracking: vm.enable_cbt,
        },
    };
    Ok(Job::Vm(asked, Arc::clone(&vcenter.session)))
}

fn repository(vm: &Vm, defaults: &Defaults, folder: &Path) -> Result<PathBuf, String> {
    let repository = vm.repository.as_ref().or(defaults.repository.as_ref());
    let repository = repository.ok_or("has no repository; give it one, or one to [defaults]")?;
    if repository.as_os_str().is_empty() {
        return Err("has an empty name as its repository; name a folder".into());
    }
    Ok(folder.join(repository))
}

fn mode(vm: &Vm, defaults: &Defaults) -> BackupMode {
    vm.mode.or(defaults.mode).map_or(BackupMode::Auto, |mode| mode.0)
}

/// How its data is moved.
fn settings(vm: &Vm, defaults: &Defaults) -> (LaneSettings, MoverSettings) {
    let usual = LaneSettings::default();
    let connections = vm.connections.or(defaults.connections);
    let deadline = vm.deadline.or(defaults.deadline);
    let lane = LaneSettings {
        connections: connections.map_or(usual.connections, |connections| connections.0),
        deadline: deadline.map_or(usual.deadline, |deadline| deadline.0.0),
        retries: vm.retries.or(defaults.retries).unwrap_or(usual.retries),
        ..usual
    };
    let rate_limit = vm.rate_limit.or(defaults.rate_limit).map(|limit| limit.0.0);
    (lane, MoverSettings { rate_limit, ..MoverSettings::default() })
}

fn asked(vm: Vm, defaults: &Defaults, folder: &Path) -> Result<Asked, WrongVm> {
    let name = vm.name.get_ref().parse::<VmName>();
    let name = name.map_err(|error| (Some(vm.name.span()), error.to_string()))?;
    let wrong = |what: String| (None, format!("VM {name} {what}"));
    let repository = repository(&vm, defaults, folder).map_err(wrong)?;
    let ((lane, mover), mode) = (settings(&vm, defaults), mode(&vm, defaults));
    let named = vm.disks.unwrap_or_default();
    if named.is_empty() {
        let what = "has no disk; give it one at least, or leave disks out if a vCenter knows them";
        return Err(wrong(what.into()));
    }
    if named.len() > MAX_DISKS {
        let count = named.len();
        return Err(wrong(format!("has {count} disks; {MAX_DISKS} are the most at once")));
    }
    let mut disks = Vec::with_capacity(named.len());
    for (name, disk) in named {
        let at = disk.span();
        let Disk { source, changed, bitmap } = disk.into_inner();
        let changes = match (changed, bitmap) {
            (None, None) => AskedChanges::Compared,
            (Some(file), None) => AskedChanges::Areas(folder.join(file)),
            (None, Some(bitmap)) => AskedChanges::Bitmap(bitmap),
            (Some(_), Some(_)) => {
                let what = "what changed is told twice: give changed, or bitmap";
                return Err((Some(at), format!("disk {}: {what}", name.0)));
            }
        };
        let source = match source.0.0 {
            Endpoint::File(path) => Endpoint::File(folder.join(path)),
            other => other,
        };
        disks.push(AskedDisk { name: name.0, source, changes });
    }
    Ok(Asked { vm: name, disks, mode, repository, lane, mover })
}

/// The same for all names of a folder, also where it is yet to be made.
fn same_everywhere(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut same = PathBuf::new();
    for part in path.components() {
        match part {
            // What is above a link is above the folder that it leads to.
            Component::ParentDir => drop(same.pop()),
            other => same.push(other),
        }
        same = fs::canonicalize(&same).unwrap_or(same);
    }
    same
}

/// Line and column of a byte, each from 1.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(byte)];
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests;

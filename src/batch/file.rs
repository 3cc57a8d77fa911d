//! The file that says what is to be backed up. All that can be wrong in it is told with its line
//! and column before anything is begun.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use blockferry_control::catalog::{BackupMode, DiskName, VmName};
use blockferry_dataplane::{Endpoint, LaneSettings, MoverSettings};
use serde::de::{Deserialize, Deserializer, Error as _};
use toml::Spanned;

use super::turns::MAX_DISKS;
use crate::backup::{Asked, AskedChanges, AskedDisk, source_from};
use crate::exit::Refusal;
use crate::lane_options::{MAX_CONNECTIONS, positive_duration, positive_size};

/// What it asks for.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) concurrency: Option<NonZeroUsize>,
    /// One VM at least, each of another name in its repository.
    pub(super) vms: Vec<Asked>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    concurrency: Option<NonZeroUsize>,
    #[serde(default)]
    defaults: Defaults,
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
    name: Text<VmName>,
    disks: BTreeMap<Text<DiskName>, Spanned<Disk>>,
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

/// Something that is written as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Text<T>(T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[derive(Clone, Copy)]
struct Time(Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        positive_duration(text).map(Self)
    }
}

#[derive(Clone, Copy)]
struct Size(u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        positive_size(text).map(Self)
    }
}

struct Source(Endpoint);

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        source_from(text).map(Self)
    }
}

#[derive(Clone, Copy)]
struct Connections(u16);

impl<'de> Deserialize<'de> for Connections {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u16::deserialize(deserializer)?;
        if (1..=MAX_CONNECTIONS).contains(&i64::from(number)) {
            return Ok(Self(number));
        }
        Err(D::Error::custom(format!("{number} is not in 1..={MAX_CONNECTIONS}")))
    }
}

/// A part of the file, and what is wrong with it.
#[derive(Debug)]
struct Wrong {
    at: Option<Range<usize>>,
    what: String,
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
        let mut vms: Vec<Asked> = Vec::with_capacity(file.vm.len());
        let mut lines: HashMap<(PathBuf, VmName), usize> = HashMap::new();
        for vm in file.vm {
            let at = vm.span();
            let asked = asked(vm.into_inner(), &file.defaults, folder)
                .map_err(|(inner, what)| Wrong { at: Some(inner.unwrap_or(at.clone())), what })?;
            let line = place(text, at.start).0;
            let key = (same_everywhere(&asked.repository), asked.vm.clone());
            if let Some(first) = lines.insert(key, line) {
                let what = format!("VM {} is in it twice, first in line {first}", asked.vm);
                return Err(Wrong { at: Some(at), what });
            }
            vms.push(asked);
        }
        Ok(Self { concurrency: file.concurrency, vms })
    }
}

fn asked(
    vm: Vm,
    defaults: &Defaults,
    folder: &Path,
) -> Result<Asked, (Option<Range<usize>>, String)> {
    let name = vm.name.0;
    let wrong = |what: &str| (None, format!("VM {name} {what}"));
    let repository = vm.repository.as_ref().or(defaults.repository.as_ref());
    let repository =
        repository.ok_or_else(|| wrong("has no repository; give it one, or one to [defaults]"))?;
    if repository.as_os_str().is_empty() {
        return Err(wrong("has an empty name as its repository; name a folder"));
    }
    if vm.disks.is_empty() {
        return Err(wrong("has no disk; give it one at least"));
    }
    if vm.disks.len() > MAX_DISKS {
        let count = vm.disks.len();
        return Err(wrong(&format!("has {count} disks; {MAX_DISKS} are the most at once")));
    }
    let mut disks = Vec::with_capacity(vm.disks.len());
    for (name, disk) in vm.disks {
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
    let usual = LaneSettings::default();
    let connections = vm.connections.or(defaults.connections);
    let deadline = vm.deadline.or(defaults.deadline);
    Ok(Asked {
        repository: folder.join(repository),
        disks,
        mode: vm.mode.or(defaults.mode).map_or(BackupMode::Auto, |mode| mode.0),
        lane: LaneSettings {
            connections: connections.map_or(usual.connections, |connections| connections.0),
            deadline: deadline.map_or(usual.deadline, |deadline| deadline.0.0),
            retries: vm.retries.or(defaults.retries).unwrap_or(usual.retries),
            ..usual
        },
        mover: MoverSettings {
            rate_limit: vm.rate_limit.or(defaults.rate_limit).map(|limit| limit.0.0),
            ..MoverSettings::default()
        },
        vm: name,
    })
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
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let Wrong { at, what } = Jobs::parse(text, Path::new("/etc")).unwrap_err();
        let (line, column) = at.map_or((0, 0), |at| place(text, at.start));
        format!("{line}:{column} {what}")
    }

    #[test]
    fn the_example_is_read_as_it_says() {
        let example = super::super::EXAMPLES.split("\n\n").collect::<Vec<_>>();
        let end = example.iter().position(|part| part.starts_with("For cron")).unwrap();
        let text = example[..end].join("\n\n");
        let (_, text) = text.split_once('\n').unwrap();
        let jobs = Jobs::parse(text, Path::new("/etc")).unwrap();
        assert_eq!(jobs.concurrency, NonZeroUsize::new(2));
        let [db1, web1] = jobs.vms.as_slice() else { panic!("{jobs:?}") };
        assert_eq!((db1.vm.as_str(), db1.mode), ("db1", BackupMode::Auto));
        assert_eq!(db1.repository, Path::new("/backup"));
        assert_eq!(db1.mover.rate_limit, Some(100 << 20));
        let [data, root] = db1.disks.as_slice() else { panic!("{db1:?}") };
        assert!(matches!(&data.changes, AskedChanges::Areas(file)
            if *file == Path::new("/etc/db1-data.json")));
        assert!(matches!(&root.changes, AskedChanges::Bitmap(name) if name == "daily"));
        assert_eq!((web1.vm.as_str(), web1.mode), ("web 1", BackupMode::Full));
        assert_eq!(web1.repository, Path::new("/backup/web"));
        assert_eq!(web1.disks[0].name.as_str(), "disk 0");
        let usual = LaneSettings::default();
        assert_eq!(
            (web1.lane.retries, web1.lane.deadline, web1.lane.connections),
            (usual.retries, usual.deadline, usual.connections)
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let vm = "[defaults]\nrepository = \"r\"\n[[vm]]\nname = \"a\"\n";
        let disk = "disks.d = { source = \"/d\" }\n";
        for (text, says) in [
            (format!("{vm}{disk}retires = 3\n"), "6:1 unknown field `retires`"),
            (format!("{vm}disks.d = {{ sorce = \"/d\" }}\n"), "5:13 unknown field `sorce`"),
            (format!("passwort = \"x\"\n{vm}{disk}"), "1:1 unknown field `passwort`"),
            (format!("{vm}{disk}mode = \"ful\"\n"), "6:8 "),
            (format!("{vm}{disk}deadline = \"0s\"\n"), "6:12 it must be more than 0"),
            (format!("{vm}{disk}connections = 65\n"), "6:15 65 is not in 1..=64"),
            (format!("{vm}disks.d = {{ source = \"null:\" }}\n"), "5:22 a source is"),
            (format!("{vm}disks.d = {{ source = \"nbd://h:x/\" }}\n"), "5:22 nbd://h:x/: "),
            (format!("{vm}{disk}[[vm]]\nname = \"\"\n"), "7:8 "),
            (format!("{vm}{disk}{disk}"), "6:7 duplicate key"),
            (format!("{vm}{disk}é = \n"), "6:1 "),
            (
                format!("{vm}{disk}[[vm]]\nname = \"a\"\n{disk}"),
                "6:1 VM a is in it twice, first in line 3",
            ),
            (vm.into(), "3:1 missing field `disks`"),
            (format!("{vm}disks = {{}}\n"), "3:1 VM a has no disk"),
            (
                "[[vm]]\nname = \"a\"\ndisks.d = { source = \"/d\" }\n".into(),
                "1:1 VM a has no repository",
            ),
            (
                format!("{vm}disks.d = {{ source = \"/d\", changed = \"c\", bitmap = \"b\" }}\n"),
                "5:11 disk d: what changed is told twice",
            ),
            ("concurrency = 0\n".into(), "1:15 "),
            (String::new(), "0:0 no VM in it"),
            (
                format!("{vm}{disk}repository = \"\"\n"),
                "3:1 VM a has an empty name as its repository",
            ),
            (
                format!("{vm}{disk}[[vm]]\nname = \"a\"\nrepository = \"./x/../r/\"\n{disk}"),
                "6:1 VM a is in it twice, first in line 3",
            ),
        ] {
            let said = wrong(&text);
            assert!(said.starts_with(says), "{said}, and not {says}, for\n{text}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn a_vm_may_be_in_two_repositories() {
        let text = "[[vm]]\nname = \"a\"\nrepository = \"r\"\ndisks.d = { source = \"/d\" }\n\
                    [[vm]]\nname = \"a\"\nrepository = \"s\"\ndisks.d = { source = \"/d\" }\n";
        assert_eq!(Jobs::parse(text, Path::new("")).unwrap().vms.len(), 2);
    }
}

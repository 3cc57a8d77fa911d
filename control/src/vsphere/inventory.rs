//! The VMs of a server, and the one that is meant.

use std::collections::HashMap;

use super::config::{HOST_PATHS, NAME_PATHS, Tree, VM_PATHS, above, host, vm};
use super::error::VsphereError;
use super::property::{Object, Wanted};
use super::session::Session;
use super::xml::{Body, Moref, XmlError};
use crate::snapshots::{HostFacts, Vm, VmId};

/// Names that are shown for one that is not there.
const NEAR: usize = 3;
/// Levels above a VM.
const MAX_LEVELS: usize = 64;
const LISTING: &str = "RetrievePropertiesEx";

/// What stands above VMs.
const ABOVE: [Wanted; 3] = [
    Wanted { kind: "Folder", paths: &["name", "parent"] },
    Wanted { kind: "Datacenter", paths: &["name", "parent"] },
    Wanted { kind: "VirtualApp", paths: &["name", "parentFolder"] },
];

/// What is known of a VM that may be the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: VmId,
    pub(super) name: String,
    pub(super) path: String,
    pub(super) uuids: Vec<String>,
}

/// All VMs, sorted by path.
pub(super) fn vms(session: &Session) -> Result<Vec<Vm>, VsphereError> {
    let wanted = Wanted { kind: "VirtualMachine", paths: VM_PATHS };
    let hosts_wanted = Wanted { kind: "HostSystem", paths: HOST_PATHS };
    let kinds = [&[wanted, hosts_wanted][..], &ABOVE].concat();
    let mut tree = Tree::on(&session.content().root);
    let mut hosts: HashMap<String, HostFacts> = HashMap::new();
    let mut vms: Vec<(Vm, Place)> = Vec::new();
    let mut wrong = None;
    session.inventory(&kinds, &mut |object| {
        let added = match object.moref.kind.as_str() {
            "VirtualMachine" => vm(&object).map(|vm| vms.push((vm, Place::of(&object)))),
            "HostSystem" => host(&object).map(|host| {
                hosts.insert(host.id.clone(), host);
            }),
            _ => {
                tree.add(&object);
                Ok(())
            }
        };
        if let Err(error) = added {
            wrong = Some(error);
        }
    })?;
    if let Some(error) = wrong {
        return Err(session.strange(LISTING, &error));
    }
    let placed = vms.into_iter().map(|(mut vm, place)| {
        vm.path = tree.path(&vm.name, place.above.as_deref());
        vm.host = place.host.and_then(|host| hosts.get(&host).cloned());
        vm
    });
    let mut vms: Vec<Vm> = placed.collect();
    vms.sort_by(|one, other| (&one.path, &one.id).cmp(&(&other.path, &other.id)));
    Ok(vms)
}

/// Where a VM is.
struct Place {
    above: Option<String>,
    host: Option<String>,
}

impl Place {
    fn of(object: &Object) -> Self {
        Self { above: above(object), host: object.text("runtime.host").map(str::to_owned) }
    }
}

/// All VMs, with no more than what they are found by.
pub(super) fn candidates(session: &Session) -> Result<Vec<Candidate>, VsphereError> {
    let wanted = Wanted { kind: "VirtualMachine", paths: NAME_PATHS };
    let kinds = [&[wanted][..], &ABOVE].concat();
    let mut tree = Tree::on(&session.content().root);
    let mut found: Vec<(Candidate, Option<String>)> = Vec::new();
    session.inventory(&kinds, &mut |object| {
        if object.moref.kind != "VirtualMachine" {
            return tree.add(&object);
        }
        let uuids = ["config.uuid", "config.instanceUuid"].map(|path| object.text(path));
        let candidate = Candidate {
            id: VmId::new(&object.moref.id),
            name: object.text("name").unwrap_or(&object.moref.id).to_owned(),
            path: String::new(),
            uuids: uuids.into_iter().flatten().map(str::to_owned).collect(),
        };
        found.push((candidate, above(&object)));
    })?;
    let placed = found.into_iter().map(|(mut candidate, above)| {
        candidate.path = tree.path(&candidate.name, above.as_deref());
        candidate
    });
    let mut found: Vec<Candidate> = placed.collect();
    found.sort_by(|one, other| (&one.path, &one.id).cmp(&(&other.path, &other.id)));
    Ok(found)
}

/// The VMs that have this UUID as their own; a server sees to it that there is one at most.
pub(super) fn with_instance_uuid(session: &Session, uuid: &str) -> Result<Vec<VmId>, VsphereError> {
    const CALL: &str = "FindAllByUuid";
    let body = Body::call(CALL, &session.content().search_index)
        .value("uuid", uuid)
        .value("vmSearch", "true")
        .value("instanceUuid", "true");
    let answer = session.ask(&body)?;
    let found = answer.all("returnval").map(|it| Moref::of(it).map(|vm| VmId::new(&vm.id)));
    found.collect::<Result<_, _>>().map_err(|error| session.strange(CALL, &error))
}

/// A VM as it is now, with what stands above it and its host.
pub(super) fn look(session: &Session, id: &VmId) -> Result<Vm, VsphereError> {
    let object = session.properties(&Moref::new("VirtualMachine", id.as_str()), VM_PATHS)?;
    let strange = |error: XmlError| session.strange(LISTING, &error);
    let mut vm = vm(&object).map_err(strange)?;
    if let Some(id) = object.text("runtime.host") {
        let facts = session.properties(&Moref::new("HostSystem", id), HOST_PATHS)?;
        vm.host = Some(host(&facts).map_err(strange)?);
    }
    vm.path = path(session, &object, &vm.name)?;
    Ok(vm)
}

/// Climbs from a VM to the root.
fn path(session: &Session, object: &Object, name: &str) -> Result<String, VsphereError> {
    let mut tree = Tree::on(&session.content().root);
    let mut next = object.get("parent").or_else(|| object.get("parentVApp")).map(Moref::of);
    for _ in 0..MAX_LEVELS {
        let Some(moref) = next else { break };
        let moref = moref.map_err(|error| session.strange(LISTING, &error))?;
        let above = if moref.kind == "VirtualApp" { "parentFolder" } else { "parent" };
        let node = session.properties(&moref, &["name", above])?;
        tree.add(&node);
        next = node.get(above).map(Moref::of);
    }
    Ok(tree.path(name, above(object).as_deref()))
}

/// The one VM that is meant, or which it may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meant {
    One(VmId),
    Several(Vec<String>),
    None(Vec<String>),
}

/// Which of them is meant by a name, path, UUID or id.
pub(super) fn meant(sought: &str, candidates: &[Candidate]) -> Meant {
    const SIGNS: [(&str, Match); 4] =
        [("name=", by_name), ("path=", by_path), ("uuid=", by_uuid), ("moref=", by_id)];
    let signed = SIGNS.iter().find_map(|(sign, by)| Some((sought.strip_prefix(sign)?, *by)));
    let fits = |candidate: &&Candidate| match signed {
        Some((sought, by)) => by(candidate, sought),
        None => SIGNS.iter().any(|(_, by)| by(candidate, sought)),
    };
    let found: Vec<&Candidate> = candidates.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Meant::One(one.id.clone()),
        [] => Meant::None(near(signed.map_or(sought, |(sought, _)| sought), candidates)),
        several => Meant::Several(several.iter().map(|it| shown(it)).collect()),
    }
}

type Match = fn(&Candidate, &str) -> bool;

/// vSphere writes some characters as `%2f`; people write them as they are.
fn by_name(candidate: &Candidate, sought: &str) -> bool {
    candidate.name == sought || plain(&candidate.name) == sought
}

fn by_path(candidate: &Candidate, sought: &str) -> bool {
    candidate.path == sought.trim_start_matches('/')
}

fn by_uuid(candidate: &Candidate, sought: &str) -> bool {
    candidate.uuids.iter().any(|uuid| uuid.eq_ignore_ascii_case(sought))
}

fn by_id(candidate: &Candidate, sought: &str) -> bool {
    candidate.id.as_str() == sought
}

pub(super) fn plain(name: &str) -> String {
    name.replace("%2f", "/").replace("%5c", "\\").replace("%25", "%")
}

fn shown(candidate: &Candidate) -> String {
    format!("{} ({})", candidate.path, candidate.id)
}

/// The names that are closest to one that is not there.
fn near(sought: &str, candidates: &[Candidate]) -> Vec<String> {
    let sought = sought.rsplit('/').next().unwrap_or(sought).to_lowercase();
    let measured = candidates.iter().filter_map(|candidate| {
        let name = candidate.name.to_lowercase();
        let apart = distance(&sought, &name);
        let is_near = apart * 3 <= sought.chars().count().max(3)
            || (sought.len() >= 3 && name.contains(&sought));
        is_near.then(|| (apart, candidate.path.clone()))
    });
    let mut measured: Vec<(usize, String)> = measured.collect();
    measured.sort();
    measured.into_iter().take(NEAR).map(|(_, path)| path).collect()
}

/// Characters to add, drop or change, to make one of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, mine) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (at, theirs) in other.iter().enumerate() {
            let changed = diagonal + usize::from(mine != *theirs);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests;

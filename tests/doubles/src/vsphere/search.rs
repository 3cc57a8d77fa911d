//! SearchIndex: objects by UUID and by path.

use super::call::Call;
use super::describe::in_path;
use super::fault::Fault;
use super::value::{Kind, Reference, Value};
use super::world::World;

pub(crate) fn by_uuid(call: &Call<'_>) -> Result<Value, Fault> {
    let first = found(call)?.into_iter().next();
    Ok(Value::or_unset(first.map(Value::Reference)))
}

pub(crate) fn all_by_uuid(call: &Call<'_>) -> Result<Value, Fault> {
    Ok(Value::references(found(call)?))
}

fn found(call: &Call<'_>) -> Result<Vec<Reference>, Fault> {
    let datacenter = call.reference("datacenter")?;
    let uuid = call.text("uuid").to_ascii_lowercase();
    let by_instance = call.boolean("instanceUuid");
    if !call.boolean("vmSearch") {
        return Ok(Vec::new());
    }
    let world = call.shared.world();
    let inside = |folder: &str| {
        datacenter.as_ref().is_none_or(|it| world.datacenter_of(folder) == Some(it.id.as_str()))
    };
    let machines = world.machines.iter().filter(|(_, machine)| {
        let has = if by_instance { &machine.instance_uuid } else { &machine.uuid };
        *has == uuid && inside(&machine.folder)
    });
    Ok(machines.map(|(id, _)| Reference::new(Kind::VirtualMachine, id)).collect())
}

pub(crate) fn by_path(call: &Call<'_>) -> Result<Value, Fault> {
    let world = call.shared.world();
    let mut at = world.well_known(Kind::Folder);
    for name in call.text("inventoryPath").split('/').filter(|name| !name.is_empty()) {
        let below = world.children(&at);
        let Some(next) = below.into_iter().find(|it| name_of(&world, it).as_deref() == Some(name))
        else {
            return Ok(Value::Unset);
        };
        at = next;
    }
    Ok(Value::Reference(at))
}

fn name_of(world: &World, reference: &Reference) -> Option<String> {
    let id = &reference.id;
    let name = match reference.kind {
        Kind::Folder => &world.folders.get(id)?.name,
        Kind::Datacenter => &world.datacenters.get(id)?.name,
        Kind::ComputeResource | Kind::ClusterComputeResource => &world.computes.get(id)?.name,
        Kind::HostSystem => &world.hosts.get(id)?.name,
        Kind::Datastore => &world.datastores.get(id)?.name,
        Kind::VirtualMachine => &world.machines.get(id)?.name,
        Kind::ResourcePool => return Some("Resources".to_owned()),
        _ => return None,
    };
    Some(in_path(name))
}

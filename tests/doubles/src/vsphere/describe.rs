//! The properties of the objects that are no VMs.

use super::describe_machine;
use super::value::{Kind, Reference, Value};
use super::world::{Flavour, World};

/// All properties of an object as one value; `None` where there is no such object.
pub(crate) fn describe(world: &World, reference: &Reference) -> Option<Value> {
    let id = reference.id.as_str();
    let fields = match reference.kind {
        Kind::Folder => folder(world, id)?,
        Kind::Datacenter => datacenter(world, id)?,
        Kind::ComputeResource | Kind::ClusterComputeResource => compute(world, id)?,
        Kind::ResourcePool => pool(world, id)?,
        Kind::HostSystem => host(world, id)?,
        Kind::Datastore => datastore(world, id)?,
        Kind::VirtualMachine => describe_machine::machine(world, id)?,
        Kind::VirtualMachineSnapshot => describe_machine::snapshot(world, id)?,
        Kind::Task => vec![("info", world.tasks.get(id)?.info(id))],
        Kind::TaskManager => vec![("recentTask", tasks(world))],
        Kind::ServiceInstance => vec![
            ("serverClock", Value::time(std::time::SystemTime::now())),
            ("content", service_content(world)),
        ],
        _ => return None,
    };
    Some(Value::Object(reference.kind.name(), fields))
}

/// The entry to everything else.
pub(crate) fn service_content(world: &World) -> Value {
    let well_known = |kind| Value::Reference(world.well_known(kind));
    Value::Object(
        "ServiceContent",
        vec![
            ("rootFolder", well_known(Kind::Folder)),
            ("propertyCollector", well_known(Kind::PropertyCollector)),
            ("viewManager", well_known(Kind::ViewManager)),
            ("about", about(world.flavour, world.instance_uuid.as_deref())),
            ("sessionManager", well_known(Kind::SessionManager)),
            ("taskManager", well_known(Kind::TaskManager)),
            ("searchIndex", well_known(Kind::SearchIndex)),
        ],
    )
}

fn about(flavour: Flavour, instance_uuid: Option<&str>) -> Value {
    let (name, product, api) = match flavour {
        Flavour::Vcenter => ("VMware vCenter Server", "vpx", "VirtualCenter"),
        Flavour::Esxi => ("VMware ESXi", "embeddedEsx", "HostAgent"),
    };
    let os = if flavour == Flavour::Vcenter { "linux-x64" } else { "vmnix-x86" };
    Value::Object(
        "AboutInfo",
        vec![
            ("name", Value::text(name)),
            ("fullName", Value::text(format!("{name} 8.0.2 build-22617221 (double)"))),
            ("vendor", Value::text("VMware, Inc.")),
            ("version", Value::text("8.0.2")),
            ("build", Value::text("22617221")),
            ("osType", Value::text(os)),
            ("productLineId", Value::text(product)),
            ("apiType", Value::text(api)),
            ("apiVersion", Value::text("8.0.2.0")),
            ("instanceUuid", Value::or_unset(instance_uuid.map(Value::text))),
        ],
    )
}

fn folder(world: &World, id: &str) -> Option<Vec<(&'static str, Value)>> {
    let folder = world.folders.get(id)?;
    let types = folder.child_types.iter().map(|kind| Value::text(*kind)).collect();
    let mut fields = entity(&folder.name, folder.parent.clone());
    fields.push(("childEntity", Value::references(folder.children.clone())));
    fields.push(("childType", Value::Array("string", types)));
    let mine = world.tasks.iter().filter(|(_, task)| task.entity.id == id);
    let recent = mine.map(|(id, _)| Reference::new(Kind::Task, id));
    fields.push(("recentTask", Value::references(recent)));
    Some(fields)
}

fn datacenter(world: &World, id: &str) -> Option<Vec<(&'static str, Value)>> {
    let datacenter = world.datacenters.get(id)?;
    let folder = |id: &str| Value::Reference(Reference::new(Kind::Folder, id));
    let inside = world.datastores.iter().filter(|(_, it)| it.folder == datacenter.datastores);
    let datastores = inside.map(|(id, _)| Reference::new(Kind::Datastore, id));
    let parent = Reference::new(Kind::Folder, &datacenter.parent);
    let mut fields = entity(&datacenter.name, Some(parent));
    fields.push(("vmFolder", folder(&datacenter.machines)));
    fields.push(("hostFolder", folder(&datacenter.hosts)));
    fields.push(("datastoreFolder", folder(&datacenter.datastores)));
    fields.push(("datastore", Value::references(datastores)));
    Some(fields)
}

fn compute(world: &World, id: &str) -> Option<Vec<(&'static str, Value)>> {
    let compute = world.computes.get(id)?;
    let hosts = compute.hosts.iter().map(|host| Reference::new(Kind::HostSystem, host));
    let parent = Reference::new(Kind::Folder, &compute.folder);
    let mut fields = entity(&compute.name, Some(parent));
    let pool = Reference::new(Kind::ResourcePool, &compute.pool);
    fields.push(("resourcePool", Value::Reference(pool)));
    fields.push(("host", Value::references(hosts)));
    fields.push(("datastore", datastores_beside(world, &compute.folder)));
    Some(fields)
}

fn pool(world: &World, id: &str) -> Option<Vec<(&'static str, Value)>> {
    let pool = world.pools.get(id)?;
    let owner = world.compute_reference(&pool.owner);
    let inside = world.machines.iter().filter(|(_, machine)| machine.pool == id);
    let machines = inside.map(|(id, _)| Reference::new(Kind::VirtualMachine, id));
    let mut fields = entity("Resources", Some(owner.clone()));
    fields.push(("owner", Value::Reference(owner)));
    fields.push(("vm", Value::references(machines)));
    Some(fields)
}

fn host(world: &World, id: &str) -> Option<Vec<(&'static str, Value)>> {
    let host = world.hosts.get(id)?;
    let compute = world.computes.get(&host.compute)?;
    let inside = world.machines.iter().filter(|(_, machine)| machine.host == id);
    let machines = inside.map(|(id, _)| Reference::new(Kind::VirtualMachine, id));
    let runtime = Value::Object(
        "HostRuntimeInfo",
        vec![
            ("connectionState", Value::Plain("HostSystemConnectionState", "connected".to_owned())),
            ("powerState", Value::Plain("HostSystemPowerState", "poweredOn".to_owned())),
            ("inMaintenanceMode", Value::boolean(host.maintenance)),
        ],
    );
    let product = Value::Object("HostConfigInfo", vec![("product", about(Flavour::Esxi, None))]);
    let summary = Value::Object(
        "HostListSummary",
        vec![
            ("host", Value::Reference(Reference::new(Kind::HostSystem, id))),
            ("runtime", runtime.clone()),
            ("overallStatus", green()),
            ("rebootRequired", Value::boolean(false)),
        ],
    );
    let mut fields = entity(&host.name, Some(world.compute_reference(&host.compute)));
    fields.push(("runtime", runtime));
    fields.push(("summary", summary));
    fields.push(("config", product));
    fields.push(("vm", Value::references(machines)));
    fields.push(("datastore", datastores_beside(world, &compute.folder)));
    Some(fields)
}

fn datastore(world: &World, id: &str) -> Option<Vec<(&'static str, Value)>> {
    let datastore = world.datastores.get(id)?;
    let on_it = world.machines.iter().filter(|(_, machine)| machine.datastore == id);
    let machines = on_it.map(|(id, _)| Reference::new(Kind::VirtualMachine, id));
    let summary = Value::Object(
        "DatastoreSummary",
        vec![
            ("datastore", Value::Reference(Reference::new(Kind::Datastore, id))),
            ("name", Value::text(&*datastore.name)),
            ("url", Value::text(format!("ds:///vmfs/volumes/{id}/"))),
            ("capacity", Value::long(datastore.capacity)),
            ("freeSpace", Value::long(datastore.free)),
            ("accessible", Value::boolean(true)),
            ("multipleHostAccess", Value::boolean(true)),
            ("type", Value::text("VMFS")),
            ("maintenanceMode", Value::text("normal")),
        ],
    );
    let parent = Reference::new(Kind::Folder, &datastore.folder);
    let mut fields = entity(&datastore.name, Some(parent));
    fields.push(("summary", summary));
    fields.push(("vm", Value::references(machines)));
    Some(fields)
}

fn tasks(world: &World) -> Value {
    Value::references(world.tasks.keys().map(|id| Reference::new(Kind::Task, id)))
}

/// The datastores of the datacenter that a folder lies in.
fn datastores_beside(world: &World, folder: &str) -> Value {
    let datacenter = world.datacenter_of(folder).and_then(|id| world.datacenters.get(id));
    let inside = world
        .datastores
        .iter()
        .filter(|(_, it)| datacenter.is_some_and(|center| center.datastores == it.folder));
    Value::references(inside.map(|(id, _)| Reference::new(Kind::Datastore, id)))
}

/// What all entities have.
pub(crate) fn entity(name: &str, parent: Option<Reference>) -> Vec<(&'static str, Value)> {
    vec![
        ("name", Value::text(in_path(name))),
        ("parent", Value::or_unset(parent.map(Value::Reference))),
        ("overallStatus", green()),
    ]
}

/// As names are given: with what divides paths escaped.
pub(crate) fn in_path(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

pub(crate) fn green() -> Value {
    Value::Plain("ManagedEntityStatus", "green".to_owned())
}

impl World {
    pub(crate) fn compute_reference(&self, id: &str) -> Reference {
        let kind = match self.flavour {
            Flavour::Vcenter => Kind::ClusterComputeResource,
            Flavour::Esxi => Kind::ComputeResource,
        };
        Reference::new(kind, id)
    }
}

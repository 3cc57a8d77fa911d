//! The methods of this server, with their parameters as the schema has them.

use super::call::{self, Call};
use super::fault::Fault;
use super::value::{Kind, Value};
use super::{
    changes, collector, filters, power, reconfigure, revert, search, session, snapshots, task,
    views,
};

pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) of: Kind,
    /// See [`super::shapes`].
    pub(crate) parameters: &'static [&'static str],
    /// Whether it needs no session.
    pub(crate) is_open: bool,
    pub(crate) run: fn(&Call<'_>) -> Result<Value, Fault>,
}

const fn method(
    of: Kind,
    name: &'static str,
    parameters: &'static [&'static str],
    run: fn(&Call<'_>) -> Result<Value, Fault>,
) -> Method {
    Method { name, of, parameters, is_open: false, run }
}

const fn open(
    of: Kind,
    name: &'static str,
    parameters: &'static [&'static str],
    run: fn(&Call<'_>) -> Result<Value, Fault>,
) -> Method {
    Method { name, of, parameters, is_open: true, run }
}

const UUID: &[&str] =
    &["datacenter?:Datacenter", "uuid:string", "vmSearch:boolean", "instanceUuid?:boolean"];
const SNAPSHOT: &[&str] =
    &["name:string", "description?:string", "memory:boolean", "quiesce:boolean"];
const SNAPSHOT_EX: &[&str] = &[
    "name:string",
    "description?:string",
    "memory:boolean",
    "quiesceSpec?:VirtualMachineGuestQuiesceSpec",
];
const AREAS: &[&str] =
    &["snapshot?:VirtualMachineSnapshot", "deviceKey:int", "startOffset:long", "changeId:string"];
const REVERT: &[&str] = &["host?:HostSystem", "suppressPowerOn?:boolean"];
const NEW: &[&str] = &["config:VirtualMachineConfigSpec", "pool:ResourcePool", "host?:HostSystem"];
const VIEW: &[&str] = &["container:reference", "type*:string", "recursive:boolean"];
const LOGIN: &[&str] = &["userName:string", "password:string", "locale?:string"];

const VM: Kind = Kind::VirtualMachine;
const PROPERTIES: Kind = Kind::PropertyCollector;

/// All of them.
pub(crate) const METHODS: &[Method] = &[
    open(Kind::ServiceInstance, "RetrieveServiceContent", &[], call::service_content),
    open(Kind::ServiceInstance, "CurrentTime", &[], call::current_time),
    // It sets a cookie, so that it is carried out in another way.
    open(Kind::SessionManager, "Login", LOGIN, |_| Ok(Value::Unset)),
    method(Kind::SessionManager, "Logout", &[], session::logout),
    method(
        Kind::SessionManager,
        "SessionIsActive",
        &["sessionID:string", "userName:string"],
        session::is_active,
    ),
    method(
        PROPERTIES,
        "RetrievePropertiesEx",
        &["specSet*:PropertyFilterSpec", "options:RetrieveOptions"],
        collector::retrieve,
    ),
    // Of all objects; no part of the published schema, but what pyVmomi reads properties by.
    method(Kind::ManagedObject, "Fetch", &["prop:string"], collector::fetch),
    method(PROPERTIES, "RetrieveProperties", &["specSet*:PropertyFilterSpec"], collector::all),
    method(PROPERTIES, "ContinueRetrievePropertiesEx", &["token:string"], collector::go_on),
    method(PROPERTIES, "CancelRetrievePropertiesEx", &["token:string"], collector::cancel),
    method(PROPERTIES, "CreatePropertyCollector", &[], filters::create_collector),
    method(PROPERTIES, "DestroyPropertyCollector", &[], filters::destroy_collector),
    method(
        PROPERTIES,
        "CreateFilter",
        &["spec:PropertyFilterSpec", "partialUpdates:boolean"],
        filters::create,
    ),
    method(
        PROPERTIES,
        "WaitForUpdatesEx",
        &["version?:string", "options?:WaitOptions"],
        filters::wait,
    ),
    method(PROPERTIES, "WaitForUpdates", &["version?:string"], filters::wait),
    method(PROPERTIES, "CancelWaitForUpdates", &[], |_| Ok(Value::Unset)),
    method(Kind::PropertyFilter, "DestroyPropertyFilter", &[], filters::destroy),
    method(Kind::ViewManager, "CreateContainerView", VIEW, views::create),
    method(Kind::ContainerView, "DestroyView", &[], views::destroy),
    method(Kind::SearchIndex, "FindByUuid", UUID, search::by_uuid),
    method(Kind::SearchIndex, "FindAllByUuid", UUID, search::all_by_uuid),
    method(Kind::SearchIndex, "FindByInventoryPath", &["inventoryPath:string"], search::by_path),
    method(Kind::Task, "CancelTask", &[], |call| task::cancel(call.shared, &call.this.id)),
    method(VM, "CreateSnapshot_Task", SNAPSHOT, snapshots::create),
    method(VM, "CreateSnapshotEx_Task", SNAPSHOT_EX, snapshots::create_ex),
    method(VM, "QueryChangedDiskAreas", AREAS, changes::query),
    method(VM, "ReconfigVM_Task", &["spec:VirtualMachineConfigSpec"], reconfigure::reconfigure),
    method(VM, "PowerOnVM_Task", &["host?:HostSystem"], power::on),
    method(VM, "PowerOffVM_Task", &[], power::off),
    method(VM, "ConsolidateVMDisks_Task", &[], snapshots::consolidate),
    method(
        VM,
        "RemoveAllSnapshots_Task",
        &["consolidate?:boolean", "spec?:any"],
        snapshots::remove_all,
    ),
    method(VM, "RevertToCurrentSnapshot_Task", REVERT, revert::to_current),
    method(Kind::ManagedEntity, "Destroy_Task", &[], power::destroy),
    method(
        Kind::VirtualMachineSnapshot,
        "RemoveSnapshot_Task",
        &["removeChildren:boolean", "consolidate?:boolean"],
        snapshots::remove,
    ),
    method(Kind::VirtualMachineSnapshot, "RevertToSnapshot_Task", REVERT, revert::to_snapshot),
    method(Kind::Folder, "CreateVM_Task", NEW, reconfigure::create),
];

//! What the schema allows in a request: which elements, of which types, in which order. The real
//! ones refuse what is out of order, so this server does.
//!
//! A field is written `name:type`, with `?` after a name that may be missing and `*` after one
//! that may come any number of times. Fields of type `any` are not looked into.

use super::fault::Fault;
use super::value::Kind;
use super::xml::{Element, VIM};

type Fields = &'static [&'static str];

const SHAPES: &[(&str, Fields)] = &[
    (
        "PropertyFilterSpec",
        &[
            "propSet*:PropertySpec",
            "objectSet*:ObjectSpec",
            "reportMissingObjectsInResults?:boolean",
        ],
    ),
    ("PropertySpec", &["type:string", "all?:boolean", "pathSet*:string"]),
    ("ObjectSpec", &["obj:reference", "skip?:boolean", "selectSet*:SelectionSpec"]),
    ("SelectionSpec", &["name?:string"]),
    (
        "TraversalSpec",
        &[
            "name?:string",
            "type:string",
            "path:string",
            "skip?:boolean",
            "selectSet*:SelectionSpec",
        ],
    ),
    ("RetrieveOptions", &["maxObjects?:int"]),
    ("WaitOptions", &["maxWaitSeconds?:int", "maxObjectUpdates?:int"]),
    ("VirtualMachineGuestQuiesceSpec", &["timeout?:int"]),
    (
        "VirtualMachineWindowsQuiesceSpec",
        &[
            "timeout?:int",
            "vssBackupType?:int",
            "vssBootableSystemState?:boolean",
            "vssPartialFileSupport?:boolean",
            "vssBackupContext?:string",
        ],
    ),
    ("VirtualMachineConfigSpec", CONFIG_SPEC),
    (
        "VirtualMachineFileInfo",
        &[
            "vmPathName?:string",
            "snapshotDirectory?:string",
            "suspendDirectory?:string",
            "logDirectory?:string",
            "ftMetadataDirectory?:string",
        ],
    ),
    (
        "VirtualDeviceConfigSpec",
        &[
            "operation?:string",
            "fileOperation?:string",
            "device:VirtualDevice",
            "profile*:any",
            "backing?:any",
        ],
    ),
    ("VirtualDisk", DISK),
    ("ParaVirtualSCSIController", SCSI),
    ("VirtualLsiLogicController", SCSI),
    ("VirtualLsiLogicSASController", SCSI),
    ("VirtualDiskFlatVer2BackingInfo", FLAT),
    (
        "VirtualDiskSparseVer2BackingInfo",
        &[
            "fileName:string",
            "datastore?:reference",
            "backingObjectId?:string",
            "diskMode:string",
            "split?:boolean",
            "writeThrough?:boolean",
            "spaceUsedInKB?:long",
            "uuid?:string",
            "contentId?:string",
            "changeId?:string",
            "parent?:any",
        ],
    ),
    (
        "VirtualDiskRawDiskMappingVer1BackingInfo",
        &[
            "fileName:string",
            "datastore?:reference",
            "backingObjectId?:string",
            "lunUuid?:string",
            "deviceName?:string",
            "compatibilityMode?:string",
            "diskMode?:string",
            "uuid?:string",
            "contentId?:string",
            "changeId?:string",
            "parent?:any",
            "deltaDiskFormat?:string",
            "deltaGrainSize?:int",
            "sharing?:string",
        ],
    ),
    ("Description", &["label:string", "summary:string"]),
];

const CONFIG_SPEC: Fields = &[
    "changeVersion?:string",
    "name?:string",
    "version?:string",
    "createDate?:string",
    "uuid?:string",
    "instanceUuid?:string",
    "locationId?:string",
    "guestId?:string",
    "alternateGuestName?:string",
    "annotation?:string",
    "files?:VirtualMachineFileInfo",
    "tools?:any",
    "flags?:any",
    "consolePreferences?:any",
    "powerOpInfo?:any",
    "rebootPowerOff?:boolean",
    "numCPUs?:int",
    "vcpuConfig*:any",
    "numCoresPerSocket?:int",
    "memoryMB?:long",
    "memoryHotAddEnabled?:boolean",
    "cpuHotAddEnabled?:boolean",
    "cpuHotRemoveEnabled?:boolean",
    "deviceChange*:VirtualDeviceConfigSpec",
    "cpuAllocation?:any",
    "memoryAllocation?:any",
    "extraConfig*:any",
    "swapPlacement?:string",
    "bootOptions?:any",
    "vAppConfigRemoved?:boolean",
    "vAssertsEnabled?:boolean",
    "changeTrackingEnabled?:boolean",
    "firmware?:string",
];

const DISK: Fields = &[
    "key:int",
    "deviceInfo?:Description",
    "backing?:VirtualDeviceBackingInfo",
    "connectable?:any",
    "slotInfo?:any",
    "controllerKey?:int",
    "unitNumber?:int",
    "numaNode?:int",
    "deviceGroupInfo?:any",
    "capacityInKB:long",
    "capacityInBytes?:long",
    "shares?:any",
    "storageIOAllocation?:any",
    "diskObjectId?:string",
];

const SCSI: Fields = &[
    "key:int",
    "deviceInfo?:Description",
    "backing?:any",
    "connectable?:any",
    "slotInfo?:any",
    "controllerKey?:int",
    "unitNumber?:int",
    "numaNode?:int",
    "deviceGroupInfo?:any",
    "busNumber:int",
    "device*:int",
    "hotAddRemove?:boolean",
    "sharedBus:string",
    "scsiCtlrUnitNumber?:int",
];

const FLAT: Fields = &[
    "fileName:string",
    "datastore?:reference",
    "backingObjectId?:string",
    "diskMode:string",
    "split?:boolean",
    "writeThrough?:boolean",
    "thinProvisioned?:boolean",
    "eagerlyScrub?:boolean",
    "uuid?:string",
    "contentId?:string",
    "changeId?:string",
    "parent?:VirtualDiskFlatVer2BackingInfo",
    "deltaDiskFormat?:string",
    "digestEnabled?:boolean",
    "deltaGrainSize?:int",
    "deltaDiskFormatVariant?:string",
    "sharing?:string",
];

/// Checks the children of an element against the fields that it may have.
pub(crate) fn check(element: &Element, fields: &[&str]) -> Result<(), Fault> {
    let mut children = element.children.iter().peekable();
    for field in fields {
        let (name, kind) = field.split_once(':').expect("a field has a type");
        let (optional, many) = (name.ends_with('?'), name.ends_with('*'));
        let name = name.trim_end_matches(['?', '*']);
        let mut found = 0;
        while children.peek().is_some_and(|child| child.name == name && (many || found == 0)) {
            check_value(children.next().expect("it was seen"), kind)?;
            found += 1;
        }
        if found == 0 && !optional && !many {
            return Err(Fault::invalid_request(format!(
                "Required parameter {name} is missing in {}",
                element.name
            )));
        }
    }
    match children.next() {
        None => Ok(()),
        Some(child) => Err(Fault::invalid_request(format!(
            "Unexpected element tag \"{}\" seen in {}",
            child.name, element.name
        ))),
    }
}

fn check_value(element: &Element, kind: &str) -> Result<(), Fault> {
    let text = element.text.trim();
    if element.namespace != VIM {
        let name = &element.name;
        return Err(Fault::invalid_request(format!("{name} is not of the namespace {VIM}")));
    }
    let good = match kind {
        "any" => return Ok(()),
        "string" => element.children.is_empty(),
        "boolean" => matches!(text, "true" | "false" | "1" | "0"),
        "int" => text.parse::<i32>().is_ok(),
        "long" => text.parse::<i64>().is_ok(),
        "reference" => !text.is_empty() && element.kind.is_some(),
        kind if Kind::named(kind).is_some() => {
            !text.is_empty() && element.kind.as_deref() == Some(kind)
        }
        kind => return check_object(element, kind),
    };
    if good {
        return Ok(());
    }
    Err(Fault::invalid_request(format!("{} is no {kind}: {text:?}", element.name)))
}

fn check_object(element: &Element, declared: &str) -> Result<(), Fault> {
    let kind = element.xsi_type.as_deref().unwrap_or(declared);
    let known = SHAPES.iter().find(|(name, _)| *name == kind);
    let (_, fields) = known.ok_or_else(|| {
        Fault::invalid_request(format!("{} has the abstract or unknown type {kind}", element.name))
    })?;
    check(element, fields)
}

#[cfg(test)]
mod tests {
    use super::super::xml::parse;
    use super::*;

    const SNAPSHOT: Fields =
        &["name:string", "description?:string", "memory:boolean", "quiesce:boolean"];

    fn checked(inside: &str) -> Result<(), Fault> {
        let text = format!(r#"<Call xmlns="urn:vim25">{inside}</Call>"#);
        check(&parse(&text).unwrap(), SNAPSHOT)
    }

    #[test]
    fn a_request_in_the_order_of_the_schema_is_taken() {
        checked("<name>a</name><memory>false</memory><quiesce>true</quiesce>").unwrap();
    }

    #[test]
    fn a_request_out_of_order_or_of_wrong_types_is_refused() {
        for inside in [
            "<name>a</name><quiesce>true</quiesce><memory>false</memory>",
            "<name>a</name><memory>no</memory><quiesce>true</quiesce>",
            "<name>a</name><memory>false</memory>",
            "<name>a</name><memory>false</memory><quiesce>true</quiesce><more/>",
            r#"<name xmlns="urn:other">a</name><memory>false</memory><quiesce>true</quiesce>"#,
        ] {
            assert_eq!(checked(inside).unwrap_err().kind, "InvalidRequest", "{inside}");
        }
    }
}

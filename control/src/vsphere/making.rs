//! New VMs: made with empty disks, and removed when nothing comes of them.

use std::time::Instant;

use super::config::DEVICES;
use super::error::VsphereError;
use super::inventory::plain;
use super::property::{Object, Wanted};
use super::session::Session;
use super::site::{Site, find};
use super::snapshot::{RECONFIGURE, persistently, reconfigure, vm_moref};
use super::task::Ended;
use super::xml::{Body, Element, Moref, XmlError};
use crate::backup::Cancellation;
use crate::snapshots::{DiskController, Firmware, HypervisorError, NewVm, VmId};

const CREATE: &str = "CreateVM_Task";
/// What tasks are called that make VMs, in one version or another.
const MAKES_VM: [&str; 2] = ["Folder.createVm", "VirtualMachine.create"];
const DESTROY: &str = "Destroy_Task";
/// Says nothing of what runs in it.
const ANY_GUEST: &str = "otherGuest64";
const USUAL_CPUS: u32 = 1;
const USUAL_MEMORY_MIB: u64 = 1024;
/// Disks on one controller: units 0 to 15, but for that of the controller.
const CONTROLLER_DISKS: usize = 15;
/// The controller's own unit.
const CONTROLLER_UNIT: usize = 7;
/// Controllers of a VM.
const CONTROLLERS: usize = 4;
/// Keys of devices that are not made yet are below zero, and anything else than each other's.
const FIRST_DISK_KEY: i32 = -100;

/// What a new VM is made of.
struct Hardware {
    guest: String,
    cpus: u32,
    memory_mib: u64,
    firmware: Firmware,
    controller: DiskController,
}

/// Makes a VM, and says which it is.
pub(super) fn make(
    session: &Session,
    wanted: &NewVm,
    called_off: &Cancellation,
) -> Result<VmId, HypervisorError> {
    if wanted.disks.len() > CONTROLLERS * CONTROLLER_DISKS {
        let most = CONTROLLERS * CONTROLLER_DISKS;
        let problem = format!("a VM has room for {most} disks, and not for {}", wanted.disks.len());
        let server = session.wire().server().to_owned();
        return Err(VsphereError::Settings { server, problem }.into());
    }
    let site = find(session, wanted)?;
    let hardware = Hardware::of(session, wanted)?;
    let body = creation(wanted, &site, &hardware);
    // Whoever is in a hurry would leave a VM that nobody knows of.
    let session = &session.to_the_end();
    match create(session, &body, called_off) {
        // It was not even begun.
        Err(HypervisorError::Vsphere(error @ VsphereError::Fault { call: CREATE, .. })) => {
            Err(error.into())
        }
        Err(error) => Err(undone(session, wanted, &site, error)),
        made => made,
    }
}

fn create(
    session: &Session,
    body: &Body,
    called_off: &Cancellation,
) -> Result<VmId, HypervisorError> {
    let deadline = session.server().deadlines.change;
    let task = session.renewed(|| session.begin_task(body))?;
    match session.wait(&task, deadline, called_off)? {
        Ended::Done(Some(made)) => Ok(VmId::new(&made.id)),
        Ended::Done(None) => {
            let error = XmlError::Unexpected("a VM was made, and it is not said which".into());
            Err(session.strange(CREATE, &error).into())
        }
        Ended::CalledOff => Err(HypervisorError::CalledOff),
        ended => Err(session.not_done(CREATE, &task, deadline, ended).into()),
    }
}

/// Removes what was made although nobody said so. Returns the error, which says what may be left.
fn undone(
    session: &Session,
    wanted: &NewVm,
    site: &Site,
    error: HypervisorError,
) -> HypervisorError {
    let why = match remove_made(session, wanted, &site.folder) {
        Ok(0) if error.is_unanswered() => "it may come later".to_owned(),
        Ok(_) => return error,
        Err(why) => format!("it could not be looked for: {why}"),
    };
    let (NewVm { name, note, .. }, Site { folder_path, datastore_name, .. }) = (wanted, site);
    let left = format!(
        "{why}: if there is a VM {name:?} in {folder_path:?} on datastore {datastore_name:?} whose notes \
         are {note:?}, remove it"
    );
    HypervisorError::VmMayBeLeft { error: Box::new(error), left }
}

/// Removes the VMs of this name that have these notes, also one that is being made, and says how many
/// there were.
fn remove_made(session: &Session, wanted: &NewVm, folder: &Moref) -> Result<usize, VsphereError> {
    // By its name alone it may be anybody's.
    if wanted.note.is_empty() {
        return Ok(0);
    }
    let end = Instant::now() + session.server().deadlines.change;
    let mut removed = 0;
    loop {
        let (pending, found) = session.looked(|| {
            let makes_one =
                |kind: &str| MAKES_VM.iter().any(|known| known.eq_ignore_ascii_case(kind));
            let pending = session.pending(folder, "Folder", makes_one)?;
            Ok((pending, noted(session, &wanted.name, &wanted.note)?))
        })?;
        for vm in &found {
            destroy(session, vm)?;
            removed += 1;
        }
        let Some(task) = pending.first() else { return Ok(removed) };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let deadline = session.server().deadlines.change;
            return Err(session.not_done(CREATE, task, deadline, Ended::Stuck));
        }
        // It may be anybody's; whatever it makes is seen in the next round.
        session.until_ended(task, left)?;
    }
}

/// The VMs of this name with these notes.
fn noted(session: &Session, name: &str, note: &str) -> Result<Vec<VmId>, VsphereError> {
    const NOTES: &str = "config.annotation";
    let wanted = Wanted { kind: "VirtualMachine", paths: &["name", NOTES] };
    let mut found = Vec::new();
    session.inventory(&[wanted], &mut |vm| {
        let is_called = vm.text("name").is_some_and(|it| it == name || plain(it) == name);
        if is_called && vm.text(NOTES) == Some(note) {
            found.push(VmId::new(&vm.moref.id));
        }
    })?;
    Ok(found)
}

/// Replaces what people read about a VM.
pub(super) fn note(session: &Session, vm: &VmId, words: &str) -> Result<(), VsphereError> {
    let body =
        Body::call(RECONFIGURE, &vm_moref(vm)).open("spec").value("annotation", words).close();
    reconfigure(session, &body)
}

/// Removes a VM with its disks, and waits until it is gone.
pub(super) fn destroy(session: &Session, vm: &VmId) -> Result<(), VsphereError> {
    persistently(session, &Body::call(DESTROY, &vm_moref(vm))).map(drop)
}

impl Hardware {
    /// What is asked for, or else what the other VM has.
    fn of(session: &Session, wanted: &NewVm) -> Result<Self, VsphereError> {
        const CPUS: &str = "config.hardware.numCPU";
        const MEMORY: &str = "config.hardware.memoryMB";
        let paths = ["config.guestId", "config.firmware", CPUS, MEMORY, DEVICES];
        let like = |vm: &VmId| session.looked(|| session.properties(&vm_moref(vm), &paths));
        let old = wanted.like.as_ref().map(like).transpose()?;
        let text = |path: &str| old.as_ref().and_then(|old| old.text(path));
        let asked = &wanted.hardware;
        let firmware = asked.firmware.or_else(|| text("config.firmware")?.parse().ok());
        let controller = asked.controller.or_else(|| old.as_ref().and_then(controller_of));
        let cpus = asked.cpus.or_else(|| text(CPUS)?.parse().ok());
        let memory_mib = asked.memory_mib.or_else(|| text(MEMORY)?.parse().ok());
        let guest = asked.guest.as_deref().or_else(|| text("config.guestId"));
        Ok(Self {
            guest: guest.unwrap_or(ANY_GUEST).to_owned(),
            cpus: cpus.unwrap_or(USUAL_CPUS),
            memory_mib: memory_mib.unwrap_or(USUAL_MEMORY_MIB),
            firmware: firmware.unwrap_or(Firmware::Bios),
            controller: controller.unwrap_or(DiskController::Paravirtual),
        })
    }
}

/// What the disks of a VM hang on.
fn controller_of(vm: &Object) -> Option<DiskController> {
    let kinds = vm.get(DEVICES)?.inside().iter().filter_map(Element::kind);
    kinds.into_iter().find_map(|kind| match kind {
        "ParaVirtualSCSIController" => Some(DiskController::Paravirtual),
        "VirtualLsiLogicController" => Some(DiskController::LsiLogic),
        "VirtualLsiLogicSASController" => Some(DiskController::LsiLogicSas),
        _ => None,
    })
}

/// The call; its elements stand in the order of the schema.
fn creation(wanted: &NewVm, site: &Site, hardware: &Hardware) -> Body {
    let store = format!("[{}]", site.datastore_name);
    let mut body = Body::call(CREATE, &site.folder)
        .open("config")
        .value("name", &wanted.name)
        .value("guestId", &hardware.guest)
        .value("annotation", &wanted.note)
        .open("files")
        .value("vmPathName", &store)
        .close()
        .value("numCPUs", &hardware.cpus.to_string())
        .value("memoryMB", &hardware.memory_mib.to_string());
    for (bus, sizes) in (0_i32..).zip(wanted.disks.chunks(CONTROLLER_DISKS)) {
        // Keys -1, -2 ...
        let controller = -1 - bus;
        body = with_controller(body, controller, bus, hardware.controller);
        for (at, size) in sizes.iter().enumerate() {
            let unit = if at < CONTROLLER_UNIT { at } else { at + 1 };
            body = with_disk(body, (controller, unit), *size, site, &store);
        }
    }
    body.value("firmware", hardware.firmware.as_str())
        .close()
        .moref("pool", &site.pool)
        .moref("host", &site.host)
}

fn with_controller(body: Body, key: i32, bus: i32, kind: DiskController) -> Body {
    let kind = match kind {
        DiskController::Paravirtual => "ParaVirtualSCSIController",
        DiskController::LsiLogic => "VirtualLsiLogicController",
        DiskController::LsiLogicSas => "VirtualLsiLogicSASController",
    };
    body.open("deviceChange")
        .value("operation", "add")
        .open_as("device", kind)
        .value("key", &key.to_string())
        .value("busNumber", &bus.to_string())
        .value("sharedBus", "noSharing")
        .close()
        .close()
}

fn with_disk(
    body: Body,
    (controller, unit): (i32, usize),
    size: u64,
    site: &Site,
    store: &str,
) -> Body {
    let units = i32::try_from(unit).expect("a unit is below 16");
    let key = FIRST_DISK_KEY + controller * 16 - units;
    body.open("deviceChange")
        .value("operation", "add")
        .value("fileOperation", "create")
        .open_as("device", "VirtualDisk")
        .value("key", &key.to_string())
        .open_as("backing", "VirtualDiskFlatVer2BackingInfo")
        // The server gives the file a name in the VM's folder.
        .value("fileName", store)
        .moref("datastore", &site.datastore)
        .value("diskMode", "persistent")
        .value("thinProvisioned", "true")
        .close()
        .value("controllerKey", &controller.to_string())
        .value("unitNumber", &unit.to_string())
        .value("capacityInKB", &size.div_ceil(1024).to_string())
        .value("capacityInBytes", &size.to_string())
        .close()
        .close()
}

//! Snapshots: made, found and removed.

use std::time::{Duration, Instant};

use super::config::{disks, power, snapshots};
use super::error::VsphereError;
use super::fault::FaultKind;
use super::inventory::with_instance_uuid;
use super::property::Object;
use super::session::Session;
use super::task::Ended;
use super::xml::{Body, Moref, XmlError};
use crate::backup::Cancellation;
use crate::snapshots::{
    HypervisorError, PowerState, QuiescePolicy, Quiesced, SnapshotFacts, SnapshotId, SnapshotName,
    SnapshotRequest, TakenSnapshot, VmDisk, VmId,
};

const CREATE: &str = "CreateSnapshot_Task";
const CREATE_EX: &str = "CreateSnapshotEx_Task";
const REMOVE: &str = "RemoveSnapshot_Task";
/// What tasks are called that make one, with or without `Ex` behind it.
const MAKES_SNAPSHOT: &str = "VirtualMachine.createSnapshot";
pub(super) const RECONFIGURE: &str = "ReconfigVM_Task";
/// Answers without sense to one removal, before it is given up.
const MAX_SENSELESS: u32 = 3;
/// What a guest may be given to put its data in order (`VirtualMachineGuestQuiesceSpec`).
const QUIESCE_MINUTES: std::ops::RangeInclusive<u64> = 5..=240;

pub(super) fn vm_moref(vm: &VmId) -> Moref {
    Moref::new("VirtualMachine", vm.as_str())
}

fn snapshot_moref(snapshot: &SnapshotId) -> Moref {
    Moref::new("VirtualMachineSnapshot", snapshot.as_str())
}

/// Why a snapshot was not made.
struct NotMade {
    error: HypervisorError,
    /// What the guest may have to do with it: what was said.
    guest: Option<String>,
}

impl From<VsphereError> for NotMade {
    fn from(error: VsphereError) -> Self {
        let guest = match &error {
            VsphereError::Fault { fault, .. } | VsphereError::TaskFailed { fault, .. }
                if !fault.is_beside_the_guest() =>
            {
                Some(format!("{}: {}", fault.name, fault.message.trim_end_matches('.')))
            }
            VsphereError::TaskLate { deadline_s, .. } => {
                Some(format!("it was not done within {deadline_s} s"))
            }
            _ => None,
        };
        Self { error: error.into(), guest }
    }
}

/// Makes a snapshot of all disks.
pub(super) fn take(
    session: &Session,
    vm: &VmId,
    wanted: &SnapshotRequest,
    called_off: &Cancellation,
) -> Result<TakenSnapshot, HypervisorError> {
    let paths = ["runtime.powerState", "config.guestId"];
    let object = session.looked(|| session.properties(&vm_moref(vm), &paths))?;
    let power = power(&object).map_err(|error| session.strange(CREATE, &error))?;
    let make = |quiesce: Option<&Object>| {
        let body = creation(vm, wanted, quiesce);
        // What the guest may take for its data comes before the snapshot itself.
        let guests = quiesce.and(wanted.quiesce_deadline).unwrap_or_default();
        create(session, &body, session.server().deadlines.change + guests, called_off)
    };
    let plain = |quiesced| match make(None) {
        Ok(id) => Ok(TakenSnapshot { id, quiesced }),
        Err(not_made) => Err(not_made.error),
    };
    match (wanted.quiesce, power) {
        (QuiescePolicy::None, _) => plain(Quiesced::NotAsked),
        (_, PowerState::Off) => plain(Quiesced::PoweredOff),
        (policy, _) => match make(Some(&object)) {
            Ok(id) => Ok(TakenSnapshot { id, quiesced: Quiesced::Done }),
            Err(NotMade { guest: None, error }) => Err(error),
            Err(NotMade { guest: Some(why), .. }) if policy == QuiescePolicy::Require => {
                Err(HypervisorError::NotQuiesced { why })
            }
            Err(NotMade { guest: Some(why), .. }) => {
                // What failed half-way may have left one of this name.
                remove_named(session, vm, &wanted.name)?;
                if called_off.is_cancelled() {
                    return Err(HypervisorError::CalledOff);
                }
                plain(Quiesced::FellBack(why))
            }
        },
    }
}

/// The call that makes one; with a guest's facts it is to put its data in order.
fn creation(vm: &VmId, wanted: &SnapshotRequest, guest: Option<&Object>) -> Body {
    let name = wanted.name.to_string();
    let limited = guest.zip(wanted.quiesce_deadline);
    let body = Body::call(if limited.is_some() { CREATE_EX } else { CREATE }, &vm_moref(vm))
        .value("name", &name)
        .value("description", &wanted.description)
        .value("memory", "false");
    let Some((guest, deadline)) = limited else {
        return body.value("quiesce", if guest.is_some() { "true" } else { "false" });
    };
    let minutes = deadline.as_secs().div_ceil(60);
    let minutes = minutes.clamp(*QUIESCE_MINUTES.start(), *QUIESCE_MINUTES.end()).to_string();
    let is_windows = guest.text("config.guestId").is_some_and(|guest| guest.starts_with("win"));
    if !is_windows {
        let body = body.open_as("quiesceSpec", "VirtualMachineGuestQuiesceSpec");
        return body.value("timeout", &minutes).close();
    }
    body.open_as("quiesceSpec", "VirtualMachineWindowsQuiesceSpec")
        .value("timeout", &minutes)
        // VSS_BT_COPY (5): it leaves alone what the applications' own backups go by.
        .value("vssBackupType", "5")
        .value("vssBootableSystemState", "true")
        .value("vssPartialFileSupport", "false")
        .value("vssBackupContext", "ctx_auto")
        .close()
}

fn create(
    session: &Session,
    body: &Body,
    deadline: Duration,
    called_off: &Cancellation,
) -> Result<SnapshotId, NotMade> {
    let call = body.name();
    // Whoever is in a hurry would leave a snapshot that nobody knows of.
    let session = &session.to_the_end();
    let task = session.renewed(|| session.begin_task(body))?;
    match session.wait(&task, deadline, called_off)? {
        Ended::Done(Some(made)) => Ok(SnapshotId::new(&made.id)),
        Ended::Done(None) => {
            let error =
                XmlError::Unexpected("a snapshot was made, and it is not said which".into());
            Err(session.strange(call, &error).into())
        }
        Ended::CalledOff => Err(NotMade { error: HypervisorError::CalledOff, guest: None }),
        ended => Err(session.not_done(call, &task, deadline, ended).into()),
    }
}

/// The disks of a snapshot.
pub(super) fn disks_of(
    session: &Session,
    snapshot: &SnapshotId,
) -> Result<Vec<VmDisk>, VsphereError> {
    use super::config::DEVICES;
    let object = session.properties(&snapshot_moref(snapshot), &[DEVICES])?;
    let none = || XmlError::Unexpected(format!("it says nothing of the devices of {snapshot}"));
    let found = object.get(DEVICES).ok_or_else(none).and_then(disks);
    found.map_err(|error| session.strange("RetrievePropertiesEx", &error))
}

/// Removes one, waits until it is, and says whether it was there.
pub(super) fn remove(session: &Session, snapshot: &SnapshotId) -> Result<bool, VsphereError> {
    let body = Body::call(REMOVE, &snapshot_moref(snapshot))
        .value("removeChildren", "false")
        .value("consolidate", "true");
    persistently(session, &body)
}

/// A task that is begun again when the VM is busy, or the server out of reach, until its time is
/// over; and some times when its answer makes no sense, for it may be done all the same. Only for
/// what may be done twice. Says whether what it is done to was there.
pub(super) fn persistently(session: &Session, body: &Body) -> Result<bool, VsphereError> {
    let session = &session.to_the_end();
    let deadlines = session.server().deadlines;
    let end = Instant::now() + deadlines.removal;
    let mut senseless = 0;
    let mut busy = session.patience(deadlines.removal);
    let mut away = session.patience(deadlines.absence);
    loop {
        let began = Instant::now();
        let error = match attempt(session, body, end) {
            Ok(Attempt::Done) => return Ok(true),
            Ok(Attempt::Gone) => return Ok(false),
            Ok(Attempt::Again(error)) => error,
            Err(error @ VsphereError::Strange { .. }) if senseless < MAX_SENSELESS => {
                senseless += 1;
                error
            }
            Err(error) => return Err(error),
        };
        if began.elapsed() > deadlines.absence {
            // It was at work for long, and has not been away since the last failure.
            away.is_served();
        }
        let waits = if is_busy(&error) { &mut busy } else { &mut away };
        if !waits.after(&error) || Instant::now() >= end {
            return Err(error);
        }
    }
}

fn is_busy(error: &VsphereError) -> bool {
    error.fault() == Some(&FaultKind::TaskInProgress)
}

enum Attempt {
    Done,
    /// What is to be done it to is not there any more.
    Gone,
    /// What kept it from being done may pass.
    Again(VsphereError),
}

fn attempt(session: &Session, body: &Body, end: Instant) -> Result<Attempt, VsphereError> {
    let again = |error: VsphereError| {
        let passes = is_busy(&error) || error.is_passing();
        if passes { Ok(Attempt::Again(error)) } else { Err(error) }
    };
    let task = match session.renewed(|| session.begin_task(body)) {
        Ok(task) => task,
        Err(error) if error.is_gone() => return Ok(Attempt::Gone),
        Err(error) => return again(error),
    };
    let left = end.saturating_duration_since(Instant::now());
    let mut away = session.patience(session.server().deadlines.absence);
    // What is begun is not called off: half a removal is worse than a late one.
    match session.wait_with(&task, left, &Cancellation::default(), Some(&mut away)) {
        Ok(Ended::Done(_)) => Ok(Attempt::Done),
        Ok(ended) => {
            let deadline = session.server().deadlines.removal;
            again(session.not_done(body.name(), &task, deadline, ended))
        }
        // The server has forgotten the task, and nobody knows how it ended.
        Err(error) if error.is_gone() => Ok(Attempt::Again(error)),
        // It was waited for already, for as long as it may be away.
        Err(error) => Err(error),
    }
}

/// Removes all of this name, also one that is being made, and says how many there were.
pub(super) fn remove_named(
    session: &Session,
    vm: &VmId,
    name: &SnapshotName,
) -> Result<usize, VsphereError> {
    let session = &session.to_the_end();
    let name = name.to_string();
    let end = Instant::now() + session.server().deadlines.change;
    let mut removed = 0;
    loop {
        let seen = patiently(session, || {
            let makes_one = |kind: &str| kind.starts_with(MAKES_SNAPSHOT);
            let pending = session.pending(&vm_moref(vm), "VirtualMachine", makes_one)?;
            Ok((pending, named(session, vm)?))
        });
        let (pending, found) = match seen {
            Ok(seen) => seen,
            Err(error) if error.is_gone() => return Ok(removed),
            Err(error) => return Err(error),
        };
        for snapshot in found.iter().filter(|snapshot| snapshot.name == name) {
            remove(session, &snapshot.id)?;
            removed += 1;
        }
        let Some(task) = pending.first() else { return Ok(removed) };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let deadline = session.server().deadlines.change;
            return Err(session.not_done(CREATE, task, deadline, Ended::Stuck));
        }
        // However it ends: what it leaves is seen in the next round.
        session.until_ended(task, left)?;
    }
}

/// Whether a VM, which has this UUID or else this id, has a snapshot of this name. A server that is away
/// is waited for.
pub(super) fn has_named(
    session: &Session,
    vm: &VmId,
    uuid: Option<&str>,
    name: &SnapshotName,
) -> Result<bool, VsphereError> {
    let name = name.to_string();
    patiently(session, || {
        let mut vms = uuid.map_or(Ok(Vec::new()), |uuid| with_instance_uuid(session, uuid))?;
        if vms.is_empty() {
            vms.push(vm.clone());
        }
        for vm in &vms {
            match named(session, vm) {
                Ok(all) if all.iter().any(|snapshot| snapshot.name == name) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    })
}

/// The VMs of this UUID, whose snapshots are looked for. A server that is away is waited for.
pub(super) fn owners(session: &Session, uuid: &str) -> Result<Vec<VmId>, VsphereError> {
    patiently(session, || with_instance_uuid(session, uuid))
}

/// What only looks and decides over a snapshot, again for as long as a server may be away.
fn patiently<T>(
    session: &Session,
    operation: impl Fn() -> Result<T, VsphereError>,
) -> Result<T, VsphereError> {
    let mut away = session.patience(session.server().deadlines.absence);
    loop {
        match session.looked(&operation) {
            Err(error) if error.is_passing() && away.after(&error) => {}
            looked => return looked,
        }
    }
}

/// All snapshots of a VM.
pub(super) fn named(session: &Session, vm: &VmId) -> Result<Vec<SnapshotFacts>, VsphereError> {
    let object = session.properties(&vm_moref(vm), &["snapshot"])?;
    let found = object.get("snapshot").map(snapshots).transpose();
    let found = found.map_err(|error| session.strange("VirtualMachine.snapshot", &error))?;
    Ok(found.unwrap_or_default())
}

/// Has changes tracked from the next snapshot on, or no more.
pub(super) fn track_changes(session: &Session, vm: &VmId, on: bool) -> Result<(), VsphereError> {
    let body = Body::call(RECONFIGURE, &vm_moref(vm))
        .open("spec")
        .value("changeTrackingEnabled", if on { "true" } else { "false" })
        .close();
    reconfigure(session, &body)
}

/// Has a VM changed, and waits until it is.
pub(super) fn reconfigure(session: &Session, body: &Body) -> Result<(), VsphereError> {
    let session = &session.to_the_end();
    let deadline = session.server().deadlines.change;
    let task = session.renewed(|| session.begin_task(body))?;
    match session.wait(&task, deadline, &Cancellation::default())? {
        Ended::Done(_) => Ok(()),
        ended => Err(session.not_done(body.name(), &task, deadline, ended)),
    }
}

use super::super::vm::{Backing, DeviceKey, HostFacts, SnapshotFacts, SnapshotId, VmDisk, VmId};
use super::*;
use crate::catalog::JobId;

fn disk(key: i32) -> VmDisk {
    VmDisk {
        key: DeviceKey(key),
        label: format!("Hard disk {}", key - 1999),
        file: "[ds 1] vm/vm.vmdk".into(),
        uuid: Some(format!("6000C29f-{key}").parse().unwrap()),
        mode: "persistent".into(),
        is_shared: false,
        backing: Backing::FlatVer2,
        capacity_bytes: 1 << 30,
        change: None,
    }
}

fn vm() -> Vm {
    Vm {
        id: VmId::new("vm-57"),
        name: "web".into(),
        path: "DC0/web".into(),
        uuid: None,
        instance_uuid: Some("5012".into()),
        host: Some(HostFacts {
            id: "host-9".into(),
            name: "esx1".into(),
            connection: Connection::Connected,
            in_maintenance: false,
        }),
        datastores: vec!["datastore-1".into()],
        power: PowerState::On,
        connection: Connection::Connected,
        denied: None,
        is_template: false,
        hardware_version: Some(19),
        guest: None,
        tracks_changes: true,
        needs_consolidation: false,
        notes: String::new(),
        disks: vec![disk(2000), disk(2001)],
        snapshots: Vec::new(),
    }
}

fn snapshot(name: &str, depth: usize) -> SnapshotFacts {
    SnapshotFacts { id: SnapshotId::new("snapshot-1"), name: name.into(), depth }
}

#[track_caller]
fn assert_found(vm: &Vm, kind: &FindingKind, severity: Severity) {
    let found = findings(vm);
    let finding = found.iter().find(|finding| finding.kind == *kind);
    let finding = finding.unwrap_or_else(|| panic!("{kind:?} is not in {found:?}"));
    assert_eq!(finding.severity, severity);
    let line = finding.to_string();
    assert!(!line.contains('\n') && !line.is_empty(), "{line}");
}

#[test]
fn of_a_vm_as_it_should_be_there_is_nothing_to_say() {
    assert_eq!(findings(&vm()), []);
}

#[test]
fn what_stops_a_backup_is_found() {
    let mut template = vm();
    template.is_template = true;
    assert_found(&template, &FindingKind::Template, Severity::Stops);
    let mut lost = vm();
    lost.connection = Connection::Lost("inaccessible".into());
    assert_found(&lost, &FindingKind::VmLost("inaccessible".into()), Severity::Stops);
    let mut cut_off = vm();
    cut_off.host.as_mut().unwrap().connection = Connection::Lost("notResponding".into());
    let kind = FindingKind::HostLost { host: "esx1".into(), state: "notResponding".into() };
    assert_found(&cut_off, &kind, Severity::Stops);
    let mut bare = vm();
    bare.disks.clear();
    assert_found(&bare, &FindingKind::NoDisk, Severity::Stops);
    let mut deep = vm();
    deep.snapshots = (0..32).map(|depth| snapshot("s", depth)).collect();
    assert_found(&deep, &FindingKind::TooManySnapshots(32), Severity::Stops);
}

#[test]
fn of_a_vm_that_may_not_be_read_nothing_else_is_said() {
    let mut denied = vm();
    denied.denied = Some("System.Read".into());
    denied.disks.clear();
    denied.tracks_changes = false;
    let kind = FindingKind::Unreadable("System.Read".into());
    assert_found(&denied, &kind, Severity::Stops);
    assert_eq!(findings(&denied).len(), 1);
}

#[test]
fn disks_that_snapshots_do_not_hold_are_named() {
    type Change = fn(&mut VmDisk);
    let cases: [(Change, LeftOut); 4] = [
        (|disk| disk.mode = "independent_persistent".into(), LeftOut::Independent),
        (
            |disk| disk.backing = Backing::RawDiskMappingVer1 { physical: true },
            LeftOut::PhysicalRdm,
        ),
        (|disk| disk.is_shared = true, LeftOut::MultiWriter),
        (|disk| disk.mode = "undoable".into(), LeftOut::Mode("undoable".into())),
    ];
    for (change, why) in cases {
        let mut vm = vm();
        change(&mut vm.disks[1]);
        let kind = FindingKind::DiskLeftOut { label: "Hard disk 2".into(), why };
        assert_found(&vm, &kind, Severity::Warns);
        assert_eq!(findings(&vm).len(), 1);
        change(&mut vm.disks[0]);
        assert_found(&vm, &FindingKind::NoDisk, Severity::Stops);
    }
}

#[test]
fn a_raw_device_in_virtual_mode_is_a_disk_like_others() {
    let mut vm = vm();
    vm.disks[0].backing = Backing::RawDiskMappingVer1 { physical: false };
    assert_eq!(findings(&vm), []);
}

#[test]
fn tracking_is_not_offered_while_there_are_snapshots() {
    let mut vm = vm();
    vm.tracks_changes = false;
    assert_found(&vm, &FindingKind::NotTracked { can_be_enabled: true }, Severity::Warns);
    vm.snapshots.push(snapshot("before update", 0));
    assert_found(&vm, &FindingKind::NotTracked { can_be_enabled: false }, Severity::Warns);
    vm.hardware_version = Some(4);
    assert_found(&vm, &FindingKind::OldHardware(4), Severity::Warns);
}

#[test]
fn snapshots_are_told_apart_by_their_names() {
    let own = SnapshotName::of(JobId::new()).to_string();
    let mut vm = vm();
    vm.snapshots = vec![snapshot("blockferry-mine", 0), snapshot(&own, 1)];
    assert_found(&vm, &FindingKind::HasSnapshots(vec!["blockferry-mine".into()]), Severity::Warns);
    assert_found(&vm, &FindingKind::HasOwnSnapshots(vec![own]), Severity::Warns);
}

#[test]
fn the_rest_is_a_warning() {
    let mut vm = vm();
    vm.needs_consolidation = true;
    vm.power = PowerState::Suspended;
    vm.host.as_mut().unwrap().in_maintenance = true;
    vm.disks[0].uuid = None;
    assert_found(&vm, &FindingKind::NeedsConsolidation, Severity::Warns);
    assert_found(&vm, &FindingKind::Suspended, Severity::Warns);
    let kind = FindingKind::HostInMaintenance { host: "esx1".into() };
    assert_found(&vm, &kind, Severity::Warns);
    let kind = FindingKind::DiskWithoutUuid { label: "Hard disk 1".into() };
    assert_found(&vm, &kind, Severity::Warns);
}

#[test]
fn disks_that_share_a_uuid_are_told_of_unless_no_snapshot_has_them() {
    let mut vm = vm();
    vm.disks[1].uuid = Some("6000c29f-2000".parse().unwrap());
    for label in ["Hard disk 1", "Hard disk 2"] {
        assert_found(&vm, &FindingKind::DiskSharesUuid { label: label.into() }, Severity::Warns);
    }
    vm.disks[1].is_shared = true;
    let kind = FindingKind::DiskSharesUuid { label: "Hard disk 1".into() };
    assert!(findings(&vm).iter().all(|finding| finding.kind != kind));
}

#[test]
fn what_stops_comes_first() {
    let mut vm = vm();
    vm.needs_consolidation = true;
    vm.is_template = true;
    let severities: Vec<Severity> = findings(&vm).iter().map(|found| found.severity).collect();
    assert_eq!(severities, [Severity::Stops, Severity::Warns]);
}

#[test]
fn the_datastore_is_that_of_the_file() {
    assert_eq!(disk(2000).datastore(), Some("ds 1"));
    assert_eq!(vm().datastore_names().into_iter().collect::<Vec<_>>(), ["ds 1"]);
}

//! VMs: listed, found, looked at.

use std::collections::BTreeMap;

use blockferry_doubles::vsphere::{Backing as Made, NewDisk};

use super::*;
use crate::snapshots::{
    Backing, Connection, DeviceKey, FindingKind, LeftOut, PowerState, Severity, findings,
};

#[test]
fn a_vm_is_told_with_all_that_matters() {
    let stage = Stage::with_web();
    let vm = stage.connect().find("web").unwrap();
    assert_eq!(vm.path, "dc/prod/linux/web");
    assert_eq!(vm.hardware_version, Some(19));
    assert_eq!(vm.power, PowerState::On);
    assert_eq!(vm.connection, Connection::Connected);
    assert!(vm.tracks_changes && !vm.is_template && !vm.needs_consolidation);
    let host = vm.host.clone().unwrap();
    assert_eq!((host.name.as_str(), host.in_maintenance), ("esx1", false));
    assert_eq!(vm.datastores.len(), 1);
    assert!(vm.identity().is_some() && vm.uuid.is_some());
    assert!(vm.snapshots.is_empty());
    let sizes: BTreeMap<i32, u64> =
        vm.disks.iter().map(|disk| (disk.key.0, disk.capacity_bytes)).collect();
    assert_eq!(sizes, stage.web().disks().unwrap());
    for disk in &vm.disks {
        assert_eq!(disk.backing, Backing::FlatVer2);
        assert_eq!(disk.datastore(), Some("datastore1"));
        assert_eq!(disk.file, stage.web().file(disk.key.0).unwrap());
        assert!(disk.uuid.is_some() && !disk.label.is_empty());
    }
    assert_eq!(findings(&vm), []);
}

#[test]
fn a_list_tells_the_same_as_a_look() {
    for builder in [Double::builder(), Double::builder().esxi()] {
        let flat = NewMachine::new("flat").disk(1 << 20);
        let stage = Stage::of(builder.page_objects(3).machine(web_anywhere()).machine(flat));
        let client = stage.connect();
        let listed = client.vms().unwrap();
        assert_eq!(listed.len(), 2);
        for vm in &listed {
            assert_eq!(*vm, client.look(&vm.id).unwrap());
        }
        assert!(listed.windows(2).all(|pair| pair[0].path < pair[1].path));
        assert_eq!(stage.double.left_open(), 0);
    }
}

fn web_anywhere() -> NewMachine {
    NewMachine::new("web").disk(1 << 20).disk(1 << 20).tracked()
}

#[test]
fn a_vm_is_found_by_name_path_uuid_and_moref() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let vm = client.find("web").unwrap();
    let instance = vm.instance_uuid.clone().unwrap();
    let bios = vm.uuid.clone().unwrap().to_uppercase();
    for sought in
        [vm.path.as_str(), vm.id.as_str(), &instance, &bios, "name=web", "/dc/prod/linux/web"]
    {
        assert_eq!(client.find(sought).unwrap().id, vm.id, "{sought}");
    }
}

#[test]
fn an_ambiguous_name_is_an_error_that_lists_the_candidates() {
    let builder = Double::builder()
        .datacenter("one", &["esx1"], &["ds1"])
        .datacenter("two", &["esx2"], &["ds2"])
        .machine(NewMachine::new("db").datacenter("one").disk(1 << 20))
        .machine(NewMachine::new("db").datacenter("two").folder("old").disk(1 << 20));
    let stage = Stage::of(builder);
    let client = stage.connect();
    let error = client.find("db").unwrap_err();
    let line = error.to_string();
    assert!(matches!(error, HypervisorError::Ambiguous { .. }), "{line}");
    assert!(line.contains("one/db (vm-") && line.contains("two/old/db (vm-"), "{line}");
    assert_eq!(client.find("two/old/db").unwrap().path, "two/old/db");
}

#[test]
fn a_name_that_is_not_there_is_an_error_with_near_ones() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let error = client.find("wep").unwrap_err();
    assert!(error.to_string().contains("did you mean dc/prod/linux/web?"), "{error}");
    let error = client.look(&VmId::new("vm-99999")).unwrap_err();
    assert!(matches!(error, HypervisorError::Gone(_)), "{error}");
}

#[test]
fn disks_of_all_kinds_are_told_apart() {
    let odd = NewMachine::new("odd")
        .disk(1 << 20)
        .with_disk(NewDisk::new(1 << 20).independent())
        .with_disk(NewDisk::new(1 << 20).backing(Made::PhysicalRdm))
        .with_disk(NewDisk::new(1 << 20).backing(Made::VirtualRdm))
        .with_disk(NewDisk::new(1 << 20).backing(Made::Sparse))
        .with_disk(NewDisk::new(1 << 20).multi_writer())
        .hardware(4);
    let stage = Stage::of(Double::builder().machine(odd));
    let vm = stage.connect().find("odd").unwrap();
    let left_out: Vec<Option<LeftOut>> = vm.disks.iter().map(|disk| disk.left_out()).collect();
    let expected = [
        None,
        Some(LeftOut::Independent),
        Some(LeftOut::PhysicalRdm),
        None,
        None,
        Some(LeftOut::MultiWriter),
    ];
    assert_eq!(left_out, expected);
    assert_eq!(vm.disks[4].backing, Backing::SparseVer2);
    let found = findings(&vm);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found.iter().any(|finding| finding.kind == FindingKind::OldHardware(4)));
}

#[test]
fn what_limits_a_backup_is_found_on_the_server() {
    let stage = Stage::of(
        Double::builder()
            .datacenter("dc", &["esx1"], &["ds"])
            .machine(NewMachine::new("web").disk(1 << 20).powered_off()),
    );
    stage.web().set_consolidation_needed(true).unwrap();
    stage.double.set_maintenance("esx1", true);
    let vm = stage.connect().find("web").unwrap();
    let found = findings(&vm);
    let expected = [
        FindingKind::HostInMaintenance { host: "esx1".into() },
        FindingKind::NeedsConsolidation,
        FindingKind::NotTracked { can_be_enabled: true },
    ];
    assert_eq!(found.iter().map(|it| it.kind.clone()).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|it| it.severity == Severity::Warns));
}

#[test]
fn device_keys_stay_when_another_disk_is_removed() {
    let stage = Stage::with_web();
    let client = stage.connect();
    stage.web().remove_disk(2000).unwrap();
    let vm = client.find("web").unwrap();
    assert_eq!(vm.disks.iter().map(|disk| disk.key).collect::<Vec<_>>(), [DeviceKey(2001)]);
}

//! New VMs: made where they are wanted, with their disks in order, and removed.

use super::*;
use crate::snapshots::{DiskController, Firmware, NewVm, NewVmHardware, NewVmSite, PowerState};

fn wanted(name: &str) -> NewVm {
    NewVm { name: name.into(), note: "a <note>".into(), ..NewVm::default() }
}

#[test]
fn disks_of_a_new_vm_come_in_order_and_leave_the_unit_of_the_controller_free() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let disks: Vec<u64> = (1..=9).map(|number| number * (1 << 20) + 512).collect();
    let hardware = NewVmHardware {
        guest: Some("debian12_64Guest".into()),
        cpus: Some(2),
        memory_mib: Some(512),
        firmware: Some(Firmware::Efi),
        controller: Some(DiskController::LsiLogic),
    };
    let site = NewVmSite { host: Some("esx2".into()), ..NewVmSite::default() };
    let wanted = NewVm { disks: disks.clone(), hardware, site, ..wanted("many") };
    let vm = client.make_vm(&wanted, &never()).unwrap();
    assert_eq!((vm.path.as_str(), vm.power), ("dc/many", PowerState::Off));
    assert_eq!(vm.host.as_ref().map(|host| host.name.as_str()), Some("esx2"));
    let made: Vec<u64> = vm.disks.iter().map(|disk| disk.capacity_bytes).collect();
    assert_eq!(made, disks);
    let keys: Vec<i32> = vm.disks.iter().map(|disk| disk.key.0).collect();
    assert_eq!(keys, [2000, 2001, 2002, 2003, 2004, 2005, 2006, 2008, 2009]);
    client.note(&vm.id, "another & note").unwrap();
    client.destroy_vm(&vm.id).unwrap();
    assert!(stage.double.machine_named("many").is_none());
    // Once more is as good as once.
    client.destroy_vm(&vm.id).unwrap();
}

#[test]
fn a_host_alone_needs_nothing_to_be_named() {
    let stage = Stage::of(Double::builder().esxi());
    let client = stage.connect();
    let vm = client.make_vm(&NewVm { disks: vec![512], ..wanted("one") }, &never()).unwrap();
    assert_eq!(vm.disks[0].capacity_bytes, 512);
    assert_eq!(stage.double.machines().len(), 1);
}

#[test]
fn a_new_vm_comes_beside_the_one_that_it_is_like_or_where_it_is_told_to() {
    let stage = Stage::of(
        Double::builder()
            .datacenter("dc", &["esx1", "esx2"], &["datastore1"])
            .datacenter("far", &["esx3"], &["datastore2"])
            .machine(web().host("esx2"))
            .machine(NewMachine::new("x").folder("other")),
    );
    let client = stage.connect();
    let like = Some(stage.web_id());
    let path = |name: &str, site: NewVmSite| {
        let like = like.clone();
        let made = client.make_vm(&NewVm { like, site, ..wanted(name) }, &never());
        made.map(|vm| (vm.path, vm.host.unwrap().name)).map_err(|error| error.to_string())
    };
    let named = |named: &str| Some(named.to_owned());
    let made = |path: &str, host: &str| Ok((path.to_owned(), host.to_owned()));
    let beside = NewVmSite::default();
    assert_eq!(path("a", beside.clone()), made("dc/prod/linux/a", "esx2"));
    let other = NewVmSite { folder: named("dc/other"), host: named("esx1"), ..beside.clone() };
    assert_eq!(path("b", other), made("dc/other/b", "esx1"));
    let folder = NewVmSite { folder: named("prod"), ..beside.clone() };
    assert_eq!(path("c", folder), made("dc/prod/c", "esx2"));
    // The old folder and datastore are not of that datacenter.
    let far = NewVmSite { host: named("esx3"), ..beside.clone() };
    assert_eq!(path("d", far), made("far/d", "esx3"));
    let strange = NewVmSite { datastore: named("datastore2"), ..beside };
    let error = path("e", strange).unwrap_err();
    assert!(error.contains("one datastore, and \"datastore2\" is none or several"), "{error}");
    // A host in maintenance takes none.
    stage.double.set_maintenance("esx2", true);
    let error = path("f", NewVmSite { host: named("esx2"), ..NewVmSite::default() }).unwrap_err();
    assert!(error.contains("there is esx1, esx3"), "{error}");
    assert_eq!(stage.double.left_open(), 0);
}

#[test]
fn more_disks_than_a_vm_has_room_for_are_refused_before_anything_is_asked() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let error = client.make_vm(&NewVm { disks: vec![512; 61], ..wanted("many") }, &never());
    assert!(error.unwrap_err().to_string().contains("room for 60 disks, and not for 61"));
    assert_eq!(stage.double.count("CreateVM_Task"), 0);
}

#[test]
fn tracking_that_is_forgotten_begins_with_another_uuid() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let web = stage.web_id();
    let change = || {
        let request = request(JobId::new(), QuiescePolicy::None);
        let taken = client.take_snapshot(&web, &request, &never()).unwrap();
        let disks = client.disks_of(&taken.id).unwrap();
        client.remove_snapshot(&taken.id).unwrap();
        let change = disks[0].change.as_ref().map(|change| change.as_str().to_owned());
        change.map(|change| change.rsplit_once('/').unwrap().0.to_owned())
    };
    let before = change().unwrap();
    client.forget_changes(&web).unwrap();
    assert!(!client.look(&web).unwrap().tracks_changes);
    client.track_changes(&web).unwrap();
    // It begins with the snapshot, or after it.
    let after = change().or_else(change).unwrap();
    assert_ne!(after, before);
}

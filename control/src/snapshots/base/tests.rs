use super::super::vm::{Backing, DeviceKey};
use super::*;

const VM: &str = "5012a1f5-3c1f-0aee-38a0-6a9b3df0a001";
const TRACKING: &str = "52 2d 7b 8f ac 61 51 cc-77 4c 7b ec 91 50 bb 7b";

fn change(tracking: &str, counter: u64) -> Option<ChangeId> {
    Some(format!("{tracking}/{counter}").parse().unwrap())
}

fn uuid(text: &str) -> Option<DiskUuid> {
    Some(text.parse().unwrap())
}

fn base() -> Base {
    Base {
        vm: Some(VM.to_owned()),
        uuid: uuid("6000C29f-0001"),
        size_bytes: 1 << 30,
        change: change(TRACKING, 4),
    }
}

fn disk() -> VmDisk {
    VmDisk {
        key: DeviceKey(2000),
        label: "Hard disk 1".into(),
        file: "[ds] vm/vm-000001.vmdk".into(),
        uuid: uuid("6000C29f-0001"),
        mode: "persistent".into(),
        is_shared: false,
        backing: Backing::FlatVer2,
        capacity_bytes: 1 << 30,
        change: change(TRACKING, 5),
    }
}

#[track_caller]
fn assert_full(base: &Base, vm: &str, disk: &VmDisk, reason: &FullReason) {
    assert_eq!(base.decide(Some(vm), disk), Decision::Full(reason.clone()));
}

#[test]
fn a_later_snapshot_of_the_same_disk_is_a_delta_since_the_base() {
    let since = base().change.unwrap();
    assert_eq!(base().decide(Some(VM), &disk()), Decision::Delta { since });
}

#[test]
fn uuids_are_the_same_in_either_case() {
    let mut disk = disk();
    disk.uuid = uuid("6000c29F-0001");
    disk.change = change(&TRACKING.to_uppercase(), 9);
    let decided = base().decide(Some(&VM.to_uppercase()), &disk);
    assert!(matches!(decided, Decision::Delta { .. }), "{decided:?}");
}

#[test]
fn a_base_or_a_disk_without_change_id_is_a_full() {
    let mut bare = base();
    bare.change = None;
    assert_full(&bare, VM, &disk(), &FullReason::BaseHasNoChangeId);
    let mut untracked = disk();
    untracked.change = None;
    assert_full(&base(), VM, &untracked, &FullReason::NoChangeId);
}

#[test]
fn tracking_that_began_anew_is_a_full() {
    let mut reset = disk();
    reset.change = change("52 2d 7b 8f ac 61 51 cc-77 4c 7b ec 91 50 bb 7c", 5);
    assert_full(&base(), VM, &reset, &FullReason::TrackingBeganAnew);
}

#[test]
fn a_counter_that_did_not_rise_is_a_full() {
    for to in [0, 3, 4] {
        let mut reverted = disk();
        reverted.change = change(TRACKING, to);
        assert_full(&base(), VM, &reverted, &FullReason::CounterFell { from: 4, to });
    }
}

#[test]
fn another_size_is_a_full() {
    let mut grown = disk();
    grown.capacity_bytes += 512;
    let (from, to) = (1 << 30, (1 << 30) + 512);
    assert_full(&base(), VM, &grown, &FullReason::CapacityChanged { from, to });
}

#[test]
fn another_disk_or_vm_is_a_full() {
    let mut other = disk();
    other.uuid = uuid("6000C29f-0002");
    assert_full(&base(), VM, &other, &FullReason::OtherDisk);
    other.uuid = None;
    assert_full(&base(), VM, &other, &FullReason::NoDiskUuid);
    assert_full(&base(), "5012a1f5-other", &disk(), &FullReason::OtherVm);
    assert_eq!(base().decide(None, &disk()), Decision::Full(FullReason::OtherVm));
}

#[test]
fn two_that_nobody_knows_are_not_the_same() {
    let (mut base, mut disk) = (base(), disk());
    (base.uuid, disk.uuid) = (None, None);
    assert_full(&base, VM, &disk, &FullReason::NoDiskUuid);
}

#[test]
fn change_ids_of_another_form_are_a_full() {
    for text in ["*", "12", "/4", "52 2d/", "52 2d/-1", "52 2d/99999999999999999999"] {
        let strange: ChangeId = text.parse().unwrap();
        let mut disk = disk();
        disk.change = Some(strange.clone());
        assert_full(&base(), VM, &disk, &FullReason::StrangeChangeId { change: strange.clone() });
        let mut base = base();
        base.change = Some(strange.clone());
        let reason = FullReason::StrangeChangeId { change: strange };
        assert_full(&base, VM, &super::tests::disk(), &reason);
    }
}

#[test]
fn reasons_are_one_line_each() {
    let reasons = [
        FullReason::BaseHasNoChangeId,
        FullReason::NoChangeId,
        FullReason::StrangeChangeId { change: "x".repeat(500).parse().unwrap() },
        FullReason::TrackingBeganAnew,
        FullReason::CounterFell { from: 4, to: 3 },
        FullReason::CapacityChanged { from: 1, to: 2 },
        FullReason::OtherDisk,
        FullReason::NoDiskUuid,
        FullReason::OtherVm,
        FullReason::Refused("Error caused by file".into()),
    ];
    for reason in reasons {
        let line = reason.to_string();
        assert!(!line.contains('\n') && line.len() < 200, "{line}");
    }
}

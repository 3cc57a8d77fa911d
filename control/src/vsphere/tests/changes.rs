//! What changed, and what can be stood on.

use std::collections::BTreeSet;

use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_doubles::vsphere::{CHANGE_BYTES, Failure, Page, Revert, Trouble};

use super::*;
use crate::snapshots::{
    Base, Decision, FullReason, Reaction, SnapshotId, TakenSnapshot, Vm, VmDisk,
};

const QUERY: &str = "QueryChangedDiskAreas";
const MOST: usize = 1 << 20;

struct Seen {
    vm: Vm,
    taken: TakenSnapshot,
    disks: Vec<VmDisk>,
}

/// A snapshot with its disks.
fn snapshot(stage: &Stage, client: &Vsphere) -> Seen {
    let vm = client.find("web").unwrap();
    let wanted = request(JobId::new(), QuiescePolicy::None);
    let taken = client.take_snapshot(&stage.web_id(), &wanted, &never()).unwrap();
    let disks = client.disks_of(&taken.id).unwrap();
    Seen { vm, taken, disks }
}

fn base(seen: &Seen, disk: usize) -> Base {
    let disk = &seen.disks[disk];
    Base {
        vm: seen.vm.identity().map(str::to_owned),
        uuid: disk.uuid.clone(),
        size_bytes: disk.capacity_bytes,
        change: disk.change.clone(),
    }
}

fn since(stage: &Stage, client: &Vsphere, old: &Seen, new: &Seen, disk: usize) -> AreaSet {
    let since = old.disks[disk].change.clone().unwrap();
    let vm = stage.web_id();
    client.changed_areas(&vm, &new.taken.id, &new.disks[disk], &since, MOST).unwrap()
}

/// A base, some writes, and a snapshot after them.
fn written(stage: &Stage, client: &Vsphere, offsets: &[u64]) -> (Seen, Seen) {
    let old = snapshot(stage, client);
    client.remove_snapshot(&old.taken.id).unwrap();
    for &offset in offsets {
        stage.web().write(2000, offset, b"changed").unwrap();
    }
    let new = snapshot(stage, client);
    (old, new)
}

#[test]
fn the_disks_of_a_snapshot_are_those_of_its_instant() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let first = snapshot(&stage, &client);
    let second = snapshot(&stage, &client);
    // The first one's are still its own: other files and change ids than the second one's.
    assert_eq!(client.disks_of(&first.taken.id).unwrap(), first.disks);
    for (one, other) in first.disks.iter().zip(&second.disks) {
        assert_eq!((one.key, &one.uuid), (other.key, &other.uuid));
        assert_ne!(one.change, other.change);
        assert_ne!(one.file, other.file);
    }
    let current = client.find("web").unwrap();
    assert!(current.disks.iter().zip(&second.disks).all(|(now, then)| now.file != then.file));
}

#[test]
fn what_was_written_since_the_base_is_told_page_by_page() {
    let stage = Stage::of(Double::builder().page_areas(3).machine(web()));
    let client = stage.connect();
    let offsets: Vec<u64> = (0..40).map(|index| index * 23 * CHANGE_BYTES % DISK_BYTES).collect();
    let (old, new) = written(&stage, &client, &offsets);
    stage.double.clear_calls();
    let areas = since(&stage, &client, &old, &new, 0);
    let blocks: BTreeSet<u64> = offsets.iter().map(|offset| offset / CHANGE_BYTES).collect();
    let blocks = blocks.iter().map(|block| Area::new(block * CHANGE_BYTES, CHANGE_BYTES));
    assert_eq!(areas, AreaSet::from_unsorted(blocks, DISK_BYTES).unwrap());
    assert!(stage.double.count(QUERY) > 10);
    assert!(since(&stage, &client, &old, &new, 1).is_empty());
}

#[test]
fn a_page_that_ends_early_is_asked_on() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let (old, new) = written(&stage, &client, &[0, 10 << 20, 20 << 20]);
    stage.double.trouble(Trouble::Areas(Page::EndsEarly));
    assert_eq!(since(&stage, &client, &old, &new, 0).len(), 3);
    assert!(stage.double.troubles().is_empty());
}

#[test]
fn pages_that_cannot_be_the_truth_are_errors() {
    let stage = Stage::of(Double::builder().page_areas(2).machine(web()));
    let client = stage.connect();
    let (old, new) = written(&stage, &client, &[0, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20]);
    let change = old.disks[0].change.clone().unwrap();
    for page in [Page::Stalls, Page::Overlaps, Page::Exceeds, Page::Unordered, Page::Repeats] {
        let ask = || {
            let (vm, disk) = (stage.web_id(), &new.disks[0]);
            client.changed_areas(&vm, &new.taken.id, disk, &change, MOST)
        };
        if page == Page::Repeats {
            // What repeats is the second one.
            stage.double.trouble(Trouble::Areas(Page::EndsEarly));
        }
        stage.double.trouble(Trouble::Areas(page));
        let error = ask().unwrap_err();
        let is_nonsense = matches!(&error, HypervisorError::Vsphere(VsphereError::Areas { .. }));
        assert!(is_nonsense, "{page:?}: {error}");
        assert_eq!(error.reaction(), Reaction::Fail);
        stage.double.clear_troubles();
        assert_eq!(ask().unwrap().len(), 6);
    }
}

#[test]
fn a_session_that_expires_between_pages_loses_nothing() {
    for after in 0..8 {
        let stage = Stage::of(Double::builder().page_areas(1).machine(web()));
        let client = stage.connect();
        let (old, new) = written(&stage, &client, &[0, 8 << 20, 16 << 20, 24 << 20]);
        stage.double.trouble(Trouble::SessionExpires { after, quietly: after % 2 == 1 });
        assert_eq!(since(&stage, &client, &old, &new, 0).len(), 4, "{after}");
    }
}

#[test]
fn what_is_cut_off_between_pages_is_asked_again() {
    let stage = Stage::of(Double::builder().page_areas(1).machine(web()));
    let client = stage.connect();
    let (old, new) = written(&stage, &client, &[0, 8 << 20, 16 << 20, 24 << 20]);
    for bytes in [0, 100, 300, 500] {
        stage.double.trouble(Trouble::Cut { method: QUERY, bytes });
        stage.double.trouble(Trouble::Truncated { method: QUERY, bytes });
        assert_eq!(since(&stage, &client, &old, &new, 0).len(), 4, "{bytes}");
        assert!(stage.double.troubles().is_empty());
    }
}

#[test]
fn faults_say_whether_it_is_a_full_a_retry_or_the_end() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let (old, new) = written(&stage, &client, &[0]);
    let change = old.disks[0].change.clone().unwrap();
    let react = |kind, times: usize| {
        for _ in 0..times {
            let failure = Failure::new(kind, "as ordered");
            stage.double.trouble(Trouble::CallFails { method: QUERY, failure });
        }
        let (vm, disk) = (stage.web_id(), &new.disks[0]);
        let asked = client.changed_areas(&vm, &new.taken.id, disk, &change, MOST);
        stage.double.clear_troubles();
        asked.map(|_| ()).map_err(|error| error.reaction())
    };
    let full = |reaction| matches!(reaction, Err(Reaction::Full(FullReason::Refused(_))));
    assert!(full(react("FileFault", 1)));
    assert!(full(react("InvalidArgument", 1)));
    // It is retried a few times at once, and then by whoever asked.
    assert_eq!(react("HostNotConnected", 1), Ok(()));
    assert_eq!(react("HostNotConnected", 9), Err(Reaction::Retry));
    assert_eq!(react("NoPermission", 1), Err(Reaction::Fail));
    assert_eq!(react("SystemError", 1), Err(Reaction::Fail));
}

#[test]
fn a_change_id_of_another_vm_is_not_known() {
    let other = NewMachine::new("other").disk(DISK_BYTES).tracked();
    let stage = Stage::of(Double::builder().machine(web()).machine(other));
    let client = stage.connect();
    let new = snapshot(&stage, &client);
    let vm = client.find("other").unwrap();
    let wanted = request(JobId::new(), QuiescePolicy::None);
    let taken = client.take_snapshot(&vm.id, &wanted, &never()).unwrap();
    let theirs = client.disks_of(&taken.id).unwrap()[0].change.clone().unwrap();
    let asked = client.changed_areas(&stage.web_id(), &new.taken.id, &new.disks[0], &theirs, MOST);
    let reaction = asked.unwrap_err().reaction();
    assert!(matches!(reaction, Reaction::Full(FullReason::Refused(_))), "{reaction:?}");
    let theirs = Base { change: Some(theirs), ..base(&new, 0) };
    let decided = theirs.decide(new.vm.identity(), &new.disks[0]);
    assert_eq!(decided, Decision::Full(FullReason::TrackingBeganAnew));
}

#[test]
fn each_way_to_lose_a_base_is_seen_in_the_snapshot() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let old = snapshot(&stage, &client);
    client.remove_snapshot(&old.taken.id).unwrap();
    let decide =
        |new: &Seen, disk: usize| base(&old, disk).decide(new.vm.identity(), &new.disks[disk]);
    let next = snapshot(&stage, &client);
    assert!(matches!(decide(&next, 0), Decision::Delta { .. }));
    client.remove_snapshot(&next.taken.id).unwrap();

    stage.web().grow(2001, DISK_BYTES).unwrap();
    let grown = snapshot(&stage, &client);
    let (from, to) = (DISK_BYTES / 2, DISK_BYTES);
    assert_eq!(decide(&grown, 1), Decision::Full(FullReason::CapacityChanged { from, to }));
    client.remove_snapshot(&grown.taken.id).unwrap();

    stage.web().reset_tracking().unwrap();
    let reset = snapshot(&stage, &client);
    assert_eq!(decide(&reset, 0), Decision::Full(FullReason::TrackingBeganAnew));
}

#[test]
fn a_disk_without_tracking_has_no_change_id() {
    let plain = NewMachine::new("web").disk(1 << 20);
    let stage = Stage::of(Double::builder().revert(Revert::CounterFalls).machine(plain));
    let client = stage.connect();
    let seen = snapshot(&stage, &client);
    assert_eq!(seen.disks[0].change, None);
    let decided = base(&seen, 0).decide(seen.vm.identity(), &seen.disks[0]);
    assert_eq!(decided, Decision::Full(FullReason::BaseHasNoChangeId));
}

#[test]
fn what_is_in_use_can_be_asked_for() {
    let stage = Stage::with_web();
    let client = stage.connect();
    stage.web().write(2000, 5 << 20, b"in use").unwrap();
    let seen = snapshot(&stage, &client);
    let all = "*".parse().unwrap();
    let ask = || {
        client.changed_areas(&stage.web_id(), &seen.taken.id, &seen.disks[0], &all, MOST).unwrap()
    };
    let areas = ask();
    assert!(areas.contains(Area::new(5 << 20, 6)) && areas.total() < DISK_BYTES);
    stage.double.trouble(Trouble::AllInUse);
    assert_eq!(ask(), AreaSet::whole(DISK_BYTES));
}

#[test]
fn a_snapshot_that_is_gone_is_told_as_gone() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let error = client.disks_of(&SnapshotId::new("snapshot-99999")).unwrap_err();
    assert!(error.to_string().contains("ManagedObjectNotFound"), "{error}");
}

#[test]
fn pages_have_a_limit_of_time_all_together() {
    let stage = Stage::of(Double::builder().page_areas(1).machine(web()));
    let (old, new) = written(&stage, &stage.connect(), &[0, 1 << 20, 2 << 20, 3 << 20, 4 << 20]);
    let mut server = stage.server();
    server.deadlines.changes = Duration::from_millis(400);
    let client = Vsphere::connect(&server).unwrap();
    for _ in 0..5 {
        let by = Duration::from_millis(150);
        stage.double.trouble(Trouble::CallSlow { method: QUERY, by });
    }
    let change = old.disks[0].change.clone().unwrap();
    let (vm, disk) = (stage.web_id(), &new.disks[0]);
    let error = client.changed_areas(&vm, &new.taken.id, disk, &change, MOST).unwrap_err();
    let is_late = matches!(&error, HypervisorError::Vsphere(VsphereError::AreasLate { told, .. })
        if *told > 0);
    assert!(is_late, "{error}");
    // Neither asked again nor read in full without a word.
    assert_eq!(error.reaction(), Reaction::Fail);
}

#[test]
fn pages_are_asked_for_no_more_once_they_are_called_off() {
    let stage = Stage::of(Double::builder().page_areas(1).machine(web()));
    let client = stage.connect();
    let (old, new) = written(&stage, &client, &[0, 1 << 20, 2 << 20]);
    let change = old.disks[0].change.clone().unwrap();
    let called_off = never();
    let bound = client.unless(&called_off);
    let ask = || bound.changed_areas(&stage.web_id(), &new.taken.id, &new.disks[0], &change, MOST);
    assert_eq!(ask().unwrap().len(), 3);
    // One of which no answer comes.
    stage.double.trouble(Trouble::CallHeld { method: QUERY });
    let error = std::thread::scope(|scope| {
        let asking = scope.spawn(ask);
        until("the question", || stage.double.held(QUERY) == 1);
        called_off.cancel();
        asking.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, HypervisorError::CalledOff), "{error}");
    stage.double.clear_calls();
    assert!(matches!(ask().unwrap_err(), HypervisorError::CalledOff));
    assert_eq!(stage.double.count(QUERY), 0);
    // The session goes on for whoever is not called off.
    client.remove_snapshot(&new.taken.id).unwrap();
}

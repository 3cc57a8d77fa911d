//! The double of vSphere keeps its word: snapshots are one instant, and changed areas are all of
//! what has changed.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod soap;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use blockferry_doubles::Vsphere;
use blockferry_doubles::disk::Random;
use blockferry_doubles::vsphere::{
    CHANGE_BYTES, Guest, NewDisk, NewMachine, Revert, Steps, VirtualMachine, VsphereBuilder,
};
use soap::Soap;

const MIB: u64 = 1 << 20;
const GENERATIONS: u64 = 30;

fn vsphere(folder: &Path, machine: NewMachine) -> (Vsphere, VirtualMachine, Soap) {
    started(folder, Vsphere::builder().page_areas(3), machine)
}

fn started(
    folder: &Path,
    builder: VsphereBuilder,
    machine: NewMachine,
) -> (Vsphere, VirtualMachine, Soap) {
    let builder = builder.user("backup", "secret").machine(machine);
    let vsphere = builder.start(folder).unwrap();
    let machine = vsphere.machine_named("web").unwrap();
    let soap = Soap::login(&vsphere);
    (vsphere, machine, soap)
}

#[test]
fn a_snapshot_shows_all_disks_at_the_same_step_of_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let order = NewMachine::new("web").disk(64 * MIB).disk(32 * MIB).tracked();
    let (vsphere, machine, mut soap) = vsphere(folder.path(), order);
    let guest = Guest::start(&machine, Duration::ZERO).unwrap();
    let mut before = 0;
    for _ in 0..10 {
        let seen = guest.counter();
        let snapshot = soap.snapshot(&vsphere, machine.id());
        let copies = machine.snapshots().unwrap().remove(0).copies;
        let counters: Vec<u64> =
            copies.values().map(|copy| Steps::counter(copy).unwrap()).collect();
        assert!(counters[0] >= seen && counters[0] > before, "{counters:?} after {seen}");
        assert_eq!(counters[0], counters[1]);
        for (key, capacity) in machine.disks().unwrap() {
            let disk = fs::read(&copies[&key]).unwrap();
            let at = usize::try_from(Steps::offset(counters[0], key, capacity)).unwrap();
            assert_eq!(disk[at..at + 8], counters[0].to_le_bytes());
        }
        before = counters[0];
        soap.remove(&vsphere, &snapshot);
    }
    assert!(guest.stop().unwrap() >= before);
}

/// What a backup would do: bring the image of the last generation up to that of this one.
struct Images {
    images: BTreeMap<i32, (Vec<u8>, Option<String>)>,
    fulls: Vec<String>,
}

impl Images {
    fn bring_up(&mut self, soap: &mut Soap, machine: &VirtualMachine, snapshot: &str) {
        let copies = machine.snapshots().unwrap().pop().unwrap().copies;
        let ids: BTreeMap<_, _> = soap.change_ids(snapshot).into_iter().collect();
        let mut next = BTreeMap::new();
        for (key, copy) in copies {
            let wanted = fs::read(copy).unwrap();
            let (mut image, base) = self.images.remove(&key).unwrap_or_default();
            let id = ids[&key].clone();
            match Self::areas(soap, machine, snapshot, key, &wanted, &image, base, id.as_deref()) {
                Ok(areas) => {
                    for (start, length) in areas {
                        let (start, length) =
                            (usize::try_from(start).unwrap(), usize::try_from(length).unwrap());
                        let area = start..start + length;
                        image[area.clone()].copy_from_slice(&wanted[area]);
                    }
                }
                Err(why) => {
                    self.fulls.push(why);
                    image.clone_from(&wanted);
                }
            }
            assert!(image == wanted, "disk {key} of {snapshot} differs");
            next.insert(key, (image, id));
        }
        self.images = next;
    }

    #[allow(clippy::too_many_arguments)]
    fn areas(
        soap: &mut Soap,
        machine: &VirtualMachine,
        snapshot: &str,
        key: i32,
        wanted: &[u8],
        image: &[u8],
        base: Option<String>,
        id: Option<&str>,
    ) -> Result<Vec<(u64, u64)>, String> {
        let (base, id) = (base.ok_or("no base")?, id.ok_or("no change id")?);
        if image.len() != wanted.len() {
            return Err("another size".to_owned());
        }
        let split = |id: &str| {
            let (uuid, number) = id.rsplit_once('/').unwrap();
            (uuid.to_owned(), number.parse::<u64>().unwrap())
        };
        let ((old, from), (new, to)) = (split(&base), split(id));
        if old != new {
            // The server says so too.
            let asked = soap.areas(machine.id(), snapshot, key, wanted.len() as u64, &base);
            assert_eq!(asked, Err("FileFault".to_owned()));
            return Err("another line".to_owned());
        }
        if to <= from {
            return Err("the counter fell".to_owned());
        }
        soap.areas(machine.id(), snapshot, key, wanted.len() as u64, &base)
    }
}

fn scribble(machine: &VirtualMachine, random: &mut Random) {
    for (key, capacity) in machine.disks().unwrap() {
        for _ in 0..random.below(6) {
            let length = 1 + random.below(3 * CHANGE_BYTES);
            let offset = random.below(capacity - length);
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            random.fill(&mut bytes);
            machine.write(key, offset, &bytes).unwrap();
        }
    }
}

fn thirty_generations(revert: Revert) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let order = NewMachine::new("web").disk(4 * MIB).disk(2 * MIB + 512).tracked();
    let builder = Vsphere::builder().page_areas(3).revert(revert);
    let (vsphere, machine, mut soap) = started(folder.path(), builder, order);
    let mut random = Random::new(11);
    let mut images = Images { images: BTreeMap::new(), fulls: Vec::new() };
    for generation in 0..GENERATIONS {
        scribble(&machine, &mut random);
        match generation {
            5 => machine.reset_tracking().unwrap(),
            10 => machine.grow(2000, 5 * MIB).unwrap(),
            15 => assert_eq!(machine.add_disk(&NewDisk::new(MIB)).unwrap(), 2002),
            20 => machine.remove_disk(2001).unwrap(),
            _ => {}
        }
        let snapshot = soap.snapshot(&vsphere, machine.id());
        images.bring_up(&mut soap, &machine, &snapshot);
        scribble(&machine, &mut random);
        if generation == 25 {
            let this = ("VirtualMachineSnapshot", snapshot.as_str());
            let task = soap.task("RevertToSnapshot_Task", this, "");
            let info = soap.wait(&vsphere, &task);
            assert_eq!(info.inside("state"), Some("success"), "{info:?}");
        }
        soap.remove(&vsphere, &snapshot);
    }
    images.fulls
}

#[test]
fn thirty_generations_can_be_followed_by_their_changed_areas() {
    let fulls = thirty_generations(Revert::NewLine);
    let count = |why: &str| fulls.iter().filter(|it| *it == why).count();
    // Two disks at first; the added one has no change id at first and no base afterwards.
    assert_eq!(count("no base") + count("no change id"), 2 + 2, "{fulls:?}");
    assert_eq!(count("another size"), 1, "{fulls:?}");
    // Both disks after the reset, and both that are left after the revert.
    assert_eq!(count("another line"), 4, "{fulls:?}");
    assert_eq!(fulls.len(), 9, "{fulls:?}");
}

#[test]
fn a_counter_that_fell_tells_of_a_revert() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Vsphere::builder().revert(Revert::CounterFalls);
    let order = NewMachine::new("web").disk(MIB).tracked();
    let (vsphere, machine, mut soap) = started(folder.path(), builder, order);
    let early = soap.snapshot(&vsphere, machine.id());
    let late = soap.snapshot(&vsphere, machine.id());
    let later = soap.snapshot(&vsphere, machine.id());
    let base = soap.change_ids(&later).remove(0).1.unwrap();
    let task = soap.task("RevertToSnapshot_Task", ("VirtualMachineSnapshot", &early), "");
    soap.wait(&vsphere, &task);
    let fresh = soap.snapshot(&vsphere, machine.id());
    let id = soap.change_ids(&fresh).remove(0).1.unwrap();
    assert_eq!(id, soap.change_ids(&late).remove(0).1.unwrap());
    let asked = soap.areas(machine.id(), &fresh, 2000, MIB, &base);
    assert_eq!(asked, Err("InvalidArgument".to_owned()));
}

#[test]
fn removed_snapshots_give_their_files_back_to_those_who_build_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let (vsphere, machine, mut soap) = vsphere(folder.path(), NewMachine::new("web").disk(MIB));
    let file = |number: u32| format!("[datastore1] web/web-{number:06}.vmdk");
    let first = soap.snapshot(&vsphere, machine.id());
    let second = soap.snapshot(&vsphere, machine.id());
    assert_eq!(machine.file(2000).unwrap(), file(2));
    let told = || -> serde_json::Value {
        serde_json::from_slice(&fs::read(folder.path().join("vddk.json")).unwrap()).unwrap()
    };
    let machines = told()["vms"].clone();
    let snapshots = &machines[machine.id()]["snapshots"];
    assert_eq!(snapshots[&first]["[datastore1] web/web.vmdk"]["capacity"], MIB);
    assert_eq!(snapshots[&second][file(1)]["capacity"], MIB);
    soap.remove(&vsphere, &first);
    let copies = machine.snapshots().unwrap().remove(0).copies;
    let machines = told()["vms"].clone();
    let snapshot = &machines[machine.id()]["snapshots"][&second];
    assert_eq!(snapshot["[datastore1] web/web.vmdk"]["path"], copies[&2000].to_str().unwrap());
    assert_eq!(machine.file(2000).unwrap(), file(2));
    soap.remove(&vsphere, &second);
    assert_eq!(machine.file(2000).unwrap(), "[datastore1] web/web.vmdk");
    let disks = told()["vms"][machine.id()]["disks"].clone();
    let path = &disks["[datastore1] web/web.vmdk"]["path"];
    assert_eq!(*path, machine.path(2000).unwrap().to_str().unwrap());
    // The files of the copies are gone: what is left is the disk.
    assert_eq!(fs::read_dir(folder.path().join("disks")).unwrap().count(), 1);
}

#[test]
fn disks_that_snapshots_do_not_reach_are_listed_and_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let order = NewMachine::new("web")
        .disk(MIB)
        .with_disk(NewDisk::new(MIB).independent())
        .with_disk(NewDisk::new(MIB).multi_writer())
        .with_disk(NewDisk::new(MIB).backing(blockferry_doubles::vsphere::Backing::PhysicalRdm))
        .tracked();
    let (vsphere, machine, mut soap) = vsphere(folder.path(), order);
    let snapshot = soap.snapshot(&vsphere, machine.id());
    let with_id = soap.change_ids(&snapshot).into_iter().map(|(key, id)| (key, id.is_some()));
    let all = [(2000, true), (2001, false), (2002, false), (2003, false)];
    assert_eq!(with_id.collect::<Vec<_>>(), all);
    let copies = machine.snapshots().unwrap().remove(0).copies;
    assert_eq!(copies.into_keys().collect::<Vec<_>>(), [2000]);
}

#[test]
fn tracking_can_miss_a_write_and_call_changed_what_is_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let order = NewMachine::new("web").disk(MIB).tracked();
    let (vsphere, machine, mut soap) = vsphere(folder.path(), order);
    let base = soap.snapshot(&vsphere, machine.id());
    let id = soap.change_ids(&base).remove(0).1.unwrap();
    machine.write_unseen(2000, 5, b"unseen").unwrap();
    machine.touch(2000, 9 * CHANGE_BYTES, 1).unwrap();
    let later = soap.snapshot(&vsphere, machine.id());
    let areas = soap.areas(machine.id(), &later, 2000, MIB, &id).unwrap();
    assert_eq!(areas, [(9 * CHANGE_BYTES, CHANGE_BYTES)]);
    let snapshots = machine.snapshots().unwrap();
    let copies = snapshots.iter().map(|snapshot| fs::read(&snapshot.copies[&2000]).unwrap());
    let copies: Vec<_> = copies.collect();
    assert!(copies[0].iter().all(|byte| *byte == 0));
    assert_eq!(copies[1][5..11], *b"unseen");
    assert!(copies[1][11..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_hundred_thousand_areas_come_in_pages_and_cost_the_server_little() {
    const AREAS: u64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let capacity = 2 * AREAS * CHANGE_BYTES;
    let order = NewMachine::new("web").disk(capacity).tracked();
    let (vsphere, machine, mut soap) = started(folder.path(), Vsphere::builder(), order);
    let base = soap.snapshot(&vsphere, machine.id());
    let id = soap.change_ids(&base).remove(0).1.unwrap();
    for area in 0..AREAS {
        machine.touch(2000, 2 * area * CHANGE_BYTES, 1).unwrap();
    }
    let later = soap.snapshot(&vsphere, machine.id());
    let started = Instant::now();
    let areas = soap.areas(machine.id(), &later, 2000, capacity, &id).unwrap();
    assert_eq!(areas.len() as u64, AREAS);
    assert_eq!(vsphere.count("QueryChangedDiskAreas") as u64, AREAS / 2000);
    let own = vsphere.own_time(started, Instant::now());
    assert!(own < Duration::from_secs(5), "{own:?} of {:?}", started.elapsed());
}

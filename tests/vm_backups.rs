//! Backups of VMs by snapshots and changed blocks: each point is its VM at one instant, and says
//! how it came to be.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::collections::BTreeMap;
use std::time::Duration;

use blockferry::{Backed, VmPlace};
use blockferry_doubles::disk::Random;
use blockferry_doubles::vsphere::{
    CHANGE_BYTES, Guest, NewDisk, NewMachine, Revert, Steps, VirtualMachine, Vsphere,
};

const MIB: u64 = 1 << 20;
const GENERATIONS: usize = 30;
/// What the first backup of a disk says.
const FIRST: &str = "it is the first backup of this disk here";
const TRACKED: &str = "what changed since point ";

#[test]
fn points_show_both_disks_at_the_same_step_of_a_guest_that_never_stops() {
    let place = VmPlace::new(NewMachine::new("web").disk(16 * MIB).disk(8 * MIB).tracked());
    let machine = place.machine("web");
    let guest = Guest::start(&machine, Duration::from_millis(1)).unwrap();
    let mut before = 0;
    let backups = [
        ("full", ""),
        ("incremental", ""),
        ("incremental", "--cbt-audit 30"),
        ("full", "--mode full"),
        ("incremental", "--mode incremental"),
    ];
    for (mode, extra) in backups {
        let seen = guest.counter();
        let backed = place.back_up("web", extra);
        let restored = place.assert_equal(&backed).into_values();
        let counters: Vec<u64> = restored.map(|disk| Steps::counter(&disk).unwrap()).collect();
        assert_eq!(counters[0], counters[1], "{}", backed.report);
        assert!(counters[0] >= seen && counters[0] > before, "{counters:?} after {seen}");
        for disk in ["disk-2000", "disk-2001"] {
            assert_eq!(backed.mode(disk), mode, "{}", backed.report);
        }
        before = counters[0];
        place.assert_nothing_left();
    }
    assert!(guest.stop().unwrap() > before);
}

/// What a guest does to its disks in one generation.
fn scribble(machine: &VirtualMachine, random: &mut Random) {
    for (key, capacity) in machine.disks().unwrap() {
        for _ in 0..random.below(5) {
            let length = 1 + random.below(3 * CHANGE_BYTES);
            let offset = random.below(capacity - length);
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            // Some of it is deleted.
            if random.below(4) > 0 {
                random.fill(&mut bytes);
            }
            machine.write(key, offset, &bytes).unwrap();
        }
    }
}

/// What becomes of disks that are not just tracked: mode and the beginning of the reason, by the
/// generation and the disk.
type Expected = BTreeMap<(usize, String), String>;

/// Puts a VM through what may happen to it, before the backup of a generation.
struct Fate<'a> {
    web: &'a VirtualMachine,
    db: &'a VirtualMachine,
    expected: Expected,
    snapshot: Option<String>,
}

impl Fate<'_> {
    fn expect(&mut self, generation: usize, disks: &[&str], reason: &str) {
        for disk in disks {
            self.expected.insert((generation, (*disk).to_owned()), reason.to_owned());
        }
    }

    fn befalls(&mut self, generation: usize) {
        let (web, db) = (self.web, self.db);
        let anew = "change tracking began anew since the last point (another UUID)";
        match generation {
            0 => self.expect(0, &["disk-2000", "disk-2001"], FIRST),
            3 => {
                web.reset_tracking().unwrap();
                self.expect(3, &["disk-2000", "disk-2001"], anew);
            }
            5 => {
                web.grow(2000, 3 * MIB + 512).unwrap();
                self.expect(
                    5,
                    &["disk-2000"],
                    "the disk has 3146240 bytes, and had 2097152 in point ",
                );
            }
            7 => {
                assert_eq!(web.add_disk(&NewDisk::new(MIB)).unwrap(), 2002);
                self.expect(7, &["disk-2002"], FIRST);
                // Its tracking began with the stun of the snapshot of its first backup.
                self.expect(8, &["disk-2002"], "the last point was made without a change id");
            }
            10 => web.remove_disk(2001).unwrap(),
            11 => self.snapshot = Some(web.take_snapshot("before the upgrade").unwrap()),
            13 => {
                web.revert_to(self.snapshot.as_ref().unwrap()).unwrap();
                self.expect(13, &["disk-2000", "disk-2002"], anew);
            }
            14 => web.remove_snapshot(&self.snapshot.take().unwrap()).unwrap(),
            // Other devices and labels, in another order: the same disks.
            16 => {
                assert_eq!(web.move_to_unit(2000, 5).unwrap(), 2005);
                assert_eq!(web.move_to_unit(2002, 0).unwrap(), 2000);
            }
            18 => {
                assert_eq!(db.give_disk(2000, web).unwrap(), 2001);
                self.expect(18, &["disk-2001"], FIRST);
            }
            // It comes back with all its changes, those that it had elsewhere too.
            20 => assert_eq!(web.give_disk(2005, db).unwrap(), 2000),
            22 => assert_eq!(db.give_disk(2000, web).unwrap(), 2002),
            // Another disk as the same device.
            24 => {
                web.remove_disk(2001).unwrap();
                assert_eq!(web.add_disk(&NewDisk::new(MIB)).unwrap(), 2001);
                self.expect(24, &["disk-2001"], FIRST);
                self.expect(25, &["disk-2001"], "the last point was made without a change id");
            }
            27 => {
                let off = "the snapshot's disk has no change id: change tracking is off";
                web.set_tracking(false).unwrap();
                self.expect(27, &["disk-2000", "disk-2001", "disk-2002"], off);
            }
            28 => {
                web.set_tracking(true).unwrap();
                let began = web.take_snapshot("a stun").unwrap();
                web.remove_snapshot(&began).unwrap();
                let without = "the last point was made without a change id";
                self.expect(28, &["disk-2000", "disk-2001", "disk-2002"], without);
            }
            _ => {}
        }
    }
}

#[test]
fn each_of_thirty_generations_is_its_snapshot_and_says_why_it_was_read_in_full() {
    let web = NewMachine::new("web").disk(2 * MIB).disk(MIB + 512).tracked();
    let db = NewMachine::new("db").disk(MIB).tracked();
    let place = VmPlace::with(Vsphere::builder().page_areas(3).machine(web).machine(db));
    let (web, db) = (place.machine("web"), place.machine("db"));
    let mut fate = Fate { web: &web, db: &db, expected: Expected::new(), snapshot: None };
    let mut random = Random::new(5);
    let mut backups = Vec::new();
    for generation in 0..GENERATIONS {
        scribble(&web, &mut random);
        scribble(&db, &mut random);
        fate.befalls(generation);
        // Some go on after what befell the VM, others do not: there is a first change of nothing.
        if generation % 4 != 3 {
            scribble(&web, &mut random);
        }
        if [17, 21].contains(&generation) {
            place.back_up("db", "");
        }
        backups.push(place.back_up("web", ""));
    }
    place.assert_nothing_left();
    for (generation, backed) in backups.iter().enumerate() {
        place.assert_equal(backed);
        assert_reasons(&place, backed, |disk| fate.expected.remove(&(generation, disk.to_owned())));
    }
    assert_eq!(fate.expected, Expected::new(), "these never came to pass");
}

/// The listed point has the reason that is expected for each disk; where none is, changes were
/// tracked.
fn assert_reasons(
    place: &VmPlace,
    backed: &Backed,
    mut expected: impl FnMut(&str) -> Option<String>,
) {
    let point = place.point(backed);
    for disk in point["disks"].as_array().unwrap() {
        let (mode, reason) = match expected(disk["name"].as_str().unwrap()) {
            Some(reason) => ("full", reason),
            None => ("incremental", TRACKED.to_owned()),
        };
        assert_eq!(disk["mode"], mode, "{point:#}");
        assert!(disk["reason"].as_str().unwrap().starts_with(&reason), "{reason}: {point:#}");
    }
}

#[test]
fn a_counter_that_fell_with_a_revert_makes_a_full() {
    let builder = Vsphere::builder().revert(Revert::CounterFalls);
    let place = VmPlace::with(builder.machine(NewMachine::new("web").disk(MIB).tracked()));
    let web = place.machine("web");
    web.write(2000, 0, b"first").unwrap();
    let early = web.take_snapshot("early").unwrap();
    web.write(2000, 5 * CHANGE_BYTES, b"second").unwrap();
    place.back_up("web", "");
    place.back_up("web", "");
    web.revert_to(&early).unwrap();
    web.write(2000, 9 * CHANGE_BYTES, b"third").unwrap();
    let backed = place.back_up("web", "");
    assert_eq!(backed.mode("disk-2000"), "full");
    assert_eq!(
        backed.reason("disk-2000"),
        "the change id's counter went from 4 to 3: the disk was set back since the last point"
    );
    place.assert_equal(&backed);
    // Whoever insists on a delta gets none.
    web.revert_to(&early).unwrap();
    let (code, report) = place.try_back_up("web", "--mode incremental");
    assert_eq!(code, 2, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("no incremental backup is possible") && error.contains("set back"));
    place.assert_nothing_left();
}

#[test]
fn an_audit_finds_what_tracking_hid_and_the_whole_disk_is_compared() {
    let place = VmPlace::new(NewMachine::new("web").disk(8 * MIB).disk(4 * MIB).tracked());
    let web = place.machine("web");
    let mut random = Random::new(1);
    let mut bytes = vec![0; usize::try_from(4 * MIB).unwrap()];
    random.fill(&mut bytes);
    web.write(2000, 0, &bytes).unwrap();
    web.write(2001, 0, &bytes).unwrap();
    place.back_up("web", "");
    web.write(2000, MIB, b"told").unwrap();
    web.write_unseen(2000, 3 * MIB + 7, b"hidden").unwrap();
    web.write_unseen(2000, 6 * MIB, b"hidden, where there was nothing").unwrap();
    let backed = place.back_up("web", "--cbt-audit 100");
    place.assert_equal(&backed);
    for disk in ["disk-2000", "disk-2001"] {
        assert_eq!(backed.mode(disk), "incremental");
    }
    assert!(backed.reason("disk-2000").ends_with("; of the rest, 8323072 bytes are compared"));
    let notes = place.notes(&backed);
    let alarms: Vec<&(String, String)> =
        notes.iter().filter(|(weight, _)| weight == "alarm").collect();
    assert_eq!(alarms.len(), 1, "{notes:?}");
    assert!(alarms[0].1.starts_with("disk disk-2000: 2 blocks of 64 KiB differ"), "{alarms:?}");
    let listed = place.kept.run("points --repository repository");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let row = listed.lines().find(|row| row.contains(backed.id())).unwrap();
    assert!(row.ends_with("whole, 1 alarm"), "{notes:?}: {row}");
    // The other disk does not lie: it was read, and nothing of it was sent.
    assert_eq!(backed.bytes("disk-2001", "sent"), 0, "{}", backed.report);
    // What was found is in the digests of the next base: nobody is alarmed twice.
    let again = place.back_up("web", "--cbt-audit 100");
    place.assert_equal(&again);
    assert!(place.notes(&again).iter().all(|(weight, _)| weight != "alarm"));
    place.assert_nothing_left();
}

#[test]
fn without_an_audit_only_what_is_tracked_is_read() {
    let place = VmPlace::new(NewMachine::new("web").disk(8 * MIB).tracked());
    let web = place.machine("web");
    web.write(2000, 0, &[1; 1 << 20]).unwrap();
    place.back_up("web", "");
    web.write(2000, 5 * CHANGE_BYTES, b"x").unwrap();
    web.write(2000, 100 * CHANGE_BYTES, b"y").unwrap();
    let backed = place.back_up("web", "--cbt-audit 0");
    place.assert_equal(&backed);
    assert_eq!(backed.bytes("disk-2000", "read"), 2 * CHANGE_BYTES, "{}", backed.report);
    assert!(backed.reason("disk-2000").ends_with("was tracked: 131072 bytes in 2 areas"));
}

#[test]
fn an_audit_reads_about_the_share_that_it_was_told() {
    let place = VmPlace::new(NewMachine::new("web").disk(64 * MIB).tracked());
    place.back_up("web", "");
    let backed = place.back_up("web", "--cbt-audit 50");
    let told = backed.reason("disk-2000").split_once("0 bytes in 0 areas; of the rest, ");
    let compared = told.unwrap().1.strip_suffix(" bytes are compared").unwrap();
    // 64 pieces, each by the toss of a coin: less or more comes once in 10^10 times.
    let compared: u64 = compared.parse().unwrap();
    assert!((8 * MIB..=56 * MIB).contains(&compared), "{compared}");
    assert_eq!(backed.bytes("disk-2000", "sent"), 0, "{}", backed.report);
}

#[test]
fn blocks_that_are_called_changed_and_are_not_are_not_sent() {
    let place = VmPlace::new(NewMachine::new("web").disk(4 * MIB).tracked());
    let web = place.machine("web");
    let block = vec![7; usize::try_from(CHANGE_BYTES).unwrap()];
    for number in 0..8 {
        web.write(2000, number * CHANGE_BYTES, &block).unwrap();
    }
    place.back_up("web", "");
    for number in 0..8 {
        web.write(2000, number * CHANGE_BYTES, &block).unwrap();
    }
    web.write(2000, 2 * CHANGE_BYTES, b"this one is other").unwrap();
    let backed = place.back_up("web", "");
    place.assert_equal(&backed);
    assert_eq!(backed.bytes("disk-2000", "read"), 8 * CHANGE_BYTES, "{}", backed.report);
    assert_eq!(backed.bytes("disk-2000", "sent"), CHANGE_BYTES, "{}", backed.report);
    assert_eq!(backed.bytes("disk-2000", "skipped"), 7 * CHANGE_BYTES, "{}", backed.report);
}

//! Points of VMs that a node reads, and the settings of their backups.

use std::collections::BTreeSet;

use blockferry_doubles::vsphere::{Guest, NewMachine, Steps, Trouble};
use serde_json::{Value, json};

use super::{MIB, Place, two_disks};
use crate::blockferry::{Backed, wait_until};

#[test]
fn a_node_backs_up_a_vm_whose_guest_writes_on_and_each_point_is_one_instant() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    let machine = place.vms.machine("web");
    let guest = Guest::start(&machine, std::time::Duration::from_millis(1)).unwrap();
    let full = place.back_up("web");
    let deltas = [place.back_up("web"), place.back_up("web")];
    guest.stop().unwrap();
    assert_eq!(full.mode("disk-2000"), "full");
    for delta in &deltas {
        assert_eq!(delta.mode("disk-2000"), "incremental", "{}", delta.report);
        let reason = delta.reason("disk-2001");
        assert!(reason.starts_with("what changed since point "), "{reason}");
    }
    for backed in [&full, &deltas[0], &deltas[1]] {
        place.assert_equal(backed);
        let counters: BTreeSet<u64> =
            backed.copies.values().map(|disk| Steps::counter(disk).unwrap()).collect();
        assert_eq!(counters.len(), 1, "{counters:?}");
    }
    let point = place.hubs.hub.get(&place.hubs.token, &format!("/points/{}", full.id()));
    assert!(point["vm_uuid"].is_string(), "{point}");
    assert_eq!(point["notes"][0]["weight"], "note", "{point}");
    place.assert_nothing_left();
}

#[test]
fn a_node_that_audits_compares_the_whole_disk_where_tracking_lies() {
    let place = Place::new(two_disks());
    let _node = place.node("--cbt-audit 100");
    place.back_up("web");
    let machine = place.vms.machine("web");
    machine.write_unseen(2000, 5 * MIB, b"nobody was told of this").unwrap();
    let backed = place.back_up("web");
    place.assert_equal(&backed);
    let point = place.hubs.hub.get(&place.hubs.token, &format!("/points/{}", backed.id()));
    let notes = point["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note["weight"] == "alarm"), "{point}");
    place.assert_nothing_left();
}

#[test]
fn ports_are_given_back_before_a_snapshot_whose_removal_takes_its_time() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    let method = "RemoveSnapshot_Task";
    place.vms.vsphere.trouble(Trouble::TaskSticks { method, cancelable: true });
    let job = place.submit("web");
    place.hubs.point_of(&job);
    let leased = || place.hubs.hub.get(&place.hubs.token, "/nbd/ports")["ports"] != json!([]);
    wait_until("a port is leased", || !leased());
    assert_eq!(place.snapshots(), 1);
    let stuck = place.vms.vsphere.tasks().into_iter().rfind(|task| task.method == method);
    place.vms.vsphere.release_task(&stuck.unwrap().id);
    place.assert_nothing_left();
}

#[test]
fn a_backup_may_have_settings_of_its_own_and_the_next_has_those_of_the_node() {
    let untracked = NewMachine::new("web").disk(24 * MIB).disk(8 * MIB + 512);
    let place = Place::new(untracked);
    let _node = place.node("");
    let notes = |backed: &Backed| -> Vec<(String, String)> {
        let point = place.hubs.hub.get(&place.hubs.token, &format!("/points/{}", backed.id()));
        let notes = point["notes"].as_array().unwrap().iter();
        let text = |of: &Value| of.as_str().unwrap().to_owned();
        notes.map(|note| (text(&note["weight"]), text(&note["says"]))).collect()
    };
    let has = |backed: &Backed, words: &str| {
        notes(backed)
            .iter()
            .any(|(weight, says)| [weight, says].iter().any(|it| it.contains(words)))
    };
    let machine = place.vms.machine("web");
    place.back_up("web");
    assert!(!machine.is_tracked().unwrap());
    let first = place.back_up_with("web", "--enable-cbt --quiesce require");
    assert!(has(&first, "change tracking (CBT) was turned on"), "{:?}", notes(&first));
    assert!(has(&first, "the guest's data was put in order"), "{:?}", notes(&first));
    place.back_up("web");
    machine.write_unseen(2000, 5 * MIB, b"nobody was told of this").unwrap();
    let usual = place.back_up("web");
    assert!(has(&usual, "as after a power cut, as asked") && !has(&usual, "alarm"));
    let audited = place.back_up_with("web", "--cbt-audit 100");
    place.assert_equal(&audited);
    assert!(has(&audited, "alarm"), "{:?}", notes(&audited));
    machine.set_tools(false).unwrap();
    let (code, report) = place.try_back_up_with("web", "--quiesce require");
    assert_eq!(code, 4, "{report}");
    assert!(report["error"].as_str().unwrap().contains("cannot put its data in order"), "{report}");
    place.back_up("web");
    place.assert_nothing_left();
}

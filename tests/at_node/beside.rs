//! Two who back up one VM.

use std::process::Stdio;

use super::{Place, SLOW, two_disks};
use crate::blockferry::{by, stderr, wait_until};

#[test]
fn a_backup_beside_that_of_a_node_is_refused_and_leaves_it_its_snapshot() {
    let place = Place::new(two_disks());
    let _node = place.node(SLOW);
    let job = place.at_work("web");
    let held = place.snapshots_of("web");
    let (code, report) = place.vms.try_back_up("web", "");
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("another backup has a snapshot of it") && error.contains(&held[0]));
    assert_eq!(place.snapshots_of("web"), held);
    place.hubs.point_of(&job);
    place.assert_nothing_left();
    place.vms.back_up("web", "");
    place.assert_nothing_left();
}

#[test]
fn a_node_is_refused_a_vm_that_is_backed_up_beside_it_and_leaves_its_snapshot() {
    let place = Place::new(two_disks());
    let _node = place.node("");
    place.vms.machine("web").write(2000, 0, &vec![7; 20 << 20]).unwrap();
    place.vms.vsphere.plugin_fault("read_delay_ms", 300.into());
    let mut command = place.vms.backup_command("web", "");
    let first = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("no snapshot is made", || place.snapshots() == 1);
    let held = place.snapshots_of("web");
    let (code, report) = place.try_back_up("web");
    assert_eq!(code, 4, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("another backup has a snapshot of it"), "{error}");
    assert_eq!(place.snapshots_of("web"), held);
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    place.assert_nothing_left();
    place.vms.vsphere.clear_plugin_faults();
    place.assert_equal(&place.back_up("web"));
}

#[test]
fn of_two_nodes_of_one_hub_the_second_is_refused_and_leaves_the_first_its_snapshot() {
    let place = Place::new(two_disks());
    let _first = place.node(SLOW);
    let _second = place.hubs.node("n2", &place.options(""));
    let job = place.at_work("web");
    let held = place.snapshots_of("web");
    let hub = by(&place.hubs.hub);
    let id = place.vms.machine("web").id().to_owned();
    for name in ["web".to_owned(), format!("moref={id}")] {
        let line = format!("backup --json --vm {name} {hub} --node n2");
        let (code, report) = place.hubs.kept.json(&line);
        assert_ne!(code, 0, "{name}: {report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("is being backed up by job"), "{name}: {error}");
        assert_eq!(place.snapshots_of("web"), held, "{name}");
    }
    place.hubs.point_of(&job);
    place.assert_nothing_left();
    assert!(place.hubs.kept.names("n2/snapshots").is_empty());
    // And the other one may, once the first has ended.
    let (code, report) = place.hubs.kept.json(&format!("backup --json --vm web {hub} --node n2"));
    assert_eq!(code, 0, "{report}");
    place.assert_nothing_left();
}

//! The password of the vCenter stays with the node.

use rustix::process::Signal;

use super::{PASSWORD, Place};
use crate::blockferry::{Node, by, cores, processes_below, stderr, with_cores};

#[test]
fn the_password_of_a_node_is_in_no_process_no_output_and_no_file_of_node_and_hub() {
    let (place, options) = Place::with_vault();
    let mut node = place.hubs.node("n1", &options);
    let job = place.at_work("web");
    let names = |pid| processes_below(pid).into_iter().map(|process| process.name);
    assert!(names(node.child.id()).any(|name| name == "exe"), "there is no nbdkit");
    assert!(names(place.hubs.hub.child.id()).any(|name| name == "qemu-nbd"));
    for file in ["state/hub.db", "repository/catalog.db", "n1.log", "stderr"] {
        assert!(place.hubs.kept.path(file).exists(), "{file}");
    }
    for folder in ["n1/jobs", "n1/snapshots", "repository/work"] {
        assert!(!place.hubs.kept.names(folder).is_empty(), "{folder} is empty");
    }
    assert!(!place.vms.kept.names("run/budgets").is_empty());
    place.assert_secret();
    place.hubs.point_of(&job);
    place.assert_nothing_left();
    place.assert_secret();

    // What is told when it is refused.
    std::fs::write(place.vms.kept.path("vault.password"), format!("{}-", PASSWORD.0)).unwrap();
    place.vms.vsphere.expire_sessions();
    let hub = by(&place.hubs.hub);
    let refused = place.hubs.kept.run(&format!("backup --json -v --vm web {hub} --node n1"));
    assert!(!refused.status.success() && stderr(&refused).contains("InvalidLogin"));
    assert!(!PASSWORD.is_in(&refused.stdout) && !PASSWORD.is_in(&refused.stderr));
    place.assert_secret();
    node.kill();
}

#[test]
fn a_node_that_has_the_password_leaves_no_core() {
    let (place, options) = Place::with_vault();
    place.hubs.enroll("n1");
    let line = format!("node serve --json --state n1 {options}");
    let folder = place.hubs.kept.folder();
    let Some(command) = with_cores(folder, line.split_whitespace()) else { return };
    let mut node = Node::of(command, folder, "n1");
    node.wait_until_served();
    let job = place.at_work("web");
    node.signal(Signal::ABORT);
    let status = node.child.wait().unwrap();
    assert!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(6), "{status}");
    assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&status), "{status}");
    assert_eq!(cores(folder), Vec::<String>::new());
    place.assert_secret();
    place.hubs.reason_of(&job);
    let _node = place.start_again("");
    place.assert_equal(&place.back_up("web"));
    place.assert_nothing_left();
}

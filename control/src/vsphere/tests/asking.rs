//! What a fault is taken for.

use blockferry_doubles::vsphere::{Failure, Trouble};

use super::*;

fn fault(kind: &'static str) -> HypervisorError {
    let stage = Stage::with_web();
    let client = stage.connect();
    for _ in 0..3 {
        let failure = Failure::new(kind, "as\n  ordered.");
        stage.double.trouble(Trouble::CallFails { method: "ReconfigVM_Task", failure });
    }
    client.track_changes(&stage.web_id()).unwrap_err()
}

#[test]
fn each_fault_is_a_line_with_what_to_do() {
    type IsIt = fn(&FaultKind) -> bool;
    let cases: [(&str, IsIt, &str); 7] = [
        ("TaskInProgress", |kind| *kind == FaultKind::TaskInProgress, "wait for it"),
        ("HostNotConnected", |kind| *kind == FaultKind::HostCommunication, "look at the VM's host"),
        ("NoPermission", |kind| matches!(kind, FaultKind::NoPermission { .. }), "give the user"),
        ("FileFault", |kind| matches!(kind, FaultKind::FileFault { file: Some(_) }), "datastore"),
        ("InvalidArgument", |kind| matches!(kind, FaultKind::InvalidArgument { .. }), "as ordered"),
        ("NotSupported", |kind| *kind == FaultKind::NotSupported, "licence"),
        ("SystemError", |kind| *kind == FaultKind::Other, "SystemError: as ordered"),
    ];
    for (kind, is_it, hint) in cases {
        let error = fault(kind);
        let HypervisorError::Vsphere(inner) = &error else { panic!("{error}") };
        assert!(inner.fault().is_some_and(is_it), "{kind}: {inner:?}");
        let line = error.to_string();
        assert!(line.contains(hint) && !line.contains('\n'), "{line}");
    }
}

//! Sessions: who is trusted, who gets in, and what becomes of a session.

use blockferry_doubles::vsphere::Trouble;

use super::*;

fn refused(server: &VsphereServer) -> VsphereError {
    Vsphere::connect(server).unwrap_err()
}

#[test]
fn a_server_is_known_by_either_thumbprint_or_by_a_ca() {
    let stage = Stage::with_web();
    let mut server = stage.server();
    let ca = stage.double.state().join("ca.pem");
    for trust in [
        Trust::Thumbprint(stage.double.thumbprint().parse().unwrap()),
        Trust::Thumbprint(stage.double.thumbprint_sha256().parse().unwrap()),
        Trust::CaFile(ca),
    ] {
        server.trust = trust;
        let client = Vsphere::connect(&server).unwrap();
        let vm = client.find("web").unwrap();
        // What VDDK is told is SHA-1, whatever we know the server by.
        let place = client.place(&vm.id, &crate::snapshots::SnapshotId::new("s"), &vm.disks[0]);
        assert_eq!(place.thumbprint, stage.double.thumbprint());
        assert_eq!(place.file, "[datastore1] web/web.vmdk");
    }
}

#[test]
fn a_server_with_another_certificate_is_refused_before_it_hears_the_password() {
    let stage = Stage::with_web();
    let mut server = stage.server();
    server.trust = Trust::Thumbprint("00".repeat(20).parse().unwrap());
    let error = refused(&server);
    assert!(matches!(error, VsphereError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains(&stage.double.thumbprint()), "{error}");

    let other = Stage::with_web();
    server.trust = Trust::CaFile(other.double.state().join("ca.pem"));
    let error = refused(&server);
    assert!(matches!(error, VsphereError::Untrusted { .. }), "{error}");
    assert_eq!(stage.double.calls().len(), 0);
}

#[test]
fn a_ca_vouches_only_for_the_name_in_the_certificate() {
    let stage = Stage::with_web();
    let mut server = stage.server();
    server.trust = Trust::CaFile(stage.double.state().join("ca.pem"));
    server.host = "127.0.0.2".into();
    let error = refused(&server);
    let is_refused =
        matches!(error, VsphereError::Untrusted { .. } | VsphereError::Unreachable { .. });
    assert!(is_refused, "{error}");
    assert_eq!(stage.double.calls().len(), 0);
}

#[test]
fn a_wrong_password_is_told_in_one_line_without_it() {
    let stage = Stage::with_web();
    write_password(&stage.password(), "not the one");
    let error = refused(&stage.server());
    assert_eq!(error.fault(), Some(&FaultKind::InvalidLogin), "{error}");
    let line = format!("{error} {error:?}");
    assert!(!line.contains("not the one") && !error.to_string().contains('\n'), "{line}");
    assert_eq!(stage.double.count("Login"), 1);
}

#[test]
fn nothing_prints_a_password() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let shown = format!("{client:?} {:?}", stage.server());
    assert!(!shown.contains("pa<ss>"), "{shown}");
}

#[test]
fn a_server_that_does_not_listen_is_named() {
    let stage = Stage::with_web();
    let mut server = stage.server();
    drop(stage.double);
    server.deadlines.answer = Duration::from_secs(2);
    let error = refused(&server);
    assert!(matches!(error, VsphereError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port)), "{error}");
}

#[test]
fn a_host_with_more_than_a_name_is_refused() {
    let stage = Stage::with_web();
    let mut server = stage.server();
    for host in ["vc/sdk", "user@vc", "vc?x", "vc#x", "", "a b"] {
        server.host = host.to_owned();
        let error = refused(&server);
        assert!(matches!(error, VsphereError::Settings { .. }), "{host}: {error}");
    }
}

#[test]
fn a_session_that_expires_is_renewed_however_it_is_told() {
    for quietly in [false, true] {
        let stage = Stage::with_web();
        let client = stage.connect();
        for after in 0..6 {
            stage.double.trouble(Trouble::SessionExpires { after, quietly });
            assert_eq!(client.vms().unwrap().len(), 1, "{quietly} {after}");
            assert_eq!(client.find("web").unwrap().name, "web");
            stage.double.clear_troubles();
        }
        assert!(stage.double.count("Login") > 3);
    }
}

#[test]
fn several_threads_renew_a_session_once() {
    let stage = Stage::with_web();
    let client = stage.connect();
    stage.double.expire_sessions();
    let id = stage.web_id();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| client.look(&id).unwrap());
        }
    });
    assert_eq!(stage.double.count("Login"), 2);
}

#[test]
fn a_password_that_was_changed_counts_from_the_next_login_on() {
    let stage = Stage::with_web();
    let client = stage.connect();
    write_password(&stage.password(), "old");
    stage.double.expire_sessions();
    let error = client.vms().unwrap_err();
    assert!(error.to_string().contains("InvalidLogin"), "{error}");
    write_password(&stage.password(), PASSWORD);
    assert_eq!(client.vms().unwrap().len(), 1);
}

#[test]
fn a_session_ends_with_its_client_and_leaves_nothing_open() {
    let stage = Stage::with_web();
    let client = stage.connect();
    client.vms().unwrap();
    client.find("web").unwrap();
    assert_eq!((stage.double.sessions(), stage.double.left_open()), (1, 0));
    drop(client);
    assert_eq!(stage.double.sessions(), 0);
}

#[test]
fn connections_that_are_cut_are_made_anew() {
    let stage = Stage::with_web();
    let client = stage.connect();
    for _ in 0..5 {
        stage.double.cut_connections();
        assert_eq!(client.find("web").unwrap().disks.len(), 2);
    }
}

#[test]
fn a_login_that_is_not_answered_can_be_called_off() {
    for method in ["RetrieveServiceContent", "Login"] {
        let stage = Stage::with_web();
        let called_off = never();
        stage.double.trouble(Trouble::CallHeld { method });
        let error = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| Vsphere::connect_unless(&stage.server(), &called_off));
            until("the call", || stage.double.held(method) == 1);
            called_off.cancel();
            connecting.join().unwrap().unwrap_err()
        });
        assert!(matches!(error, VsphereError::CalledOff), "{method}: {error}");
    }
}

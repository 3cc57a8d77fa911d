//! What is refused, and told.

use std::process::Command;

use super::forwarding::{dial, echoes};
use super::*;

#[test]
fn a_key_that_is_on_no_list_is_refused_and_told() {
    let rig = Rig::new();
    rig.list.keys.lock().unwrap().clear();
    let error = Tunnel::open(rig.settings("n1"), |_| {}).unwrap_err();
    assert!(matches!(error, TunnelError::Refused { .. }), "{error}");
    let told = rig.refusal();
    assert!(told.contains("SHA256:") && told.contains("nobody of that name has it"), "{told}");
}

#[test]
fn the_key_of_one_node_does_not_open_for_the_name_of_another() {
    let rig = Rig::new();
    rig.list.keys.lock().unwrap().insert("n2".into(), "ssh-ed25519 AAAA".into());
    let error = Tunnel::open(rig.settings("n2"), |_| {}).unwrap_err();
    assert!(matches!(error, TunnelError::Refused { .. }), "{error}");
}

#[test]
fn a_port_on_no_list_is_refused_and_a_flood_of_that_is_told_once_and_disturbs_nobody() {
    let rig = Rig::new();
    let port = echo(&rig.list);
    let (tell, heard) = channel();
    let tunnel = Tunnel::open(rig.settings("n1"), move |event| {
        let _unheard = tell.send(event);
    })
    .unwrap();
    let mut good = dial(&tunnel, port);
    assert!(echoes(&mut good, b"before"));
    for _ in 0..200 {
        let mut refused = dial(&tunnel, 22);
        assert_eq!(refused.read(&mut [0; 16]).unwrap_or(0), 0);
    }
    assert!(echoes(&mut good, b"after"));
    let is_refusal = |event: &TunnelEvent| matches!(event, TunnelEvent::ChannelRefused { .. });
    assert_eq!(heard.try_iter().filter(is_refusal).count(), 200);
    assert!(rig.refusal().contains("\"127.0.0.1\" port 22: it is on no list"));
    drop((good, tunnel));
    let rest = rig.event(|event| !matches!(event, EndpointEvent::Connected { .. }));
    assert!(matches!(rest, EndpointEvent::Closed { .. }), "{rest}");
}

#[test]
fn bytes_for_a_server_that_has_not_greeted_end_their_channel_and_are_told_once() {
    let rig = Rig::new();
    // It is never accepted, so nobody takes what is sent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    rig.list.ports.lock().unwrap().push(port);
    let good = echo(&rig.list);
    let tunnel = rig.tunnel();
    let mut stream = dial(&tunnel, good);
    assert!(echoes(&mut stream, b"before"));
    for _ in 0..20 {
        let mut flood = dial(&tunnel, port);
        // It is cut off in the middle, sooner or later.
        let _cut = flood.write_all(&vec![7; 1 << 20]);
        assert_eq!(flood.read(&mut [0; 16]).unwrap_or(0), 0);
    }
    assert!(rig.refusal().contains("bytes for a server that has not greeted"));
    assert!(echoes(&mut stream, b"after"));
    drop((stream, tunnel));
    let rest = rig.event(|event| !matches!(event, EndpointEvent::Connected { .. }));
    assert!(matches!(rest, EndpointEvent::Closed { .. }), "{rest}");
}

#[test]
fn a_server_that_waits_for_the_words_of_its_client_is_sent_all_of_them() {
    const WORDS: usize = 1 << 20;
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    rig.list.ports.lock().unwrap().push(port);
    rig.list.quiet.lock().unwrap().push(port);
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut vec![0; WORDS]).unwrap();
        client.write_all(b"heard").unwrap();
    });
    let tunnel = rig.tunnel();
    let mut stream = dial(&tunnel, port);
    stream.write_all(&vec![7; WORDS]).unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"heard");
    server.join().unwrap();
}

#[test]
fn a_refusal_of_a_stranger_that_comes_again_and_again_is_told_once() {
    let rig = Rig::new();
    let fingerprint = |told: &str| {
        told.split_whitespace().find(|word| word.contains("SHA256:")).unwrap().to_owned()
    };
    for _ in 0..5 {
        Tunnel::open(rig.settings_with_key("one"), |_| {}).unwrap_err();
    }
    Tunnel::open(rig.settings_with_key("other"), |_| {}).unwrap_err();
    let (one, other) = (rig.refusal(), rig.refusal());
    assert_ne!(fingerprint(&one), fingerprint(&other));
    // A node that has come may be taken away again.
    drop(rig.tunnel());
    rig.event(|event| matches!(event, EndpointEvent::Connected { .. }));
    Tunnel::open(rig.settings_with_key("one"), |_| {}).unwrap_err();
    assert_eq!(fingerprint(&rig.refusal()), fingerprint(&one));
}

#[test]
fn a_node_that_is_taken_away_loses_its_connections() {
    let rig = Rig::new();
    let port = echo(&rig.list);
    let tunnel = rig.tunnel();
    let mut stream = dial(&tunnel, port);
    assert!(echoes(&mut stream, b"one of us"));
    rig.list.keys.lock().unwrap().clear();
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
    let closed = rig.event(|event| matches!(event, EndpointEvent::Closed { .. }));
    assert!(closed.to_string().contains("it is no node any more"), "{closed}");
}

#[test]
fn more_channels_than_are_allowed_are_refused_and_the_others_go_on() {
    let rig = Rig::with(EndpointSettings { channels: 3, ..EndpointSettings::default() });
    let port = echo(&rig.list);
    let tunnel = rig.tunnel();
    let mut open: Vec<_> = (0..3).map(|_| dial(&tunnel, port)).collect();
    assert!(open.iter_mut().all(|stream| echoes(stream, b"in")));
    assert_eq!(dial(&tunnel, port).read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(rig.refusal().contains("more than 3 channels"));
    assert!(open.iter_mut().all(|stream| echoes(stream, b"still in")));
    // One that is closed makes room for another.
    open.pop();
    let until = Instant::now() + PATIENCE;
    while !echoes(&mut dial(&tunnel, port), b"in again") {
        assert!(Instant::now() < until, "no room was made");
    }
}

#[test]
fn a_port_where_nobody_listens_is_told_as_such() {
    let rig = Rig::new();
    let port = {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap().port()
    };
    rig.list.ports.lock().unwrap().push(port);
    let (tell, heard) = channel();
    let tunnel = Tunnel::open(rig.settings("n1"), move |event| {
        let _unheard = tell.send(event);
    })
    .unwrap();
    assert_eq!(dial(&tunnel, port).read(&mut [0; 16]).unwrap_or(0), 0);
    let refused = heard.iter().find(|event| matches!(event, TunnelEvent::ChannelRefused { .. }));
    assert!(refused.unwrap().to_string().contains("nobody listens there"));
}

#[test]
fn the_client_of_openssh_gets_no_shell_no_command_no_subsystem_and_nothing_that_listens() {
    let rig = Rig::new();
    let port = echo(&rig.list);
    let address = rig.endpoint.address();
    let path = |name: &str| rig.folder.path().join(name).display().to_string();
    let ssh = |extra: &[&str], last: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["20", "ssh", "-F", "none", "-T", "-p", &address.port().to_string()]);
        command.args(["-i", &path("node"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
        command.args(["-o", &format!("UserKnownHostsFile={}", path("known"))]);
        command.args(extra).arg("n1@127.0.0.1").args(last).output().unwrap()
    };
    let remote = format!("0:127.0.0.1:{port}");
    for (extra, last) in [
        (&[][..], &[][..]),
        (&[], &["id"]),
        (&["-s"], &["sftp"]),
        (&["-A", "-X"], &["id"]),
        (&["-N", "-o", "ExitOnForwardFailure=yes", "-R", remote.as_str()], &[]),
        (&["-N", "-o", "ExitOnForwardFailure=yes", "-R", "/tmp/nowhere.sock:/tmp/x"], &[]),
    ] {
        let output = ssh(extra, last);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(255), "{extra:?} {last:?}: {said}");
        assert!(output.stdout.is_empty(), "{extra:?} {last:?}");
    }
    // The same client does get what is on the list.
    let output = ssh(&["-W", &format!("127.0.0.1:{port}"), "-n"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

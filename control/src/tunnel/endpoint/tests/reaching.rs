//! The other direction: what nodes offer, and the hub connects to.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;

use super::forwarding::{dial, echoes};
use super::*;
use crate::tunnel::connection::Shared;
use crate::tunnel::trust::Trust;
use crate::tunnel::{TunnelService, identity, session};

pub(super) fn serving() -> (EndpointSettings, Arc<Directory>) {
    let directory = Directory::new();
    let settings =
        EndpointSettings { directory: Some(Arc::clone(&directory)), ..EndpointSettings::default() };
    (settings, directory)
}

/// A rig whose nodes may offer something.
pub(super) fn rig() -> (Rig, Arc<Directory>) {
    let (settings, directory) = serving();
    (Rig::with(settings), directory)
}

/// A service that says its name, and then sends back what it gets.
pub(super) fn named(name: &'static str) -> TunnelService {
    TunnelService::new(0, move |mut socket: UnixStream| {
        thread::spawn(move || {
            socket.write_all(name.as_bytes()).unwrap();
            let mut buffer = [0; 1 << 16];
            while let Ok(bytes @ 1..) = socket.read(&mut buffer) {
                if socket.write_all(&buffer[..bytes]).is_err() {
                    return;
                }
            }
        });
    })
}

pub(super) fn serve(settings: TunnelSettings, name: &'static str) -> Tunnel {
    Tunnel::serve(settings, named(name), |_| {}).unwrap()
}

/// A connection to the node, when it has said its name.
pub(super) fn reach(directory: &Directory, name: &str) -> UnixStream {
    let mut stream = directory.dial("n1", PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = vec![0; name.len()];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), name);
    stream
}

pub(super) fn heard(tell: Sender<String>) -> impl Fn(TunnelEvent) + Send + Sync + 'static {
    move |event| {
        // The test may be over already.
        let _unheard = tell.send(event.to_string());
    }
}

#[test]
fn a_node_that_serves_is_reached_by_its_name_and_nobody_else_is() {
    let (rig, directory) = rig();
    assert!(directory.connected().is_empty());
    let before = std::time::SystemTime::now();
    let tunnel = serve(rig.settings("n1"), "one");
    assert!(directory.wait_for("n1", PATIENCE));
    let mut stream = reach(&directory, "one");
    assert!(echoes(&mut stream, b"over there"));
    let nodes = directory.connected();
    assert_eq!((nodes.len(), nodes[0].node.as_str(), nodes[0].connections), (1, "n1", 1));
    assert!(nodes[0].peer.ip().is_loopback() && nodes[0].since >= before, "{nodes:?}");
    let serves = rig.event(|event| matches!(event, EndpointEvent::Serves { .. }));
    assert!(serves.to_string().contains("node n1"), "{serves}");
    let error = directory.dial("n2", PATIENCE).unwrap_err();
    assert!(matches!(error, DialError::NotConnected(_)), "{error}");
    assert!(!directory.wait_for("n2", Duration::from_millis(50)));
    drop(tunnel);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    rig.event(|event| matches!(event, EndpointEvent::Closed { .. }));
    assert!(directory.connected().is_empty());
}

#[test]
fn a_node_that_only_has_lanes_is_not_reached() {
    let (rig, directory) = rig();
    let _tunnel = rig.tunnel();
    rig.event(|event| matches!(event, EndpointEvent::Connected { .. }));
    assert!(directory.connected().is_empty());
    let error = directory.dial("n1", PATIENCE).unwrap_err();
    assert!(matches!(error, DialError::NotConnected(_)), "{error}");
}

#[test]
fn bytes_go_both_ways_in_both_directions_at_once() {
    let (rig, directory) = rig();
    let port = echo(&rig.list);
    let tunnel = serve(rig.settings("n1"), "one");
    assert!(directory.wait_for("n1", PATIENCE));
    let rounds = |mut stream: UnixStream| {
        for round in 0..100_u8 {
            assert!(echoes(&mut stream, &vec![round; 100_000]), "round {round}");
        }
    };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| rounds(reach(&directory, "one")));
            scope.spawn(|| rounds(dial(&tunnel, port)));
        }
    });
    // What the hub asks is nobody's lane.
    let figures = tunnel.figures()[0];
    assert_eq!(figures.sent, 3 * 100 * 100_000);
}

#[test]
fn either_end_hears_when_the_other_closes() {
    let (rig, directory) = rig();
    let (tell, accepted) = channel();
    let service = TunnelService::new(0, move |socket| tell.send(socket).unwrap());
    let _tunnel = Tunnel::serve(rig.settings("n1"), service, |_| {}).unwrap();
    assert!(directory.wait_for("n1", PATIENCE));
    for hub_first in [true, false] {
        let mut hub = directory.dial("n1", PATIENCE).unwrap();
        let mut node: UnixStream = accepted.recv_timeout(PATIENCE).unwrap();
        for socket in [&mut hub, &mut node] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let (first, second) = if hub_first { (&mut hub, &mut node) } else { (&mut node, &mut hub) };
        first.write_all(b"last words").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }
}

#[test]
fn the_newest_connection_is_used_and_when_it_goes_an_older_one() {
    let (rig, directory) = rig();
    let old = serve(rig.settings("n1"), "old");
    assert!(directory.wait_for("n1", PATIENCE));
    reach(&directory, "old");
    let (tell, events) = channel();
    let new = Tunnel::serve(rig.settings("n1"), named("new"), heard(tell)).unwrap();
    while !events.recv_timeout(PATIENCE).unwrap().contains("can connect to this one") {}
    reach(&directory, "new");
    assert_eq!(directory.connected()[0].connections, 2);
    drop(new);
    rig.event(|event| matches!(event, EndpointEvent::Closed { .. }));
    reach(&directory, "old");
    assert_eq!(directory.connected()[0].connections, 1);
    drop(old);
}

#[test]
fn a_node_that_is_taken_away_is_out_at_once() {
    let (rig, directory) = rig();
    let _tunnel = serve(rig.settings("n1"), "one");
    assert!(directory.wait_for("n1", PATIENCE));
    let mut stream = reach(&directory, "one");
    rig.list.keys.lock().unwrap().clear();
    assert!(directory.connected().is_empty());
    let error = directory.dial("n1", PATIENCE).unwrap_err();
    assert!(matches!(error, DialError::NotConnected(_)), "{error}");
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_node_that_asks_for_a_port_is_refused_and_its_lanes_go_on() {
    let (rig, directory) = rig();
    let port = echo(&rig.list);
    let (tell, events) = channel();
    let wanted = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let service = TunnelService { port: wanted, ..named("one") };
    let tunnel = Tunnel::serve(rig.settings("n1"), service, heard(tell)).unwrap();
    while !events.recv_timeout(PATIENCE).unwrap().contains("does not connect to this one") {}
    assert!(rig.refusal().contains("nothing listens here for a node"));
    assert!(directory.connected().is_empty());
    assert!(std::net::TcpStream::connect(("127.0.0.1", wanted)).is_err());
    assert!(echoes(&mut dial(&tunnel, port), b"a lane"));
}

#[test]
fn a_node_that_takes_its_offer_back_is_not_reached_any_more() {
    let (rig, directory) = rig();
    let settings = rig.settings("n1");
    let key = Arc::new(identity::load(&settings.identity).unwrap());
    let trust = Trust::load(&settings.known_hosts, &settings.address).unwrap();
    let (on_event, states) = (Box::new(|_| {}), Mutex::default());
    let shared = Arc::new(Shared { settings, key, trust, on_event, states });
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let session = session::connect(&shared, 1, None, PATIENCE).await.unwrap();
        for host in ["127.0.0.1", "localhost"] {
            assert_eq!(session.handle.tcpip_forward(host, 0).await.unwrap(), 0);
            assert_eq!(directory.connected().len(), 1);
            // What was not offered is not taken back.
            assert!(session.handle.cancel_tcpip_forward(host, 1).await.is_err());
            assert!(session.handle.cancel_tcpip_forward("::1", 0).await.is_err());
            assert_eq!(directory.connected().len(), 1);
            session.handle.cancel_tcpip_forward(host, 0).await.unwrap();
            assert!(directory.connected().is_empty());
        }
        for (host, port) in [("0.0.0.0", 0), ("", 0), ("10.0.0.1", 0), ("127.0.0.1", 8080)] {
            assert!(session.handle.tcpip_forward(host, port).await.is_err(), "{host}:{port}");
        }
    });
    let refused = rig.refusal();
    assert!(refused.contains("a port to listen on"), "{refused}");
    drop(runtime);
    let rest = rig.event(|event| !matches!(event, EndpointEvent::Serves { .. }));
    assert!(matches!(rest, EndpointEvent::Closed { .. }), "{rest}");
}

#[test]
fn lanes_that_dial_while_the_hub_is_gone_are_let_go_in_time() {
    let (rig, directory) = rig();
    let settings = rig.settings("n1").with_deadline(Duration::from_secs(1));
    let tunnel = serve(settings, "one");
    assert!(directory.wait_for("n1", PATIENCE));
    let Rig { folder: _kept, endpoint, .. } = rig;
    drop(endpoint);
    let mut lanes: Vec<_> = (0..10).map(|_| dial(&tunnel, 1)).collect();
    assert!(lanes.iter_mut().all(|lane| lane.read(&mut [0]).unwrap_or(0) == 0));
    let until = Instant::now() + PATIENCE;
    while tunnel.figures()[0].channels > 0 {
        assert!(Instant::now() < until, "{:?}", tunnel.figures());
    }
}

#[test]
fn an_endpoint_without_a_directory_lets_nobody_serve() {
    let rig = Rig::new();
    let (tell, events) = channel();
    let _tunnel = Tunnel::serve(rig.settings("n1"), named("one"), heard(tell)).unwrap();
    while !events.recv_timeout(PATIENCE).unwrap().contains("does not connect to this one") {}
    assert!(rig.refusal().contains("nothing listens here for a node"));
}

#[test]
fn a_reader_that_stands_still_loses_its_connection_and_nobody_else_does() {
    let (settings, directory) = serving();
    let rig = Rig::with(EndpointSettings { keepalive: Duration::from_secs(1), ..settings });
    let port = echo(&rig.list);
    let (tell, cut) = channel();
    let service = TunnelService::new(0, move |mut socket: UnixStream| {
        let tell = tell.clone();
        thread::spawn(move || {
            while socket.write_all(&[7; 1 << 16]).is_ok() {}
            tell.send(()).unwrap();
        });
    });
    let tunnel = Tunnel::serve(rig.settings("n1"), service, |_| {}).unwrap();
    assert!(directory.wait_for("n1", PATIENCE));
    let mut lane = dial(&tunnel, port);
    assert!(echoes(&mut lane, b"before"));
    let still = directory.dial("n1", PATIENCE).unwrap();
    cut.recv_timeout(PATIENCE).unwrap();
    assert!(echoes(&mut lane, b"after"));
    assert_eq!(tunnel.figures()[0].lost, 0);
    drop(still);
}

#[test]
fn a_flood_of_connections_to_a_node_is_refused_past_its_limit_and_disturbs_nobody() {
    let (rig, directory) = rig();
    let port = echo(&rig.list);
    let (tell, events) = channel();
    let service = TunnelService { connections: 3, ..named("one") };
    let tunnel = Tunnel::serve(rig.settings("n1"), service, heard(tell)).unwrap();
    assert!(directory.wait_for("n1", PATIENCE));
    let mut lane = dial(&tunnel, port);
    assert!(echoes(&mut lane, b"before"));
    let mut open: Vec<_> = (0..3).map(|_| reach(&directory, "one")).collect();
    for _ in 0..200 {
        let error = directory.dial("n1", PATIENCE).unwrap_err();
        assert!(error.to_string().contains("as many as it takes at once"), "{error}");
    }
    assert!(echoes(&mut lane, b"after"));
    assert!(open.iter_mut().all(|stream| echoes(stream, b"still in")));
    let refusals = events.try_iter().filter(|event| event.contains("refused to the far end"));
    assert_eq!(refusals.count(), 1);
    // One that is closed makes room for another.
    open.pop();
    let until = Instant::now() + PATIENCE;
    while directory.dial("n1", PATIENCE).is_err() {
        assert!(Instant::now() < until, "no room was made");
    }
}

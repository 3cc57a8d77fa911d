//! Nodes and hubs that go and come back.

use blockferry_doubles::{Address, Proxy};

use super::forwarding::{dial, echoes};
use super::reaching::{heard, named, reach, rig, serve, serving};
use super::*;

/// How soon data has to flow again, once that is possible.
const BACK: Duration = Duration::from_secs(3);

/// How long it takes until the node answers again.
fn time_back(directory: &Directory) -> Duration {
    let started = Instant::now();
    loop {
        assert!(directory.wait_for("n1", PATIENCE), "it did not come back");
        // The old connection may still be there.
        let Ok(mut stream) = directory.dial("n1", PATIENCE) else { continue };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if stream.read(&mut [0]).is_ok_and(|bytes| bytes == 1) {
            return started.elapsed();
        }
    }
}

/// A listener where an endpoint was, as soon as its thread has ended.
fn listen_again(address: SocketAddr) -> TcpListener {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < until, "{address}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A proxy before the rig's endpoint, and settings of a node that goes through it.
fn behind(rig: &Rig) -> (Proxy, TunnelSettings) {
    let proxy = Proxy::to(&Address::Tcp(rig.endpoint.address())).start().unwrap();
    let known = std::fs::read_to_string(rig.folder.path().join("known")).unwrap();
    let port = proxy.address().port().unwrap();
    let path = rig.folder.path().join("known-proxy");
    let key = known.split_once(' ').unwrap().1;
    std::fs::write(&path, format!("[127.0.0.1]:{port} {key}")).unwrap();
    let address = format!("ssh://{}", proxy.address()).parse().unwrap();
    (proxy, TunnelSettings { address, known_hosts: path, ..rig.settings("n1") })
}

#[test]
fn a_node_whose_link_is_cut_is_back_within_three_seconds_of_its_return() {
    let (rig, directory) = rig();
    let (proxy, settings) = behind(&rig);
    let (tell, events) = channel();
    let tunnel = Tunnel::serve(settings, named("one"), heard(tell)).unwrap();
    let port = echo(&rig.list);
    assert!(directory.wait_for("n1", PATIENCE));
    let mut stream = reach(&directory, "one");
    proxy.refuse(true);
    proxy.cut();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    // Long enough that the longest wait is reached.
    let until = Instant::now() + PATIENCE;
    while proxy.accepted() < 7 {
        assert!(Instant::now() < until, "it does not try");
        thread::sleep(Duration::from_millis(5));
    }
    proxy.refuse(false);
    let took = time_back(&directory);
    assert!(took < BACK, "{took:?}");
    assert!(echoes(&mut dial(&tunnel, port), b"lanes too"));
    // Told once, however often it was tried. Whoever is hung up on as it begins to speak may see the
    // connection reset rather than closed.
    let told: Vec<String> = events.try_iter().collect();
    let count = |words: &str| told.iter().filter(|event| event.contains(words)).count();
    let (closed, reset) = (count("does not speak SSH"), count("no connection to"));
    assert!(closed + reset > 0 && closed <= 2 && reset <= 2, "{told:?}");
}

#[test]
fn a_link_that_flaps_twenty_times_leaves_the_node_where_it_was() {
    let (rig, directory) = rig();
    let (proxy, settings) = behind(&rig);
    let _tunnel = serve(settings, "one");
    for _ in 0..20 {
        assert!(directory.wait_for("n1", PATIENCE));
        proxy.cut();
    }
    let took = time_back(&directory);
    assert!(took < BACK, "{took:?}");
}

#[test]
fn a_link_that_stands_still_is_noticed_at_both_ends_and_made_anew() {
    let (settings, directory) = serving();
    let rig = Rig::with(EndpointSettings { keepalive: Duration::from_millis(200), ..settings });
    let (proxy, settings) = behind(&rig);
    let settings = TunnelSettings { keepalive: Duration::from_millis(200), ..settings };
    let (tell, events) = channel();
    let _tunnel = Tunnel::serve(settings, named("one"), heard(tell)).unwrap();
    assert!(directory.wait_for("n1", PATIENCE));
    let mut stream = reach(&directory, "one");
    proxy.freeze();
    let error = directory.dial("n1", Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, DialError::Late { .. }), "{error}");
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    while !events.recv_timeout(PATIENCE).unwrap().contains("is lost") {}
    rig.event(|event| matches!(event, EndpointEvent::Closed { node: Some(_), .. }));
    assert!(directory.connected().is_empty());
    proxy.thaw();
    let took = time_back(&directory);
    assert!(took < BACK, "{took:?}");
}

#[test]
fn a_hub_that_starts_again_gets_its_nodes_back() {
    let (rig, _) = rig();
    let tunnel = serve(rig.settings("n1"), "one");
    let Rig { folder, list, endpoint, events } = rig;
    let address = endpoint.address();
    drop(endpoint);
    let closed = events.iter().find(|event| matches!(event, EndpointEvent::Closed { .. }));
    assert!(closed.unwrap().to_string().contains("the hub stops"));
    let (settings, directory) = serving();
    let key = OwnKey::load_or_make(&folder.path().join("host")).unwrap();
    let listener = listen_again(address);
    let _endpoint = Endpoint::start(listener, key, list, settings, |_| {}).unwrap();
    let took = time_back(&directory);
    assert!(took < BACK, "{took:?}");
    drop(tunnel);
}

#[test]
fn a_node_that_starts_before_its_hub_waits_for_it_and_says_so_once() {
    let (rig, _) = rig();
    let settings = rig.settings("n1");
    let Rig { folder, list, endpoint, events } = rig;
    let address = endpoint.address();
    drop((endpoint, events));
    drop(listen_again(address));
    let (tell, events) = channel();
    let _tunnel = Tunnel::serve(settings, named("one"), heard(tell)).unwrap();
    let said = events.recv_timeout(PATIENCE).unwrap();
    assert!(said.contains("no connection to ssh://"), "{said}");
    let (settings, directory) = serving();
    let key = OwnKey::load_or_make(&folder.path().join("host")).unwrap();
    let listener = listen_again(address);
    let _endpoint = Endpoint::start(listener, key, list, settings, |_| {}).unwrap();
    let took = time_back(&directory);
    assert!(took < BACK, "{took:?}");
    let more = events.try_iter().filter(|event| event.contains("no connection")).count();
    assert_eq!(more, 0);
}

#[test]
fn what_cannot_pass_fails_at_the_start_and_is_tried_again_later() {
    let (rig, directory) = rig();
    let keys = std::mem::take(&mut *rig.list.keys.lock().unwrap());
    let error = Tunnel::serve(rig.settings("n1"), named("one"), |_| {}).unwrap_err();
    assert!(matches!(error, TunnelError::Refused { .. }), "{error}");
    *rig.list.keys.lock().unwrap() = keys.clone();
    let (tell, events) = channel();
    let _tunnel = Tunnel::serve(rig.settings("n1"), named("one"), heard(tell)).unwrap();
    assert!(directory.wait_for("n1", PATIENCE));
    // Taken away and given back: for a hub can be put right.
    rig.list.keys.lock().unwrap().clear();
    while !events.recv_timeout(PATIENCE).unwrap().contains("does not take the key") {}
    *rig.list.keys.lock().unwrap() = keys;
    let took = time_back(&directory);
    assert!(took < BACK, "{took:?}");
}

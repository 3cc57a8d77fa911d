//! Many that do not log in, and the places of those that do.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::JoinHandle;

use super::forwarding::{dial, echoes};
use super::peers::{impatient, is_hung_up_on};
use super::reaching::{heard, named, serving};
use super::*;

/// Connections that say `said` and no more, and are opened anew as soon as they are closed.
struct Flood {
    over: Arc<AtomicBool>,
    closed: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(address: SocketAddr, connections: usize, said: &'static [u8]) -> Self {
        let (over, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (is_over, count) = (Arc::clone(&over), Arc::clone(&closed));
        let connect = move || {
            let mut socket = TcpStream::connect(address).unwrap();
            // It may be hung up on already.
            let _cut = socket.write_all(said);
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let thread = thread::spawn(move || {
            let mut sockets: Vec<_> = (0..connections).map(|_| connect()).collect();
            while !is_over.load(Ordering::Relaxed) {
                for socket in &mut sockets {
                    let is_open = match socket.read(&mut [0; 4096]) {
                        Ok(bytes) => bytes > 0,
                        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                    };
                    if !is_open {
                        count.fetch_add(1, Ordering::Relaxed);
                        *socket = connect();
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { over, closed, thread: Some(thread) }
    }

    /// Returns when so many more have been closed.
    fn wait_for(&self, more: usize) {
        let (until, enough) = (Instant::now() + PATIENCE, self.closed() + more);
        while self.closed() < enough {
            assert!(Instant::now() < until, "{} were closed", self.closed());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn nodes_come_through(said: &'static [u8], told: &str) {
    let settings = EndpointSettings { strangers: 16, ..EndpointSettings::default() };
    let rig = Rig::with(settings);
    rig.know_as("n2");
    let port = echo(&rig.list);
    let flood = Flood::start(rig.endpoint.address(), 48, said);
    flood.wait_for(48);
    let tunnel = rig.tunnel();
    let mut stream = dial(&tunnel, port);
    assert!(echoes(&mut stream, b"through it"));
    flood.wait_for(48);
    let second = Tunnel::open(rig.settings("n2"), |_| {}).unwrap();
    assert!(echoes(&mut dial(&second, port), b"as well"));
    flood.wait_for(48);
    assert!(echoes(&mut stream, b"still"));
    drop(flood);
    let events: Vec<_> = rig.events.try_iter().map(|event| event.to_string()).collect();
    let connected = events.iter().filter(|event| event.contains("is connected from"));
    assert_eq!(connected.count(), 2, "{events:?}");
    assert!(events.len() <= 4, "{events:?}");
    assert!(events.iter().any(|event| event.contains(told)), "{events:?}");
}

#[test]
fn a_flood_of_idle_connections_keeps_no_node_out_and_is_told_once() {
    nodes_come_through(b"", "it had not logged in, and another one wanted its place");
}

#[test]
fn a_flood_of_garbage_keeps_no_node_out_and_is_told_once() {
    nodes_come_through(b"GET / HTTP/1.1\r\n\r\n", "invalid SSH version string");
}

#[test]
fn the_stranger_that_has_been_there_for_longest_leaves_for_another_one() {
    let settings = EndpointSettings { login_deadline: PATIENCE, ..impatient() };
    let rig = Rig::with(settings);
    let connect = || TcpStream::connect(rig.endpoint.address()).unwrap();
    let mut open: Vec<_> = (0..5).map(|_| connect()).collect();
    assert!(is_hung_up_on(&mut open[0]));
    for socket in &mut open[1..] {
        // The endpoint's name, and then nothing.
        let mut said = [0; 4096];
        assert!(socket.read(&mut said).unwrap() > 0);
        socket.set_nonblocking(true).unwrap();
        let error = socket.read(&mut said).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
    let closed = rig.event(|event| matches!(event, EndpointEvent::Closed { node: None, .. }));
    assert!(closed.to_string().contains("another one wanted its place"), "{closed}");
}

#[test]
fn many_refused_keys_are_told_so_often_and_no_more() {
    let rig = Rig::new();
    rig.list.keys.lock().unwrap().clear();
    for number in 0..20 {
        assert!(Tunnel::open(rig.settings_with_key(&format!("key{number}")), |_| {}).is_err());
    }
    drop(rig.endpoint);
    let is_refusal = |event: &EndpointEvent| matches!(event, EndpointEvent::Refused { .. });
    assert_eq!(rig.events.iter().filter(is_refusal).count(), 16);
}

#[test]
fn a_node_that_has_logged_in_takes_no_place_of_a_stranger() {
    let rig = Rig::with(EndpointSettings { strangers: 1, ..EndpointSettings::default() });
    let port = echo(&rig.list);
    let tunnels: Vec<_> = (0..5).map(|_| rig.tunnel()).collect();
    for tunnel in &tunnels {
        assert!(echoes(&mut dial(tunnel, port), b"in"));
    }
}

#[test]
fn a_node_beyond_the_limit_is_refused_and_told_once_until_a_place_comes_back() {
    let (settings, directory) = serving();
    let rig = Rig::with(EndpointSettings { connections: 1, ..settings });
    rig.know_as("n2");
    let port = echo(&rig.list);
    let first = rig.tunnel();
    let mut stream = dial(&first, port);
    assert!(echoes(&mut stream, b"first"));
    let (tell, events) = channel();
    let second = Tunnel::serve(rig.settings("n2"), named("two"), heard(tell)).unwrap();
    let told = rig.refusal();
    assert!(told.contains("node n2") && told.contains("there are 1 connections"), "{told}");
    // It comes again and again.
    let until = Instant::now() + PATIENCE;
    let mut lost = 0;
    while lost < 3 {
        let event = events.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap();
        let goodbye = "is lost: the server said goodbye: there are as many connections of nodes";
        lost += usize::from(event.contains(goodbye));
    }
    assert!(directory.connected().is_empty());
    assert!(echoes(&mut stream, b"undisturbed"));
    let more: Vec<_> = rig.events.try_iter().map(|event| event.to_string()).collect();
    assert!(more.is_empty(), "{more:?}");
    drop((stream, first));
    assert!(directory.wait_for("n2", PATIENCE));
    drop(second);
}

#[test]
fn a_node_that_takes_all_places_it_can_get_keeps_no_other_out() {
    let (settings, directory) = serving();
    let rig = Rig::with(EndpointSettings { connections: 4, ..settings });
    rig.know_as("n2");
    let port = echo(&rig.list);
    let all: Vec<_> = (0..3).map(|_| rig.tunnel()).collect();
    let (tell, _heard) = channel();
    let greedy = Tunnel::serve(rig.settings("n1"), named("one"), heard(tell)).unwrap();
    let told = rig.refusal();
    assert!(told.contains("node n1") && told.contains("it has 3 conn"), "{told}");

    let (tell, _heard) = channel();
    let other = Tunnel::serve(rig.settings("n2"), named("two"), heard(tell)).unwrap();
    assert!(directory.wait_for("n2", PATIENCE));
    for tunnel in &all {
        assert!(echoes(&mut dial(tunnel, port), b"undisturbed"));
    }
    drop((greedy, other));
}

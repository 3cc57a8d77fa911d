//! Clients that know no tunnels, through ports of the node.

use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::process::Command;

use blockferry_doubles::disk::compare_raw;
use blockferry_doubles::process::run_ok;
use blockferry_doubles::{PortBlock, QemuNbd, TestDisk};

use super::*;
use crate::tunnel::{LocalPortError, LocalPortSettings, LocalPorts};

/// A node that listens on some ports, which lead to an echo of the hub.
struct Node {
    rig: Rig,
    tunnel: Tunnel,
    events: Receiver<String>,
    block: PortBlock,
}

impl Node {
    fn new() -> Self {
        let rig = Rig::new();
        let block = PortBlock::take();
        let echo = echo(&rig.list);
        rig.list.moved.lock().unwrap().extend(block.range().map(|port| (port, echo)));
        rig.list.ports.lock().unwrap().extend(block.range());
        let (tell, events) = channel();
        let tunnel = Tunnel::open(rig.settings("n1"), move |event| {
            // The test may be over already.
            let _unheard = tell.send(event.to_string());
        });
        Self { rig, tunnel: tunnel.unwrap(), events, block }
    }

    fn listen(&self, ports: RangeInclusive<u16>, connections: usize) -> LocalPorts {
        let settings = LocalPortSettings { ports, connections, ..LocalPortSettings::default() };
        self.tunnel.listen(settings).unwrap()
    }
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Whether what is sent over TCP comes back.
fn answers(socket: &mut TcpStream) -> bool {
    let mut back = [0; 8];
    socket.write_all(b"question").is_ok()
        && socket.read_exact(&mut back).is_ok()
        && &back == b"question"
}

fn is_closed(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0; 16]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn every_port_leads_to_the_same_port_of_the_hub() {
    let node = Node::new();
    let ports = node.listen(node.block.first(10), 100);
    assert_eq!(ports.ports(), node.block.first(10));
    let mut sockets: Vec<_> = ports.ports().map(connect).collect();
    assert!(sockets.iter_mut().all(answers));
    assert_eq!(node.tunnel.figures()[0].channels, 10);
    drop(sockets);
    let until = Instant::now() + PATIENCE;
    while node.tunnel.figures()[0].channels > 0 {
        assert!(Instant::now() < until, "{:?}", node.tunnel.figures());
    }
}

#[test]
fn a_port_that_is_not_leased_is_closed_and_told() {
    let node = Node::new();
    let port = *node.block.range().start();
    node.rig.list.ports.lock().unwrap().retain(|leased| *leased != port);
    let ports = node.listen(node.block.first(2), 100);
    assert!(is_closed(&mut connect(port)));
    assert!(answers(&mut connect(port + 1)));
    let told = node.events.iter().find(|event| event.contains("does not connect to"));
    assert!(told.unwrap().contains("not leased for this node"));
    drop(ports);
}

#[test]
fn ports_that_are_taken_are_named_and_no_other_is_kept() {
    let node = Node::new();
    let first = *node.block.range().start();
    let take = |off| TcpListener::bind(("127.0.0.1", first + off)).unwrap();
    let taken = [take(1), take(3), take(4), take(5)];
    let settings = LocalPortSettings { ports: node.block.first(7), ..LocalPortSettings::default() };
    let error = node.tunnel.listen(settings).unwrap_err();
    assert!(matches!(error, LocalPortError::Taken(_)), "{error}");
    let named = format!("127.0.0.1, ports {}, {} to {}:", first + 1, first + 3, first + 5);
    assert!(error.to_string().contains(&named), "{error}");
    drop(taken);
    let ports = node.listen(node.block.first(7), 100);
    assert!(answers(&mut connect(first)));
    drop(ports);
}

#[test]
fn more_connections_than_are_allowed_are_closed_and_told_once() {
    let node = Node::new();
    let port = *node.block.range().start();
    let _ports = node.listen(port..=port, 3);
    let mut open: Vec<_> = (0..3).map(|_| connect(port)).collect();
    assert!(open.iter_mut().all(answers));
    for _ in 0..50 {
        assert!(is_closed(&mut connect(port)));
    }
    assert!(open.iter_mut().all(answers));
    let told: Vec<_> = node.events.try_iter().filter(|event| event.contains("refused")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("there are 3 connections already"), "{told:?}");
    open.pop();
    let until = Instant::now() + PATIENCE;
    while !answers(&mut connect(port)) {
        assert!(Instant::now() < until, "no room was made");
    }
}

#[test]
fn ports_that_are_dropped_close_what_was_connected_and_can_be_had_again() {
    let node = Node::new();
    let port = *node.block.range().start();
    for _ in 0..3 {
        let ports = node.listen(port..=port, 10);
        let mut socket = connect(port);
        assert!(answers(&mut socket));
        drop(ports);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        assert!(is_closed(&mut socket));
    }
}

#[test]
fn nbdinfo_and_nbdcopy_reach_an_export_of_the_hub_through_a_port_of_the_node() {
    let node = Node::new();
    let port = *node.block.range().start();
    let folder = node.rig.folder.path();
    let disk = TestDisk::random(folder, 24 << 20, 0.7, 7).unwrap();
    let image = TestDisk::sized(folder, 24 << 20).unwrap();
    let target = QemuNbd::new(&image.path).format("raw").shared(0).tcp().start().unwrap();
    node.rig.list.moved.lock().unwrap().insert(port, target.address().port().unwrap());
    let _ports = node.listen(port..=port, 16);
    let uri = format!("nbd://127.0.0.1:{port}");
    let mut info = Command::new("nbdinfo");
    info.args(["--size", &uri]);
    let said = run_ok(info, PATIENCE).unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap().trim(), (24 << 20).to_string());
    let mut copy = Command::new("nbdcopy");
    copy.args(["--flush", "--destination-is-zero", "--connections=4"]);
    copy.arg(&disk.path).arg(&uri);
    run_ok(copy, PATIENCE).unwrap();
    compare_raw(&disk.path, &image.path).unwrap();
    assert!(node.tunnel.figures()[0].sent > 12 << 20);
}

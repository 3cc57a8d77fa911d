//! A service behind a real sshd.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::Dial;
use blockferry_doubles::process::run_ok;
use blockferry_doubles::sshd::{make_key, public_half};
use blockferry_doubles::{PortBlock, SshServer, Sshd};

use super::super::{FarEnd, Tunnel, TunnelService, TunnelSettings};

const DEADLINE: Duration = Duration::from_secs(20);
/// How soon data has to flow again, once that is possible.
const BACK: Duration = Duration::from_secs(3);

/// An sshd that lets a node listen on one port, and the node.
struct Place {
    sshd: SshServer,
    ports: PortBlock,
    tunnel: Tunnel,
    events: Receiver<String>,
}

impl Place {
    fn new() -> Self {
        Self::asking(0)
    }

    /// A node that asks for the port after so many of the one that it may have.
    fn asking(off: u16) -> Self {
        let ports = PortBlock::take();
        let [own, asked] = [0, off].map(|off| ports.range().start() + off);
        let options = format!("restrict,port-forwarding,permitlisten=\"127.0.0.1:{own}\"");
        Self::at(Sshd::new().key_options(&options), ports, asked)
    }

    /// A node that asks the sshd for a port.
    fn at(sshd: Sshd, ports: PortBlock, asked: u16) -> Self {
        let sshd = sshd.start().unwrap();
        let settings = TunnelSettings::new(
            sshd.uri().parse().unwrap(),
            sshd.user().to_owned(),
            sshd.identity().to_owned(),
            sshd.known_hosts().unwrap(),
        );
        let service = TunnelService::new(asked, |mut socket: UnixStream| {
            thread::spawn(move || {
                let mut buffer = [0; 1 << 16];
                while let Ok(bytes @ 1..) = socket.read(&mut buffer) {
                    if socket.write_all(&buffer[..bytes]).is_err() {
                        return;
                    }
                }
            });
        });
        let (tell, events) = channel();
        let tunnel = Tunnel::serve(settings, service, move |event| {
            // The test may be over already.
            let _unheard = tell.send(event.to_string());
        });
        Self { sshd, ports, tunnel: tunnel.unwrap(), events }
    }

    fn port(&self) -> u16 {
        *self.ports.range().start()
    }

    fn wait_for(&self, text: &str) {
        while !self.events.recv_timeout(DEADLINE).expect(text).contains(text) {}
    }

    /// Whether what is sent to the sshd's port comes back.
    fn answers(&self) -> bool {
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", self.port())) else { return false };
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut back = [0; 8];
        socket.write_all(b"question").is_ok()
            && socket.read_exact(&mut back).is_ok()
            && &back == b"question"
    }

    fn assert_back_in_time(&self) {
        let started = Instant::now();
        while !self.answers() {
            assert!(started.elapsed() < BACK, "not back after {:?}", started.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether lanes reach what listens at the far end.
    fn carries_a_lane(&self) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let far = FarEnd::Tcp { host: "127.0.0.1".into(), port };
        let mut near = UnixStream::from(self.tunnel.dialer(far).dial().unwrap());
        let mut far = listener.accept().unwrap().0;
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).is_ok()
    }
}

/// An sshd and a key that are set up as the script says, with these options of it.
fn scripted(sshd: Sshd, options: &[String]) -> Sshd {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node");
    make_key(&key, &["-t", "ed25519"]).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/sshd-lines");
    let mut command = Command::new(script);
    command.arg(public_half(&key)).args(options);
    let said = String::from_utf8(run_ok(command, DEADLINE).unwrap().stdout).unwrap();
    let (of_key, of_sshd) = said.split_once("Match User").unwrap();
    let line = of_key.lines().find(|line| line.starts_with("restrict")).unwrap();
    let sshd = sshd.key_options(line.split_once(" ssh-").unwrap().0);
    of_sshd.lines().skip(1).fold(sshd, Sshd::setting)
}

#[test]
fn the_lines_of_the_script_let_a_node_have_its_port_and_no_other() {
    for (named, asked) in [(0, 0), (0, 1)] {
        let block = PortBlock::take();
        let [named, asked] = [named, asked].map(|off| block.range().start() + off);
        let sshd = scripted(Sshd::new(), &["--node-port".into(), named.to_string()]);
        let place = Place::at(sshd, block, asked);
        if asked == named {
            place.wait_for("leads to this one");
            assert!(place.answers());
        } else {
            place.wait_for("permitlisten of the key");
        }
    }
    let block = PortBlock::take();
    let port = *block.range().start();
    // Settings that stand first count: other nodes have ports, and this one has none.
    let others = Sshd::new()
        .setting("AllowTcpForwarding yes")
        .setting(&format!("PermitListen 127.0.0.1:{port}"));
    let sshd = scripted(others, &[]);
    let place = Place::at(sshd, block, port);
    place.wait_for("permitlisten of the key");
    assert!(!place.answers());
}

#[test]
fn the_port_of_an_sshd_leads_to_the_node_beside_its_lanes() {
    let place = Place::new();
    place.wait_for(&format!("127.0.0.1:{} of the far end leads to this one", place.port()));
    let mut socket = TcpStream::connect(("127.0.0.1", place.port())).unwrap();
    let text: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut back = vec![0; text.len()];
    thread::scope(|scope| {
        let mut writer = socket.try_clone().unwrap();
        let text = &text;
        scope.spawn(move || writer.write_all(text).unwrap());
        assert!(place.carries_a_lane());
        socket.read_exact(&mut back).unwrap();
    });
    assert!(back == text);
}

#[test]
fn a_session_that_is_killed_is_made_again_and_serves() {
    let place = Place::new();
    place.wait_for("leads to this one");
    for _ in 0..3 {
        assert!(place.answers());
        assert_eq!(place.sshd.kill_sessions(), 1);
        place.assert_back_in_time();
    }
    assert!(place.carries_a_lane());
}

#[test]
fn an_sshd_that_was_down_gets_its_node_back() {
    let mut place = Place::new();
    place.wait_for("leads to this one");
    place.sshd.go_down();
    assert!(!place.answers());
    place.wait_for("is lost");
    place.wait_for("no connection to");
    place.sshd.come_back().unwrap();
    place.assert_back_in_time();
}

#[test]
fn a_port_that_the_key_may_not_have_is_told_once_and_lanes_go_on() {
    let place = Place::asking(1);
    place.wait_for("permitlisten of the key");
    assert!(place.carries_a_lane());
    // Asked again meanwhile, and refused, which sshd notes each time.
    let started = Instant::now();
    while place.sshd.log().matches("denied").count() < 3 {
        assert!(started.elapsed() < DEADLINE, "{}", place.sshd.log());
        thread::sleep(Duration::from_millis(20));
    }
    let again = place.events.try_iter().filter(|event| event.contains("permitlisten")).count();
    assert_eq!(again, 0);
}

#[test]
fn a_port_that_is_taken_is_asked_for_until_it_is_free() {
    let mut place = Place::new();
    place.wait_for("leads to this one");
    place.sshd.go_down();
    let taken = TcpListener::bind(("127.0.0.1", place.port())).unwrap();
    place.sshd.come_back().unwrap();
    place.wait_for("or the port is taken");
    assert!(place.carries_a_lane());
    drop(taken);
    place.assert_back_in_time();
}

//! The endpoint, with our own tunnels, the client of OpenSSH, and peers that mean no good.

mod forwarding;
mod hostile_hub;
mod local_ports;
mod peers;
mod reaching;
mod refusals;
mod returning;
mod strangers;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::tunnel::{OwnKey, SshKey, Tunnel, TunnelError, TunnelEvent, TunnelSettings};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who may come in, and what they may reach: a list that tests change.
#[derive(Default)]
struct List {
    keys: Mutex<HashMap<String, String>>,
    ports: Mutex<Vec<u16>>,
    /// Those of them whose servers wait for their clients' words.
    quiet: Mutex<Vec<u16>>,
    /// Ports that lead to another one: both ends of a tunnel are one machine here.
    moved: Mutex<HashMap<u16, u16>>,
}

impl Gatekeeper for List {
    fn admit(&self, user: &str, key: &SshKey) -> Result<String, String> {
        match self.keys.lock().unwrap().get(user) {
            Some(known) if *known == key.openssh() => Ok(user.to_owned()),
            _ => Err("nobody of that name has it".into()),
        }
    }

    fn reach(&self, _node: &str, host: &str, port: u16) -> Result<Reached, String> {
        match host == "127.0.0.1" && self.ports.lock().unwrap().contains(&port) {
            true => {
                let port = self.moved.lock().unwrap().get(&port).copied().unwrap_or(port);
                let greets = !self.quiet.lock().unwrap().contains(&port);
                Ok(Reached { address: (Ipv4Addr::LOCALHOST, port).into(), greets })
            }
            false => Err("it is on no list".into()),
        }
    }

    fn may_stay(&self, node: &str, key: &SshKey) -> bool {
        self.admit(node, key).is_ok()
    }
}

/// An endpoint with one node, `n1`.
struct Rig {
    folder: TempDir,
    list: Arc<List>,
    endpoint: Endpoint,
    events: Receiver<EndpointEvent>,
}

impl Rig {
    fn new() -> Self {
        Self::with(EndpointSettings::default())
    }

    fn with(settings: EndpointSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host_key = OwnKey::load_or_make(&folder.path().join("host")).unwrap();
        let node_key = OwnKey::load_or_make(&folder.path().join("node")).unwrap();
        let list = Arc::new(List::default());
        list.keys.lock().unwrap().insert("n1".into(), node_key.public().openssh());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let known = format!("[127.0.0.1]:{port} {}\n", host_key.public().openssh());
        std::fs::write(folder.path().join("known"), known).unwrap();
        let (tell, events) = channel();
        let gatekeeper: Arc<dyn Gatekeeper> = Arc::clone(&list) as _;
        let endpoint = Endpoint::start(listener, host_key, gatekeeper, settings, move |event| {
            // The test may be over already.
            let _unheard = tell.send(event);
        })
        .unwrap();
        Self { folder, list, endpoint, events }
    }

    /// Has the key of `n1` stand for another node, too.
    fn know_as(&self, node: &str) {
        let key = OwnKey::load_or_make(&self.folder.path().join("node")).unwrap();
        self.list.keys.lock().unwrap().insert(node.into(), key.public().openssh());
    }

    fn settings(&self, user: &str) -> TunnelSettings {
        let address = format!("ssh://{}", self.endpoint.address()).parse().unwrap();
        let path = |name| self.folder.path().join(name);
        TunnelSettings {
            connections: 1,
            ..TunnelSettings::new(address, user.into(), path("node"), path("known"))
        }
    }

    /// Of `n1`, with a key of this name that nobody knows.
    fn settings_with_key(&self, name: &str) -> TunnelSettings {
        let identity = self.folder.path().join(name);
        OwnKey::load_or_make(&identity).unwrap();
        TunnelSettings { identity, ..self.settings("n1") }
    }

    fn tunnel(&self) -> Tunnel {
        Tunnel::open(self.settings("n1"), |_| {}).unwrap()
    }

    /// The first event that `wanted` takes, of those that come from now on.
    fn event(&self, wanted: impl Fn(&EndpointEvent) -> bool) -> EndpointEvent {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).expect("no such event");
            if wanted(&event) {
                return event;
            }
        }
    }

    fn refusal(&self) -> String {
        self.event(|event| matches!(event, EndpointEvent::Refused { .. })).to_string()
    }
}

/// A server that sends back what it gets, and that nodes may reach.
fn echo(list: &List) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    list.ports.lock().unwrap().push(port);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(bytes @ 1..) = socket.read(&mut buffer) {
                    socket.write_all(&buffer[..bytes]).unwrap();
                }
            });
        }
    });
    port
}

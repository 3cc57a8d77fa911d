//! A hub that has a repository with points, for whoever reads them through it.

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use blockferry_doubles::PortBlock;
use serde_json::{Value, json};

use super::{Hub, Kept};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository, ports for its hub, and that hub's token in `hub.token`.
pub(crate) struct HubPlace {
    pub(crate) kept: Kept,
    pub(crate) ports: PortBlock,
    pub(crate) token: String,
}

impl HubPlace {
    pub(crate) fn new() -> Self {
        let kept = Kept::new();
        let made = kept.run("hub token --state state");
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        fs::write(kept.path("hub.token"), &token).unwrap();
        Self { kept, ports: PortBlock::take(), token }
    }

    pub(crate) fn hub(&self) -> Hub {
        Hub::start_with(self.kept.folder(), &self.ports, "--repository repository")
    }

    /// A hub with so many ports.
    pub(crate) fn hub_with_ports(&self, count: u16) -> Hub {
        let ports = self.ports.first(count);
        let range = format!("{}-{}", ports.start(), ports.end());
        let options = format!("--repository repository --listen 127.0.0.1:0 --ports {range}");
        Hub::start_on(self.kept.folder(), &options)
    }

    /// Runs the program with the words of a line, by the hub.
    pub(crate) fn run(&self, line: &str, hub: &Hub) -> Output {
        self.kept.run(&format!("{line} {}", by(hub)))
    }

    /// The leases of the hub's ports.
    pub(crate) fn leases(&self, hub: &Hub) -> Vec<Value> {
        hub.get(&self.token, "/nbd/ports")["ports"].as_array().unwrap().clone()
    }

    /// Waits until nothing is left of what was read: no port, no process, no folder, no file. And no
    /// backup there ever was.
    pub(crate) fn assert_idle(&self, hub: &Hub) {
        wait_until("a port is still leased", || self.leases(hub).is_empty());
        // Leases are given back before their ports are closed; the metrics count both.
        wait_until("a port is still open", || {
            hub.get(&self.token, "/nbd/ports/metrics")["in_use"] == 0
        });
        wait_until("a process is left", || {
            hub.get(&self.token, "/nbd/processes") == json!({ "processes": [] })
        });
        wait_until("something is left in the hub's folder", || {
            self.kept.names("state/reading").is_empty()
        });
        wait_until("a folder is left in the repository", || {
            self.kept.names("repository/work").is_empty()
        });
        assert_eq!(hub.get(&self.token, "/backups"), json!({ "backups": [] }));
    }
}

/// The options that have a hub do it.
pub(crate) fn by(hub: &Hub) -> String {
    format!("--hub {} --token-file hub.token", hub.url())
}

/// Waits until something is true.
pub(crate) fn wait_until(what: &str, mut wanted: impl FnMut() -> bool) {
    let started = Instant::now();
    while !wanted() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

//! What was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use blockferry_dataplane::{EngineKind, PayloadKind};

/// How the bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Way {
    /// From export to export on this machine.
    Local,
    /// Through our own tunnel.
    Tunnel,
    /// Through the OpenSSH client, `ssh -L`.
    Ssh,
    /// Through plain TCP connections.
    Tcp,
}

impl Way {
    /// Its name in tables and files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Tunnel => "tunnel",
            Self::Ssh => "ssh -L",
            Self::Tcp => "tcp",
        }
    }
}

/// Whose CPU time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Part {
    /// This process: the lanes, and what carries them into a tunnel.
    Mover,
    /// The servers that are read.
    Source,
    /// The servers that are written.
    Target,
    /// The OpenSSH clients.
    SshClient,
    /// The SSH server.
    SshServer,
}

impl Part {
    /// Its name in tables and files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Mover => "mover",
            Self::Source => "source",
            Self::Target => "target",
            Self::SshClient => "ssh_client",
            Self::SshServer => "ssh_server",
        }
    }
}

/// What had been carried at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// Acknowledged by the targets, of all lanes.
    pub bytes: u64,
    /// By each connection of a tunnel, from the first on; NBD's own bytes are among it.
    pub connections: Vec<u64>,
}

/// What one lane did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFigures {
    /// Acknowledged by its target.
    pub bytes: u64,
    /// From its start to its end.
    pub elapsed: Duration,
}

impl LaneFigures {
    /// MiB a second.
    #[must_use]
    pub fn mib_per_second(&self) -> f64 {
        rate(self.bytes, self.elapsed)
    }
}

/// Round trips of a small read, through the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrips {
    /// The median while nothing else was under way.
    pub idle: Duration,
    /// The median while the lanes were at work, if there was time for one.
    pub busy: Option<Duration>,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Run {
    /// How the bytes went.
    pub way: Way,
    /// Connections of the tunnel; 0 where there is none.
    pub connections: u16,
    /// Lanes at once.
    pub lanes: u16,
    /// Which repetition, from 1.
    pub round: u32,
    /// What `bytes` took.
    pub elapsed: Duration,
    /// Acknowledged by the targets in that time.
    pub bytes: u64,
    /// CPU time in it, of those that are on this machine.
    pub cpu: BTreeMap<Part, Duration>,
    /// Peak of this process's resident memory in bytes, where the kernel tells it.
    pub memory_peak: Option<u64>,
    /// Most memory that was seen of all servers together, in bytes, shared pages in proportion;
    /// where it was looked at.
    pub servers_memory: Option<u64>,
    /// What had been carried when, the last at the end.
    pub samples: Vec<Sample>,
    /// Each lane.
    pub each: Vec<LaneFigures>,
    /// How often a lane had to be connected again.
    pub reconnects: u32,
    /// Round trips, where they were measured.
    pub round_trips: Option<RoundTrips>,
    /// The engine.
    pub engine: EngineKind,
    /// The payload path of the first lane.
    pub payload: Option<PayloadKind>,
}

impl Run {
    /// MiB a second, of all lanes together.
    #[must_use]
    pub fn mib_per_second(&self) -> f64 {
        rate(self.bytes, self.elapsed)
    }

    /// What each connection carried, in MiB a second; nothing where there is none.
    #[must_use]
    pub fn connection_rates(&self) -> Vec<f64> {
        let carried = self.samples.last().map_or(&[][..], |last| &last.connections);
        carried.iter().map(|bytes| rate(*bytes, self.elapsed)).collect()
    }

    /// CPU seconds of a part for each GiB; 0 where nothing was carried.
    #[must_use]
    pub fn cpu_per_gib(&self, part: Part) -> Option<f64> {
        let used = self.cpu.get(&part)?.as_secs_f64();
        Some(if self.bytes == 0 { 0.0 } else { used / gib(self.bytes) })
    }
}

/// MiB a second.
pub(super) fn rate(bytes: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds == 0.0 { 0.0 } else { gib(bytes) * 1024.0 / seconds }
}

/// Good to 15 digits, which no display shows.
#[allow(clippy::cast_precision_loss)]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

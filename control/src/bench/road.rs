//! One way to the target, with all its connections up.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_dataplane::nbd::{Address, NbdUri, Session};
use blockferry_dataplane::{Dial, Endpoint, Running};

use super::ask::{Asker, median};
use super::error::BenchError;
use super::folder::Folder;
use super::forward::Forward;
use super::run::{Part, Way};
use crate::tunnel::{FarEnd, Tunnel, TunnelEvent, TunnelSettings};

/// Round trips that are measured before the lanes start.
const IDLE_QUESTIONS: usize = 20;
/// How long the channels of those may take to be gone.
const QUIET_DEADLINE: Duration = Duration::from_secs(5);
const QUIET_PAUSE: Duration = Duration::from_millis(5);

/// Told of what happens to a tunnel, from its own threads.
pub type OnTunnelEvent = Arc<dyn Fn(&TunnelEvent) + Send + Sync>;

/// The way, as lanes take it.
pub(super) struct Road {
    target: NbdUri,
    deadline: Duration,
    carrier: Carrier,
    /// What each connection had carried before the lanes came.
    earlier: Vec<u64>,
}

enum Carrier {
    Tunnel { tunnel: Tunnel, far: FarEnd, connections: u16 },
    Ssh(Vec<Forward>),
    Tcp { host: String, port: u16 },
}

impl Road {
    /// Builds one. `settings` is where the SSH server is.
    pub(super) fn build(
        way: Way,
        connections: u16,
        settings: &TunnelSettings,
        target: &NbdUri,
        folder: &Folder,
        on_event: &OnTunnelEvent,
    ) -> Result<Self, BenchError> {
        let far = || FarEnd::of(&target.address).map_err(BenchError::Request);
        let deadline = settings.deadline;
        let carrier = match (way, &target.address) {
            (Way::Tcp, Address::Tcp { host, port }) => {
                Carrier::Tcp { host: host.clone(), port: *port }
            }
            (Way::Ssh, _) => {
                let far = far()?;
                let start = |number: u16| {
                    let socket = folder.file(&format!("ssh-{number}"));
                    // One that ended before has left its socket.
                    let _none = std::fs::remove_file(&socket);
                    Forward::start(settings, &far, &socket, deadline)
                };
                Carrier::Ssh((0..connections).map(start).collect::<Result<_, _>>()?)
            }
            _ => {
                let settings =
                    TunnelSettings { connections: connections.into(), ..settings.clone() };
                let on_event = Arc::clone(on_event);
                let tunnel = Tunnel::open(settings, move |event| on_event(&event))?;
                Carrier::Tunnel { tunnel, far: far()?, connections }
            }
        };
        Ok(Self { target: target.clone(), deadline, carrier, earlier: Vec::new() })
    }

    /// Has all connections made, asks over one of them how far the target is, and takes its leave,
    /// so that lanes find all of them there and none in use. Returns the median round trip, and
    /// what the target says of itself.
    pub(super) fn pave(&mut self) -> Result<(Duration, Session), BenchError> {
        let connections = match &self.carrier {
            Carrier::Tunnel { connections, .. } => usize::from(*connections),
            Carrier::Ssh(forwards) => forwards.len(),
            Carrier::Tcp { .. } => 1,
        };
        let mut askers = Vec::new();
        for connection in 0..connections {
            askers.push(self.ask_over(connection).map_err(|error| self.unreachable(error))?);
        }
        let asker = askers.first_mut().expect("there is one connection at least");
        let trips: io::Result<Vec<Duration>> = (0..IDLE_QUESTIONS).map(|_| asker.ask()).collect();
        let session = asker.session().clone();
        let idle = median(trips.map_err(|error| self.unreachable(error))?);
        drop(askers);
        if let Carrier::Tunnel { tunnel, .. } = &self.carrier {
            // A lane is put where the fewest channels are: these must be gone by then.
            let end = Instant::now() + QUIET_DEADLINE;
            while tunnel.figures().iter().any(|line| line.channels > 0) && Instant::now() < end {
                thread::sleep(QUIET_PAUSE);
            }
            self.earlier = tunnel.figures().iter().map(|line| line.sent).collect();
        }
        Ok((idle.unwrap_or_default(), session))
    }

    /// The target as the end of a lane.
    pub(super) fn endpoint(&self, lane: usize) -> Endpoint {
        match &self.carrier {
            Carrier::Tcp { .. } => Endpoint::nbd(self.target.clone()),
            _ => Endpoint::nbd_over(self.target.clone(), self.dialer(lane)),
        }
    }

    /// A connection beside the lanes, to be asked how long an answer takes.
    pub(super) fn ask_over(&self, connection: usize) -> io::Result<Asker> {
        Asker::open(&*self.dialer(connection), &self.target.export, self.deadline)
    }

    /// What each connection has carried for the lanes until now.
    pub(super) fn carried(&self, running: &Running, lanes: usize) -> Vec<u64> {
        match &self.carrier {
            Carrier::Tunnel { tunnel, .. } => {
                let earlier = |index: usize| self.earlier.get(index).copied().unwrap_or(0);
                let figures = tunnel.figures().into_iter().enumerate();
                figures.map(|(index, line)| line.sent.saturating_sub(earlier(index))).collect()
            }
            Carrier::Ssh(forwards) => {
                let of = |first: usize| (first..lanes).step_by(forwards.len());
                let bytes = |lane| running.lane_progress(lane).acknowledged;
                (0..forwards.len()).map(|first| of(first).map(bytes).sum()).collect()
            }
            Carrier::Tcp { .. } => Vec::new(),
        }
    }

    /// The processes that carry it on this side.
    pub(super) fn pids(&self) -> Vec<(Part, u32)> {
        match &self.carrier {
            Carrier::Ssh(forwards) => {
                forwards.iter().map(|forward| (Part::SshClient, forward.pid())).collect()
            }
            _ => Vec::new(),
        }
    }

    fn dialer(&self, lane: usize) -> Arc<dyn Dial> {
        match &self.carrier {
            Carrier::Tunnel { tunnel, far, .. } => Arc::new(tunnel.dialer(far.clone())),
            Carrier::Ssh(forwards) => forwards[lane % forwards.len()].dialer(),
            Carrier::Tcp { host, port } => {
                Arc::new(TcpDial { host: host.clone(), port: *port, deadline: self.deadline })
            }
        }
    }

    fn unreachable(&self, error: io::Error) -> BenchError {
        BenchError::Target { what: self.target.to_string(), error }
    }
}

/// A TCP connection, for one that asks.
#[derive(Debug)]
struct TcpDial {
    host: String,
    port: u16,
    deadline: Duration,
}

impl Dial for TcpDial {
    fn dial(&self) -> io::Result<OwnedFd> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.deadline) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream.into());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

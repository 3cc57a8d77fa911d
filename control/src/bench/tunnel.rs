//! What a tunnel carries, beside plain TCP and the OpenSSH client.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use blockferry_dataplane::nbd::{Address, NbdUri};
use blockferry_dataplane::plan::{Area, AreaSet};
use blockferry_dataplane::{Extent, Lane, LaneSettings, MoverSettings};

use super::ask::median;
use super::error::BenchError;
use super::folder::Folder;
use super::measure::{Job, Label, Observer, Pace};
use super::road::{OnTunnelEvent, Road};
use super::run::{Part, RoundTrips, Run, Way};
use super::servant::{Servant, SourceData, sink};
use super::sshd::Sshd;
use crate::backup::Cancellation;
use crate::export::Listener;
use crate::tunnel::TunnelSettings;

/// Bytes of a sink of our own: more than any link carries while it is measured.
const SINK_BYTES: u64 = 256 << 40;
/// Threads of source and sink for each connection.
const THREADS: u16 = 4;
/// A lane's share of the target is a multiple of this where there is room, else of a cluster.
const STEPS: [u64; 2] = [1 << 20, 64 << 10];
/// The share of its time that a run has to take.
const WHOLE: f64 = 0.9;
/// When the first round trip under load is measured, and the time between two.
const BUSY_START: Duration = Duration::from_millis(300);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Where the tunnel leads.
#[derive(Clone, Debug)]
pub enum FarSide {
    /// To an sshd that is started on loopback, and a target that forgets.
    Own {
        /// sshd, by name or path.
        sshd: String,
    },
    /// To a real one. What the target holds is written over.
    Real {
        /// The server.
        settings: Box<TunnelSettings>,
        /// The export, as seen from there.
        target: Box<NbdUri>,
    },
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct TunnelBench {
    /// Where it leads.
    pub far: FarSide,
    /// The ways to compare.
    pub ways: Vec<Way>,
    /// Numbers of connections; more than there are lanes make no difference.
    pub connections: Vec<u16>,
    /// Numbers of lanes.
    pub lanes: Vec<u16>,
    /// Bytes of each run, of all lanes together; `None`: as many as its time allows.
    pub size_bytes: Option<u64>,
    /// When a run is over, and how finely it is looked at.
    pub pace: Pace,
    /// What is sent.
    pub data: SourceData,
    /// How each lane works.
    pub lane: LaneSettings,
    /// How all of them do.
    pub mover: MoverSettings,
}

/// Told of a way that is left out, or of a run that is over too soon, and why.
pub type OnShort<'a> = &'a dyn Fn(&str);

/// Measures each way with each number of lanes and connections, and hands each run to `on_run`.
/// Nothing is left of it afterwards but what a real target was given.
///
/// # Errors
/// [`BenchError`]; the runs before are measured all the same.
pub fn measure_tunnel(
    bench: &TunnelBench,
    cancellation: &Cancellation,
    observer: Observer<'_>,
    on_event: &OnTunnelEvent,
    on_short: OnShort<'_>,
    mut on_run: impl FnMut(Run),
) -> Result<(), BenchError> {
    let ground = Ground::make(bench)?;
    let mut left_out = Vec::new();
    let combinations = combinations(bench);
    let mut size_bytes = None;
    for (index, combination) in combinations.iter().enumerate() {
        if cancellation.is_cancelled() {
            return Err(BenchError::Interrupted);
        }
        let (way, connections, lanes) = *combination;
        if left_out.contains(&way) {
            continue;
        }
        let (mut road, idle, size) = match ground.road(way, connections, on_event) {
            Ok(paved) => paved,
            Err(error) if ground.may_leave_out(way, &error) => {
                on_short(&format!("without {}: {error}", way.word()));
                left_out.push(way);
                if bench.ways.iter().all(|way| left_out.contains(way)) {
                    return Err(error);
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        let size = *size_bytes.get_or_insert(size);
        let done = |share: f64| (number(index) + share) / number(combinations.len());
        let observer = |share: f64, bytes: u64| observer(done(share), bytes);
        let label = Label { way, connections, lanes, round: 1 };
        let run = ground.measure(&mut road, label, idle, size, cancellation, &observer)?;
        if let Some(length) = bench.pace.length
            && run.elapsed < length.mul_f64(WHOLE)
            && bench.size_bytes.is_none()
        {
            on_short(&format!(
                "the target has {} MiB, which were written in {:.1} s of {:.0} s: the figures are those \
                 of a beginning; take a larger one",
                size >> 20,
                run.elapsed.as_secs_f64(),
                length.as_secs_f64()
            ));
        }
        on_run(run);
    }
    Ok(())
}

/// Each that differs from the others, lanes first, so that ways can be compared early.
fn combinations(bench: &TunnelBench) -> Vec<(Way, u16, u16)> {
    let mut all = Vec::new();
    for &lanes in &bench.lanes {
        for &connections in &bench.connections {
            for &way in &bench.ways {
                let connections = if way == Way::Tcp { 0 } else { connections.min(lanes) };
                if !all.contains(&(way, connections, lanes)) {
                    all.push((way, connections, lanes));
                }
            }
        }
    }
    all
}

/// All that is up while it is measured.
struct Ground<'a> {
    bench: &'a TunnelBench,
    settings: TunnelSettings,
    target: NbdUri,
    /// The servers go before the folder that their sockets are in.
    sshd: Option<Sshd>,
    sink: Option<Servant>,
    source: std::cell::OnceCell<Servant>,
    folder: Folder,
}

impl<'a> Ground<'a> {
    fn make(bench: &'a TunnelBench) -> Result<Self, BenchError> {
        let folder = Folder::make(&std::env::temp_dir())?;
        let source = std::cell::OnceCell::new();
        Ok(match &bench.far {
            FarSide::Own { sshd } => {
                let sink = Servant::start(&sink(SINK_BYTES), THREADS, Listener::tcp(0)?)?;
                let target = sink.uri().clone();
                let port = match &target.address {
                    Address::Tcp { port, .. } => *port,
                    Address::Unix { .. } => unreachable!("it was given a port"),
                };
                let sshd = Sshd::start(sshd, &folder, port)?;
                let deadline = bench.lane.deadline;
                let settings = TunnelSettings { deadline, ..sshd.settings() };
                Self { bench, settings, target, sshd: Some(sshd), sink: Some(sink), source, folder }
            }
            FarSide::Real { settings, target } => {
                let (settings, target) = ((**settings).clone(), (**target).clone());
                Self { bench, settings, target, sshd: None, sink: None, source, folder }
            }
        })
    }

    /// A way that is up, its round trip, and the size of the target.
    fn road(
        &self,
        way: Way,
        connections: u16,
        on_event: &OnTunnelEvent,
    ) -> Result<(Road, Duration, u64), BenchError> {
        if way == Way::Tcp && self.sink.is_none() && is_loopback(&self.target.address) {
            let why = format!("{} is what the far end calls itself", self.target);
            return Err(BenchError::Request(why));
        }
        let paved =
            Road::build(way, connections, &self.settings, &self.target, &self.folder, on_event)
                .and_then(|mut road| {
                    let (idle, session) = road.pave()?;
                    if session.flags.read_only() {
                        let why = format!("{} is read-only, and cannot be written", self.target);
                        return Err(BenchError::Request(why));
                    }
                    Ok((road, idle, session.size))
                });
        paved.map_err(|error| match self.sshd.as_ref().and_then(Sshd::last_words) {
            Some(words) => BenchError::Server {
                program: "sshd".into(),
                why: format!("{error}; it said: {words}"),
            },
            None => error,
        })
    }

    /// What lies beside our own tunnel may be impossible here.
    fn may_leave_out(&self, way: Way, error: &BenchError) -> bool {
        way != Way::Tunnel && (self.sink.is_none() || matches!(error, BenchError::Missing { .. }))
    }

    fn measure(
        &self,
        road: &mut Road,
        label: Label,
        idle: Duration,
        size: u64,
        cancellation: &Cancellation,
        observer: Observer<'_>,
    ) -> Result<Run, BenchError> {
        let source = self.source(size)?;
        let areas = areas(size, label.lanes, self.bench.size_bytes)?;
        let lanes = areas.into_iter().enumerate().map(|(lane, area)| {
            let mut extent = AreaSet::new();
            extent.insert(area);
            let settings = LaneSettings {
                extent: Extent::Areas(extent),
                extents: false,
                ..self.bench.lane.clone()
            };
            Lane::new(source.endpoint(), road.endpoint(lane)).with_settings(settings)
        });
        let lanes: Vec<Lane> = lanes.collect();
        let road = &*road;
        let processes = || self.pids(source, road);
        let count = lanes.len();
        let job = Job {
            label,
            lanes,
            mover: &self.bench.mover,
            pace: self.bench.pace,
            processes: &processes,
            memory: false,
            connections: &|running| road.carried(running, count),
            cancellation,
            observer,
        };
        let (stop, stopped) = mpsc::channel();
        thread::scope(|scope| {
            let asking = scope.spawn(move || busy_round_trip(road, &stopped));
            let run = job.run();
            drop(stop);
            let busy = asking.join().ok().flatten();
            run.map(|run| Run { round_trips: Some(RoundTrips { idle, busy }), ..run })
        })
    }

    fn source(&self, size: u64) -> Result<&Servant, BenchError> {
        if self.source.get().is_none() {
            let listener = Listener::unix(self.folder.path())?;
            let source = Servant::start(&self.bench.data.plugin(size), THREADS, listener)?;
            // Nobody else sets it: this thread has just looked.
            let _set = self.source.set(source);
        }
        Ok(self.source.get().expect("it was set above"))
    }

    fn pids(&self, source: &Servant, road: &Road) -> Vec<(Part, u32)> {
        let mut pids = road.pids();
        pids.push((Part::Source, source.pid()));
        pids.extend(self.sink.iter().map(|sink| (Part::Target, sink.pid())));
        let sessions = self.sshd.iter().flat_map(Sshd::pids);
        pids.extend(sessions.map(|pid| (Part::SshServer, pid)));
        pids
    }
}

/// The median round trip while lanes are at work, until `stopped` is.
fn busy_round_trip(road: &Road, stopped: &Receiver<()>) -> Option<Duration> {
    let mut trips = Vec::new();
    let mut pause = BUSY_START;
    let mut asker = None;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = BUSY_PAUSE;
        // What keeps a question from being answered shows on the lanes.
        let Some(open) = asker.take().or_else(|| road.ask_over(0).ok()) else { break };
        let mut open = open;
        let Ok(trip) = open.ask() else { break };
        trips.push(trip);
        asker = Some(open);
    }
    median(trips)
}

/// Each lane's own part of the target.
fn areas(size: u64, lanes: u16, in_all: Option<u64>) -> Result<Vec<Area>, BenchError> {
    let lanes = u64::from(lanes.max(1));
    let share = size / lanes;
    let step = STEPS.into_iter().find(|step| share >= *step).ok_or_else(|| {
        let least = lanes * STEPS[1];
        BenchError::Request(format!(
            "the target has {size} bytes, and {lanes} lanes need {least}: take fewer, or a larger one"
        ))
    })?;
    let share = share / step * step;
    let length = match in_all {
        Some(bytes) => bytes.div_ceil(lanes).next_multiple_of(STEPS[1]).min(share),
        None => share,
    };
    Ok((0..lanes).map(|lane| Area::new(lane * share, length)).collect())
}

fn is_loopback(address: &Address) -> bool {
    match address {
        Address::Tcp { host, .. } => {
            host == "localhost"
                || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Address::Unix { .. } => true,
    }
}

/// There are few of them.
fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_have_areas_of_their_own_within_the_target() {
        for (size, lanes, in_all) in
            [(1 << 30, 4, None), (1 << 30, 101, Some(64 << 20)), ((8 << 20) + 512, 101, None)]
        {
            let areas = areas(size, lanes, in_all).unwrap();
            assert_eq!(areas.len(), usize::from(lanes));
            assert!(areas.windows(2).all(|pair| pair[0].end() <= pair[1].start));
            assert!(areas.last().unwrap().end() <= size && areas[0].length > 0);
            let all: u64 = areas.iter().map(|area| area.length).sum();
            assert!(in_all.is_none_or(|wanted| all >= wanted));
        }
        assert!(areas(1 << 20, 101, None).is_err());
    }
}

//! Runs lanes, and looks at them meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blockferry_dataplane::{Fault, Lane, Mover, MoverSettings, Report, Running};

use super::error::BenchError;
use super::process::{Processes, forget_peak, own_cpu, own_peak, pss};
use super::run::{LaneFigures, Part, Run, Sample, Way};
use crate::backup::Cancellation;

/// Time between two looks at the memory of all servers, at least; and the share of the time that
/// may go into it, for it is the machine's that is measured.
const MEMORY_PAUSE: Duration = Duration::from_millis(500);
const MEMORY_SHARE: u32 = 20;

/// When a measurement is over, and how finely it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// It ends after this time, if not all was moved before; `None`: when all is moved.
    pub length: Option<Duration>,
    /// Time between two samples.
    pub sample: Duration,
}

/// Told of a measurement under way: the share of it that is done, and its bytes so far.
pub type Observer<'a> = &'a dyn Fn(f64, u64);

/// Which measurement it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    pub(super) way: Way,
    pub(super) connections: u16,
    pub(super) lanes: u16,
    pub(super) round: u32,
}

/// One measurement, before it.
pub(super) struct Job<'a> {
    pub(super) label: Label,
    pub(super) lanes: Vec<Lane>,
    pub(super) mover: &'a MoverSettings,
    pub(super) pace: Pace,
    /// The roots of the processes whose CPU time counts; new ones may come while it runs.
    pub(super) processes: &'a dyn Fn() -> Vec<(Part, u32)>,
    /// Whether their memory is looked at too.
    pub(super) memory: bool,
    /// What each connection has carried until now.
    pub(super) connections: &'a dyn Fn(&Running) -> Vec<u64>,
    pub(super) cancellation: &'a Cancellation,
    pub(super) observer: Observer<'a>,
}

impl Job<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// A lane failed, or it was called off.
    pub(super) fn run(mut self) -> Result<Run, BenchError> {
        if self.cancellation.is_cancelled() {
            return Err(BenchError::Interrupted);
        }
        forget_peak();
        let before = self.cpu();
        let lanes = std::mem::take(&mut self.lanes);
        let running = Mover::new(self.mover.clone()).start(lanes).map_err(BenchError::Mover)?;
        self.cancellation.lanes(Some(running.canceller()));
        let watched = self.watch(&running);
        if watched.cut {
            running.canceller().cancel();
        }
        let after = watched.cpu.clone().unwrap_or_default();
        let report = running.wait();
        self.cancellation.lanes(None);
        if self.cancellation.is_cancelled() {
            return Err(BenchError::Interrupted);
        }
        self.told(report, watched, difference(&after, &before))
    }

    /// Takes samples until it is over.
    fn watch(&self, running: &Running) -> Watched {
        let started = Instant::now();
        let mut watched = Watched::default();
        let mut look_at_memory = started + MEMORY_PAUSE;
        let planned = || {
            let planned = running.progress().planned;
            if planned == 0 { u64::MAX } else { planned }
        };
        for number in 1_u32.. {
            let mut due = started + self.pace.sample * number;
            if let Some(length) = self.pace.length {
                due = due.min(started + length);
            }
            let over = running.wait_for(due.saturating_duration_since(Instant::now()));
            let sample = self.sample(running, started);
            let bytes = sample.bytes;
            watched.samples.push(sample);
            let elapsed = started.elapsed();
            watched.cut = !over && self.pace.length.is_some_and(|length| elapsed >= length);
            if over || watched.cut {
                break;
            }
            let share = match self.pace.length {
                Some(length) => elapsed.as_secs_f64() / length.as_secs_f64(),
                None => ratio(bytes, planned()),
            };
            (self.observer)(share.min(1.0), bytes);
            if self.memory && Instant::now() >= look_at_memory {
                let looked = Instant::now();
                watched.memory = watched.memory.max(self.servers_memory());
                look_at_memory = looked + MEMORY_PAUSE.max(looked.elapsed() * MEMORY_SHARE);
            }
        }
        watched.cpu = Some(self.cpu());
        if self.memory {
            watched.memory = watched.memory.max(self.servers_memory());
        }
        watched
    }

    fn sample(&self, running: &Running, started: Instant) -> Sample {
        let connections = (self.connections)(running);
        Sample { at: started.elapsed(), bytes: running.progress().acknowledged, connections }
    }

    fn told(
        self,
        report: Report,
        watched: Watched,
        cpu: BTreeMap<Part, Duration>,
    ) -> Result<Run, BenchError> {
        let Watched { samples, cut, memory, .. } = watched;
        let reconnects = report.lanes.iter().map(|lane| lane.reconnects).sum();
        let mut each = Vec::with_capacity(report.lanes.len());
        let payload = report.lanes.first().and_then(|lane| lane.payload.as_ref());
        let payload = payload.map(|(kind, _)| *kind);
        for (index, lane) in report.lanes.into_iter().enumerate() {
            match lane.outcome {
                Ok(()) => {}
                Err(Fault::Interrupted) if cut => {}
                Err(fault) => return Err(BenchError::Lane { lane: index, fault }),
            }
            each.push(LaneFigures { bytes: lane.counts.acknowledged, elapsed: lane.elapsed });
        }
        // What came behind the cut is no part of it.
        let last = samples.last();
        let (elapsed, bytes) = last.map_or_else(Default::default, |last| (last.at, last.bytes));
        Ok(Run {
            way: self.label.way,
            connections: self.label.connections,
            lanes: self.label.lanes,
            round: self.label.round,
            elapsed,
            bytes,
            cpu,
            memory_peak: own_peak(),
            servers_memory: self.memory.then_some(memory),
            samples,
            each,
            reconnects,
            round_trips: None,
            engine: report.engine,
            payload,
        })
    }

    fn cpu(&self) -> BTreeMap<Part, Duration> {
        let mut used = BTreeMap::from([(Part::Mover, own_cpu())]);
        let processes = Processes::now();
        for (part, pid) in (self.processes)() {
            *used.entry(part).or_default() += processes.cpu(pid);
        }
        used
    }

    fn servers_memory(&self) -> u64 {
        (self.processes)().into_iter().map(|(_, pid)| pss(pid)).sum()
    }
}

/// What was seen of lanes at work.
#[derive(Default)]
struct Watched {
    samples: Vec<Sample>,
    /// The time was over before the lanes were.
    cut: bool,
    cpu: Option<BTreeMap<Part, Duration>>,
    memory: u64,
}

fn difference(
    after: &BTreeMap<Part, Duration>,
    before: &BTreeMap<Part, Duration>,
) -> BTreeMap<Part, Duration> {
    let earlier = |part| before.get(part).copied().unwrap_or_default();
    after.iter().map(|(part, used)| (*part, used.saturating_sub(earlier(part)))).collect()
}

/// Good to 15 digits, which no display shows.
#[allow(clippy::cast_precision_loss)]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

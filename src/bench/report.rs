//! What was measured, for programs: one JSON object; and the words and numbers that tables share.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use blockferry_control::bench::{Part, Run};
use serde::Serialize;

use crate::exit::Exit;

/// All of it. Fields are added, never taken away or given another meaning.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    /// The exit code in a word.
    outcome: &'static str,
    exit_code: u8,
    error: Option<String>,
    bench: &'static str,
    settings: &'a serde_json::Value,
    machine: Machine,
    runs: Vec<RunRecord>,
}

#[derive(Debug, Serialize)]
struct Machine {
    processors: usize,
    kernel: String,
    /// Of the last minute, when the bench was over: it is part of it.
    load: Option<f64>,
}

#[derive(Debug, Serialize)]
struct RunRecord {
    way: &'static str,
    connections: u16,
    lanes: u16,
    round: u32,
    seconds: f64,
    bytes: u64,
    mib_per_second: f64,
    /// By whom: mover, source, target, ssh_client, ssh_server.
    cpu_seconds: BTreeMap<&'static str, f64>,
    /// Peak of this process's resident memory, in bytes.
    memory_peak: Option<u64>,
    /// Most that was seen of all servers together (PSS), in bytes.
    servers_memory: Option<u64>,
    /// How often a lane had to be connected again.
    reconnects: u32,
    /// Median round trips of a read of 512 bytes: before, and while the lanes were at work.
    round_trip_ms: Option<RoundTripRecord>,
    engine: String,
    payload: Option<String>,
    samples: Vec<SampleRecord>,
    each_lane: Vec<LaneRecord>,
}

#[derive(Debug, Serialize)]
struct RoundTripRecord {
    idle: f64,
    busy: Option<f64>,
}

#[derive(Debug, Serialize)]
struct SampleRecord {
    /// Since the start of the run.
    seconds: f64,
    /// Since the sample before; those of a run make its `bytes`.
    bytes: u64,
    /// The same by each connection; NBD's own bytes are among it.
    connections: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct LaneRecord {
    bytes: u64,
    seconds: f64,
    mib_per_second: f64,
}

impl<'a> Report<'a> {
    pub(super) fn of(
        bench: &'static str,
        exit: Exit,
        error: Option<&anyhow::Error>,
        settings: &'a serde_json::Value,
        runs: &[Run],
    ) -> Self {
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: error.map(|error| format!("{error:#}")),
            bench,
            settings,
            machine: Machine::this(),
            runs: runs.iter().map(RunRecord::of).collect(),
        }
    }
}

impl Machine {
    fn this() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("sys/kernel/osrelease").trim().to_owned(),
            load: read("loadavg").split_whitespace().next().and_then(|load| load.parse().ok()),
        }
    }
}

impl RunRecord {
    fn of(run: &Run) -> Self {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        Self {
            way: run.way.word(),
            connections: run.connections,
            lanes: run.lanes,
            round: run.round,
            seconds: run.elapsed.as_secs_f64(),
            bytes: run.bytes,
            mib_per_second: run.mib_per_second(),
            cpu_seconds: run
                .cpu
                .iter()
                .map(|(part, used)| (part.word(), used.as_secs_f64()))
                .collect(),
            memory_peak: run.memory_peak,
            servers_memory: run.servers_memory,
            reconnects: run.reconnects,
            round_trip_ms: run.round_trips.map(|trips| RoundTripRecord {
                idle: milliseconds(trips.idle),
                busy: trips.busy.map(milliseconds),
            }),
            engine: run.engine.to_string(),
            payload: run.payload.map(|payload| payload.to_string()),
            samples: steps(run)
                .map(|step| SampleRecord {
                    seconds: step.at.as_secs_f64(),
                    bytes: step.bytes,
                    connections: step.connections,
                })
                .collect(),
            each_lane: run
                .each
                .iter()
                .map(|lane| LaneRecord {
                    bytes: lane.bytes,
                    seconds: lane.elapsed.as_secs_f64(),
                    mib_per_second: lane.mib_per_second(),
                })
                .collect(),
        }
    }
}

/// What was carried between two samples.
pub(super) struct Step {
    /// When it was over, since the start of the run.
    pub(super) at: Duration,
    /// How long it was.
    pub(super) length: Duration,
    pub(super) bytes: u64,
    pub(super) connections: Vec<u64>,
}

/// A run in steps from sample to sample.
pub(super) fn steps(run: &Run) -> impl Iterator<Item = Step> {
    run.samples.iter().enumerate().map(|(index, sample)| {
        let before = index.checked_sub(1).map(|before| &run.samples[before]);
        let earlier = |connection: usize| {
            before.and_then(|before| before.connections.get(connection)).copied().unwrap_or(0)
        };
        // What was lost with a connection counts again when it is done again.
        let since = |now: u64, before: u64| now.saturating_sub(before);
        Step {
            at: sample.at,
            length: sample.at.saturating_sub(before.map_or(Duration::ZERO, |before| before.at)),
            bytes: since(sample.bytes, before.map_or(0, |before| before.bytes)),
            connections: sample
                .connections
                .iter()
                .enumerate()
                .map(|(connection, bytes)| since(*bytes, earlier(connection)))
                .collect(),
        }
    })
}

/// MiB a second in a step.
pub(super) fn step_rate(bytes: u64, length: Duration) -> f64 {
    let seconds = length.as_secs_f64();
    if seconds == 0.0 { 0.0 } else { mib(bytes) / seconds }
}

/// Good to 15 digits, which no display shows.
#[allow(clippy::cast_precision_loss)]
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The one in the middle, or what lies between the two.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The largest; 0 of none.
pub(super) fn best(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

/// The median CPU seconds of a part for each GiB, in words; a dash where nobody knows them.
pub(super) fn cpu_words(runs: &[Run], part: Part) -> String {
    let known: Option<Vec<f64>> = runs.iter().map(|run| run.cpu_per_gib(part)).collect();
    known.map_or("-".into(), |known| format!("{:.2}", median(known.into_iter())))
}

/// A run in a line.
pub(super) fn run_words(run: &Run) -> String {
    let payload = run.payload.map_or(String::new(), |payload| format!(", payload {payload}"));
    format!(
        "{}, lanes: {}, round {}: {:.0} MiB/s, {:.1} MiB in {:.2} s, engine {}{payload}",
        run.way.word(),
        run.lanes,
        run.round,
        run.mib_per_second(),
        mib(run.bytes),
        run.elapsed.as_secs_f64(),
        run.engine,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_what_lies_between_two() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median(std::iter::empty()), 0.0);
    }
}

//! The report for programs: one JSON object.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use blockferry_control::record::BytesRecord;
use blockferry_dataplane::{Counts, LaneReport};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{Outcome, patient};
use crate::exit::Exit;
use crate::inherited::{Stream, is_closed};
use crate::interrupt;

/// All of it. Fields are added, never taken away or given another meaning.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// The exit code in a word.
    outcome: &'static str,
    exit_code: u8,
    /// What kept the copy from starting, or what happened to the first of the lanes that failed;
    /// what happened to each is told with it.
    error: Option<String>,
    engine: Option<Engine<'a>>,
    seconds: f64,
    bytes: BytesRecord,
    /// Read from the source.
    mib_per_second: f64,
    cpu_seconds: f64,
    lanes: Vec<Lane<'a>>,
}

#[derive(Debug, Serialize)]
struct Engine<'a> {
    kind: String,
    reason: &'a str,
    threads: usize,
}

#[derive(Debug, Serialize)]
struct Lane<'a> {
    source: &'a str,
    target: &'a str,
    size: Option<u64>,
    outcome: &'static str,
    error: Option<&'a str>,
    payload: Option<String>,
    /// Why that payload path.
    reason: Option<&'a str>,
    connections: u16,
    reconnects: u32,
    flushes: u32,
    request_bytes: u32,
    seconds: f64,
    bytes: BytesRecord,
}

impl<'a> Report<'a> {
    /// Of a copy that ran.
    pub(crate) fn of(
        exit: Exit,
        report: &'a blockferry_dataplane::Report,
        outcomes: &'a [Outcome],
    ) -> Self {
        let totals = report.totals();
        let lanes = report.lanes.iter().zip(outcomes);
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: outcomes.iter().find_map(|outcome| outcome.error.clone()),
            engine: Some(Engine {
                kind: report.engine.to_string(),
                reason: &report.engine_reason,
                threads: report.threads,
            }),
            seconds: report.elapsed.as_secs_f64(),
            mib_per_second: mib_per_second(&totals, report.elapsed),
            bytes: totals.into(),
            cpu_seconds: cpu_seconds(),
            lanes: lanes.map(|(lane, outcome)| Lane::of(lane, outcome)).collect(),
        }
    }

    /// Of one that did not start.
    pub(crate) fn of_refusal(error: &anyhow::Error) -> Self {
        let exit = Exit::of_error(error);
        Self {
            outcome: exit.word(),
            exit_code: exit.code(),
            error: Some(format!("{error:#}")),
            engine: None,
            seconds: 0.0,
            bytes: BytesRecord::default(),
            mib_per_second: 0.0,
            cpu_seconds: cpu_seconds(),
            lanes: Vec::new(),
        }
    }
}

impl<'a> Lane<'a> {
    fn of(lane: &'a LaneReport, outcome: &'a Outcome) -> Self {
        let payload = lane.payload.as_ref();
        Self {
            source: &outcome.source,
            target: &outcome.target,
            size: lane.size,
            outcome: outcome.exit.word(),
            error: outcome.error.as_deref(),
            payload: payload.map(|(kind, _)| kind.to_string()),
            reason: payload.map(|(_, reason)| reason.as_str()),
            connections: lane.connections,
            reconnects: lane.reconnects,
            flushes: lane.flushes,
            request_bytes: lane.request_bytes,
            seconds: lane.elapsed.as_secs_f64(),
            bytes: lane.counts.into(),
        }
    }
}

/// What is told of a command that was written wrongly: all that reports of commands share.
#[derive(Debug, Serialize)]
pub(crate) struct Refused<'a> {
    outcome: &'static str,
    exit_code: u8,
    error: &'a str,
}

impl<'a> Refused<'a> {
    /// Of words that are no command.
    pub(crate) fn of(error: &'a str) -> Self {
        Self { outcome: Exit::Usage.word(), exit_code: Exit::Usage.code(), error }
    }
}

/// Prints it on one line.
///
/// # Errors
/// When standard output is closed or does not take it: a program that waits for the report has
/// none. Whoever does not read it is waited for until a signal ends that.
pub(crate) fn print(report: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(report).context("making the report")?;
    text.push(b'\n');
    let output = io::stdout().lock();
    let written = if is_closed(Stream::Output) {
        Err(io::Error::other("it is closed"))
    } else {
        patient::write_all(&output, &text, || !interrupt::was_asked())
    };
    written.context("writing the report to standard output")
}

/// Bytes read from the sources in a second. Zeros that were never read are no throughput.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn mib_per_second(counts: &Counts, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds == 0.0 { 0.0 } else { counts.read as f64 / f64::from(1 << 20) / seconds }
}

/// CPU time of this process so far.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

//! What happens to lanes, in words.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use blockferry_control::Server;
use blockferry_dataplane::{Counts, Event, Fault, LaneReport, Report, Side};
use indicatif::BinaryBytes;

use super::console::Console;
use super::hint::hint;
use super::json::{cpu_seconds, mib_per_second};
use crate::copy::LaneRequest;
use crate::exit::Exit;

/// How a lane ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) exit: Exit,
    pub(crate) error: Option<String>,
}

/// Tells of lanes on a console: of failures always, of the rest if the user wants it.
#[derive(Debug)]
pub(crate) struct Telling {
    console: Arc<Console>,
    /// Source and target of each lane, as the user wrote them.
    names: Vec<[String; 2]>,
    /// Lanes whose failure was told already.
    told: Mutex<HashSet<usize>>,
}

impl Telling {
    pub(crate) fn of(lanes: &[LaneRequest], console: Arc<Console>) -> Self {
        let names = lanes.iter().map(|lane| [lane.source.name(), lane.target.name()]);
        Self { console, names: names.collect(), told: Mutex::default() }
    }

    /// Something happened. Called from the threads that move data.
    pub(crate) fn event(&self, event: &Event<'_>) {
        match event {
            Event::Started { lane, size, payload, reason, connections } => {
                let [source, target] = &self.names[*lane];
                let size = size.map_or("unknown size".into(), |size| format!("{size} bytes"));
                let number = connections;
                let plural = if *number == 1 { "" } else { "s" };
                self.console.detail(&format!(
                    "{}{source} to {target} has {size}, {number} connection{plural} a side, \
                     payload {payload}: {reason}",
                    self.prefix(*lane)
                ));
            }
            Event::Note { lane, text } => {
                self.console.detail(&format!("{}{text}", self.prefix(*lane)));
            }
            Event::Reconnecting { lane, side, attempt, reason } => {
                let name = &self.names[*lane][index(*side)];
                self.console.detail(&format!(
                    "{}connecting again to {side} {name}, attempt {attempt}: {reason}",
                    self.prefix(*lane)
                ));
            }
            // Of many lanes the others go on, maybe for hours: the failure is told now. Of one,
            // its end is ours, and its server may still say why.
            Event::Finished { lane, fault: Some(fault), .. } if self.names.len() > 1 => {
                self.tell_once(*lane, fault, &self.words(*lane, fault));
            }
            _ => {}
        }
    }

    /// How the lanes ended, with what became of their servers.
    pub(crate) fn outcomes(
        &self,
        report: &Report,
        servers: &[[Option<Server>; 2]],
    ) -> Vec<Outcome> {
        let lanes = report.lanes.iter().enumerate();
        lanes
            .map(|(lane, ended)| {
                let [source, target] = self.names[lane].clone();
                let error = ended.outcome.as_ref().err().map(|fault| {
                    let mut words = self.words(lane, fault);
                    let server = fault.side().and_then(|side| servers[lane][index(side)].as_ref());
                    if let Some(reason) = server.and_then(Server::exit_reason)
                        && !words.contains(&reason)
                    {
                        words = format!("{words}; {reason}");
                    }
                    self.tell_once(lane, fault, &words);
                    words
                });
                Outcome { source, target, exit: Exit::of_lane(&ended.outcome), error }
            })
            .collect()
    }

    /// Hints, and the sum of it.
    pub(crate) fn end(&self, report: &Report, outcomes: &[Outcome]) {
        let mut hints: Vec<&str> = Vec::new();
        for fault in report.lanes.iter().filter_map(|lane| lane.outcome.as_ref().err()) {
            hints.extend(hint(fault).filter(|hint| !hints.contains(hint)));
        }
        for hint in hints {
            self.console.note(&format!("hint: {hint}"));
        }
        let count = |exit| outcomes.iter().filter(|outcome| outcome.exit == exit).count();
        let (lanes, done, stopped) = (outcomes.len(), count(Exit::Done), count(Exit::Interrupted));
        if stopped > 0 && lanes > 1 {
            self.console.note(&format!("interrupted: {stopped} of {lanes} lanes are unfinished"));
        } else if stopped > 0 {
            self.console.note("interrupted");
        } else if done < lanes && lanes > 1 {
            self.console.note(&format!("{} of {lanes} lanes failed", lanes - done));
        }
        for (lane, ended) in report.lanes.iter().enumerate() {
            self.console.detail(&format!("{}{}", self.prefix(lane), lane_sum(ended)));
        }
        self.console.detail(&format!(
            "{}; {:.1} s, {:.0} MiB/s, {:.2} s of CPU",
            sum(&report.totals()),
            report.elapsed.as_secs_f64(),
            mib_per_second(&report.totals(), report.elapsed),
            cpu_seconds()
        ));
    }

    /// An interruption is told once for all lanes.
    fn tell_once(&self, lane: usize, fault: &Fault, words: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(lane) && !matches!(fault, Fault::Interrupted) {
            self.console.note(&format!("{}{words}", self.prefix(lane)));
        }
    }

    /// The fault, with the endpoint as the user wrote it.
    fn words(&self, lane: usize, fault: &Fault) -> String {
        match fault {
            Fault::Side { side, cause, .. } => {
                format!("{side} {}: {cause}", self.names[lane][index(*side)])
            }
            other => other.to_string(),
        }
    }

    fn prefix(&self, lane: usize) -> String {
        if self.names.len() > 1 { format!("lane {lane}: ") } else { String::new() }
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Target => 1,
    }
}

fn lane_sum(lane: &LaneReport) -> String {
    format!(
        "requests of {}, {} reconnects, {} flushes",
        BinaryBytes(lane.request_bytes.into()),
        lane.reconnects,
        lane.flushes
    )
}

fn sum(counts: &Counts) -> String {
    format!(
        "{} read, {} zero, {} sent, {} acknowledged, {} skipped",
        BinaryBytes(counts.read),
        BinaryBytes(counts.zero),
        BinaryBytes(counts.sent),
        BinaryBytes(counts.acknowledged),
        BinaryBytes(counts.skipped)
    )
}

//! Points, for people and programs.

use blockferry_control::catalog::UnixMillis;
use blockferry_control::record::PointRecord;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{rfc3339, table};

/// A row for each point.
pub(super) fn listing(points: &[PointRecord]) -> String {
    let heads = ["point", "VM", "time", "mode", "disks", "size", "on disk", "chain", "state"];
    let rows = points.iter().map(|point| {
        let names: Vec<&str> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
        vec![
            point.id.clone(),
            point.vm.clone(),
            time(point.created_ms),
            point.mode.clone(),
            names.join(","),
            BinaryBytes(point.size).to_string(),
            BinaryBytes(point.stored).to_string(),
            point.chain.to_string(),
            format!("{}{}", state(point), notes(point)),
        ]
    });
    table(&heads, rows)
}

fn time(millis: u64) -> String {
    rfc3339(UnixMillis::new(millis).unwrap_or(UnixMillis::MAX))
}

fn state(point: &PointRecord) -> String {
    let missing = point.disks.iter().map(|disk| disk.missing.len()).sum::<usize>();
    let damaged = point.disks.iter().map(|disk| disk.damaged.len()).sum::<usize>();
    match (missing, damaged) {
        (0, 0) => point.state.clone(),
        (0, 1) => "damaged: 1 file".into(),
        (0, count) => format!("damaged: {count} files"),
        (1, _) => "damaged: 1 file is missing".into(),
        (count, _) => format!("damaged: {count} files are missing"),
    }
}

/// How many alarms and warnings it has; its other notes say how it was made.
fn notes(point: &PointRecord) -> String {
    let count = |weight| point.notes.iter().filter(|note| note.weight == weight).count();
    [("alarm", count("alarm")), ("warning", count("warning"))]
        .into_iter()
        .map(|(word, count)| match count {
            0 => String::new(),
            1 => format!(", 1 {word}"),
            _ => format!(", {count} {word}s"),
        })
        .collect()
}

/// All points, for programs. Fields are added, never taken away.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    /// The exit code in a word.
    outcome: &'static str,
    exit_code: u8,
    error: Option<String>,
    points: Vec<Point<'a>>,
}

#[derive(Debug, Serialize)]
struct Point<'a> {
    #[serde(flatten)]
    record: &'a PointRecord,
    /// The instant that it shows.
    time: String,
}

impl<'a> Json<'a> {
    pub(super) fn of(points: &'a [PointRecord]) -> Self {
        let points = points.iter();
        Self {
            outcome: Exit::Done.word(),
            exit_code: Exit::Done.code(),
            error: None,
            points: points.map(|record| Point { record, time: time(record.created_ms) }).collect(),
        }
    }

    pub(super) fn of_failure(exit: Exit, error: String) -> Self {
        let (outcome, exit_code) = (exit.word(), exit.code());
        Self { outcome, exit_code, error: Some(error), points: Vec::new() }
    }
}

/// The end of a deletion, for programs.
#[derive(Debug, Serialize)]
pub(super) struct Deleted<'a> {
    outcome: &'static str,
    exit_code: u8,
    error: Option<String>,
    point: &'a str,
}

impl<'a> Deleted<'a> {
    pub(super) fn of(point: &'a str) -> Self {
        Self { outcome: Exit::Done.word(), exit_code: Exit::Done.code(), error: None, point }
    }

    pub(super) fn of_failure(exit: Exit, error: String, point: &'a str) -> Self {
        Self { outcome: exit.word(), exit_code: exit.code(), error: Some(error), point }
    }
}

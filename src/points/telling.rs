//! Points, for people and programs.

use blockferry_control::catalog::{LayerKind, PointId};
use blockferry_control::reading::{ListedDisk, ListedPoint};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{rfc3339, table};

/// A row for each point.
pub(super) fn listing(points: &[ListedPoint]) -> String {
    let heads = ["point", "VM", "time", "mode", "disks", "size", "on disk", "chain", "state"];
    let rows = points.iter().map(|listed| {
        let names: Vec<&str> =
            listed.disks.iter().map(|disk| disk.layer().disk_name.as_str()).collect();
        let sum = |bytes: fn(&ListedDisk) -> u64| {
            BinaryBytes(listed.disks.iter().map(bytes).sum()).to_string()
        };
        vec![
            listed.point.id.to_string(),
            listed.point.vm.to_string(),
            rfc3339(listed.point.created),
            mode(listed).into(),
            names.join(","),
            sum(|disk| disk.layer().facts.size_bytes),
            sum(|disk| disk.layer().facts.stored_bytes),
            longest_chain(listed).to_string(),
            state(listed),
        ]
    });
    table(&heads, rows)
}

/// What its layers are together.
fn mode(listed: &ListedPoint) -> &'static str {
    let deltas =
        listed.disks.iter().filter(|disk| disk.layer().facts.kind == LayerKind::Delta).count();
    match deltas {
        0 => "full",
        all if all == listed.disks.len() => "incremental",
        _ => "mixed",
    }
}

fn longest_chain(listed: &ListedPoint) -> usize {
    listed.disks.iter().map(|disk| disk.chain.len()).max().unwrap_or(0)
}

fn state(listed: &ListedPoint) -> String {
    let missing = listed.disks.iter().map(|disk| disk.missing.len()).sum::<usize>();
    match missing {
        0 => "whole".into(),
        1 => "damaged: 1 file is missing".into(),
        count => format!("damaged: {count} files are missing"),
    }
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
    id: &'a str,
    vm: &'a str,
    /// The instant that it shows.
    time: String,
    created_ms: u64,
    published_ms: u64,
    /// full, incremental, or mixed.
    mode: &'static str,
    job: &'a str,
    size: u64,
    /// What its own layers take on disk.
    stored: u64,
    /// Layers of the longest chain.
    chain: usize,
    /// `whole`, or `damaged`: files are missing. What is in them was not looked at.
    state: &'static str,
    disks: Vec<Disk<'a>>,
}

#[derive(Debug, Serialize)]
struct Disk<'a> {
    name: &'a str,
    layer: &'a str,
    mode: &'static str,
    /// Why that mode.
    reason: &'a str,
    /// The point that it stands on.
    parent: Option<&'a str>,
    size: u64,
    stored: u64,
    /// In the repository.
    file: &'a str,
    /// The layers of its chain, itself first.
    chain: Vec<Layer<'a>>,
    missing: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct Layer<'a> {
    layer: &'a str,
    point: &'a str,
    stored: u64,
}

impl<'a> Json<'a> {
    pub(super) fn of(points: &'a [ListedPoint]) -> Self {
        Self {
            outcome: Exit::Done.word(),
            exit_code: Exit::Done.code(),
            error: None,
            points: points.iter().map(Point::of).collect(),
        }
    }

    pub(super) fn of_failure(exit: Exit, error: String) -> Self {
        let (outcome, exit_code) = (exit.word(), exit.code());
        Self { outcome, exit_code, error: Some(error), points: Vec::new() }
    }
}

impl<'a> Point<'a> {
    fn of(listed: &'a ListedPoint) -> Self {
        let sum = |bytes: fn(&ListedDisk) -> u64| listed.disks.iter().map(bytes).sum();
        Self {
            id: listed.point.id.as_str(),
            vm: listed.point.vm.as_str(),
            time: rfc3339(listed.point.created),
            created_ms: listed.point.created.get(),
            published_ms: listed.point.published.get(),
            mode: mode(listed),
            job: listed.point.job.as_str(),
            size: sum(|disk| disk.layer().facts.size_bytes),
            stored: sum(|disk| disk.layer().facts.stored_bytes),
            chain: longest_chain(listed),
            state: if listed.is_whole() { "whole" } else { "damaged" },
            disks: listed.disks.iter().map(Disk::of).collect(),
        }
    }
}

impl<'a> Disk<'a> {
    fn of(disk: &'a ListedDisk) -> Self {
        let layer = disk.layer();
        let chain = disk.chain.iter().map(|layer| Layer {
            layer: layer.facts.id.as_str(),
            point: layer.point.as_str(),
            stored: layer.facts.stored_bytes,
        });
        Self {
            name: layer.disk_name.as_str(),
            layer: layer.facts.id.as_str(),
            mode: layer.facts.kind.mode().as_str(),
            reason: &layer.facts.reason,
            parent: disk.chain.get(1).map(|below| PointId::as_str(&below.point)),
            size: layer.facts.size_bytes,
            stored: layer.facts.stored_bytes,
            file: layer.facts.path.as_str(),
            chain: chain.collect(),
            missing: disk.missing.iter().map(|path| path.as_str()).collect(),
        }
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

//! `blockferry bench lane`: one disk.

use blockferry_control::bench::{DiskBench, Pace, Part, Run, measure_disks};
use indicatif::BinaryBytes;
use serde_json::json;

use super::measuring::{About, measured, refusal, refused};
use super::options::LaneBenchOptions;
use super::plot::over_time;
use super::report::{best, cpu_words, median};
use crate::exit::Exit;
use crate::output::table;

/// `blockferry bench lane`.
///
/// # Errors
/// What kept it from being measured.
pub(super) fn command(options: &LaneBenchOptions) -> anyhow::Result<Exit> {
    let bench = wanted(options).map_err(|error| refused(&options.output, "lane", error))?;
    let about = About {
        bench: "lane",
        settings: settings(&bench),
        table: &|runs| rows(&bench, runs),
        panels: &|runs| {
            let title = format!("One disk of {}", BinaryBytes(bench.size_bytes));
            vec![over_time(title, runs, |run| format!("round {}", run.round))]
        },
    };
    measured(&options.output, &options.files, &about, |ground, on_run| {
        measure_disks(&bench, ground.cancellation, ground.observer, on_run)
            .map_err(|error| refusal(&error))
    })
}

/// What was asked for, checked.
fn wanted(options: &LaneBenchOptions) -> anyhow::Result<DiskBench> {
    options.files.check()?;
    Ok(DiskBench {
        disks: 1,
        size_bytes: options.size,
        rounds: options.disks.rounds,
        data: options.disks.data,
        target: options.disks.target,
        dir: options.disks.dir()?,
        lane: options.moving.lane()?,
        mover: options.moving.mover(),
        pace: Pace { length: None, sample: options.files.sample },
    })
}

/// What was asked for.
pub(super) fn settings(bench: &DiskBench) -> serde_json::Value {
    json!({
        "disks": bench.disks,
        "size": bench.size_bytes,
        "rounds": bench.rounds,
        "data": bench.data.word(),
        "target": bench.target.word(),
        "dir": bench.dir.display().to_string(),
        "digest": bench.lane.digest.map(|digest| digest.to_string()),
    })
}

fn rows(bench: &DiskBench, runs: &[Run]) -> String {
    let rates = || runs.iter().map(Run::mib_per_second);
    let heads = [
        "into",
        "size",
        "rounds",
        "MiB/s",
        "best",
        "CPU s/GiB: mover",
        "source",
        "target",
        "payload",
        "engine",
    ];
    let row = vec![
        bench.target.word().to_owned(),
        BinaryBytes(bench.size_bytes).to_string(),
        runs.len().to_string(),
        format!("{:.0}", median(rates())),
        format!("{:.0}", best(rates())),
        cpu_words(runs, Part::Mover),
        cpu_words(runs, Part::Source),
        cpu_words(runs, Part::Target),
        runs[0].payload.map_or("-".into(), |payload| payload.to_string()),
        runs[0].engine.to_string(),
    ];
    table(&heads, [row])
}

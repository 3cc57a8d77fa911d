//! `blockferry bench fleet`: many disks at once.

use blockferry_control::bench::{DiskBench, LaneFigures, Pace, Part, Run, measure_disks};
use indicatif::BinaryBytes;

use super::lane::settings;
use super::measuring::{About, measured, refusal, refused};
use super::options::FleetBenchOptions;
use super::plot::over_time;
use super::report::{best, cpu_words, median};
use crate::copy::raise_open_files;
use crate::exit::{Exit, Refusal};
use crate::output::table;

/// Descriptors for each disk: two sockets, a pipe, a connection that is being replaced; listeners
/// and folders of two servers, their ends, and their words.
const DESCRIPTORS_A_DISK: u64 = 20;
/// Descriptors of everything else.
const DESCRIPTORS_BESIDE: u64 = 64;

/// `blockferry bench fleet`.
///
/// # Errors
/// What kept it from being measured.
pub(super) fn command(options: &FleetBenchOptions) -> anyhow::Result<Exit> {
    let bench = wanted(options).map_err(|error| refused(&options.output, "fleet", error))?;
    let about = About {
        bench: "fleet",
        settings: settings(&bench),
        table: &|runs| rows(&bench, runs),
        panels: &|runs| {
            let (disks, size) = (bench.disks, BinaryBytes(bench.size_bytes));
            let title = format!("{disks} disks of {size} at once, all together");
            vec![over_time(title, runs, |run| format!("round {}", run.round))]
        },
    };
    measured(&options.output, &options.files, &about, |ground, on_run| {
        measure_disks(&bench, ground.cancellation, ground.observer, on_run)
            .map_err(|error| refusal(&error))
    })
}

/// What was asked for, checked.
fn wanted(options: &FleetBenchOptions) -> anyhow::Result<DiskBench> {
    options.files.check()?;
    open_files(options.disks)?;
    Ok(DiskBench {
        disks: options.disks,
        size_bytes: options.size,
        rounds: options.each.rounds,
        data: options.each.data,
        target: options.each.target,
        dir: options.each.dir()?,
        lane: options.moving.lane()?,
        mover: options.moving.mover(),
        pace: Pace { length: None, sample: options.files.sample },
    })
}

/// Makes sure that so many disks can be open at once.
pub(super) fn open_files(disks: u16) -> anyhow::Result<()> {
    let needed = DESCRIPTORS_BESIDE + DESCRIPTORS_A_DISK * u64::from(disks);
    let allowed = raise_open_files(needed);
    if allowed < needed {
        return Err(Refusal::of(
            Exit::Failed,
            format!(
                "{allowed} open files are allowed, and {disks} at once need {needed}: raise \
                 ulimit -n"
            ),
        ));
    }
    Ok(())
}

fn rows(bench: &DiskBench, runs: &[Run]) -> String {
    let rates = || runs.iter().map(Run::mib_per_second);
    let lanes = || runs.iter().flat_map(|run| &run.each).map(LaneFigures::mib_per_second);
    let memory = |of: fn(&Run) -> Option<u64>| match runs.iter().filter_map(of).max() {
        Some(bytes) => BinaryBytes(bytes).to_string(),
        None => "-".into(),
    };
    let heads = [
        "disks",
        "size",
        "rounds",
        "MiB/s",
        "best",
        "slowest lane",
        "quickest",
        "CPU s/GiB: mover",
        "source",
        "target",
        "memory: mover",
        "servers",
    ];
    let row = vec![
        bench.disks.to_string(),
        BinaryBytes(bench.size_bytes).to_string(),
        runs.len().to_string(),
        format!("{:.0}", median(rates())),
        format!("{:.0}", best(rates())),
        format!("{:.1}", lanes().fold(f64::INFINITY, f64::min)),
        format!("{:.1}", best(lanes())),
        cpu_words(runs, Part::Mover),
        cpu_words(runs, Part::Source),
        cpu_words(runs, Part::Target),
        memory(|run| run.memory_peak),
        memory(|run| run.servers_memory),
    ];
    table(&heads, [row])
}

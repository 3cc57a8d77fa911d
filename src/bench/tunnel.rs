//! `blockferry bench tunnel`: what an SSH tunnel carries, beside `ssh -L` and plain TCP.

use std::sync::Arc;
use std::time::Duration;

use blockferry_control::bench::{
    FarSide, OnTunnelEvent, Pace, Part, Run, TunnelBench, Way, measure_tunnel,
};
use blockferry_control::tunnel::{TunnelEvent, TunnelSettings};
use blockferry_dataplane::nbd::NbdUri;
use serde_json::json;

use super::fleet::open_files;
use super::measuring::{About, measured, refusal, refused};
use super::options::TunnelBenchOptions;
use super::plot::{Line, Panel, over_time};
use crate::copy::{TunnelWords, tunnel_settings};
use crate::exit::{Exit, Refusal};
use crate::output::table;

/// `blockferry bench tunnel`.
///
/// # Errors
/// What kept it from being measured.
pub(super) fn command(options: &TunnelBenchOptions) -> anyhow::Result<Exit> {
    let bench = wanted(options).map_err(|error| refused(&options.output, "tunnel", error))?;
    let about =
        About { bench: "tunnel", settings: settings(&bench), table: &rows, panels: &panels };
    measured(&options.output, &options.files, &about, |ground, on_run| {
        let console = Arc::clone(ground.console);
        let on_event: OnTunnelEvent = Arc::new(move |event| match event {
            TunnelEvent::Up { .. } => console.detail(&event.to_string()),
            other => console.note(&other.to_string()),
        });
        let short = |what: &str| ground.console.note(what);
        let (cancellation, observer) = (ground.cancellation, ground.observer);
        measure_tunnel(&bench, cancellation, observer, &on_event, &short, on_run)
            .map_err(|error| refusal(&error))
    })
}

/// What was asked for, checked.
fn wanted(options: &TunnelBenchOptions) -> anyhow::Result<TunnelBench> {
    options.files.check()?;
    open_files(options.lanes.iter().copied().max().unwrap_or(1))?;
    Ok(TunnelBench {
        far: far(options)?,
        ways: options.ways.clone(),
        connections: options.connections.clone(),
        lanes: options.lanes.clone(),
        size_bytes: options.size,
        pace: Pace {
            length: options.size.is_none().then(|| Duration::from_secs(options.seconds.into())),
            sample: options.files.sample,
        },
        data: options.data,
        lane: options.moving.lane()?,
        mover: options.moving.mover(),
    })
}

fn far(options: &TunnelBenchOptions) -> anyhow::Result<FarSide> {
    let (Some(address), Some(target)) = (&options.tunnel, &options.target) else {
        return Ok(FarSide::Own { sshd: options.sshd.clone() });
    };
    let target: NbdUri =
        target.parse().map_err(|error| Refusal::usage(format!("--target {target}: {error}")))?;
    if target.tls {
        return Err(Refusal::usage(
            "--target: TLS inside of SSH is not measured: write nbd: in place of nbds:",
        ));
    }
    if !options.overwrite {
        return Err(Refusal::usage(format!(
            "all that {target} holds would be destroyed: add --overwrite if that may be, or name \
             another export"
        )));
    }
    let settings = tunnel_settings(&TunnelWords {
        address,
        identity: options.identity.as_deref(),
        known_hosts: options.known_hosts.as_deref(),
    })?;
    let settings = TunnelSettings { deadline: options.moving.deadline, ..settings };
    Ok(FarSide::Real { settings: Box::new(settings), target: Box::new(target) })
}

/// What was asked for.
fn settings(bench: &TunnelBench) -> serde_json::Value {
    let (far, target) = match &bench.far {
        FarSide::Own { .. } => (None, None),
        FarSide::Real { settings, target } => {
            (Some(settings.address.to_string()), Some(target.to_string()))
        }
    };
    json!({
        "tunnel": far,
        "target": target,
        "ways": bench.ways.iter().map(|way| way.word()).collect::<Vec<_>>(),
        "connections": bench.connections,
        "lanes": bench.lanes,
        "size": bench.size_bytes,
        "seconds": bench.pace.length.map(|length| length.as_secs()),
        "data": bench.data.word(),
        "digest": bench.lane.digest.map(|digest| digest.to_string()),
    })
}

fn rows(runs: &[Run]) -> String {
    let heads = [
        "way",
        "connections",
        "lanes",
        "MiB/s",
        "each connection",
        "round trip",
        "under load",
        "CPU s/GiB: here",
        "far end",
    ];
    let milliseconds = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    let rows = runs.iter().map(|run| {
        let trips = run.round_trips;
        vec![
            run.way.word().to_owned(),
            if run.connections == 0 { "-".into() } else { run.connections.to_string() },
            run.lanes.to_string(),
            format!("{:.0}", run.mib_per_second()),
            each_connection(run),
            trips.map_or("-".into(), |trips| milliseconds(trips.idle)),
            trips.and_then(|trips| trips.busy).map_or("-".into(), milliseconds),
            cpu(run, &[Part::Mover, Part::SshClient]),
            cpu(run, &[Part::SshServer, Part::Target]),
        ]
    });
    table(&heads, rows)
}

/// The least and the most that a connection carried, in MiB a second.
fn each_connection(run: &Run) -> String {
    let rates = run.connection_rates();
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rates.iter().copied().fold(0.0, f64::max);
    match rates.len() {
        0 => "-".into(),
        1 => format!("{most:.0}"),
        _ => format!("{least:.0} to {most:.0}"),
    }
}

/// CPU seconds a GiB of those parts that are on this machine, together.
fn cpu(run: &Run, parts: &[Part]) -> String {
    let known: Vec<f64> = parts.iter().filter_map(|part| run.cpu_per_gib(*part)).collect();
    if known.is_empty() { "-".into() } else { format!("{:.2}", known.iter().sum::<f64>()) }
}

/// MiB/s over lanes, a line for each way and number of connections; then over time.
fn panels(runs: &[Run]) -> Vec<Panel> {
    let mut lines: Vec<Line> = Vec::new();
    for run in runs {
        let name = name(run, false);
        let point = (f64::from(run.lanes), run.mib_per_second());
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name, points: vec![point] }),
        }
    }
    let over_lanes =
        Panel { title: "All lanes together".into(), x: "lanes", y: "MiB/s", whole_x: true, lines };
    vec![over_lanes, over_time("Over time".into(), runs, |run| name(run, true))]
}

fn name(run: &Run, with_lanes: bool) -> String {
    let way = match run.way {
        Way::Tcp => run.way.word().to_owned(),
        way => format!("{}, {} conn.", way.word(), run.connections),
    };
    let plural = if run.lanes == 1 { "" } else { "s" };
    if with_lanes { format!("{way}, {} lane{plural}", run.lanes) } else { way }
}

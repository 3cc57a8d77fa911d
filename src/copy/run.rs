//! Runs the mover, watches it, and tells how it went.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use blockferry_control::tunnel::{Tunnel, TunnelEvent, TunnelSettings};
use blockferry_control::{Server, ServerTransport};
use blockferry_dataplane::{Canceller, Lane, Mover, Running, Side};
use indicatif::BinaryBytes;

use super::descriptors;
use super::endpoints;
use super::options::CopyOptions;
use super::request::{CopyRequest, LaneRequest, Place};
use super::words::Words;
use crate::exit::{Exit, Refusal};
use crate::interrupt;
use crate::output::{Console, Estimate, Progress, Telling, hint, json, line};

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// A lane's servers, of its source and its target.
type Servers = [Option<Server>; 2];

/// `blockferry copy`.
///
/// # Errors
/// What kept the copy from starting. How the lanes went is told here and in the returned code.
pub(crate) fn command(options: &CopyOptions, words: &Words) -> anyhow::Result<Exit> {
    let ended = copy(options, words);
    if let (true, Err(error)) = (options.json, &ended)
        && let Err(unwritten) = json::print(&json::Report::of_refusal(error))
    {
        line(&format!("{unwritten:#}"));
    }
    ended
}

fn copy(options: &CopyOptions, words: &Words) -> anyhow::Result<Exit> {
    // First of all: a descriptor of the caller is not to be mistaken for one of ours.
    let mut progress = Progress::of(options.progress);
    let console = Arc::new(Console::new(progress.bar(), options.verbose));
    let mut request = CopyRequest::of(options, words)?;
    for warning in &request.warnings {
        console.note(warning);
    }
    if let Some(waiting) = descriptors::fit(&mut request)? {
        console.note(&waiting);
    }
    for folder in &request.folders {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let kept = request.lanes.iter().filter(|lane| lane.settings.keep_journal);
    let journals: Vec<PathBuf> = kept.filter_map(|lane| lane.settings.journal.clone()).collect();
    // Until there is something to cancel nothing has been written either.
    let slot: Arc<OnceLock<Canceller>> = Arc::default();
    let filled = Arc::clone(&slot);
    interrupt::listen(Arc::clone(&console), move || filled.get().map(Canceller::cancel).is_some())?;
    let transport =
        if options.server_stdio { ServerTransport::Stdio } else { ServerTransport::Activation };
    let telling = Arc::new(Telling::of(&request.lanes, Arc::clone(&console)));
    let tunnel = request.tunnel.map(|settings| tunnel(settings, &console)).transpose()?;
    let (lanes, servers) = open_all(request.lanes, transport, tunnel.as_ref(), &console)?;

    let events = Arc::clone(&telling);
    let mover = Mover::new(request.mover).on_event(move |event| events.event(event));
    let running = match mover.start(lanes) {
        Ok(running) => running,
        Err(fault) => {
            let what = match hint(&fault) {
                Some(hint) => format!("{fault}; {hint}"),
                None => fault.to_string(),
            };
            return Err(Refusal::of(Exit::of_lane(&Err(fault)), what));
        }
    };
    watch(&running, servers.len(), &slot, &mut progress, &console);
    let report = running.wait();
    for (index, figures) in tunnel.iter().flat_map(Tunnel::figures).enumerate() {
        console.detail(&format!(
            "tunnel connection {}: {} sent, {} received, lost {} times",
            index + 1,
            BinaryBytes(figures.sent),
            BinaryBytes(figures.received),
            figures.lost
        ));
    }

    let outcomes = telling.outcomes(&report, &servers);
    // They are ended here, and their last words come before ours.
    drop(servers);
    let exit = Exit::of_lanes(outcomes.iter().map(|outcome| outcome.exit));
    if exit == Exit::Done {
        for journal in &journals {
            fs::remove_file(journal).with_context(|| format!("removing {}", journal.display()))?;
        }
    }
    progress.finish(exit == Exit::Done, &report.totals());
    telling.end(&report, &outcomes);
    if options.json
        && let Err(unwritten) = json::print(&json::Report::of(exit, &report, &outcomes))
    {
        console.note(&format!("{unwritten:#}"));
        let untold = if interrupt::was_asked() { Exit::Interrupted } else { Exit::Failed };
        return Ok(if exit == Exit::Done { untold } else { exit });
    }
    Ok(exit)
}

fn open_all(
    requests: Vec<LaneRequest>,
    transport: ServerTransport,
    tunnel: Option<&Tunnel>,
    console: &Arc<Console>,
) -> anyhow::Result<(Vec<Lane>, Vec<Servers>)> {
    let mut lanes = Vec::with_capacity(requests.len());
    let mut servers = Vec::with_capacity(requests.len());
    for request in requests {
        let deadline = request.settings.deadline;
        let source = endpoints::open(&request.source, Side::Source, deadline, transport, console)?;
        let target = match (tunnel, &request.target) {
            (Some(tunnel), Place::Uri(uri)) => endpoints::through(tunnel, uri)?,
            (_, place) => endpoints::open(place, Side::Target, deadline, transport, console)?,
        };
        lanes.push(Lane::new(source.endpoint, target.endpoint).with_settings(request.settings));
        servers.push([source.server, target.server]);
    }
    Ok((lanes, servers))
}

/// Connects to the far end.
fn tunnel(settings: TunnelSettings, console: &Arc<Console>) -> anyhow::Result<Tunnel> {
    let events = Arc::clone(console);
    Tunnel::open(settings, move |event| match event {
        // Why a lane is refused is in its error.
        TunnelEvent::Up { .. } | TunnelEvent::ChannelRefused { .. } => {
            events.detail(&event.to_string());
        }
        other => events.note(&other.to_string()),
    })
    .map_err(|error| {
        let exit = if error.is_usage() { Exit::Usage } else { Exit::Target };
        Refusal::of(exit, error.to_string())
    })
}

/// Shows progress until all lanes are over.
fn watch(
    running: &Running,
    lane_count: usize,
    slot: &OnceLock<Canceller>,
    progress: &mut Progress,
    console: &Console,
) {
    // Only this thread fills it, once.
    let _ = slot.set(running.canceller());
    let (engine, reason) = running.engine();
    console.detail(&format!("engine {engine}: {reason}"));
    let mut estimate = Estimate::default();
    progress.start();
    while !running.wait_for(TICK) {
        if progress.is_shown() {
            let share = estimate.share((0..lane_count).map(|lane| running.lane_progress(lane)));
            progress.update(share, &running.progress());
        }
    }
}

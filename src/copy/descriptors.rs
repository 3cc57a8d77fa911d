//! How many lanes the limit on open files allows.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::request::CopyRequest;
use crate::exit::{Exit, Refusal};

/// Descriptors of a connection pair: two sockets and the two ends of a pipe.
const PER_CONNECTION: u64 = 4;
/// Descriptors of a lane besides: journal, manifest, and a connection that is being replaced.
const PER_LANE: u64 = 4;
/// Descriptors of a thread: its engine and its wake-up.
const PER_THREAD: u64 = 4;
/// For what the libraries open now and then.
const SLACK: u64 = 16;

/// Raises the soft limit on open files to the hard one, and lowers the number of lanes at once to
/// what fits. Returns what to tell the user, if lanes have to wait.
///
/// # Errors
/// When not even one lane fits.
pub(crate) fn fit(request: &mut CopyRequest) -> anyhow::Result<Option<String>> {
    let open = fs::read_dir("/proc/self/fd").map_or(16, |folder| folder.count() as u64);
    let threads = request.mover.threads.unwrap_or_else(processors) as u64;
    let shared = open + SLACK + PER_THREAD * threads;
    let connections = request.lanes.iter().map(|lane| u64::from(lane.settings.connections)).max();
    let per_lane = PER_LANE + PER_CONNECTION * connections.unwrap_or(1);
    let lanes = request.lanes.len().min(request.mover.max_lanes);
    let needed = shared + per_lane * lanes as u64;

    let limit = raise(needed);
    let fitting = limit.saturating_sub(shared) / per_lane;
    let Ok(fitting) = usize::try_from(fitting) else {
        return Ok(None);
    };
    if fitting >= lanes {
        return Ok(None);
    }
    if fitting == 0 {
        let least = shared + per_lane;
        return Err(Refusal::of(
            Exit::Failed,
            format!("{limit} open files are allowed, and one lane needs {least}: raise ulimit -n"),
        ));
    }
    request.mover.max_lanes = fitting;
    Ok(Some(format!(
        "{limit} open files are allowed, enough for {fitting} of {lanes} lanes at once; \
         the others wait, unless ulimit -n is {needed} or more"
    )))
}

/// The limit on open files, after an attempt to have `needed`.
fn raise(needed: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(soft) = current.filter(|&soft| soft < needed) else {
        return current.unwrap_or(u64::MAX);
    };
    // No more than is needed: some programs walk through all descriptors that they might have.
    let wanted = maximum.map_or(needed, |hard| hard.min(needed)).max(soft);
    let raised = Rlimit { current: Some(wanted), maximum };
    setrlimit(Resource::Nofile, raised).map_or(soft, |()| wanted)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

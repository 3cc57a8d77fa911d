//! How many lanes, threads and connections the limit on open files allows.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::request::CopyRequest;
use crate::exit::{Exit, Refusal};

/// Descriptors of a connection pair: two sockets and the two ends of a pipe.
const PER_CONNECTION: u64 = 4;
/// Descriptors of a lane besides: journal, manifest, and a connection that is being replaced.
const PER_LANE: u64 = 4;
/// Descriptors more of a connection to a target that goes through a tunnel: the tunnel's end of it.
const PER_CHANNEL: u64 = 1;
/// Descriptors of an SSH connection: its socket, and what its thread waits with.
const PER_SSH_CONNECTION: u64 = 4;
/// Descriptors of a thread: its engine and its wake-up.
const PER_THREAD: u64 = 4;
/// For what the libraries open now and then.
const SLACK: u64 = 16;

/// Raises the soft limit on open files to the hard one, and lowers what is open at once to what
/// fits: lanes and the threads that they need, then the connections of the one lane that is left.
/// Returns what to tell the user, if something was lowered.
///
/// # Errors
/// When not even one lane with one connection fits.
pub(crate) fn fit(request: &mut CopyRequest) -> anyhow::Result<Option<String>> {
    let open = fs::read_dir("/proc/self/fd").map_or(16, |folder| folder.count() as u64);
    let connections = request.lanes.iter().map(|lane| lane.settings.connections.max(1)).max();
    let lanes = request.lanes.len().min(request.mover.max_lanes).max(1);
    let threads = request.mover.threads.unwrap_or_else(processors).min(lanes);
    let ssh_connections = request.tunnel.as_ref().map_or(0, |settings| settings.connections.max(1));
    let wanted = Load { threads, lanes, connections: connections.unwrap_or(1), ssh_connections };
    let needed = open + wanted.descriptors();

    let limit = raise(needed);
    let Some(fitting) = wanted.within(limit.saturating_sub(open)) else {
        let least = Load { threads: 1, lanes: 1, connections: 1, ..wanted }.descriptors() + open;
        return Err(Refusal::of(
            Exit::Failed,
            format!("{limit} open files are allowed, and one lane needs {least}: raise ulimit -n"),
        ));
    };
    request.mover.threads = Some(fitting.threads);
    if fitting == wanted {
        return Ok(None);
    }
    request.mover.max_lanes = fitting.lanes;
    for lane in &mut request.lanes {
        lane.settings.connections = lane.settings.connections.min(fitting.connections);
    }
    Ok(Some(format!("{limit} open files are allowed, {}", fitting.told(wanted, needed))))
}

/// What is at work at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    /// From 1 to the number of lanes: each has a lane at least.
    threads: usize,
    lanes: usize,
    /// Of the lane that has most of them.
    connections: u16,
    /// Of a tunnel to the targets; 0 where there is none.
    ssh_connections: usize,
}

impl Load {
    fn descriptors(self) -> u64 {
        self.fixed() + PER_THREAD * self.threads as u64 + self.per_lane() * self.lanes as u64
    }

    fn fixed(self) -> u64 {
        SLACK + PER_SSH_CONNECTION * self.ssh_connections as u64
    }

    fn per_lane(self) -> u64 {
        self.per_lane_alone() + self.per_connection() * u64::from(self.connections)
    }

    fn per_lane_alone(self) -> u64 {
        PER_LANE + self.per_channel()
    }

    fn per_connection(self) -> u64 {
        PER_CONNECTION + self.per_channel()
    }

    fn per_channel(self) -> u64 {
        if self.ssh_connections > 0 { PER_CHANNEL } else { 0 }
    }

    /// As much of it as `descriptors` are enough for.
    fn within(self, descriptors: u64) -> Option<Self> {
        if self.descriptors() <= descriptors {
            return Some(self);
        }
        let left = descriptors.checked_sub(self.fixed())?;
        let most = |each: u64, of: u64| usize::try_from(of / each).unwrap_or(usize::MAX);
        let shared = left.saturating_sub(PER_THREAD * self.threads as u64);
        let lanes = most(self.per_lane(), shared);
        if lanes >= self.threads {
            return Some(Self { lanes, ..self });
        }
        let lanes = most(self.per_lane() + PER_THREAD, left);
        if lanes > 0 {
            return Some(Self { threads: lanes, lanes, ..self });
        }
        let connections =
            left.checked_sub(PER_THREAD + self.per_lane_alone())? / self.per_connection();
        // Fewer than were wanted, or the lane had fitted.
        let connections = u16::try_from(connections).ok().filter(|&number| number > 0)?;
        Some(Self { threads: 1, lanes: 1, connections, ..self })
    }

    /// What is lowered to it from `wanted`, and what would be enough for that.
    fn told(self, wanted: Self, needed: u64) -> String {
        let (lanes, connections) = (self.lanes, self.connections);
        if connections < wanted.connections {
            let plural = if connections == 1 { "" } else { "s" };
            let one = if wanted.lanes > 1 { "one lane at a time with " } else { "" };
            format!(
                "enough for {one}{connections} connection{plural} a side; \
                 for all of them ulimit -n has to be {needed} or more"
            )
        } else {
            format!(
                "enough for {lanes} of {} lanes at once; \
                 the others wait, unless ulimit -n is {needed} or more",
                wanted.lanes
            )
        }
    }
}

/// The limit on open files, after an attempt to have `needed`.
pub(crate) fn raise(needed: u64) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn load(threads: usize, lanes: usize, connections: u16) -> Load {
        Load { threads, lanes, connections, ssh_connections: 0 }
    }

    #[test]
    fn what_is_lowered_fits_and_leaves_no_thread_without_lanes() {
        let direct = [load(1, 1, 1), load(1, 40, 1), load(12, 132, 4), load(64, 64, 64)];
        let tunnelled = direct.map(|load| Load { ssh_connections: 4, ..load });
        for wanted in direct.into_iter().chain(tunnelled) {
            let least = Load { threads: 1, lanes: 1, connections: 1, ..wanted };
            for descriptors in 0..wanted.descriptors() {
                let Some(fitting) = wanted.within(descriptors) else {
                    assert!(descriptors < least.descriptors());
                    continue;
                };
                assert!(fitting.descriptors() <= descriptors, "{fitting:?} of {descriptors}");
                assert!(fitting.connections <= wanted.connections && fitting.connections > 0);
                assert!(fitting.lanes >= fitting.threads, "{fitting:?}");
            }
            assert_eq!(wanted.within(wanted.descriptors()), Some(wanted));
        }
    }

    #[test]
    fn lanes_wait_before_connections_are_lowered() {
        let wanted = load(2, 8, 16);
        let one = load(1, 1, 16);
        assert_eq!(wanted.within(one.descriptors()), Some(one));
        assert_eq!(wanted.within(one.descriptors() - 1), Some(load(1, 1, 15)));
    }
}
